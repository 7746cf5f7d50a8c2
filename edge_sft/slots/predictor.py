"""Predictor: a slot's engine, preprocessing and policy as one object. Sample in, Prediction out; no I/O after open."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sft import policy as policies
from edge_sft import preprocess
from edge_sft.bundle.manifest import Manifest
from edge_sft.engines.protocol import Engine, EngineInfo
from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.policy import AnyPolicy
from edge_sft.prediction import Decision, Encoded, ModelIdentity, Prediction, Rows, Sample, rfc3339
from edge_sft.preprocess import Preprocess
from edge_sft.profile import DeviceProfile
from edge_sft.slots.opening import open_model, read_policy
from edge_sft.slots.store import SlotStore
from edge_sft.task import Task

if TYPE_CHECKING:
    from edge_sft.bundle.keys import PublicKey

__all__ = ["Predictor", "read_policy"]


class Predictor:
    """A loaded model that decides; use as a context manager.

    `prepare` may be called from any number of threads at once; `infer`, `predict` and `predict_image` by one
    thread at a time. `no_decision` is safe from anywhere.

    Attributes:
        model: Which bundle and variant speak in every Prediction.
        task: Labels and tensors.
        policy: The active decision rule.
        memory_mb: Growth of resident memory by loading, MiB; 0.0 where the system does not tell.
        deadline_ms: After this age of a sample there is no decision any more; None = no deadline.
        note: Why not the slot runs that was meant to (`from_device`); None normally, worth an alarm otherwise.
    """

    def __init__(
        self, engine: Engine, manifest: Manifest, model: ModelIdentity, policy: AnyPolicy, *, deadline_ms: float | None
    ) -> None:
        self.model = model
        self.task: Task = manifest.task
        self.policy = policy
        self.memory_mb = 0.0
        self.deadline_ms = deadline_ms
        self.note: str | None = None
        self._engine = engine
        if not isinstance(manifest.preprocess, Preprocess):
            raise UserError(manifest.name, "is a model of sensors, not of pictures", "Open it with WindowPredictor.")
        self._preprocess = manifest.preprocess
        self._input = manifest.task.inputs[0].name
        self._version = policy.version
        self._cleanup = contextlib.ExitStack()

    @classmethod
    def open(
        cls,
        slot_dir: Path,
        *,
        policy: AnyPolicy | None = None,
        variant: str | None = None,
        threads: int | None = None,
        deadline_ms: float | None = None,
        profile: DeviceProfile | None = None,
    ) -> Predictor:
        """Load a slot's bundle.

        Args:
            slot_dir: A slot, or any folder that a verified bundle was extracted to.
            policy: Decision rule; by default the site's policy in the slot, else the bundle's own.
            variant: By default the one that the device's proof chose, else fp32.
            threads: Intra-op threads; by default the profile's.
            deadline_ms: The pipeline's deadline; the policy's own counts too, the shorter one wins.
            profile: What to run on; by default what the slot was proved with, else any CPU.

        Raises:
            BundleRefused: The folder is no bundle, was replaced meanwhile, or the policy is for another task.
            UserError: The bundle has no such variant.
            DeviceError: The engine refuses the model.
        """
        opened = open_model(
            slot_dir, policy=policy, variant=variant, threads=threads, deadline_ms=deadline_ms, profile=profile
        )
        return opened.start(lambda it: cls(it.engine, it.manifest, it.model, it.policy, deadline_ms=it.deadline_ms))

    @classmethod
    def from_device(
        cls, root: Path | str, pipeline: str = "main", *, threads: int | None = None, deadline_ms: float | None = None
    ) -> Predictor:
        """Load what is deployed on this device, after verifying its files; see `SlotStore.verified`, `open`.

        Where the current slot is damaged and the previous one runs instead, ``note`` says so.
        """
        slot = SlotStore(Path(root), pipeline).verified()
        predictor = cls.open(slot.path, threads=threads, deadline_ms=deadline_ms)
        predictor.note = slot.note
        return predictor

    @classmethod
    def from_bundle(
        cls,
        path: Path | str,
        trusted_keys: Sequence[PublicKey] | None = None,
        *,
        public_key: Path | str | None = None,
        policy: AnyPolicy | None = None,
        variant: str = "fp32",
        threads: int | None = None,
    ) -> Predictor:
        """Load a .edge file without deploying it; its signature is verified first, always.

        Args:
            path: The bundle.
            trusted_keys: Keys that may have signed it (`edge_sft.bundle.keys.trusted`).
            public_key: Or one public key file (``.pub.pem``).
            policy: Decision rule; by default the bundle's own.
            variant: Which of the bundle's variants to run.
            threads: Intra-op threads; by default all usable cores but one.

        Raises:
            UserError: No key given, or no such variant.
            BundleRefused: The bundle is damaged, not signed by those keys, or unknown.
            DeviceError: No room for the temporary files, or the engine refuses the model.
        """
        from edge_sft.bundle.keys import load_public
        from edge_sft.bundle.reading import open_verified

        keys = [*(trusted_keys or ()), *([load_public(Path(public_key))] if public_key is not None else [])]
        if not keys:
            raise UserError(
                str(path), "cannot be verified without a key", "Give public_key=…, the maker's .pub.pem file."
            )
        bundle = open_verified(Path(path), keys)
        with contextlib.ExitStack() as cleanup:
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="edge-sft-")))
            bundle.extract_to(folder)
            predictor = cls.open(folder, policy=policy, variant=variant, threads=threads)
            predictor._cleanup = cleanup.pop_all()
        return predictor

    @property
    def engine(self) -> EngineInfo:
        """What really runs: provider, library version, threads."""
        return self._engine.info

    def predict(self, sample: Sample) -> Prediction:
        """Decide about one sample. Bad frames, lateness and engine trouble come out as ``no_decision``."""
        late = _lateness(sample, self.deadline_ms)
        if late:
            return self.no_decision(sample, late)
        try:
            tensor = self.prepare(sample)
        except DataError as error:
            return self.no_decision(sample, str(error))
        return self.infer(tensor, sample)

    def predict_image(self, image: Path | str | NDArray[Any], part_id: str | None = None) -> Prediction:
        """Decide about a picture file, or a frame uint8/uint16 [H, W] or [H, W, 3] **RGB** (not OpenCV's BGR).

        A file that cannot be read comes out as ``no_decision`` with the reason. No deadline applies: nobody
        waits at the belt for a file.
        """
        name = None if isinstance(image, np.ndarray) else Path(image).name
        sample = Sample(None, datetime.now(timezone.utc), time.monotonic(), "image", part_id=part_id, name=name)
        try:
            if isinstance(image, np.ndarray):
                tensor = self.prepare(replace(sample, data=image))
            else:
                tensor = preprocess.read_tensor(Path(image), self._preprocess)[None]
        except DataError as error:
            return self.no_decision(sample, str(error))
        return self._decide(tensor, sample, deadline_ms=None)

    def prepare(self, sample: Sample) -> NDArray[np.uint8]:
        """Preprocess a sample to the model's input, uint8 [1, H, W, 3].

        Raises:
            DataError: The sample carries a fault, no data, or a frame that is no picture.
        """
        if sample.fault is not None or sample.data is None:
            raise DataError(sample.name or "frame", sample.fault or "holds no data", "Check the source.")
        if isinstance(sample.data, Rows):
            raise DataError(sample.name or "sample", "holds sensor rows, the model takes pictures", "Check the source.")
        if isinstance(sample.data, Encoded):
            source = sample.name or "picture"
            return preprocess.encoded_tensor(sample.data.content, self._preprocess, source=source)[None]
        return preprocess.image_tensor(sample.data, self._preprocess)[None]

    def infer(self, tensor: NDArray[np.uint8], sample: Sample) -> Prediction:
        """Run a prepared input and decide; the deadline is checked before and after."""
        return self._decide(tensor, sample, deadline_ms=self.deadline_ms)

    def _decide(self, tensor: NDArray[np.uint8], sample: Sample, *, deadline_ms: float | None) -> Prediction:
        late = _lateness(sample, deadline_ms)
        if late:
            return self.no_decision(sample, late)
        try:
            outputs = self._engine.infer({self._input: tensor})
        except DeviceError as error:
            return self.no_decision(sample, str(error))
        first = {name: array[0] for name, array in outputs.items()}
        decision = policies.decide(first, self.policy)
        late = _lateness(sample, deadline_ms)
        if late:
            return self.no_decision(sample, late)
        if decision.verdict == "no_decision":
            return self._prediction(sample, decision, None)
        values = first["probabilities"].tolist()
        return self._prediction(sample, decision, dict(zip(self.task.labels, values, strict=True)))

    def outputs(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph on prepared inputs with their batch axis; for proofs and measurements."""
        return self._engine.infer(inputs)

    def no_decision(self, sample: Sample, reason: str) -> Prediction:
        """Say that nothing was decided about a sample, and why."""
        return self._prediction(sample, Decision("no_decision", reason=reason), None)

    def close(self) -> None:
        """Free the model and any temporary files; closing twice is harmless."""
        self._engine.__exit__(None, None, None)
        self._cleanup.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def warm_up(self) -> None:
        """Infer once on grey, so that the first part on the line does not pay for lazy set-up."""
        spec = self._preprocess
        frame = np.full((spec.height, spec.width, 3), 127, dtype=np.uint8)
        self._engine.infer({self._input: preprocess.image_tensor(frame, spec)[None]})

    def _prediction(self, sample: Sample, decision: Decision, probabilities: dict[str, float] | None) -> Prediction:
        return Prediction(
            stream=sample.stream,
            part_id=sample.part_id,
            name=sample.name,
            captured_at=rfc3339(sample.captured_at),
            decided_at=rfc3339(datetime.now(timezone.utc)),
            latency_ms=max(0.0, (time.monotonic() - sample.captured_monotonic_s) * 1000),
            verdict=decision.verdict,
            label=decision.label,
            score=decision.score,
            confidence=decision.confidence,
            probabilities=probabilities,
            reason=decision.reason,
            model=self.model,
            policy_version=self._version,
        )


def _lateness(sample: Sample, deadline_ms: float | None) -> str | None:
    if deadline_ms is None:
        return None
    age_ms = (time.monotonic() - sample.captured_monotonic_s) * 1000
    if age_ms <= deadline_ms:
        return None
    return f"deadline missed: {age_ms:.0f} ms since capture, {deadline_ms:g} ms allowed"
