"""Hot swap: a deploy (of a model, of a policy) takes effect between two Samples, and a failed one changes nothing.

A thread of its own polls the slots' generation, loads, verifies and warms the new model beside the old one, and only
then changes the guard. The queue holds Samples, so input size and backbone may differ. A new policy comes the same
way: `edge-sft deploy BUNDLE --policy FILE` makes a new generation.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_sft.errors import DeviceError, EdgeSftError
from edge_sft.runtime.config import AssetsSection, PipelineSection
from edge_sft.runtime.crew import Crew, Post

POLL_S = 0.2
RETRY_S = 15.0
TELL = Callable[[str, str], None]


class Loader(Protocol):
    """Where models come from."""

    def generation(self) -> int:
        """Return which deploy should serve, 0 while there is none. Cheap: asked five times a second."""
        ...

    def load(self, generation: int, current: Crew | None) -> Crew:
        """Load, verify and warm it beside the current one. Raises EdgeSftError; nothing is left loaded then."""
        ...


@dataclass
class SlotLoader:
    """Loads what is deployed in a pipeline's slots; ``notes`` collects what the plant should know of it."""

    root: Path
    section: PipelineSection
    tell: TELL
    _noted: str = ""

    def generation(self) -> int:
        """Read the number of the last flip."""
        from edge_sft.slots.store import SlotStore

        return SlotStore(self.root, self.section.name).generation()

    def load(self, generation: int, current: Crew | None) -> Crew:
        """Load from the slot that verifies."""
        from edge_sft.slots import proof as proofs
        from edge_sft.slots.store import SlotStore

        slot = SlotStore(self.root, self.section.name).verified()
        if slot.note and slot.note != self._noted:
            self._noted = slot.note
            self.tell("slot_damaged", slot.note)
        proof = proofs.load(slot.path)
        self._check_profile(proof)
        self._check_room(proof, current)
        models = self._open(slot.path, proof.threads)
        try:
            _warm(models, slot.path)
        except BaseException:
            _close(models)
            raise
        for note in models[0].engine.notes:  # an engine built anew, a launch that could not be recorded
            self.tell("engine", note)
        return Crew(models, policy_version=models[0].policy.version, generation=generation)

    def _open(self, slot: Path, proved_threads: int) -> list[Any]:
        if self.section.of_rows:
            return [self._open_of_rows(slot, self.section.threads or proved_threads)]
        from edge_sft.slots.predictor import Predictor

        threads = max(self.section.threads or proved_threads, self.section.workers)
        shares = [threads // self.section.workers] * self.section.workers
        for index in range(threads % self.section.workers):
            shares[index] += 1
        models: list[Any] = []
        try:
            for share in shares:
                models.append(  # noqa: PERF401  # what is open must be closed when a later one fails
                    Predictor.open(slot, threads=share, deadline_ms=self.section.deadline_ms)
                )
        except BaseException:
            _close(models)
            raise
        return models

    def _open_of_rows(self, slot: Path, threads: int) -> Any:
        from edge_sft.slots.window_predictor import WindowPredictor

        assets = self.section.assets or AssetsSection()
        predictor = WindowPredictor.open(
            slot, threads=threads, deadline_ms=self.section.deadline_ms, batch=assets.batch
        )
        if predictor.task.kind == "anomaly":
            from edge_sft.slots.commissioning_file import CommissioningStore

            predictor.commissioning = CommissioningStore(self.root, self.section.name, predictor.model.digest)
        return predictor

    def _check_room(self, proof: Any, current: Crew | None) -> None:
        """Old and new are in memory together for a moment: refuse what the machine cannot hold."""
        measured = proof.of(proof.chosen)
        need_mb = (measured.memory_mb if measured is not None and measured.memory_mb else 0.0) * self.section.workers
        budget_mb = 2 * proof.profile.budgets.memory_mb * self.section.workers
        held_mb = current.memory_mb if current is not None else 0.0
        if held_mb + need_mb > budget_mb:
            raise DeviceError(
                f"{proof.name} {proof.version}",
                f"needs {need_mb:.0f} MB beside the {held_mb:.0f} MB of the model that serves, the profile allows "
                f"{budget_mb:.0f} MB for both",
                "Restart the agent to load it alone, or choose a smaller model.",
            )
        free_mb = available_mb()
        if free_mb is not None and need_mb > free_mb:
            raise DeviceError(
                f"{proof.name} {proof.version}",
                f"needs {need_mb:.0f} MB, only {free_mb:.0f} MB of memory are free",
                "Free some memory; it is tried again by itself.",
            )

    def _check_profile(self, proof: Any) -> None:
        if self.section.profile is not None and proof.profile.name != Path(self.section.profile).stem:
            raise DeviceError(
                f"{proof.name} {proof.version}",
                f"was proved for the profile '{proof.profile.name}', agent.toml asks for '{self.section.profile}'",
                f"Deploy it with --profile {self.section.profile}, or mend agent.toml.",
            )


class Swapper:
    """Keeps a Post manned with what is wanted. `step` once; `run` for ever in a thread."""

    def __init__(self, loader: Loader, post: Post, tell: TELL, clock: Callable[[], float] = time.monotonic) -> None:
        self._loader = loader
        self._post = post
        self._tell = tell
        self._clock = clock
        self._serving = 0
        self._failed: tuple[int, float] | None = None
        self._unreadable = ""
        self.trouble = ""

    def run(self, stop: threading.Event) -> None:
        """Poll until stopped."""
        while not stop.is_set():
            self.step()
            stop.wait(POLL_S)

    def step(self) -> None:
        """Look once; load and change the guard when something new is wanted."""
        try:
            wanted = self._loader.generation()
        except EdgeSftError as error:
            if self._unreadable != str(error):
                self._unreadable = str(error)
                self._tell("slots_unreadable", str(error))
            return
        self._unreadable = ""
        if wanted in (0, self._serving) or self._is_hopeless(wanted):
            return
        started = self._clock()
        try:
            crew = self._loader.load(wanted, self._post.crew)
        except Exception as error:  # noqa: BLE001  # whatever a library raises, the old model goes on
            self._refused(wanted, error)
            return
        old = self._post.hand_over(crew)
        self._serving, self._failed, self.trouble = wanted, None, ""
        self._tell("swapped" if old else "deployed", _describe(old, crew, self._clock() - started))
        if old is not None:
            self._dismiss(old)

    def _is_hopeless(self, wanted: int) -> bool:
        return self._failed is not None and self._failed[0] == wanted and self._clock() < self._failed[1]

    def _refused(self, wanted: int, error: Exception) -> None:
        reason = str(error) if isinstance(error, EdgeSftError) else f"{type(error).__name__}: {error}"
        if self._failed is None or self._failed[0] != wanted or self.trouble != reason:
            kept = self._post.crew
            still = f"{kept.model.name} {kept.model.version} goes on" if kept else "nothing serves"
            self._tell("swap_refused", f"{reason} ({still})")
        self.trouble = reason
        self._failed = (wanted, self._clock() + RETRY_S)

    def _dismiss(self, old: Crew) -> None:
        if self._post.wait_idle(old, timeout_s=60.0):
            old.close()
        else:
            self._tell("stuck", f"a sample hangs in {old.model.name} {old.model.version} for a minute; it stays loaded")


def _describe(old: Crew | None, new: Crew, seconds: float) -> str:
    text = f"{new.model.name} {new.model.version} ({new.model.variant}), policy {new.policy_version}"
    before = f"{old.model.name} {old.model.version} → " if old else ""
    memory = f"{(old.memory_mb if old else 0) + new.memory_mb:.0f} MB meanwhile"
    return f"{before}{text}; loaded in {seconds:.2f} s, {memory}"


def _warm(models: Sequence[Any], slot: Path) -> None:
    """Run each Predictor once, on a golden sample, and look that numbers come out as they must."""
    from edge_sft.bundle import comparing
    from edge_sft.slots import golden
    from edge_sft.slots.store import read_manifest

    manifest = read_manifest(slot)
    variant = models[0].model.variant
    tolerance = next(entry.golden_tolerance for entry in manifest.variants if entry.variant == variant)
    samples = golden.load(slot)
    expected = samples.outputs[variant]
    scales = comparing.scales(expected)
    for model in models:
        outputs = model.outputs(samples.sample(0))
        for name, want in _answers(expected).items():
            apart = comparing.difference(want, outputs, scales)
            if not apart <= tolerance:  # also true for NaN
                raise DeviceError(
                    f"{manifest.name} {manifest.version}",
                    f"gives other numbers here than when it was made ({name} differs by {apart:.2g}, "
                    f"{tolerance:.2g} allowed)",
                    "Deploy it again, so that the device proves it.",
                )


def _answers(expected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is expected of the first golden sample, each output by itself; boxes go with their scores."""
    from edge_sft.bundle.comparing import BOXES

    first = {name: array[:1] for name, array in expected.items()}
    if first.keys() >= BOXES:
        return {"boxes": first}
    return {name: {name: array} for name, array in first.items()}


def _close(models: Sequence[Any]) -> None:
    for model in models:
        with contextlib.suppress(Exception):
            model.close()


def available_mb() -> float | None:
    """Return the memory that Linux could give now, in MiB; None elsewhere."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return None
