"""From the runs' clocks to sentences: jumps, gaps, periods. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edge_sft.data.findings import Finding
from edge_sft.data.sensors.dataset import Run
from edge_sft.data.sensors.looking import TimeLook
from edge_sft.data.sensors.times import EXCEL_1970
from edge_sft.data.sensors.wording import count, is_clock, names, percent, span, when
from edge_sft.sensor_recipe import SensorRecipe

_YEAR = 365.25 * 86400.0
_DAYS = (20_000.0, 80_000.0)  # 1954 to 2119
_SECOND_DAYS = 0.9 / 86400.0
_HOLE = 0.05  # of a run's time: more than the odd lost packet


def judge_time(recipe: SensorRecipe, runs: Sequence[Run], looks: Sequence[TimeLook]) -> Iterator[Finding]:
    """Judge the clocks of all runs; ``looks`` go with ``runs`` one to one."""
    yield from _backs(runs, looks)
    yield from _unset(runs)
    yield from _spreadsheet(recipe, runs, looks)
    yield from _gaps(recipe, runs, looks)
    yield from _same(runs, looks)
    yield from _period(recipe, runs, looks)


def _backs(runs: Sequence[Run], looks: Sequence[TimeLook]) -> Iterator[Finding]:
    found = [(run, row, step - look.step) for run, look in zip(runs, looks, strict=True) for row, step in look.backs]
    if not found:
        return
    run, row, step = min(found, key=lambda one: one[2])
    clock = is_clock(float(run.time[row]))
    hour = clock and all(abs(step + 3600.0) < 60.0 for _, _, step in found)
    ids = tuple(dict.fromkeys(run.id for run, _, _ in found))
    where = f"in {run.id} after {when(float(run.time[row]))} (row {row + 1:,})"
    yield Finding(
        "warning",
        "clock-jump",
        f"The clock jumps back {count(len(found), 'time')} in {count(len(ids), 'run')}, by {span(step, clock=clock)} "
        f"{where}.",
        "Exactly an hour: did summer time end? Log in UTC; windows begin anew at such a jump."
        if hour
        else "Set the logger's clock by NTP, or cut the file there; windows begin anew at such a jump.",
        ids,
    )


def _unset(runs: Sequence[Run]) -> Iterator[Finding]:
    """Notice rows dated years away from all others: a clock that was not set."""
    middles = np.array([float(np.median(run.time)) for run in runs])
    usual = float(np.median(middles))
    if not is_clock(usual):
        return
    low, high = usual - 20 * _YEAR, usual + 20 * _YEAR
    odd = [(run, run.time[(run.time < low) | (run.time > high)]) for run in runs]
    odd = [(run, times) for run, times in odd if len(times)]
    if odd:
        run, times = odd[0]
        rows = sum(len(found) for _, found in odd)
        yield Finding(
            "warning",
            "clock-unset",
            f"{count(rows, 'row')} in {count(len(odd), 'run')} are dated decades from the others, for example "
            f"{_date(float(times[0]))} in {run.id}: the clock was not set, or a date was read wrongly.",
            "Leave these rows out; check data.time_format.",
            tuple(run.id for run, _ in odd),
        )


def _spreadsheet(recipe: SensorRecipe, runs: Sequence[Run], looks: Sequence[TimeLook]) -> Iterator[Finding]:
    """Notice a spreadsheet's day numbers: 46027.25 is six in the morning of 2026-01-05."""
    steps = np.array([look.step for look in looks if look.step > 0])
    if recipe.data.time_format != "auto" or not recipe.data.time or not len(steps):
        return
    days = min(look.start for look in looks) >= _DAYS[0] and max(look.end for look in looks) <= _DAYS[1]
    if (
        days
        and _SECOND_DAYS <= float(np.median(steps)) < 0.1
        and recipe.window.period_s > 100 * float(np.median(steps))
    ):
        first = float(runs[0].time.min())
        date = _date((first - EXCEL_1970) * 86400.0)
        text = f"Times like {first:.5f} look like a spreadsheet's day numbers: {date}."
        yield Finding("error", "excel-days", text, 'Set data.time_format = "excel".', tuple(run.id for run in runs))


def _date(time: float) -> str:
    return str(np.datetime64(round(time), "s")).replace("T", " ")


def _gaps(recipe: SensorRecipe, runs: Sequence[Run], looks: Sequence[TimeLook]) -> Iterator[Finding]:
    found = [(run, row, step) for run, look in zip(runs, looks, strict=True) for row, step in look.gaps]
    if not found:
        return
    run, row, step = max(found, key=lambda one: one[2])
    total = sum(look.end - look.start for look in looks) or 1.0
    silent = sum(step for _, _, step in found) / total
    clock = is_clock(float(run.time[row]))
    gap_s = recipe.window.gap_s
    remedy = "Windows across them hold values that are not valid."
    if gap_s is None:
        remedy += " To begin a new run after a silence, set window.gap_s."
    yield Finding(
        "warning" if silent > _HOLE else "note",
        "gap",
        f"{count(len(found), 'gap')} longer than ten steps ({percent(min(silent, 1.0))} of the time), the longest "
        f"{span(step, clock=clock)} in {run.id} after {when(float(run.time[row]))}.",
        remedy,
        tuple(dict.fromkeys(run.id for run, _, _ in found)),
    )


def _same(runs: Sequence[Run], looks: Sequence[TimeLook]) -> Iterator[Finding]:
    rows = sum(look.same for look in looks)
    if not rows:
        return
    ids = tuple(run.id for run, look in zip(runs, looks, strict=True) if look.same)
    share = rows / max(1, sum(len(run.time) for run in runs))
    remedy = "Of equal times the last value counts, or their mean (window.aggregate)."
    crowded = [run.id for run, look in zip(runs, looks, strict=True) if look.same > 0.6 * len(run.time)]
    if crowded:
        remedy = "Is the time column too coarse, or are several machines in one run? data.run or data.group tells them."
    text = f"At the time of the row before: {count(rows, 'row')} ({percent(share)})"
    text += f", mostly in {names(crowded)}." if crowded else "."
    yield Finding("warning" if crowded else "note", "same-time", text, remedy, tuple(crowded) or ids)


def _period(recipe: SensorRecipe, runs: Sequence[Run], looks: Sequence[TimeLook]) -> Iterator[Finding]:
    steps = np.array([look.step for look in looks if look.step > 0])
    if not len(steps):
        return
    step, period = float(np.median(steps)), recipe.window.period_s
    clock = is_clock(looks[0].start)
    slow = [(run, look) for run, look in zip(runs, looks, strict=True) if look.step > 5 * step or look.step * 5 < step]
    slow = [(run, look) for run, look in slow if look.step > 0]
    if slow:
        run, look = slow[0]
        yield Finding(
            "warning",
            "period",
            f"{count(len(slow), 'run')} {'is' if len(slow) == 1 else 'are'} sampled at another rate than the rest "
            f"({span(step, clock=clock)} a row): "
            f"{run.id} has {span(look.step, clock=clock)}.",
            "Is its time in another unit? Set data.time_format, or keep such files apart.",
            tuple(run.id for run, _ in slow),
        )
    if step > 1.5 * period and recipe.window.hold_s < step:
        yield Finding(
            "error" if step > 10 * period else "warning",
            "period",
            f"Rows come every {span(step, clock=clock)}, but window.period_s is {period:g}: most of a window would "
            "hold nothing.",
            f"Set window.period_s = {step:g} (or window.hold_s to how long a value stands).",
        )
    if step * 50 < period:
        yield Finding(
            "note",
            "period",
            f"Rows come every {span(step, clock=clock)}, window.period_s is {period:g}: each step of a window takes "
            f"{recipe.window.aggregate} of about {period / step:,.0f} rows.",
        )
    need = recipe.window.length * period
    short = [run.id for run, look in zip(runs, looks, strict=True) if look.end - look.start + look.step < need]
    if len(short) > 0.5 * len(runs):
        yield Finding(
            "warning",
            "short-run",
            f"{count(len(short), 'run')} of {len(runs):,} are shorter than a window ({span(need, clock=clock)}), "
            f"for example {names(short, 1)}.",
            "Set window.length to less.",
            tuple(short),
        )
