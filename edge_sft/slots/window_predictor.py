"""WindowPredictor: a slot's engine and policy for windows of sensor rows. Windows in, Predictions out; no I/O.

The grid and the window of an asset belong to the pipeline (they outlive a model); what decides about a window is here.
What is local to a machine (mean, standard deviation, bank, threshold) comes from its commissioning through a small
port; a task that wants it and has none says ``no_decision``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sft import policy as policies
from edge_sft.bundle.manifest import Manifest
from edge_sft.engines.protocol import Engine, EngineInfo
from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.policy import AnomalyPolicy, AnyPolicy
from edge_sft.prediction import Decision, ModelIdentity, Prediction, Rows, Sample, rfc3339
from edge_sft.preprocess import Windowing
from edge_sft.preprocess.window import Window
from edge_sft.slots.opening import open_model
from edge_sft.task import Task

NOT_COMMISSIONED = "not commissioned: this machine has no threshold yet"
# Channels that a Prediction names: whoever walks to the machine looks at three; eight keep the message small.
_CHANNELS_MAX = 8
_CHANNEL_SHARE_MIN = 0.01


class Captured(NamedTuple):
    """When the row came that completed a window: UTC, and on the device's monotonic clock."""

    at: datetime
    monotonic_s: float


class Local(Protocol):
    """What commissioning found out about one machine."""

    @property
    def inputs(self) -> Mapping[str, NDArray[np.float32]]:
        """Graph inputs beside the window, by name: ``mean``, ``std``, ``bank``."""
        ...

    @property
    def threshold(self) -> float:
        """Score at which this machine is ``nok``."""
        ...


class Commissioned(Protocol):
    """The machines that were commissioned with this model."""

    def of(self, asset: str) -> Local | None:
        """Return what is known of a machine; None = not commissioned. The same object for machines that share it."""
        ...

    def why_not(self, asset: str) -> str:
        """Return in words why a machine's commissioning must not be used; empty where it may be, or there is none."""
        ...

    def refresh(self) -> tuple[str, ...]:
        """Look for machines that were commissioned anew; returns their names. Cheap."""
        ...


class WindowPredictor:
    """A loaded sensor model that decides; use as a context manager, one thread at a time.

    Attributes:
        model: Which bundle and variant speak in every Prediction.
        task: Labels and tensors.
        windowing: How rows become its windows.
        policy: The active decision rule.
        memory_mb: Growth of resident memory by loading, MiB.
        deadline_ms: After this age of a window's last row there is no decision any more; None = no deadline.
        batch: Most windows that one run of the graph takes.
        commissioning: What is local to the machines; None where the task wants nothing.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        model: ModelIdentity,
        policy: AnyPolicy,
        *,
        deadline_ms: float | None = None,
        commissioning: Commissioned | None = None,
        batch: int = 64,
    ) -> None:
        if not isinstance(manifest.preprocess, Windowing):
            raise UserError(
                manifest.name,
                "is a model of pictures, not of sensor rows",
                "Deploy a model made from sensor rows here.",
            )
        self.model = model
        self.task: Task = manifest.task
        self.windowing: Windowing = manifest.preprocess
        self.policy = policy
        self.memory_mb = 0.0
        self.deadline_ms = deadline_ms
        self.batch = batch
        self._engine = engine
        self.commissioning = commissioning
        self._locals = tuple(spec for spec in manifest.task.inputs if spec.name not in ("window", "valid"))
        self._rules: dict[float, AnyPolicy] = {}
        self._versions: dict[int, str] = {}

    @classmethod
    def open(
        cls,
        slot_dir: Path,
        *,
        policy: AnyPolicy | None = None,
        variant: str | None = None,
        threads: int | None = None,
        deadline_ms: float | None = None,
        commissioning: Commissioned | None = None,
        batch: int = 64,
    ) -> WindowPredictor:
        """Load a slot's bundle; arguments as those of `Predictor.open`, and what is local to the machines.

        Raises:
            BundleRefused: The folder is no bundle, was replaced meanwhile, or the policy is for another task.
            UserError: The bundle has no such variant, or is a model of pictures.
            DeviceError: The engine refuses the model.
        """
        opened = open_model(slot_dir, policy=policy, variant=variant, threads=threads, deadline_ms=deadline_ms)
        return opened.start(
            lambda it: cls(
                it.engine,
                it.manifest,
                it.model,
                it.policy,
                deadline_ms=it.deadline_ms,
                commissioning=commissioning,
                batch=batch,
            )
        )

    @property
    def engine(self) -> EngineInfo:
        """What really runs: provider, library version, threads."""
        return self._engine.info

    # --- deciding --------------------------------------------------------------------------------------------

    def decide(self, windows: Sequence[Window], *, stream: str, captured: Sequence[Captured]) -> list[Prediction]:
        """Decide about windows of any assets, in batches of windows that share what is local to their machine.

        Args:
            windows: In any order.
            stream: Name of the pipeline.
            captured: When the row came that completed each of them.

        Returns:
            One Prediction each, in the windows' order. Lateness and engine trouble come out as ``no_decision``.
        """
        decided: list[Prediction | None] = [None] * len(windows)
        for local, indices in self._groups(windows).items():
            for start in range(0, len(indices), self.batch):
                part = indices[start : start + self.batch]
                chosen = [windows[index] for index in part]
                decisions = self._decide_batch(chosen, self._local_of(local, chosen))
                for index, window, (decision, policy, probabilities) in zip(part, chosen, decisions, strict=True):
                    decided[index] = self._prediction(window, decision, policy, stream, captured[index], probabilities)
        return [one for one in decided if one is not None]

    def scores(self, windows: Sequence[Window], local: Local | None = None) -> dict[str, NDArray[Any]]:
        """Run the graph over any number of windows of one machine; for commissioning. Raises DeviceError."""
        parts = [
            self._engine.infer(self._inputs(windows[start : start + self.batch], local))
            for start in range(0, len(windows), self.batch)
        ]
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.task.outputs}

    def outputs(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph on prepared inputs with their batch axis; for proofs and measurements."""
        return self._engine.infer(inputs)

    def _groups(self, windows: Sequence[Window]) -> dict[int, list[int]]:
        """Return indices of windows by the identity of what is local to their machine."""
        if not self._locals or self.commissioning is None:
            return {0: list(range(len(windows)))} if windows else {}
        groups: dict[int, list[int]] = {}
        for index, window in enumerate(windows):
            groups.setdefault(id(self.commissioning.of(window.asset)), []).append(index)
        return groups

    def _local_of(self, _group: int, windows: Sequence[Window]) -> Local | None:
        return None if self.commissioning is None else self.commissioning.of(windows[0].asset)

    def _decide_batch(
        self, windows: Sequence[Window], local: Local | None
    ) -> list[tuple[Decision, AnyPolicy, dict[str, float] | None]]:
        rule = self._rule(local)
        if isinstance(rule, AnomalyPolicy) and rule.threshold is None:
            return [(Decision("no_decision", reason=self._why_not(window.asset)), rule, None) for window in windows]
        try:
            outputs = self._engine.infer(self._inputs(windows, local))
        except DeviceError as error:
            return [(Decision("no_decision", reason=str(error)), rule, None)] * len(windows)
        return [self._judge({n: o[row] for n, o in outputs.items()}, rule) for row in range(len(windows))]

    def _why_not(self, asset: str) -> str:
        return (self.commissioning.why_not(asset) if self.commissioning else "") or NOT_COMMISSIONED

    def _judge(
        self, outputs: dict[str, NDArray[Any]], rule: AnyPolicy
    ) -> tuple[Decision, AnyPolicy, dict[str, float] | None]:
        decision = policies.decide(outputs, rule)
        if decision.verdict == "no_decision":
            return decision, rule, None
        if "contributions" in outputs:
            decision = _with_channels(decision, outputs["contributions"], self.windowing.names)
        found = outputs.get("probabilities")
        labelled = None if found is None else dict(zip(self.task.labels, found.tolist(), strict=True))
        return decision, rule, labelled

    def _inputs(self, windows: Sequence[Window], local: Local | None) -> dict[str, NDArray[Any]]:
        inputs: dict[str, NDArray[Any]] = {
            "window": np.stack([window.values for window in windows]),
            "valid": np.stack([window.valid for window in windows]),
        }
        for spec in self._locals:
            given = None if local is None else local.inputs.get(spec.name)
            if given is None:
                raise DeviceError(
                    f"{self.model.name} {self.model.version}",
                    f"wants '{spec.name}' of this machine",
                    "Run: edge-sft commission",
                )
            inputs[spec.name] = given
        return inputs

    def _rule(self, local: Local | None) -> AnyPolicy:
        """Return the policy with the machine's own threshold; a threshold of the policy's own wins."""
        if not isinstance(self.policy, AnomalyPolicy) or self.policy.threshold is not None or local is None:
            return self.policy
        known = self._rules.get(local.threshold)
        if known is None:
            known = self.policy.model_copy(update={"threshold": local.threshold})
            self._rules[local.threshold] = known
        return known

    def _prediction(
        self,
        window: Window,
        decision: Decision,
        policy: AnyPolicy,
        stream: str,
        captured: Captured,
        probabilities: dict[str, float] | None,
    ) -> Prediction:
        age_ms = max(0.0, (time.monotonic() - captured.monotonic_s) * 1000)
        if self.deadline_ms is not None and age_ms > self.deadline_ms:
            reason = f"deadline missed: {age_ms:.0f} ms since the last row, {self.deadline_ms:g} ms allowed"
            decision, probabilities = Decision("no_decision", reason=reason), None
        return Prediction(
            stream=stream,
            asset=window.asset,
            name=name_of(window.end),
            captured_at=rfc3339(captured.at),
            decided_at=rfc3339(datetime.now(timezone.utc)),
            latency_ms=age_ms,
            verdict=decision.verdict,
            label=decision.label,
            score=decision.score,
            confidence=decision.confidence,
            probabilities=probabilities,
            value=decision.value,
            low=decision.low,
            high=decision.high,
            channels=decision.channels,
            reason=decision.reason,
            model=self.model,
            policy_version=self._version(policy),
        )

    def _version(self, policy: AnyPolicy) -> str:
        version = self._versions.get(id(policy))
        if version is None:
            version = self._versions[id(policy)] = policy.version
        return version

    # --- one batch of rows, as a Predictor decides one picture -------------------------------------------------

    def prepare(self, sample: Sample) -> Any:
        """Cut the newest window of a finite stretch of rows that a Sample holds.

        Raises:
            DataError: No rows, a channel is missing, or too little of the window is valid.
        """
        if not isinstance(sample.data, Rows):
            raise DataError(sample.name or "sample", sample.fault or "holds no sensor rows", "Check the source.")
        windows = windows_of(sample.data, self.windowing)
        if not windows:
            raise DataError(
                sample.data.asset,
                f"{len(sample.data.time_s)} rows hold no window with enough valid values",
                f"A window is {self.windowing.length} steps of {self.windowing.period_s:g}.",
            )
        return windows[-1]

    def infer(self, tensor: Any, sample: Sample) -> Prediction:
        """Decide about a prepared window."""
        captured = Captured(sample.captured_at, sample.captured_monotonic_s)
        return self.decide([tensor], stream=sample.stream, captured=[captured])[0]

    def predict(self, sample: Sample) -> Prediction:
        """Decide about the newest window of a Sample of rows; what cannot be decided comes out as ``no_decision``."""
        try:
            return self.infer(self.prepare(sample), sample)
        except DataError as error:
            return self.no_decision(sample, str(error))

    def no_decision(self, sample: Sample, reason: str) -> Prediction:
        """Say that nothing was decided about a sample, and why."""
        asset = sample.data.asset if isinstance(sample.data, Rows) else ""
        empty = np.zeros((0, 0), dtype=np.float32)
        window = Window(asset, 0.0, empty, empty)
        captured = Captured(sample.captured_at, sample.captured_monotonic_s)
        decision = Decision("no_decision", reason=reason)
        made = self._prediction(window, decision, self.policy, sample.stream, captured, None)
        return made.model_copy(update={"name": sample.name, "asset": asset or None})

    # --- life ------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Infer once on nothing valid, so that the first window does not pay for lazy set-up."""
        inputs: dict[str, NDArray[Any]] = {}
        for spec in self.task.inputs:
            shape = tuple(1 if axis == -1 else axis for axis in spec.shape)
            inputs[spec.name] = np.full(shape, 1.0 if spec.name == "std" else 0.0, dtype=np.float32)
        self._engine.infer(inputs)

    def close(self) -> None:
        """Free the model; closing twice is harmless."""
        self._engine.__exit__(None, None, None)

    def __enter__(self) -> WindowPredictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def name_of(end: float) -> str:
    """Return what a window is called in its Prediction: its end, exact, so that the same window has the same name."""
    return repr(int(end)) if end == int(end) else repr(end)


def windows_of(rows: Rows, windowing: Windowing) -> list[Window]:
    """Cut all windows of a finite stretch of rows of one asset. Raises DataError when a channel is missing."""
    from edge_sft.preprocess.buffering import WindowBuffer
    from edge_sft.preprocess.gridding import Gridder

    missing = [one.name for one in windowing.channels if one.name not in rows.channels]
    if missing:
        raise DataError(rows.asset, f"has no channel {', '.join(missing)}", f"It has: {', '.join(rows.channels)}.")
    order = [rows.channels.index(one.name) for one in windowing.channels]
    gridder, buffer = Gridder(windowing), WindowBuffer(windowing, rows.asset)
    windows = buffer.push(gridder.push(rows.time_s, np.ascontiguousarray(rows.values[:, order])))
    return [*windows, *buffer.push(gridder.flush())]


def _with_channels(decision: Decision, shares: NDArray[Any], names: Sequence[str]) -> Decision:
    order = np.argsort(-shares, kind="stable")[:_CHANNELS_MAX]
    named = {names[index]: round(float(shares[index]), 4) for index in order if shares[index] >= _CHANNEL_SHARE_MIN}
    return Decision(
        decision.verdict,
        score=decision.score,
        reason=decision.reason,
        channels=named or None,
    )
