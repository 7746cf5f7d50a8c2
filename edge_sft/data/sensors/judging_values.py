"""From the channels' numbers to sentences: dead, stuck, missing, impossible values. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.findings import Finding
from edge_sft.data.sensors.dataset import Run
from edge_sft.data.sensors.looking import ChannelLook, changes
from edge_sft.data.sensors.wording import count, is_clock, names, percent, span, when
from edge_sft.sensor_recipe import ChannelSection, SensorRecipe

Looks = Sequence[Sequence[ChannelLook]]  # [run][channel]

_CODES = (-9999.0, -999.0, -99.0, 999.0, 9999.0, 99999.0, 65535.0, 32767.0, -32768.0, 4095.0, 2147483647.0, -1.0, 0.0)
_STUCK_ROWS, _STUCK_TIMES = 30, 10  # rows, and times the channel's usual stretch, before a repeat is suspicious
_ABSURD = 1e4  # times the usual size
_RARE = 0.05  # of the values: vacuum gauges run over many decades, and mean it
_MANY = 5  # channels that are stuck
_NOTHING = 0.2  # of the rows


def judge_values(recipe: SensorRecipe, runs: Sequence[Run], looks: Looks) -> Iterator[Finding]:
    """Judge every channel over all runs."""
    stuck: dict[str, Finding] = {}
    for i, channel in enumerate(recipe.data.channels):
        mine = [look[i] for look in looks]
        values = [run.values[:, i] for run in runs]
        yield from _dead(recipe, channel, runs, mine)
        stuck.update((channel.name, found) for found in _stuck(channel, runs, mine, i))
        yield from _nothing(recipe, channel, runs, mine, i)
        yield from _outside(channel, runs, values)
        yield from _codes(channel, runs, values, mine)
        yield from _absurd(channel, runs, values, mine)
    yield from _together(stuck)
    yield from _twins(recipe, runs)


def _dead(
    recipe: SensorRecipe, channel: ChannelSection, runs: Sequence[Run], looks: Sequence[ChannelLook]
) -> Iterator[Finding]:
    known = [(run, look) for run, look in zip(runs, looks, strict=True) if look.present]
    still = [(run, look) for run, look in known if look.constant and look.present > 1]
    if not known or not still or channel.name in recipe.data.conditions:
        return
    if len(still) == len(known) and len({look.middle for _, look in still}) == 1:
        yield Finding(
            "note",
            "dead",
            f"Channel '{channel.name}' never changes: it is {still[0][1].middle:g} in every run.",
            "It tells nothing; leave it out, or look whether its sensor is connected.",
        )
        return
    by_asset: dict[str, list[ChannelLook]] = {}
    for run, look in known:
        by_asset.setdefault(run.asset, []).append(look)
    still_assets = [asset for asset, found in by_asset.items() if all(look.constant for look in found)]
    alive = [asset for asset, found in by_asset.items() if any(look.analog for look in found)]
    if still_assets and len(alive) > len(still_assets):
        ids = tuple(run.id for run, _ in still if run.asset in still_assets)
        yield Finding(
            "warning",
            "dead",
            f"Channel '{channel.name}' never changes on {count(len(still_assets), 'machine')} "
            f"({names(still_assets)}), but does on the others.",
            "Look at the sensor and its cable; leave the channel empty there, so that it is not valid.",
            ids,
        )


def _stuck(channel: ChannelSection, runs: Sequence[Run], looks: Sequence[ChannelLook], i: int) -> Iterator[Finding]:
    found = [(run, look) for run, look in zip(runs, looks, strict=True) if _is_stuck(channel, run, look, i)]
    if not found:
        return
    run, look = max(found, key=lambda one: one[1].flat_rows)
    start = float(run.time[look.flat_start])
    end = float(run.time[min(look.flat_start + look.flat_rows, len(run.time)) - 1])
    seconds = abs(end - start)
    yield Finding(
        "warning",
        "stuck",
        f"Channel '{channel.name}' is stuck in {count(len(found), 'run')}: {look.flat_rows:,} equal values "
        f"({run.values[look.flat_start, i]:g}) in {run.id} from {when(start)}, "
        f"{span(seconds, clock=is_clock(start))} long.",
        ""
        if channel.stuck_s is not None
        else f"If the sensor hung, set stuck_s = {_round(seconds / 2):g} for the channel: what repeats itself for "
        "longer is then not valid.",
        tuple(run.id for run, _ in found),
    )


def _together(stuck: dict[str, Finding]) -> Iterator[Finding]:
    """Say once what many channels do: then it is the logger or the plant that stopped, not the sensors."""
    if len(stuck) < _MANY:
        yield from stuck.values()
        return
    first = next(iter(stuck.values()))
    yield Finding(
        "warning",
        "stuck",
        f"{count(len(stuck), 'channel')} are stuck ({names(list(stuck))}). {first.text}",
        "So many at once: did the logger or the plant stop there? Leave such rows out.",
        tuple(dict.fromkeys(name for found in stuck.values() for name in found.ids)),
    )


def _is_stuck(channel: ChannelSection, run: Run, look: ChannelLook, i: int) -> bool:
    """Tell whether a measurement repeats itself while the machine's other channels go on."""
    if not look.analog or look.flat_rows < 2:
        return False
    end = min(look.flat_start + look.flat_rows, len(run.time)) - 1
    if channel.stuck_s is not None:
        return bool(abs(run.time[end] - run.time[look.flat_start]) >= channel.stuck_s)
    if look.flat_rows < max(_STUCK_ROWS, _STUCK_TIMES * look.usual_rows):
        return False
    others = np.delete(changes(run.values, look.flat_start, look.flat_rows), i)
    return bool(not len(others) or others.mean() >= 0.5)


def _nothing(
    recipe: SensorRecipe, channel: ChannelSection, runs: Sequence[Run], looks: Sequence[ChannelLook], i: int
) -> Iterator[Finding]:
    held = [(run, look) for run, look in zip(runs, looks, strict=True) if 0 < look.present < look.rows]
    rows, empty = sum(look.rows for _, look in held), sum(look.rows - look.present for _, look in held)
    if not empty:
        return
    run, look = max(held, key=lambda one: one[1].empty_rows)
    share = empty / rows
    yield Finding(
        "warning" if share > _NOTHING else "note",
        "nothing",
        f"Channel '{channel.name}' has no value in {count(empty, 'row')} ({percent(share)}) of "
        f"{count(len(held), 'run')}; the longest stretch is {count(look.empty_rows, 'row')} in {run.id} from "
        f"{when(float(run.time[look.empty_start]))}.",
        _hold(recipe, run, i),
        tuple(run.id for run, _ in held),
    )


def _hold(recipe: SensorRecipe, run: Run, i: int) -> str:
    """Say for how long a channel's value must stand until its next one comes."""
    steps = np.diff(run.time[np.isfinite(run.values[:, i])])
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    window = recipe.window
    if usual <= max(window.period_s, window.hold_s):
        return "A channel that speaks less often than the others keeps its value for window.hold_s."
    clock = is_clock(float(run.time[0]))
    return (
        f"It speaks every {span(usual, clock=clock)}: set window.hold_s = {1.5 * usual:.3g} (it is {window.hold_s:g}) "
        "so that its value stands until the next comes."
    )


def _outside(channel: ChannelSection, runs: Sequence[Run], values: Sequence[NDArray[np.float64]]) -> Iterator[Finding]:
    low = -np.inf if channel.low is None else channel.low
    high = np.inf if channel.high is None else channel.high
    if channel.low is None and channel.high is None:
        return
    with np.errstate(invalid="ignore"):
        counts = [int(((x < low) | (x > high)).sum()) for x in values]
    total = sum(counts)
    if not total:
        return
    worst = int(np.argmax(counts))
    share = total / max(1, sum(int(np.isfinite(x).sum()) for x in values))
    yield Finding(
        "error" if share > 0.5 else "warning",
        "outside",
        f"Channel '{channel.name}': {count(total, 'value')} ({percent(share)}) outside {low:g} to {high:g} "
        f"{channel.unit}".rstrip()
        + f", most in {runs[worst].id}.",
        "Is the unit right? scale and offset convert it. Such values are not valid to the model."
        if share > 0.5
        else "They are not valid to the model.",
        tuple(run.id for run, number in zip(runs, counts, strict=True) if number),
    )


def _codes(
    channel: ChannelSection,
    runs: Sequence[Run],
    values: Sequence[NDArray[np.float64]],
    looks: Sequence[ChannelLook],
) -> Iterator[Finding]:
    """Notice values that are far from all others, always the same, and known as error codes of loggers."""
    known = [look for look in looks if look.present]
    if not known:
        return
    middle = float(np.median([look.middle for look in known]))
    spread = max(float(np.median([look.spread for look in known])), 1e-9 * abs(middle), 1e-12)
    low, high = min(look.smallest for look in known), max(look.largest for look in known)
    for code in _CODES:
        if code not in (low, high) or abs(code - middle) < 20 * spread or (code == 0.0 and middle == 0.0):
            continue
        counts = [int((x == code).sum()) for x in values]
        total = sum(counts)
        if total >= 2 and total < 0.5 * sum(look.present for look in known):
            yield Finding(
                "warning",
                "code",
                f"Channel '{channel.name}' is exactly {code:g} {count(total, 'time')}, far from its usual "
                f"{middle:.4g}: that looks like an error code or a sensor that was off.",
                _limits(channel, code, middle, values),
                tuple(run.id for run, number in zip(runs, counts, strict=True) if number),
            )


def _absurd(
    channel: ChannelSection, runs: Sequence[Run], values: Sequence[NDArray[np.float64]], looks: Sequence[ChannelLook]
) -> Iterator[Finding]:
    """Notice values that no sensor measures beside the usual ones: a cell or a register that was read wrongly."""
    known = [look for look in looks if look.present]
    if not known:
        return
    usual = float(np.median([max(abs(look.quarter), abs(look.three_quarters), look.spread) for look in known]))
    limit = _ABSURD * max(usual, 1e-6)
    if all(-limit <= look.smallest and look.largest <= limit for look in known):
        return
    low = -np.inf if channel.low is None else channel.low  # what lies outside is told already
    high = np.inf if channel.high is None else channel.high
    with np.errstate(invalid="ignore"):
        far = [x[(np.abs(x) > limit) & (x >= low) & (x <= high)] for x in values]
    total = sum(len(one) for one in far)
    if not 0 < total < _RARE * sum(look.present for look in known):
        return
    worst = max((float(one[np.abs(one).argmax()]) for one in far if len(one)), key=abs)
    yield Finding(
        "warning",
        "absurd",
        f"Channel '{channel.name}' has {count(total, 'value')} as far out as {worst:.4g}, where {usual:.4g} is usual.",
        "No sensor measures that; set low and high for the channel, then such values are not valid.",
        tuple(run.id for run, one in zip(runs, far, strict=True) if len(one)),
    )


def _limits(channel: ChannelSection, code: float, middle: float, values: Sequence[NDArray[np.float64]]) -> str:
    key = "low" if code < middle else "high"
    if getattr(channel, key) is not None:
        return ""
    rest = np.concatenate([x[np.isfinite(x) & (x != code)] for x in values])
    edge = float(rest.min() if key == "low" else rest.max())
    return f"Set {key} for the channel (the other values {'begin' if key == 'low' else 'end'} at {edge:g})."


def _twins(recipe: SensorRecipe, runs: Sequence[Run]) -> Iterator[Finding]:
    """Notice channels that are copies of another one everywhere."""
    channels = recipe.data.channels
    first: dict[bytes, str] = {}
    import hashlib

    for i, channel in enumerate(channels):
        digest = hashlib.sha256()
        varied = False
        for run in runs:
            column = np.ascontiguousarray(run.values[:, i])
            digest.update(column.tobytes())
            varied = varied or bool(len(column) > 1 and (column[1:] != column[:-1]).any())
        if not varied or all(np.isnan(run.values[:, i]).all() for run in runs):
            continue
        other = first.setdefault(digest.digest(), channel.name)
        if other != channel.name:
            text = f"Channels '{other}' and '{channel.name}' are equal in every row."
            yield Finding("warning", "twin", text, "Is one of them the wrong column?")


def _round(value: float) -> float:
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(np.floor(value / power) * power)
