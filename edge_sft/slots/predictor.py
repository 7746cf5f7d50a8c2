"""Predictor: a slot's engine, preprocessing and policy as one object. Sample in, Prediction out; no I/O after open."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from edge_sft.policy import AnyPolicy, PicturePolicy
from edge_sft.prediction import MOST_MARKS, Decision, Encoded, ModelIdentity, Prediction, Rows, Sample, rfc3339
from edge_sft.preprocess import Preprocess
from edge_sft.preprocess.images import decode_for, finished, region
from edge_sft.preprocess.tiling import AT_ONCE, Tiling, cut
from edge_sft.profile import DeviceProfile
from edge_sft.slots.marking import Arrays, Heat, Scene, joined, judge
from edge_sft.slots.opening import open_model, read_policy
from edge_sft.slots.store import SlotStore
from edge_sft.task import Task

if TYPE_CHECKING:
    from edge_sft.bundle.keys import PublicKey

__all__ = ["Explained", "Predictor", "read_policy"]


@dataclass(frozen=True)
class Tiled:
    """A frame on its way through a model that says where: its tiles, cut out when they are asked for."""

    scene: Scene
    tiling: Tiling


@dataclass(frozen=True)
class Explained:
    """A prediction and what can be shown of it.

    Attributes:
        frame: uint8 [H,W,3] RGB; may be smaller than what the camera gave, by one factor.
        size: (height, width) as the camera gave it: what marks count in.
        prediction: As `Predictor.predict` gives it.
        heat: Where the model looked and what it saw there; None where it tells no map.
    """

    frame: NDArray[np.uint8]
    size: tuple[int, int]
    prediction: Prediction
    heat: Heat | None = None


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
        heat: The map behind the last decision of `infer`, `predict` or `predict_image`; None where there is none.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        model: ModelIdentity,
        policy: AnyPolicy,
        *,
        deadline_ms: float | None,
        local: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.model = model
        self.task: Task = manifest.task
        self.policy = policy
        self.memory_mb = 0.0
        self.deadline_ms = deadline_ms
        self.note: str | None = None
        self.heat: Heat | None = None
        self._engine = engine
        if not isinstance(manifest.preprocess, Preprocess):
            raise UserError(manifest.name, "is a model of sensors, not of pictures", "Open it with WindowPredictor.")
        self._preprocess = manifest.preprocess
        self._input = manifest.task.inputs[0].name
        self._version = policy.version
        self._local = {name: _fixed(array) for name, array in (local or {}).items()}
        self._at_once = AT_ONCE if engine.info.gpu else 1
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
        local: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Predictor:
        """Load a slot's bundle.

        Args:
            slot_dir: A slot, or any folder that a verified bundle was extracted to.
            policy: Decision rule; by default the site's policy in the slot, else the bundle's own.
            variant: By default the one that the device's proof chose, else fp32.
            threads: Intra-op threads; by default the profile's.
            deadline_ms: The pipeline's deadline; the policy's own counts too, the shorter one wins.
            profile: What to run on; by default what the slot was proved with, else any CPU.
            local: What is this machine's own, by graph input (``bank``); by default what the bundle brings.

        Raises:
            BundleRefused: The folder is no bundle, was replaced meanwhile, or the policy is for another task.
            UserError: The bundle has no such variant.
            DeviceError: The engine refuses the model.
        """
        opened = open_model(
            slot_dir, policy=policy, variant=variant, threads=threads, deadline_ms=deadline_ms, profile=profile
        )
        return opened.start(
            lambda it: cls(it.engine, it.manifest, it.model, it.policy, deadline_ms=it.deadline_ms, local=local)
        )

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

    @property
    def mm_per_pixel(self) -> float | None:
        """Of the frame as the camera gives it; None where nobody measured it."""
        return self._preprocess.mm_per_pixel

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
                tensor = self._prepared(preprocess.read_encoded(Path(image)), str(image))
        except DataError as error:
            return self.no_decision(sample, str(error))
        return self._decide(tensor, sample, deadline_ms=None)

    def explain(self, image: Path | str | NDArray[Any], part_id: str | None = None) -> Explained:
        """Decide as `predict_image`, and also return what can be shown of it.

        Raises:
            DataError: The file cannot be read, or holds no picture.
        """
        name = None if isinstance(image, np.ndarray) else Path(image).name
        sample = Sample(None, datetime.now(timezone.utc), time.monotonic(), "image", part_id=part_id, name=name)
        if isinstance(image, np.ndarray):
            frame, size = image, (image.shape[0], image.shape[1])
        else:
            frame, size = decode_for(preprocess.read_encoded(Path(image)), self._preprocess, source=str(image))
        prediction = self._decide(self._made(frame, size), sample, deadline_ms=None)
        return Explained(self._visible(frame), size, prediction, self.heat)

    def shown(self, sample: Sample, prediction: Prediction, heat: Heat | None = None) -> Explained | None:
        """Return what can be shown of a decided sample; None where it holds no picture. From any thread."""
        data = sample.data
        if data is None or isinstance(data, Rows):
            return None
        if isinstance(data, Encoded):
            frame, size = decode_for(data.content, self._preprocess, source=sample.name or "picture")
        else:
            frame, size = data, (data.shape[0], data.shape[1])
        return Explained(self._visible(frame), size, prediction, heat)

    def _visible(self, frame: NDArray[Any]) -> NDArray[np.uint8]:
        """Return a frame as people see it: eight bits, three channels, whole."""
        whole = self._preprocess.model_copy(update={"roi": None, "ignore": (), "grey": False})
        return finished(region(frame, whole))

    def prepare(self, sample: Sample) -> Any:
        """Preprocess a sample to what `infer` takes: uint8 [1, H, W, 3] for classification, else `Tiled`.

        Raises:
            DataError: The sample carries a fault, no data, or a frame that is no picture.
        """
        if sample.fault is not None or sample.data is None:
            raise DataError(sample.name or "frame", sample.fault or "holds no data", "Check the source.")
        if isinstance(sample.data, Rows):
            raise DataError(sample.name or "sample", "holds sensor rows, the model takes pictures", "Check the source.")
        if isinstance(sample.data, Encoded):
            return self._prepared(sample.data.content, sample.name or "picture")
        return self._made(sample.data, (sample.data.shape[0], sample.data.shape[1]))

    def _prepared(self, content: bytes, source: str) -> Any:
        if self.task.kind == "classification":
            return preprocess.encoded_tensor(content, self._preprocess, source=source)[None]
        return self._made(*decode_for(content, self._preprocess, source=source))

    def _made(self, frame: NDArray[Any], size: tuple[int, int]) -> Any:
        """Make what `infer` takes of a frame; ``size`` is what the camera gave where it was decoded smaller."""
        if self.task.kind == "classification":
            return preprocess.image_tensor(frame, self._preprocess)[None]
        placement, tiling = cut(frame, self._preprocess, size=size)
        return Tiled(Scene.of(placement, self._preprocess), tiling)

    def infer(self, tensor: Any, sample: Sample) -> Prediction:
        """Run a prepared input and decide; the deadline is checked before, after, and between batches of tiles."""
        return self._decide(tensor, sample, deadline_ms=self.deadline_ms)

    def _decide(self, tensor: Any, sample: Sample, *, deadline_ms: float | None) -> Prediction:
        self.heat = None
        if isinstance(tensor, Tiled):
            return self._decide_tiles(tensor, sample, deadline_ms=deadline_ms)
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

    def _decide_tiles(self, tiled: Tiled, sample: Sample, *, deadline_ms: float | None) -> Prediction:
        parts: list[Arrays] = []
        try:
            for batch in tiled.tiling.batches(self._at_once):
                late = _lateness(sample, deadline_ms)
                if late:
                    return self.no_decision(sample, late)
                parts.append(joined([self._engine.infer({self._input: batch, **self._local})]))
        except DeviceError as error:
            return self.no_decision(sample, str(error))
        rule: PicturePolicy = self.policy  # type: ignore[assignment]  # `check_fits` has seen to it
        judged = judge(joined(parts), tiled.scene, rule)
        late = _lateness(sample, deadline_ms)
        if late:
            return self.no_decision(sample, late)
        self.heat = judged.heat
        made = self._prediction(sample, judged.decision, None)
        marks = judged.decision.marks
        if marks is None:
            return made
        more = judged.found is not None and judged.found > min(len(marks), MOST_MARKS)
        found = judged.found if more else None
        return made.model_copy(update={"marks": marks[:MOST_MARKS], "marks_found": found})

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
        frame = np.full((1, spec.height, spec.width, 3), 127, dtype=np.uint8)
        self._engine.infer({self._input: frame, **self._local})

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


def _fixed(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy that nobody writes to: an engine that has it on its GPU need not look again."""
    kept = np.array(array, dtype=np.float32)
    kept.flags.writeable = False
    return kept


def _lateness(sample: Sample, deadline_ms: float | None) -> str | None:
    if deadline_ms is None:
        return None
    age_ms = (time.monotonic() - sample.captured_monotonic_s) * 1000
    if age_ms <= deadline_ms:
        return None
    return f"deadline missed: {age_ms:.0f} ms since capture, {deadline_ms:g} ms allowed"
