"""Opening a slot's model: which variant, which policy, on which engine. The same for pictures and sensors."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from edge_sft import policy as policies
from edge_sft.bundle import manifest as manifests
from edge_sft.bundle.manifest import POLICY, Manifest
from edge_sft.engines.protocol import Engine, EngineInfo, EngineNotBuilt, builds, open_engine
from edge_sft.errors import BundleRefused, DeviceError, EdgeSftError, UserError
from edge_sft.policy import AnyPolicy
from edge_sft.prediction import ModelIdentity
from edge_sft.preprocess import Preprocess
from edge_sft.preprocess.tiling import AT_ONCE
from edge_sft.profile import Budgets, DeviceProfile
from edge_sft.slots import golden
from edge_sft.slots import proof as proofs
from edge_sft.slots.building import Tell, workplace
from edge_sft.slots.memory import resident_mb
from edge_sft.slots.proof import Proof
from edge_sft.slots.store import manifest_bytes, read_manifest

log = logging.getLogger(__name__)

# Windows of many machines that complete in the same tenth of a second: a launch costs a GPU more than a small net does.
WINDOWS_AT_ONCE = 64

# What an unproved bundle runs on: nothing is gated there, so the budgets are without meaning.
ANY_CPU = DeviceProfile(
    name="any-cpu",
    title="Any CPU (ONNX Runtime)",
    variants=("fp32",),
    budgets=Budgets(latency_p95_ms=math.inf, memory_mb=math.inf),
)


class Predicting(Protocol):
    """What `Opened.start` asks of a predictor."""

    memory_mb: float

    def warm_up(self) -> None:
        """Infer once, so that the first sample does not pay for lazy set-up."""
        ...


P = TypeVar("P", bound=Predicting)


@dataclass(frozen=True)
class Opened:
    """A slot's model, loaded and not yet run.

    Attributes:
        engine: To be closed by who has it.
        manifest: The bundle's.
        model: What every Prediction says of it.
        policy: The active rule.
        deadline_ms: The shorter of the pipeline's and the policy's.
        folder: The slot.
        identity: Which folder that was when it was read.
        memory_before_mb: Resident memory before loading.
    """

    engine: Engine
    manifest: Manifest
    model: ModelIdentity
    policy: AnyPolicy
    deadline_ms: float | None
    folder: Path
    identity: tuple[int, int]
    memory_before_mb: float | None

    def start(self, made: Callable[[Opened], P]) -> P:
        """Make a predictor on it and let it infer once; where anything fails, the engine is closed.

        Raises:
            BundleRefused: The folder was replaced meanwhile.
            DeviceError: The engine cannot run the model.
        """
        try:
            predictor = made(self)
            self._check_same()
            predictor.warm_up()
        except EdgeSftError:
            self.engine.__exit__(None, None, None)
            raise
        predictor.memory_mb = self._growth_mb()
        return predictor

    def _check_same(self) -> None:
        if _identity(self.folder) != self.identity:
            fact, remedy = "was replaced while it was being loaded", "Open the current slot again."
            raise BundleRefused(str(self.folder), fact, remedy)

    def _growth_mb(self) -> float:
        """Return by how much resident memory has grown since before loading; 0 where the system does not tell."""
        after = resident_mb()
        return 0.0 if self.memory_before_mb is None or after is None else max(0.0, after - self.memory_before_mb)


def open_model(
    slot_dir: Path,
    *,
    policy: AnyPolicy | None = None,
    variant: str | None = None,
    threads: int | None = None,
    deadline_ms: float | None = None,
    profile: DeviceProfile | None = None,
) -> Opened:
    """Load a slot's bundle; arguments as those of `edge_sft.slots.predictor.Predictor.open`.

    Raises:
        BundleRefused: The folder is no bundle, or the policy is for another task.
        UserError: The bundle has no such variant.
        DeviceError: The engine refuses the model.
    """
    identity = _identity(slot_dir)
    signed = manifest_bytes(slot_dir)
    manifest = manifests.from_bytes(signed, source=str(slot_dir))
    proof = proofs.load(slot_dir) if (slot_dir / proofs.PROOF).is_file() else None
    rule = policy or read_policy(_policy_file(slot_dir))
    policies.check_fits(rule, manifest.task, source=str(slot_dir))
    profile = profile or (proof.profile if proof else ANY_CPU)
    if threads is not None:
        profile = profile.model_copy(update={"threads": threads})
    profile = _for_model(profile, manifest)
    before = resident_mb()
    if proof is None or not builds(profile):
        name = variant or (proof.chosen if proof else "fp32")
        engine = open_engine(slot_dir / _file_of(manifest, name), profile, workplace(slot_dir, profile, _silent))
    else:
        names = (variant,) if variant else _permitted(proof)
        engine, name = _first_right(names, _Place(slot_dir, manifest, profile, rule))
    deadlines = [limit for limit in (deadline_ms, rule.deadline_ms) if limit is not None]
    digest = hashlib.sha256(signed).hexdigest()
    model = ModelIdentity(name=manifest.name, version=manifest.version, digest=digest, variant=name)
    return Opened(engine, manifest, model, rule, min(deadlines, default=None), slot_dir, identity, before)


def _silent(text: str, share: float | None) -> None:
    """Tell nobody."""


def _permitted(proof: Proof) -> tuple[str, ...]:
    """Return the variants that may serve, the chosen one first; others that passed only if the profile says so."""
    others = [item for item in proof.variants if item.passed and item.variant != proof.chosen]
    others.sort(key=lambda item: math.inf if item.p50_ms is None else item.p50_ms)
    return (proof.chosen, *(item.variant for item in others)) if proof.profile.fall_back else (proof.chosen,)


@dataclass(frozen=True)
class _Place:
    """A slot whose engines are built, and what they are asked with."""

    folder: Path
    manifest: Manifest
    profile: DeviceProfile
    policy: AnyPolicy

    def open(self, variant: str, passed_over: str) -> Engine:
        """Open a variant that answers all golden samples right. Raises EngineNotBuilt, DeviceError."""
        # normally the engine that the proof built is there; where it must be built anew, the log says so at once
        place = workplace(
            self.folder,
            self.profile,
            lambda text, share: None if share else log.warning("%s: %s", variant, text),
            lambda engine: self._checked(engine, variant, passed_over),
        )
        return open_engine(self.folder / _file_of(self.manifest, variant), self.profile, place)

    def _checked(self, engine: Engine, variant: str, passed_over: str) -> str:
        tolerance = next(entry.golden_tolerance for entry in self.manifest.variants if entry.variant == variant)
        samples = golden.load(self.folder)
        together = self.manifest.task.modality == "window" or is_tiled(self.manifest)
        try:
            answer = golden.compare(samples, variant, engine.infer, self.policy, together=together)
            why = answer.wrong(tolerance)
        except DeviceError as error:
            why = error.fact
        if why:
            what = "was built anew and is not used" if engine.info.plan == "built" else "is not used"
            fact = f"its engine of {variant} {what}: {why}"
            remedy = "Deploy it again, so that the device proves it."
            raise EngineNotBuilt(f"{self.manifest.name} {self.manifest.version}", fact, remedy)
        right = f"{variant}'s engine was built anew and answers all {samples.count} golden samples right"
        return passed_over + (right if engine.info.plan == "built" else f"{variant} serves" if passed_over else "")


def _first_right(names: tuple[str, ...], place: _Place, passed_over: str = "") -> tuple[Engine, str]:
    """Open the first variant whose engine is there, or can be built, and is right. Raises what the last one does."""
    try:
        return place.open(names[0], passed_over), names[0]
    except EngineNotBuilt as error:
        if len(names) == 1:
            raise
        log.warning("%s: passed over: %s", names[0], error.fact)
        passed_over += f"{names[0]} passed over ({error.fact}); "
    return _first_right(names[1:], place, passed_over)


def _for_model(profile: DeviceProfile, manifest: Manifest) -> DeviceProfile:
    """Fill in how large a batch its engine must take, where the profile leaves that to the kind of model."""
    if profile.building.batch_max is not None:
        return profile
    size = WINDOWS_AT_ONCE if manifest.task.modality == "window" else 1
    if is_tiled(manifest):
        size = AT_ONCE
    return profile.model_copy(update={"building": profile.building.model_copy(update={"batch_max": size})})


def is_tiled(manifest: Manifest) -> bool:
    """Tell whether a model's frames are cut into tiles."""
    return isinstance(manifest.preprocess, Preprocess) and manifest.preprocess.tiles is not None


def build_engine(slot_dir: Path, variant: str, profile: DeviceProfile, tell: Tell) -> EngineInfo:
    """Have a variant's engine in the device's cache: take it from there or build it, load it once, let it go.

    Raises:
        BundleRefused: The folder is no bundle.
        EngineNotBuilt: No engine could be made of this variant.
        DeviceError: Nor of any other: the library or the GPU is missing, or what is built cannot be kept.
    """
    manifest = read_manifest(slot_dir)
    profile = _for_model(profile, manifest)
    model = slot_dir / _file_of(manifest, variant)
    with open_engine(model, profile, replace(workplace(slot_dir, profile, tell), must_keep=True)) as engine:
        return engine.info


def read_policy(path: Path) -> AnyPolicy:
    """Read a policy from the disk. Raises BundleRefused when it is missing or no policy v1."""
    try:
        return policies.load(path)
    except OSError as error:
        raise BundleRefused(str(path), f"cannot be read ({error.strerror or error})", "Check the file.") from error


def _policy_file(folder: Path) -> Path:
    site = folder / proofs.SITE_POLICY
    return site if site.is_file() else folder / POLICY


def _file_of(manifest: Manifest, variant: str) -> str:
    for entry in manifest.variants:
        if entry.variant == variant:
            return entry.file
    known = ", ".join(entry.variant for entry in manifest.variants)
    raise UserError(f"variant '{variant}'", f"is not in {manifest.name} {manifest.version}", f"It holds: {known}.")


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise BundleRefused(str(folder), "is not there", "Deploy a bundle first.") from error
    return found.st_dev, found.st_ino
