"""The measuring process of `edge-sft bench`: `python -m edge_sft.deploy.bench_run`, as the proof's is.

Request on stdin, events as JSON lines on stdout. Every variant, batch and way through is loaded first, then all take
turns (`bench_turns`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from edge_sft.bundle.manifest import Manifest
from edge_sft.deploy import bench_bare, prove
from edge_sft.deploy.bench_energy import Nvml
from edge_sft.deploy.bench_paths import Run, Subject, inputs_of, open_subject
from edge_sft.deploy.bench_result import BARE, ENGINE, Loaded, Measured
from edge_sft.deploy.bench_turns import Job, energy_of, rows_of, take_turns
from edge_sft.deploy.candidates import measured_with
from edge_sft.errors import DataError, DeviceError, EdgeSftError
from edge_sft.policy import AnyPolicy
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.slots import golden
from edge_sft.slots.memory import resident_mb
from edge_sft.slots.store import read_manifest


class BenchRequest(BaseModel):
    """What is to be measured; ``seconds`` for each variant, batch and way through, ``energy_s`` for each but bare."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: Path
    profile: DeviceProfile
    policy: AnyPolicy
    variants: tuple[VariantName, ...] = Field(min_length=1)
    batches: tuple[int, ...] = Field(default=(1,), min_length=1)
    seconds: float = Field(default=2.0, gt=0)
    energy_s: float = Field(default=2.0, gt=0)
    picture: Path | None = None


def main() -> None:
    """Serve one request, then leave without ceremony."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent ends this process
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    request = BenchRequest.model_validate_json(prove._first_line())
    threading.Thread(target=prove._die_with_parent, daemon=True).start()
    try:
        prove._tell("result", report=measure(request).model_dump(mode="json"))
        prove._tell("done")
    except EdgeSftError as error:
        prove._tell("failed", branch=type(error).__name__, thing=error.thing, fact=error.fact, remedy=error.remedy)
    sys.stdout.flush()
    os._exit(0)


def measure(request: BenchRequest) -> Measured:
    """Load, time and meter everything that was asked for.

    Raises:
        BundleRefused: golden.npz is unusable.
        DeviceError: Not one variant runs here.
        UserError: The picture given is none.
    """
    manifest = read_manifest(request.slot)
    prove._import_libraries(manifest.task.modality)
    samples = golden.load(request.slot)
    rule = request.policy.model_copy(update={"deadline_ms": None})  # here we want to know how late it would be
    loaded: list[Loaded] = []
    jobs: list[Job] = []
    notes: list[str] = []
    subjects: dict[VariantName, Subject] = {}
    for variant in request.variants:
        prove._tell("doing", what=f"loading {variant}")
        found, subject = _load(request, variant, rule, manifest, samples)
        loaded.append(found)
        if subject is not None:
            subjects[variant] = subject
    if not subjects:
        raise DeviceError(manifest.name, "; ".join(f"{item.variant}: {item.trouble}" for item in loaded))
    for variant, subject in subjects.items():
        model = request.slot / next(entry.file for entry in manifest.variants if entry.variant == variant)
        jobs += _jobs(request, variant, subject, model, samples, notes)
    take_turns(jobs, request.seconds)
    energy = energy_of(jobs, request.energy_s)
    notes += [f"{job.name}: {job.trouble}" for job in jobs if job.trouble]
    return Measured(
        input=_input(request, manifest),
        variants=tuple(loaded),
        timings=tuple(rows_of(jobs)),
        energy=energy,
        notes=tuple(dict.fromkeys(notes)),
    )


def _load(
    request: BenchRequest, variant: VariantName, rule: AnyPolicy, manifest: Manifest, samples: golden.Golden
) -> tuple[Loaded, Subject | None]:
    prove._give_back_memory()
    before, gpu_before, begin = resident_mb(), _gpu_memory_mb(), time.monotonic()
    try:
        subject = open_subject(request.slot, variant, request.profile, rule, manifest, samples, request.picture)
        took = time.monotonic() - begin
        subject.engine.infer(inputs_of(samples, 1))
    except (DeviceError, DataError) as error:
        return Loaded(variant=variant, trouble=error.fact), None
    after, gpu_after = resident_mb(), _gpu_memory_mb()
    told = {name: value for name, value in vars(subject.engine.info).items() if name in Loaded.model_fields}
    found = Loaded(
        variant=variant,
        **told,
        load_s=took,
        memory_mb=prove._growth(before, after),
        gpu_memory_mb=prove._growth(gpu_before, gpu_after),
    )
    return found, subject


def _gpu_memory_mb() -> float | None:
    with contextlib.suppress(DeviceError), contextlib.closing(Nvml()) as card:
        return card.memory_mb()
    return None


def _jobs(
    request: BenchRequest, variant: VariantName, subject: Subject, model: Path, samples: golden.Golden, notes: list[str]
) -> list[Job]:
    """Return every way through one variant that can be gone here; ``notes`` takes the others."""
    jobs: list[Job] = []
    bare: bench_bare.Bare | None = None
    try:
        bare = bench_bare.open_bare(model, subject.engine)
    except DeviceError as error:
        notes.append(f"bare loop: {error.thing} {error.fact}")
    for batch in request.batches:
        inputs = inputs_of(samples, batch)
        made = [(begin, _end_to_end(subject, begin, batch)) for begin in subject.ways.begins]
        jobs += [Job(variant, begin, batch, run) for begin, run in made if not isinstance(run, str)]
        notes += [f"{variant}, {begin}: {why}" for begin, why in made if isinstance(why, str)]
        jobs.append(Job(variant, ENGINE, batch, lambda given=inputs: subject.engine.infer(given)))  # type: ignore[misc]
        try:
            if bare is not None:
                jobs.append(Job(variant, BARE, batch, bare(inputs)))
        except DeviceError as error:
            notes.append(f"bare loop: {error.thing} {error.fact}")
    return jobs


def _end_to_end(subject: Subject, begin: str, batch: int) -> Run | str:
    """Return a way from raw data to the decision, or why it cannot be gone."""
    try:
        return subject.ways.end_to_end(begin, batch)
    except (DataError, DeviceError) as error:
        return f"{error.thing} {error.fact}"


def _input(request: BenchRequest, manifest: Manifest) -> str:
    if request.picture is not None:
        return request.picture.name
    return measured_with(manifest.task.modality, manifest.task.inputs)


if __name__ == "__main__":
    main()
