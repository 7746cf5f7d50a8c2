"""Machines that report a channel in another unit than the others: powers of ten, °F, K, psi, kPa. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edge_sft.data.findings import Finding
from edge_sft.data.sensors.dataset import Run
from edge_sft.data.sensors.judging_values import Looks
from edge_sft.data.sensors.wording import names
from edge_sft.sensor_recipe import SensorRecipe

_HEAT = r"temp|therm|heat|°|deg|celsius|fahrenheit|kelvin|grad\b|^[cfk]$|oil|bearing|water|air|coolant"
_PRESSURE = r"press|druck|vacuum|\bbar\b|psi|k?pa\b|hydraul|pneum"
_RATE = r"speed|rpm|rev|drehzahl|freq|hz|flow|rate|durchfluss|/ ?(?:s|min|h)|per"


@dataclass(frozen=True)
class Conversion:
    """other = value × scale + offset, as in °F = °C × 1.8 + 32; ``slack`` is how near the levels must come.

    ``of`` is what a channel's name or unit must hold to be that kind of quantity: a valve that opens from 25 to 75 per
    cent is no temperature in °F.
    """

    words: str
    scale: float
    offset: float = 0.0
    slack: float = 0.35  # of the level: machines differ
    of: str = ""


CONVERSIONS = (
    Conversion("°F instead of °C", 1.8, 32.0, 0.15, _HEAT),
    Conversion("°C instead of °F", 1 / 1.8, -32.0 / 1.8, 0.15, _HEAT),
    Conversion("K instead of °C", 1.0, 273.15, 0.05, _HEAT),
    Conversion("°C instead of K", 1.0, -273.15, 0.05, _HEAT),
    Conversion("psi instead of bar", 14.5038, slack=0.2, of=_PRESSURE),
    Conversion("bar instead of psi", 1 / 14.5038, slack=0.2, of=_PRESSURE),
    Conversion("10 times the others", 10.0),
    Conversion("a tenth of the others", 0.1),
    Conversion("100 times the others (kPa instead of bar, cm instead of m, per cent instead of a share)", 100.0),
    Conversion("a hundredth of the others (bar instead of kPa, m instead of cm)", 0.01),
    Conversion("1,000 times the others (milli)", 1000.0),
    Conversion("a thousandth of the others (kilo)", 0.001),
    Conversion("60 times the others (per minute instead of per second)", 60.0, slack=0.2, of=_RATE),
    Conversion("a sixtieth of the others (per second instead of per minute)", 1 / 60.0, slack=0.2, of=_RATE),
)


def judge_units(recipe: SensorRecipe, runs: Sequence[Run], looks: Looks) -> Iterator[Finding]:
    """Compare levels and spreads of each channel between machines."""
    for i, channel in enumerate(recipe.data.channels):
        if channel.name in recipe.data.conditions:
            continue
        levels = _levels(runs, looks, i)
        said = f"{channel.name} {channel.column or ''} {channel.unit}".casefold()
        fitting = [c for c in CONVERSIONS if re.search(c.of, said) or re.search(c.of, channel.unit.casefold())]
        for words, conversion, machines, usual, odd in _odd_ones(levels, fitting):
            back = f"scale = {1 / conversion.scale:.6g}"
            if conversion.offset:
                back += f", offset = {-conversion.offset / conversion.scale:.6g}"
            yield Finding(
                "error",
                "unit",
                f"Channel '{channel.name}' on {names(machines)}: usually {odd:.4g} where the others have {usual:.4g}; "
                f"it looks like {words}.",
                f"Convert these files ({back} turns their values into the others').",
                tuple(run.id for run in runs if run.asset in machines),
            )


def _levels(runs: Sequence[Run], looks: Looks, i: int) -> dict[str, tuple[float, float]]:
    """Return each machine's median and interquartile range of one channel."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run, look in zip(runs, looks, strict=True):
        if look[i].present:
            found.setdefault(run.asset, []).append((look[i].middle, look[i].spread))
    return {
        asset: (float(np.median([m for m, _ in pairs])), float(np.median([s for _, s in pairs])))
        for asset, pairs in found.items()
    }


def _odd_ones(
    levels: dict[str, tuple[float, float]], conversions: Sequence[Conversion]
) -> Iterator[tuple[str, Conversion, list[str], float, float]]:
    if len(levels) < 2:
        return
    middles = np.array([level for level, _ in levels.values()])
    usual = float(np.median(middles))
    if len(levels) == 2:  # nobody can tell which of two is right: take the one nearer to 1 as the usual
        usual = float(min(middles, key=lambda m: abs(np.log(abs(m) + 1e-12))))
    near = [(m, s) for m, s in levels.values() if abs(m - usual) <= 0.5 * abs(usual)]
    if len(near) * 2 < len(levels) or not near:
        return  # the machines differ anyway
    spread = float(np.median([s for _, s in near]))
    scatter = float(np.max(np.abs(np.array([m for m, _ in near]) - usual)))
    if abs(usual) < 2 * spread:
        return  # swings around zero: its level says nothing about a unit
    gathered: dict[Conversion, list[str]] = {}
    for asset, (middle, wide) in levels.items():
        if abs(middle - usual) <= max(3 * scatter, 0.3 * abs(usual), 3 * spread):
            continue
        fitting = [(miss, c) for c in conversions if (miss := _miss(c, usual, spread, middle, wide)) <= 1.0]
        if fitting:
            gathered.setdefault(min(fitting, key=lambda one: one[0])[1], []).append(asset)
    for conversion, machines in gathered.items():
        yield conversion.words, conversion, machines, usual, levels[machines[0]][0]


def _miss(conversion: Conversion, usual: float, spread: float, middle: float, wide: float) -> float:
    """Return how badly a conversion explains a level, 1 = just acceptable."""
    expected = usual * conversion.scale + conversion.offset
    level = abs(middle - expected) / (conversion.slack * max(abs(expected), 1e-12))
    if spread > 0 and wide > 0:
        ratio = abs(np.log(wide / (spread * conversion.scale))) / np.log(4.0)
        return float(max(level, ratio))
    return float(level)
