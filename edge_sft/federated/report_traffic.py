"""Who took part when, what it moved over the wire, how long it took."""

from __future__ import annotations

from dataclasses import dataclass

from edge_sft.federated.report_facts import Round, Run, SiteRound
from edge_sft.federated.report_words import TAKINGS, size
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import legend, section, table
from edge_sft.report.wording import count, duration, share

_REASONS = 20  # beyond, the record itself is the place to look


@dataclass(frozen=True)
class Traffic:
    """Mean bytes of a site and round; ``against_plain`` is the share of what plain FedAvg would send, None = unknown.

    Attributes:
        exchanges: How many site-rounds moved anything.
    """

    up: float
    down: float
    exchanges: int
    against_plain: float | None


def traffic(run: Run, site: str | None = None) -> Traffic:
    """Return what a site (or all of them together) moved in an exchange, on average."""
    taken = [
        found
        for one in run.attempts
        for name, found in one.sites.items()
        if (site is None or name == site) and (found.bytes_up or found.bytes_down)
    ]
    many = len(taken)
    up = sum(found.bytes_up for found in taken) / max(1, many)
    down = sum(found.bytes_down for found in taken) / max(1, many)
    plain_up, plain_down = plain(run)
    against = (up + down) / (plain_up + plain_down) if plain_up and many else None
    return Traffic(up, down, many, against)


def plain(run: Run) -> tuple[float, float]:
    """Return what Flower's plain FedAvg sends a site and round, up and down: it evaluates on the model sent again."""
    return run.model_bytes, 2 * run.model_bytes


def participation(run: Run) -> Html | None:
    """The grid of sites and rounds, with the reasons under it."""
    if not run.attempts:
        return None
    head = el("tr", el("th"), [el("th", name, scope="col") for name in _columns(run)])
    rows = [
        el("tr", el("th", site, scope="row"), [_cell(run.taking(site, one)) for one in run.attempts])
        for site in run.sites
    ]
    grid = el("div", el("table", el("thead", head), el("tbody", rows), class_="matrix"), class_="scroll")
    key = legend([(colour, words) for words, colour in TAKINGS.values() if colour != "track"])
    told = "Which site's update is in which round's weights, and how long the site took."
    return section("Who took part", told, grid, key, _reasons(run), name="participation", long=True)


def _columns(run: Run) -> list[str]:
    seen: dict[int, int] = {}
    names = []
    for one in run.attempts:
        seen[one.number] = seen.get(one.number, 0) + 1
        names.append(f"{one.number}" if seen[one.number] == 1 else f"{one.number}, again")
    return names


def _cell(found: SiteRound) -> Html:
    words, colour = TAKINGS[found.taking]
    if found.taking == "absent":
        return el("td", words, class_="soft")
    seconds = el("small", duration(found.seconds)) if found.seconds else None
    style = f"background:var(--track);background:color-mix(in srgb,var(--{colour}) 24%,transparent)"
    return el("td", words, seconds, style=style)


def _reasons(run: Run) -> list[Html]:
    told = [
        f"Round {column}, {site}: {words}"
        for column, one in zip(_columns(run), run.attempts, strict=True)
        for site, found in sorted(one.sites.items())
        for words in _said(found)
    ]
    if not told:
        return []
    rest = len(told) - _REASONS
    more = [el("p", f"and {count(rest, 'more', 'more')}: see rounds.jsonl", class_="note")] if rest > 0 else []
    return [el("h3", "What was amiss"), el("ul", [el("li", line) for line in told[:_REASONS]], class_="plain"), *more]


def _said(found: SiteRound) -> list[str]:
    why = [] if found.taking == "in" else [found.why or TAKINGS[found.taking][0]]
    return [*why, *(remark for remark in found.remarks if remark not in why)]


def bytes_moved(run: Run) -> Html | None:
    """What each site moved in a round, against plain FedAvg, and the rounds one by one."""
    if not traffic(run).exchanges:
        return None
    plain_up, plain_down = plain(run)
    against = (
        f"Plain FedAvg would send {size(plain_up)} up and {size(plain_down)} down a site and round: float32, and the "
        "model once more for evaluating."
        if plain_up
        else "What plain FedAvg would send is not known yet: the weights are not written."
    )
    head: list[Child] = ["site", "exchanges", "up", "down", "of plain", "at the end", "a round", "in all", "update"]
    rows = [_site_row(run, site) for site in run.sites]
    numeric = frozenset(range(1, 9))
    each = [el("h3", "Round by round"), _each(run)] if len(run.attempts) > 1 else []
    told = (
        f"Bytes of the messages as they were sent, an average over rounds, and of handing out the final weights at the "
        f"end; then time, and how long updates were (L2), by which a clip can be chosen. {against}"
    )
    return section("What went over the wire", told, table(head, rows, numeric=numeric), each, name="bytes", long=True)


def _site_row(run: Run, site: str) -> list[Child]:
    mean = traffic(run, site)
    seconds = [found.seconds for one in run.attempts if (found := one.sites.get(site)) and found.seconds]
    lengths = [found.norm for one in run.attempts if (found := one.sites.get(site)) and found.norm is not None]
    return [
        el("div", site, class_="name"),
        f"{mean.exchanges}",
        size(mean.up) if mean.exchanges else "–",
        size(mean.down) if mean.exchanges else "–",
        share(mean.against_plain),
        _up_down(run.ends[site]) if site in run.ends else "–",
        duration(sum(seconds) / len(seconds)) if seconds else "–",
        duration(sum(seconds)) if seconds else "–",
        f"{sum(lengths) / len(lengths):.3g}" if lengths else "–",
    ]


def _each(run: Run) -> Html:
    head: list[Child] = ["round", "ended", *run.sites]
    rows: list[list[Child]] = [
        [column, _clock(one), *(_up_down(run.taking(site, one)) for site in run.sites)]
        for column, one in zip(_columns(run), run.attempts, strict=True)
    ]
    return table(head, rows, numeric=frozenset(range(2, 2 + len(run.sites))))


def _up_down(found: SiteRound) -> str:
    return f"↑ {size(found.bytes_up)} ↓ {size(found.bytes_down)}" if found.bytes_up or found.bytes_down else "–"


def _clock(one: Round) -> str:
    """Return a time as hours, minutes and seconds where it is RFC 3339, else as it is."""
    day, _, clock = one.time.partition("T")
    return clock[:8] if len(day) == 10 and len(clock) >= 8 else one.time
