"""The measuring process of `edge-sft bench`: `python -m edge_sft.deploy.bench_run`, as the proof's is.

Request on stdin, events as JSON lines on stdout. Every variant, batch and way through is loaded first, then all take
turns in an order drawn anew each time: two runs one after the other would compare two moments of the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge_sft.bundle.manifest import Manifest
from edge_sft.deploy import bench_bare, golden, prove
from edge_sft.deploy.bench_energy import Meter, Nvml, meters
from edge_sft.deploy.bench_paths import Run, Subject, inputs_of, open_subject
from edge_sft.deploy.bench_result import BARE, ENGINE, Energy, Loaded, Measured, Timing
from edge_sft.deploy.candidates import measured_with
from edge_sft.errors import DataError, DeviceError, EdgeSftError
from edge_sft.policy import AnyPolicy
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.slots.memory import resident_mb
from edge_sft.slots.store import read_manifest

WARM_UP = 3
MIN_RUNS = 30
MAX_RUNS = 10_000
_TELL_S = 0.2
_PATIENCE = 5.0  # times the seconds asked for: then ten runs must do


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


@dataclass
class Job:
    """One way through one variant, and how long it took so far; ``trouble`` ends it."""

    variant: VariantName
    path: str
    batch: int
    run: Run
    times_ms: list[float] = field(default_factory=list)
    joules: dict[str, float] = field(default_factory=dict)
    trouble: str = ""

    @property
    def name(self) -> str:
        """Say which it is."""
        return f"{self.variant}, {self.path}, batch {self.batch}"


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
    _time(jobs, request.seconds)
    energy = _energy(jobs, request.energy_s)
    notes += [f"{job.name}: {job.trouble}" for job in jobs if job.trouble]
    return Measured(
        input=_input(request, manifest),
        variants=tuple(loaded),
        timings=tuple(_rows(jobs)),
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
        subject.infer(inputs_of(samples, 1))
    except (DeviceError, DataError) as error:
        return Loaded(variant=variant, trouble=error.fact), None
    after, gpu_after = resident_mb(), _gpu_memory_mb()
    found = Loaded(
        variant=variant,
        **vars(subject.engine),
        load_s=took,
        memory_mb=None if before is None or after is None else max(0.0, after - before),
        gpu_memory_mb=None if gpu_before is None or gpu_after is None else max(0.0, gpu_after - gpu_before),
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
        made = [(begin, _end_to_end(subject, begin, batch)) for begin in subject.begins]
        jobs += [Job(variant, begin, batch, run) for begin, run in made if not isinstance(run, str)]
        notes += [f"{variant}, {begin}: {why}" for begin, why in made if isinstance(why, str)]
        jobs.append(Job(variant, ENGINE, batch, lambda given=inputs: subject.infer(given)))  # type: ignore[misc]
        if bare is not None:
            jobs.append(Job(variant, BARE, batch, bare(inputs)))
    return jobs


def _end_to_end(subject: Subject, begin: str, batch: int) -> Run | str:
    """Return a way from raw data to the decision, or why it cannot be gone."""
    try:
        return subject.end_to_end(begin, batch)
    except (DataError, DeviceError) as error:
        return f"{error.thing} {error.fact}"


def _time(jobs: list[Job], seconds: float) -> None:
    """Run all jobs in turn, in an order drawn anew each time."""
    for job in jobs:
        prove._tell("doing", what=f"warming up {job.name}")
        for _ in range(WARM_UP):
            if not job.trouble:
                _once(job, keep=False)
    draw = random.Random(0)  # noqa: S311 - an order, no secret
    left = [job for job in jobs if not job.trouble]
    limit = seconds * len(left)
    begin = told = time.monotonic()
    for turn in range(MAX_RUNS):
        spent = time.monotonic() - begin
        if (turn >= MIN_RUNS and spent > limit) or (turn >= MIN_RUNS // 3 and spent > _PATIENCE * limit):
            break
        for job in draw.sample(left, len(left)):
            if not job.trouble:
                _once(job, keep=True)
            now = time.monotonic()
            if now - told > _TELL_S:
                share = max(turn / MAX_RUNS, min((now - begin) / limit, turn / MIN_RUNS))
                prove._tell("timing", share=min(1.0, share), what=f"{turn} rounds")
                told = now


def _once(job: Job, *, keep: bool) -> None:
    begin = time.perf_counter_ns()
    try:
        job.run()
    except EdgeSftError as error:
        job.trouble = error.fact
        return
    if keep:
        job.times_ms.append((time.perf_counter_ns() - begin) / 1e6)


def _energy(jobs: list[Job], seconds: float) -> Energy:
    """Run each way for a while alone and read the meters before and after; then read them while nothing runs."""
    with meters() as (found, missing):
        if not found:
            return Energy(not_readable=tuple(missing))
        try:
            idle = _joules_of(found, lambda: time.sleep(seconds))
            watts = {name: joules / seconds for name, joules in idle.items()}
            for job in jobs:
                if job.path != BARE and not job.trouble:
                    prove._tell("doing", what=f"metering {job.name}")
                    _meter(job, found, seconds)
        except DeviceError as error:
            return Energy(not_readable=(*missing, f"{error.thing}: {error.fact}"))
        return Energy(meters=tuple(watts), idle_watts=watts, not_readable=tuple(missing))


def _meter(job: Job, found: list[Meter], seconds: float) -> None:
    runs = 0

    def repeat() -> None:
        nonlocal runs
        end = time.monotonic() + seconds
        while time.monotonic() < end and not job.trouble:
            _once(job, keep=False)
            runs += 1

    spent = _joules_of(found, repeat)
    if not job.trouble:
        job.joules = {name: joules / (runs * job.batch) for name, joules in spent.items()}


def _joules_of(found: list[Meter], what: Run) -> dict[str, float]:
    before = {meter.name: meter.joules() for meter in found}
    what()
    return {meter.name: meter.joules() - before[meter.name] for meter in found}


def _rows(jobs: list[Job]) -> list[Timing]:
    measured = [job for job in jobs if job.times_ms and not job.trouble]
    bare = {(job.variant, job.batch): float(np.median(job.times_ms)) for job in measured if job.path == BARE}
    return [_row(job, bare.get((job.variant, job.batch))) for job in measured]


def _row(job: Job, bare_ms: float | None) -> Timing:
    p50, p95, p99 = (float(value) for value in np.percentile(job.times_ms, (50, 95, 99)))
    return Timing(
        variant=job.variant,
        path=job.path,
        batch=job.batch,
        runs=len(job.times_ms),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(job.times_ms),
        per_second=1000 * job.batch / float(np.mean(job.times_ms)),
        of_bare=None if bare_ms is None or job.path == BARE else bare_ms / p50,
        joules=job.joules,
    )


def _input(request: BenchRequest, manifest: Manifest) -> str:
    if request.picture is not None:
        return request.picture.name
    return measured_with(manifest.task.modality, manifest.task.inputs)


if __name__ == "__main__":
    main()
