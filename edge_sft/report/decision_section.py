"""The top of a model's page: what it does to 1,000 parts, what that costs, and why this threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_sft.metrics.cost import log_odds
from edge_sft.metrics.intervals import upper_bound
from edge_sft.metrics.plant import PlantRates, choose, claim, curve_of, defect_scores, is_defect, percent
from edge_sft.report.basis import Basis
from edge_sft.report.charts import Axis, Frame, nice_axis, parts
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import callout, legend, section
from edge_sft.report.wording import amount, between, count, share, span

_TICKS = (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True)
class Thousand:
    """What becomes of 1,000 parts of the line; bounds are those of the rates."""

    defects: float
    escapes: float
    escapes_low: float
    escapes_high: float
    scrapped: float
    scrapped_low: float
    scrapped_high: float


def thousand(basis: Basis) -> Thousand | None:
    """Scale the split's rates to 1,000 parts at the policy's prevalence; None where a rate is unknown."""
    rates = basis.rates
    if rates is None or rates.escape_rate is None or rates.overkill_rate is None:
        return None
    defects = 1000 * (basis.meta.rule.prevalence or rates.defects / (rates.defects + rates.goods))
    goods = 1000 - defects
    return Thousand(
        defects,
        *(defects * rate for rate in (rates.escape_rate, rates.escape_low, rates.escape_high)),
        *(goods * rate for rate in (rates.overkill_rate, rates.overkill_low, rates.overkill_high)),
    )


def headline(basis: Basis) -> tuple[Child, Child]:
    """Return the page's headline and the sentence below it."""
    meta, policy = basis.meta, basis.meta.rule
    measured = f"Measured on {count(len(basis.scores.labels), basis.split_words + ' picture')}"
    never = " that neither trained the model nor chose its threshold." if basis.split == "test" else "."
    whole, rates = thousand(basis), basis.rates
    if basis.sorting:
        wrong = 1000 * (1 - basis.evaluation.accuracy.value)
        never = " that did not train the model." if basis.split == "test" else "."
        return f"Of 1,000 parts, {amount(wrong)} are sorted wrongly", f"{measured}{never}"
    if whole is None or rates is None:
        missing = "defects" if rates is not None and not rates.defects else "good parts"
        return f"{meta.name}: not enough pictures to judge", f"The {basis.split_words} split has no {missing}."
    rule = f"A part is rejected when its evidence for a defect reaches {policy.threshold:.3g}. "
    if not _prevalence_known(basis):  # how many of 1,000 parts are defective is then only a guess: speak of rates
        escaped, scrapped = (amount(100 * rate) for rate in (rates.escape_rate or 0, rates.overkill_rate or 0))
        verb = "is" if scrapped == "1" else "are"
        title = f"Of 100 defects {escaped} slip through, of 100 good parts {scrapped} {verb} scrapped"
        return title.replace("defects 1 slip", "defects 1 slips"), f"{rule}{measured}{never}{_at_most(rates)}"
    title = (
        f"Of 1,000 parts, {amount(whole.escapes)} {_plural(whole.escapes, 'defect slips', 'defects slip')} through "
        f"and {amount(whole.scrapped)} good {_plural(whole.scrapped, 'part is', 'parts are')} scrapped"
    )
    return title, f"{rule}{measured}{never}{_at_most(rates)}"


def _at_most(rates: PlantRates) -> str:
    """A headline of few pictures must not go without its bounds; nothing where they would be no claim."""
    if not rates.exact:
        return ""
    bounds = (upper_bound(rates.escaped, rates.defects), upper_bound(rates.scrapped, rates.goods))
    escapes, scrapped = (percent(bound, up=True).replace(" ", "\u00a0") for bound in bounds)
    return f" With 95\u00a0% confidence: at most {escapes} of the defects and {scrapped} of the good parts."


def decision(basis: Basis) -> Html:
    """The card with 1,000 dots and the figures with their bounds."""
    whole = thousand(basis)
    if basis.sorting or whole is None:
        return _sorting(basis) if basis.sorting else _unknown(basis)
    rates = basis.rates
    assert rates is not None
    escapes, scrapped = round(whole.escapes), round(whole.scrapped)
    caught = max(0, round(whole.defects) - escapes)
    dots = parts(
        [
            ("escape", escapes),
            ("brand", caught),
            ("overkill", scrapped),
            ("part", max(0, 1000 - escapes - caught - scrapped)),
        ],
        f"1,000 parts: {escapes} escapes, {caught} caught defects, {scrapped} good parts scrapped",
    )
    words = [
        ("escape", "defect that slips through"),
        ("brand", "defect caught"),
        ("overkill", "good part scrapped"),
        ("part", "good part passed"),
    ]
    figures = el(
        "div",
        _figure(
            amount(whole.escapes),
            f"of {amount(whole.defects)} defects slip through",
            _detail(basis, whole.escapes_low, whole.escapes_high, escape=True),
            "escape",
        ),
        _figure(
            amount(whole.scrapped),
            f"of {amount(1000 - whole.defects)} good parts are scrapped",
            _detail(basis, whole.scrapped_low, whole.scrapped_high, escape=False),
            "overkill",
        ),
        _cost_figure(basis, whole),
        class_="figures",
    )
    hero = el("div", el("div", dots, legend(words)), figures, class_="hero")
    return section("Of 1,000 parts on the line", _prevalence(basis), hero, *_remarks(basis), name="decision")


def _detail(basis: Basis, low: float, high: float, *, escape: bool) -> str:
    rates = basis.rates
    assert rates is not None
    if escape:
        counted = f"{rates.escaped:,} of {rates.defects:,} {basis.split_words} defects missed"
        rate, bounds = rates.escape_rate, between(rates.escape_low, rates.escape_high)
    else:
        counted = f"{rates.scrapped:,} of {rates.goods:,} good {basis.split_words} parts rejected"
        rate, bounds = rates.overkill_rate, between(rates.overkill_low, rates.overkill_high)
    return f"{span(low, high)} · {counted}: {share(rate)} ({bounds})"


def _figure(number: str, words: str, detail: str, colour: str) -> Html:
    return el("div", el("b", number, class_=colour), el("span", words), el("i", detail), class_="figure")


def _cost_figure(basis: Basis, whole: Thousand) -> Html:
    policy = basis.meta.rule
    cost = whole.escapes * policy.escape_cost + whole.scrapped * policy.overkill_cost
    without = whole.defects * policy.escape_cost
    return _figure(
        amount(cost),
        f"expected cost of mistakes, against {amount(without)} without inspection",
        f"an escape costs {policy.escape_cost:g}, a scrapped good part {policy.overkill_cost:g} (the recipe's units)",
        "ink",
    )


def _prevalence(basis: Basis) -> str:
    policy = basis.meta.rule
    if policy.prevalence is None:
        return "Counting as many defects as there are among the pictures."
    if not _prevalence_known(basis):
        return (
            f"{share(policy.prevalence)} of them defective, as among your validation pictures. If the line has fewer, "
            f"put its share into the recipe: [policy] prevalence."
        )
    return f"{share(policy.prevalence)} of them defective, as the recipe says."


def _prevalence_known(basis: Basis) -> bool:
    """Tell whether the recipe gave the line's share of defects, rather than the pictures."""
    prevalence = basis.meta.rule.prevalence
    if basis.section is not None and basis.section.prevalence is not None:
        return True
    return prevalence is not None and not _is_share_of_validation(basis, prevalence)


def _is_share_of_validation(basis: Basis, prevalence: float) -> bool:
    if basis.chosen_on is None:
        return False
    weights = basis.chosen_on.weights.astype(np.float64)
    defect = is_defect(basis.chosen_on, basis.meta.task)
    return bool(weights.sum()) and abs(float(weights[defect].sum() / weights.sum()) - prevalence) < 1e-4


def _remarks(basis: Basis) -> list[Html]:
    rates = basis.rates
    assert rates is not None
    remarks = (
        [callout(claim(rates.defects, rates.escaped, basis.wishes.max_escape_rate or 0.001))]
        if rates.exact
        else [_inexact(basis)]
    )
    return [*remarks, *_notes(basis)]


def _notes(basis: Basis) -> list[Html]:
    if basis.chosen_on is None:
        return []
    return [callout(note, "warn") for note in choose(basis.chosen_on, basis.meta.task, basis.wishes).notes]


def _inexact(basis: Basis) -> Html:
    if basis.split == "test":
        return callout("The pictures carry different weights, so the bounds are approximate.", "warn")
    return callout(
        "These pictures also chose the threshold, so the numbers describe and promise nothing. A claim needs a test "
        "split: pictures that neither trained the model nor chose its threshold.",
        "warn",
    )


def _unknown(basis: Basis) -> Html:
    return section(
        "Of 1,000 parts on the line",
        None,
        callout("Escapes and overkill need both defects and good parts among the pictures.", "bad"),
        *_notes(basis),
        name="decision",
    )


def _sorting(basis: Basis) -> Html:
    accuracy = basis.evaluation.accuracy
    wrong = round(1000 * (1 - accuracy.value))
    dots = parts([("escape", wrong), ("part", 1000 - wrong)], f"1,000 parts, {wrong} of them sorted wrongly")
    balanced = basis.evaluation.balanced_accuracy
    figures = el(
        "div",
        _figure(
            amount(1000 * (1 - accuracy.value)),
            "of 1,000 parts are sorted wrongly",
            f"{span(1000 * (1 - accuracy.high), 1000 * (1 - accuracy.low))} · accuracy {share(accuracy.value)} "
            f"({between(accuracy.low, accuracy.high)})",
            "escape",
        ),
        _figure(
            share(balanced.value),
            "balanced accuracy",
            f"every label counting alike, 95 % interval {between(balanced.low, balanced.high)}",
            "ink",
        ),
        class_="figures",
    )
    shown = el("div", el("div", dots, legend([("escape", "sorted wrongly"), ("part", "sorted right")])), figures)
    hero = Html(shown.replace("<div>", '<div class="hero">', 1))
    remarks = [] if basis.split == "test" else [_inexact(basis)]
    told = "No label means a defect, so nothing escapes and nothing is scrapped; parts are sorted by label."
    return section("Of 1,000 parts on the line", told, hero, *remarks, name="decision")


def threshold(basis: Basis) -> Html | None:
    """The card that shows what every threshold would cost, and where the parts' scores lie."""
    policy, scores = basis.meta.rule, basis.chosen_on
    curve = None if scores is None else curve_of(scores, basis.meta.task, policy)
    if scores is None or curve is None:
        return None
    odds = log_odds(curve.thresholds)
    low, high = max(-10.0, float(odds[0])), min(10.0, float(odds[-1]))
    ticks = [(float(log_odds(np.array([t]))[0]), f"{t:g}") for t in _TICKS]
    inside = [tick for tick in ticks if low <= tick[0] <= high]
    x = Axis(low, high, inside, "threshold on the evidence for a defect")
    shown = (odds >= low) & (odds <= high)
    highest = 1000 * float(np.maximum(curve.cost, curve.observed_cost)[shown].max())
    costs = Frame(x, nice_axis(highest, lambda v: f"{v:,.4g}"), height=280)
    costs.line(odds[shown].tolist(), (1000 * curve.observed_cost[shown]).tolist(), "bar", width=1.2)
    costs.line(odds[shown].tolist(), (1000 * curve.cost[shown]).tolist(), "brand")
    here = float(log_odds(np.array([policy.threshold]))[0])
    at = float(np.interp(here, odds, 1000 * curve.cost))
    costs.upright(here, f"threshold {policy.threshold:.3g}")
    costs.dot(here, at, "brand", 5.5)
    drawn = [
        el("div", el("h3", "Cost per 1,000 parts"), costs.draw("Expected cost over the threshold"), _cost_key()),
        el("div", el("h3", "Where the parts lie"), _histogram(basis, x, here), _part_key()),
    ]
    told = (
        f"The threshold of least expected cost on {count(len(scores.labels), 'validation picture')}: an escape "
        f"costs {policy.escape_cost:g}, a scrapped good part {policy.overkill_cost:g}, "
        f"{share(policy.prevalence)} of the parts are defective."
    )
    grid = el("div", drawn, class_="two")
    return section("Why this threshold", told, grid, name="threshold")


def _cost_key() -> Html:
    return legend([("brand", "smoothed: what is minimised"), ("bar", "counted picture by picture")])


def _part_key() -> Html:
    return legend([("good", "good parts"), ("escape", "defects")])


def _histogram(basis: Basis, x: Axis, here: float) -> Html:
    scores = basis.chosen_on
    assert scores is not None
    odds = np.clip(log_odds(defect_scores(scores, basis.meta.task)), x.low, x.high - 1e-9)
    defect = is_defect(scores, basis.meta.task)
    edges = np.linspace(x.low, x.high, 41)
    above, below = (np.histogram(odds[kind], edges)[0] / max(1, kind.sum()) for kind in (~defect, defect))
    peak = float(max(above.max(), below.max(), 1e-9))
    axis = Axis(-peak, peak, [(0.0, "")])
    frame = Frame(x, axis, height=280)
    for left, right, up, down in zip(edges[:-1], edges[1:], above, below, strict=True):
        if up:
            frame.bar(float(left), float(right), 0.0, float(up), "good")
        if down:
            frame.bar(float(left), float(right), -float(down), 0.0, "escape")
    frame.upright(here, f"threshold {basis.meta.rule.threshold:.3g}")
    return frame.draw("Scores of good parts (up) and defects (down), each as shares of its kind")


def _plural(number: float, one: str, many: str) -> str:
    return one if amount(number) == "1" else many
