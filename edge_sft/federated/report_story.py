"""What happened, in three sentences, and what a reader must not miss."""

from __future__ import annotations

import math

from edge_sft.federated.accounting import FEW_SITES
from edge_sft.federated.report_facts import Run, SiteResult
from edge_sft.federated.report_measure import Measure, gap, shown_split, value
from edge_sft.federated.report_traffic import traffic
from edge_sft.federated.report_words import COMPRESSIONS, SHARES, STRATEGIES, option, promised, size
from edge_sft.report.markup import Html, el
from edge_sft.report.page import callout, section
from edge_sft.report.wording import count, listed, share, split_words

_FEW_SAMPLES = 200  # below, an interval of accuracy is wider than anything federation can gain


def headline(run: Run, measure: Measure) -> str:
    """Return the page's first line."""
    sites = count(len(run.sites), "site")
    if run.state == "going":
        return f"{run.done} of {count(run.planned, 'round')} done over {sites}; still going, or killed"
    if run.state == "stopped":
        return f"Stopped after {run.done} of {count(run.planned, 'round')}"
    gained = _gains(run, measure)
    if not gained:
        return f"{count(run.done, 'round')} over {sites}"
    won = sum(gain > 0 for gain, _ in gained.values())
    said = f"Learning together beats learning alone at {won} of {count(len(gained), 'site')}"
    split = shown_split(run, measure)
    paired = [result.gaps.get("personal-alone", {}).get(split) for _, result in gained.values()]
    sure = sum(one is not None and one.low > 0 for one in paired)
    return said if sure == won or not any(paired) else f"{said}, beyond chance at {sure or 'none'}"


def lede(run: Run) -> str:
    """Return the line under the headline."""
    if run.state == "stopped":
        return run.why or "The record does not say why."
    if run.state == "going":
        last = run.attempts[-1].time if run.attempts else ""
        return f"Last heard of at {last}. Made again, this page shows more." if last else "No round has ended yet."
    return "No picture and no reading left a site: only weights, counts and scores did, and this page is made of those."


def happened(run: Run, measure: Measure) -> Html:
    """Tell the run in three sentences, with the warnings under them."""
    told = [_done(run), _came(run, measure), _cost(run)]
    marks = [callout(words, kind) for words, kind in warnings(run, measure)]
    return section("What happened", None, [el("p", sentence) for sentence in told], marks, name="happened")


def _done(run: Run) -> str:
    strategy = str(run.options.get("strategy", "fedavg"))
    return (
        f"{count(len(run.sites), 'site')} ({listed(run.sites, 8)}) learnt together in {run.done} of "
        f"{count(run.planned, 'round')} by {STRATEGIES.get(strategy, strategy).split(':')[0]}; "
        f"{option(run, 'share', SHARES, 'all')}, and {option(run, 'compression', COMPRESSIONS, 'int8').split(';')[0]}."
    )


def _came(run: Run, measure: Measure) -> str:
    split = shown_split(run, measure)
    gained = _gains(run, measure)
    worst = worst_site(run, measure)
    if gained:
        average = sum(gain for gain, _ in gained.values()) / len(gained)
        least = min(gained, key=lambda site: gained[site][0])
        return (
            f"On each site's {split_words(split)} split the personalised model gains {measure.gained(average)} of "
            f"{measure.words} on average over what the site learns alone; it gains least at {least} "
            f"({measure.gained(gained[least][0])})"
            + (f", and the worst model is {worst[0]}'s with {measure.form(worst[1])}." if worst else ".")
        )
    if worst:
        return f"The worst site is {worst[0]} with {measure.words} {measure.form(worst[1])}."
    return "No site has reported how good its model is yet."


def _cost(run: Run) -> str:
    missed = {
        site: sum(run.taking(site, one).taking != "in" for one in run.rounds)
        for site in run.sites
        if any(run.taking(site, one).taking != "in" for one in run.rounds)
    }
    took = "Every site was in every round"
    if missed:
        took = "Missing were " + listed([f"{site} in {count(number, 'round')}" for site, number in missed.items()])
    total = traffic(run)
    against = f" ({share(total.against_plain)} of plain FedAvg)" if total.against_plain is not None else ""
    chained = "the record's hash chain holds" if run.chain.holds else "the record's hash chain is broken"
    sent = f"a site and round took {size(total.up)} up and {size(total.down)} down{against}" if total.exchanges else ""
    return "; ".join(part for part in (took if run.rounds else "", sent, chained) if part) + "."


def worst_site(run: Run, measure: Measure) -> tuple[str, float] | None:
    """Return the site whose model is worst, and its number: the personal model, else the global one, else the last."""
    split = shown_split(run, measure)
    found: dict[str, float] = {}
    for site in run.sites:
        result = run.results.get(site)
        numbers = [value(result, side, split, measure) for side in ("personal", "global")]
        series = [
            run.taking(site, one).numbers.get(f"{name}/{measure.key}")
            for one in reversed(run.attempts)
            for name in ("val", "test")
        ]
        number = next((item for item in [*numbers, *series] if item is not None), None)
        if number is not None:
            found[site] = number
    if not found:
        return None
    site = min(found, key=lambda name: found[name] if measure.more else -found[name])
    return site, found[site]


def warnings(run: Run, measure: Measure) -> list[tuple[str, str]]:
    """Return what must not be missed: (words, kind of callout), the worst first."""
    return [
        *((f"The record was changed: {run.chain.broken}.", "bad") for _ in (0,) if not run.chain.holds),
        *_stopped(run),
        *((f"{site} never contributed: {_reason(run, site)}.", "bad") for site in _never(run)),
        *_unpaid(run, measure),
        *_repeated(run),
        *_changed(run),
        *((words, "warn") for words in _private(run)),
        *_thin(run),
    ]


def _stopped(run: Run) -> list[tuple[str, str]]:
    if run.state != "stopped":
        return []
    return [(f"The run stopped: {run.why or 'the record does not say why'}. Started again by name, it goes on.", "bad")]


def _never(run: Run) -> list[str]:
    if not run.done:
        return []
    return [site for site in run.sites if not any(run.taking(site, one).taking == "in" for one in run.attempts)]


def _reason(run: Run, site: str) -> str:
    said = [run.taking(site, one).why for one in reversed(run.attempts)]
    return next((why for why in said if why), "the record gives no reason").rstrip(".")


def _gains(run: Run, measure: Measure) -> dict[str, tuple[float, SiteResult]]:
    split = shown_split(run, measure)
    found = {}
    for site, result in run.results.items():
        gained = gap(result, "personal", "alone", split, measure)
        if gained is not None:
            found[site] = (gained[0], result)
    return found


def _unpaid(run: Run, measure: Measure) -> list[tuple[str, str]]:
    found = []
    for site, (gain, result) in _gains(run, measure).items():
        paired = result.gaps.get("personal-alone", {}).get(shown_split(run, measure))
        if paired is not None and paired.high < 0:
            words = f"Federation costs {site}: its personalised model is worse than one learnt alone"
            found.append((f"{words} ({measure.gained(gain)}, 95\u00a0% {measure.interval(paired)}).", "bad"))
        elif gain <= 0:
            unsure = " It may be chance." if paired is not None else ""
            words = f"Federation does not pay for {site}: its personalised model is no better than one learnt alone"
            found.append((f"{words} ({measure.gained(gain)}).{unsure} Its own model alone would do.", "warn"))
    return found


def _repeated(run: Run) -> list[tuple[str, str]]:
    again = sorted({one.number for one in run.attempts if not one.done})
    if not again:
        return []
    which = listed([str(number) for number in again])
    return [(f"Round {which} gave no new weights at least once: too few usable updates came in.", "warn")]


def _changed(run: Run) -> list[tuple[str, str]]:
    found = []
    for site in run.sites:
        prints = {one.sites[site].fingerprint for one in run.attempts if site in one.sites} - {""}
        if len(prints) > 1:
            found.append((f"The data at {site} changed between rounds: {len(prints)} fingerprints.", "warn"))
    if len(run.apps) > 1:
        found.append((f"{len(run.apps)} different Flower apps took part in this run.", "warn"))
    if len(run.versions) > 1:
        found.append(
            (f"{len(run.versions)} versions of edge-sft wrote this record: {listed(list(run.versions))}.", "warn")
        )
    return found


def _private(run: Run) -> tuple[str, ...]:
    told = promised(run)
    if told is None or not run.attempts:
        return ()
    few = len(run.sites) < FEW_SITES
    return told.warnings if few or not math.isclose(told.epsilon, 0) else ()


def _thin(run: Run) -> list[tuple[str, str]]:
    thin = [
        f"{site} ({result.samples['test']:,.0f})"
        for site, result in run.results.items()
        if 0 < result.samples.get("test", _FEW_SAMPLES) < _FEW_SAMPLES
    ]
    if not thin:
        return []
    return [(f"Few test samples at {listed(thin)}: their numbers may be chance.", "warn")]
