"""Each site's course over the rounds, the others behind it in grey."""

from __future__ import annotations

import math

from edge_sft.federated.report_facts import Run
from edge_sft.federated.report_measure import Measure, value
from edge_sft.federated.report_story import worst_site
from edge_sft.report.charts import Axis, Frame
from edge_sft.report.markup import Html, el
from edge_sft.report.page import chip, legend, section
from edge_sft.report.wording import count, split_words

Series = list[tuple[float, float]]  # (after how many rounds, number)
_MOST = 12  # charts; beyond, the table says it better


def curves(run: Run, measure: Measure) -> Html | None:
    """One small chart a site: the common model on its data after each round; the loss where nothing was judged."""
    split = _curve_split(run, measure)
    series = {site: _series(run, site, split, measure) for site in run.sites} if split else {}
    judged = any(series.values())
    if not judged:
        series = {site: _losses(run, site) for site in run.sites}
    series = {site: points for site, points in series.items() if points}
    if not series:
        return None
    levels = _levels(run, split, measure) if judged else {}
    worst = worst_site(run, measure)
    order = sorted(series, key=lambda site: (worst is None or site != worst[0], site))
    axes = _axes(run, [number for points in series.values() for _, number in points] + list(levels.values()), measure)
    charts = [
        _chart(site, series, axes, levels.get(site), marked=worst is not None and site == worst[0], judged=judged)
        for site in order[:_MOST]
    ]
    key = [("brand", "this site"), ("part", "the other sites")]
    key += [("escape", "the worst site")] if worst is not None and worst[0] in series else []
    if judged:
        told = f"{measure.words.capitalize()} of the common model on each site's {split_words(split)} split."
        key += [("ink", "dashed: what this site learns alone")] if levels else []
    else:
        told = "Nothing was judged during the rounds; what is drawn is the training loss at each site."
    rest = len(series) - len(charts)
    more = el("p", f"and {count(rest, 'more site')}, in the table", class_="note") if rest > 0 else None
    return section("Site by site", told, el("div", charts, class_="two"), legend(key), more, name="curves", long=True)


def _curve_split(run: Run, measure: Measure) -> str:
    there = {path for one in run.attempts for site in one.sites.values() for path in site.numbers}
    return next((split for split in ("val", "test") if f"{split}/{measure.key}" in there), "")


def _series(run: Run, site: str, split: str, measure: Measure) -> Series:
    """A site judges the weights that it is sent: what round r reports was made by the rounds before it."""
    points = {}
    for one in run.attempts:
        number = run.taking(site, one).numbers.get(f"{split}/{measure.key}")
        if number is not None:
            points[float(one.number - 1)] = number
    final = value(run.results.get(site), "global", split, measure)
    if final is not None:
        points[float(run.done)] = final
    return sorted(points.items())


def _losses(run: Run, site: str) -> Series:
    found = {float(one.number): run.taking(site, one).loss for one in run.attempts}
    return sorted((number, loss) for number, loss in found.items() if loss is not None)


def _levels(run: Run, split: str, measure: Measure) -> dict[str, float]:
    found = {site: value(result, "alone", split, measure) for site, result in run.results.items()}
    return {site: number for site, number in found.items() if number is not None}


def _axes(run: Run, numbers: list[float], measure: Measure) -> tuple[Axis, Axis]:
    last = max([1, run.done, *(one.number for one in run.attempts)])
    step = max(1, -(-last // 6))
    across = Axis(0.0, float(last), [(float(at), str(at)) for at in range(0, last + 1, step)], "after round")
    low, high = min(numbers), max(numbers)
    unit = _unit((high - low) or abs(high) or 1.0)
    first, end = math.floor(low / unit), max(math.ceil(high / unit), math.floor(low / unit) + 1)
    ticks = [(unit * at, _tick(unit * at, unit, measure)) for at in range(first, end + 1)]
    return across, Axis(unit * first, unit * end, ticks)


def _unit(spread: float) -> float:
    power = 10.0 ** math.floor(math.log10(spread))
    return next(part * power for part in (0.2, 0.5, 1.0, 2.5) if spread / (part * power) <= 5)


def _tick(at: float, unit: float, measure: Measure) -> str:
    if measure.share:
        return f"{100 * at:.{0 if unit >= 0.00999 else 1}f}\u00a0%"
    return f"{at:.{max(0, -math.floor(math.log10(unit)) + (unit * 10 ** -math.floor(math.log10(unit)) % 1 > 0.01))}f}"


def _chart(
    site: str, series: dict[str, Series], axes: tuple[Axis, Axis], alone: float | None, *, marked: bool, judged: bool
) -> Html:
    frame = Frame(*axes, width=460, height=220, left=58)
    for other, points in series.items():
        if other != site:
            frame.line(*_columns(points), "part", width=1.4)
    if alone is not None:
        frame.across(alone, "alone")
    frame.line(*_columns(series[site]), "escape" if marked else "brand")
    for at, number in series[site]:
        frame.dot(at, number, "escape" if marked else "brand", 3.5)
    name = el("h3", site, " ", chip("worst", "bad") if marked else None)
    what = "Its model" if judged else "Its training loss"
    return el("div", name, frame.draw(f"{what} over the rounds at {site}"))


def _columns(points: Series) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], [number for _, number in points]
