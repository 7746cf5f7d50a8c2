"""Alone, common, personal, central on each site's frozen test split; and each site's model on every other's data."""

from __future__ import annotations

from edge_sft.federated.report_facts import Run, SiteResult
from edge_sft.federated.report_measure import Measure, gap, shown_split, value
from edge_sft.federated.report_story import worst_site
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import chip, section, table
from edge_sft.report.wording import split_words

_SIDES = {"alone": "alone", "global": "global", "personal": "personal", "central": "central"}
_CHOSEN = {"alone": "its own", "global": "the global one", "personal": "the personal one"}


def sides(run: Run, measure: Measure) -> Html | None:
    """The table of what each site has with and without the others; None before any site told."""
    split = shown_split(run, measure)
    results = {
        site: result
        for site, result in run.results.items()
        if any(value(result, side, split, measure) is not None for side in _SIDES)
    }
    if not results:
        return None
    there = [side for side in _SIDES if any(value(one, side, split, measure) is not None for one in results.values())]
    worst = worst_site(run, measure)
    rows = [
        _row(site, result, there, split, measure, worst is not None and site == worst[0])
        for site, result in results.items()
    ]
    head: list[Child] = ["site", f"{split_words(split)} samples", *there, "personal − alone", "its paired 95\u00a0%"]
    head.append("kept")
    told = (
        f"{measure.words.capitalize()} on each site's own {split_words(split)} split, which is the same for all "
        f"columns{'' if split == 'test' else '; there was no test split, so these numbers promise nothing'}."
    )
    paired = any(split in result.gaps.get("personal-alone", {}) for result in results.values())
    note = None if paired else "No intervals: no site compared them sample by sample, so differences may be chance."
    return section(
        "With and without the others",
        told,
        table(head, [*rows, _mean_row(results, there, split, measure)], numeric=frozenset(range(1, len(head) - 1))),
        _legend(there),
        el("p", note, class_="note") if note else None,
        name="sides",
    )


def _row(site: str, result: SiteResult, there: list[str], split: str, measure: Measure, worst: bool) -> list[Child]:
    gained = gap(result, "personal", "alone", split, measure)
    samples = result.samples.get(split)
    return [
        el("div", site, " ", chip("worst", "bad") if worst else None, class_="name"),
        "–" if samples is None else f"{samples:,.0f}",
        *(measure.form(value(result, side, split, measure)) for side in there),
        "–" if gained is None else el("span", measure.gained(gained[0]), class_="good" if gained[0] > 0 else "escape"),
        "–" if gained is None or gained[1] is None else measure.interval(gained[1]),
        _CHOSEN.get(result.chosen, result.chosen or "–"),
    ]


def _mean_row(results: dict[str, SiteResult], there: list[str], split: str, measure: Measure) -> list[Child]:
    def mean(numbers: list[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        return sum(known) / len(known) if len(known) == len(numbers) else None

    gained = [gap(result, "personal", "alone", split, measure) for result in results.values()]
    average = mean([None if one is None else one[0] for one in gained])
    return [
        el("b", "mean of sites"),
        "",
        *(measure.form(mean([value(result, side, split, measure) for result in results.values()])) for side in there),
        "–" if average is None else measure.gained(average),
        "",
        "",
    ]


def _legend(there: list[str]) -> Html:
    meaning = {
        "alone": "alone: learnt from the site's own data only",
        "global": "global: the common weights as they are",
        "personal": "personal: the common weights, fine-tuned at the site",
        "central": "central: learnt from all sites' data in one place (a simulation can; a plant may not)",
    }
    return el("p", "; ".join(meaning[side] for side in there) + ".", class_="note", style="margin-top:14px")


def cross(run: Run, measure: Measure) -> Html | None:
    """The cross-site matrix as a heat map: whose model (row) does what on whose data (column)."""
    if not run.cross:
        return None
    columns = sorted({data for row in run.cross.values() for data in row})
    numbers = [number for row in run.cross.values() for number in row.values()]
    low, high = min(numbers), max(numbers)
    head = el("tr", el("th"), [el("th", name, scope="col") for name in columns])
    rows = [
        el(
            "tr",
            el("th", model, scope="row"),
            [_cell(row.get(data), low, high, measure, own=model == data) for data in columns],
        )
        for model, row in run.cross.items()
    ]
    told = (
        f"{measure.words.capitalize()} of each row's model on each column's data; the greener the better. A site's own "
        "is in bold: where another's model does better there, the site has too little data of its own."
    )
    grid = el("div", el("table", el("thead", head), el("tbody", rows), class_="matrix"), class_="scroll")
    return section("Each model at every site", told, grid, name="cross")


def _cell(number: float | None, low: float, high: float, measure: Measure, *, own: bool) -> Html:
    if number is None:
        return el("td", "–", class_="soft")
    place = (number - low) / (high - low) if high > low else 1.0
    strength = round(6 + 44 * (place if measure.more else 1 - place))
    style = f"background:var(--good-soft);background:color-mix(in srgb,var(--good) {strength}%,transparent)"
    shown = measure.form(number)
    return el("td", el("b", shown) if own else shown, style=style)
