"""Timing in turn: what is compared runs one after the other, again and again, in an order drawn anew each time.

Two runs one after the other would compare two moments of the machine. Energy has to be read in blocks instead, as
meters tell nothing of single runs.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import numpy as np

from edge_sft.deploy import prove
from edge_sft.deploy.bench_energy import Meter, meters
from edge_sft.deploy.bench_paths import Run
from edge_sft.deploy.bench_result import BARE, Energy, Timing
from edge_sft.errors import DeviceError, EdgeSftError
from edge_sft.profile import VariantName

WARM_UP = 3
MIN_RUNS = 30
MAX_RUNS = 10_000
_TELL_S = 0.2
_PATIENCE = 5.0  # times the seconds asked for: then ten runs must do


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


def take_turns(jobs: list[Job], seconds: float) -> None:
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


def energy_of(jobs: list[Job], seconds: float) -> Energy:
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


def rows_of(jobs: list[Job]) -> list[Timing]:
    """Return what was measured of every job that ran to the end."""
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
