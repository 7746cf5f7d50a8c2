"""The cards of an anomaly model's page: are events found, how early, and how often is the alarm false."""

from __future__ import annotations

import numpy as np

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.metrics.intervals import clopper_pearson
from edge_sft.policy import AlarmRule, AnomalyPolicy
from edge_sft.report import sensor_scores
from edge_sft.report.anomaly_facts import DAY_S, AnomalyFacts, Event, Watched
from edge_sft.report.charts import Axis, Frame
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import callout, chip, legend, section, table
from edge_sft.report.sensor_scores import AnomalyRun, Arrays, Floats
from edge_sft.report.wording import amount, between, count, duration, listed, share, split_words

_TIMELINES = 8
_ROWS = 60
_CHANNELS = 10
_TOP = 3.0  # of a timeline, in thresholds
_MANY = 400  # columns of a timeline


def cards(meta: CheckpointMeta, scores: Arrays) -> tuple[Child, Child, list[Html | None], list[Child]]:
    """Return headline, the sentence below it, the cards, and what the numbers do not prove."""
    facts = facts_of(meta, scores)
    names = meta.windowing.names
    drawn = [
        _hero(facts, _reasons(meta)),
        _timelines(facts),
        _events(facts, names),
        _channels(facts, names),
        _compared(facts),
        _runs(facts),
    ]
    return *headline(facts), drawn, limits(facts)


def facts_of(meta: CheckpointMeta, scores: Arrays) -> AnomalyFacts:
    """Read the scores. Raises DataError where there is nothing to report."""
    rule = meta.policy.alarm if isinstance(meta.policy, AnomalyPolicy) else AlarmRule()
    return AnomalyFacts(sensor_scores.anomaly(scores, name=meta.name), rule)


def headline(facts: AnomalyFacts) -> tuple[str, str]:
    """Say it in one line: events found, false alarms a day."""
    runs = f"{count(len(facts.watched), split_words(facts.scores.split) + ' run')}"
    source = f"Measured on {runs}, {duration(facts.normal_s)} of normal running watched."
    local = "Each machine was judged by a threshold from its own healthy run."
    if not any(item.judged for item in facts.watched):
        title = "No run here could be commissioned, so nothing was judged"
        return title, f"{source} A run must begin with a healthy stretch that is long enough."
    false = _false_words(facts)
    if not facts.events:
        return f"{false[0].upper()}{false[1:]}; no labelled event to find", f"{local} {source}"
    found, events = len(facts.found), len(facts.events)
    delay = ""
    if facts.found:
        typical = float(np.median([event.delay_s or 0.0 for event in facts.found]))
        delay = f" The alarm typically came {duration(typical)} after the event began." if typical > 0 else ""
    number = "The only event was" if events == 1 else f"{found} of {events} events were"
    title = f"{number}{'' if events > 1 or found else ' not'} found; {false}"
    return title, f"{local}{delay} {source}"


def _false_words(facts: AnomalyFacts) -> str:
    rate, *_ = facts.false_a_day
    if facts.false == 0:
        return f"no false alarm in {duration(facts.normal_s)}"
    if facts.normal_s >= DAY_S:
        return f"{amount(rate)} false {'alarm' if amount(rate) == '1' else 'alarms'} a day"
    return f"{count(facts.false, 'false alarm')} in {duration(facts.normal_s)}"


def _reasons(meta: CheckpointMeta) -> list[str]:
    """Why runs could not be commissioned, as training wrote it down: "run: reason"."""
    told = meta.training.get("not_commissioned", [])
    return [str(reason) for reason in told] if isinstance(told, list) else []


def _hero(facts: AnomalyFacts, reasons: list[str]) -> Html:
    figures = [*_found_figures(facts), _false_figure(facts)]
    body = el("div", figures, class_="figures three")
    rule = facts.rule
    told = (
        f"A case opens once a machine has been over its threshold for {_moment(rule.on_after_s)} and closes once it "
        f"has been below {share(rule.clear_ratio)} of it for {_moment(rule.off_after_s)}; one case a machine."
    )
    return section("What the alarms would have done", told, body, *_remarks(facts, reasons), name="alarms")


def _moment(seconds: float) -> str:
    return duration(seconds) if seconds > 0 else "one window"


def _found_figures(facts: AnomalyFacts) -> list[Html]:
    if not facts.events:
        return []
    found, events = len(facts.found), len(facts.events)
    low, high = clopper_pearson(found, events)
    detail = f"{share(found / events)} of the labelled events ({between(low, high)} at 95\u00a0%)"
    shown = [_figure(f"{found}", f" of {events}", "events found", detail, "good" if found == events else "ink")]
    if facts.found:
        delays = [event.delay_s or 0.0 for event in facts.found]
        left = float(np.median([event.left_s or 0.0 for event in facts.found]))
        worst = f"the slowest {duration(max(delays))}; typically {duration(left)} before the event ended"
        shown.append(
            _figure(
                duration(float(np.median(delays))), "", "from the event's begin to the alarm, typically", worst, "ink"
            )
        )
    return shown


def _false_figure(facts: AnomalyFacts) -> Html:
    rate, low, high = facts.false_a_day
    detail = f"{count(facts.false, 'case')} without an event in {duration(facts.normal_s)} of normal running"
    if not np.isfinite(rate):
        return _figure("–", "", "false alarms a day", "no normal running was watched", "overkill")
    bounds = f"{amount(low)} to {amount(high)}" if low > 0 else f"up to {amount(high)}"
    return _figure(amount(rate), "", "false alarms a day and machine", f"{detail}; at 95\u00a0%: {bounds}", "overkill")


def _figure(number: str, small: str, words: str, detail: str, colour: str) -> Html:
    shown = el("b", number, el("small", small) if small else None, class_=colour)
    return el("div", shown, el("span", words), el("i", detail), class_="figure")


def _remarks(facts: AnomalyFacts, reasons: list[str]) -> list[Html]:
    remarks = []
    missing = [item.run.name for item in facts.watched if not item.judged]
    if missing:
        why = next((words for name, _, words in (reason.partition(": ") for reason in reasons) if name in missing), "")
        told = f"Not commissioned, so not judged: {listed(missing)}. " + (
            f"The first of them {_without(why)}" if why else ""
        )
        remarks.append(callout(told, "warn"))
    if 0 < facts.normal_s < DAY_S:
        told = (
            f"Only {duration(facts.normal_s)} of normal running was watched. False alarms a day are scaled up from it: "
            f"take the upper bound seriously, and let it run beside the line for some days before anybody is called."
        )
        remarks.append(callout(told, "warn"))
    return remarks


def _without(why: str) -> str:
    """A reason that may name the run a second time, without it."""
    return why.partition(": ")[2] or why


def _timelines(facts: AnomalyFacts) -> Html:
    ranked = sorted(facts.watched, key=_trouble, reverse=True)
    shown = [_timeline(item) for item in ranked[:_TIMELINES]]
    rest = len(ranked) - len(shown)
    more = el("p", f"and {count(rest, 'run')} with less trouble", class_="note") if rest > 0 else None
    key = legend(
        [
            ("brand", "score against the machine's own threshold"),
            ("good", "commissioning: the healthy run that set it"),
            ("overkill", "labelled abnormal"),
            ("escape", "case open"),
        ]
    )
    told = "The score as it ran, most trouble first: missed events, then false alarms. 1 is the machine's threshold."
    return section("Timelines", told, key, shown, more, name="timelines", long=True)


def _trouble(item: Watched) -> tuple[int, int, float]:
    missed = sum(event.opened is None for event in item.events)
    return missed, len(item.false), -(item.auroc or 1.0)


def _timeline(item: Watched) -> Html:
    run = item.run
    start, end = float(run.time[0]), float(run.time[-1])
    x = Axis(start, max(end, start + 1e-9), _clock(start, end), "")
    y = Axis(0.0, _TOP, [(0.0, "0"), (1.0, "1"), (2.0, "2"), (_TOP, f"≥ {_TOP:g}")])
    frame = Frame(x, y, width=960, height=170, left=44, right=14, top=12, bottom=28)
    for event in item.events:
        frame.stretch(event.stretch.start, event.stretch.end, "overkill", 0.26)
    if run.commissioning.any():
        seen = run.time[run.commissioning]
        frame.stretch(float(seen[0]), float(seen[-1]), "good", 0.16)
    xs, ys = _columns(run)
    frame.line(xs, ys, "brand", width=1.6)
    frame.across(1.0, "")
    for case in item.cases:
        frame.strip(case.start, case.end, "escape")
    missed = sum(event.opened is None for event in item.events)
    chips = [
        chip(f"{count(missed, 'event')} missed", "bad") if missed else None,
        chip(count(len(item.false), "false alarm"), "warn") if item.false else None,
        chip("not commissioned") if not item.judged else None,
        chip("all right", "good") if item.judged and not missed and not item.false else None,
    ]
    head = el("h3", run.name, [[" ", part] for part in chips if part], class_="name")
    drawn = frame.draw(f"Score of {run.name} over time against its threshold")
    return el("div", head, el("div", drawn, class_="scroll wide"))


def _columns(run: AnomalyRun) -> tuple[list[float], list[float]]:
    """The score as at most `_MANY` columns, each its highest: a peak of one window stays visible."""
    ratio = np.nan_to_num(np.minimum(run.ratio, _TOP), nan=0.0)
    if len(ratio) <= _MANY:
        return run.time.tolist(), ratio.tolist()
    starts = np.linspace(0, len(ratio), _MANY, endpoint=False).astype(int)
    return run.time[starts].tolist(), np.maximum.reduceat(ratio, starts).tolist()


def _clock(start: float, end: float) -> list[tuple[float, str]]:
    """Ticks from the run's begin, in words."""
    span = end - start
    steps = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400, 172_800, 604_800, 2_592_000)
    step = next((value for value in steps if span / value <= 8), max(span / 8, 1e-9))
    ticks = [(start + step * index, duration(step * index)) for index in range(int(span / step) + 1)]
    return [
        (value, words if value > start else "0")
        for value, words in ticks
        if value <= end - 0.02 * span or value == start
    ]


def _events(facts: AnomalyFacts, names: tuple[str, ...]) -> Html | None:
    if not facts.events:
        return None
    head: list[Child] = ["event", "lasted", "alarm after", "time left to act", "comes from"]
    ordered = sorted(facts.events, key=lambda event: (event.opened is not None, -(event.delay_s or 0.0)))
    rows = [_event_row(event, names) for event in ordered[:_ROWS]]
    rest = len(ordered) - len(rows)
    more = el("p", f"and {count(rest, 'event')} found faster", class_="note") if rest > 0 else None
    told = "Each labelled stretch: missed ones first, then the slowest. “Time left” counts to the event's end."
    return section(
        "Event by event", told, table(head, rows, numeric=frozenset({1, 2, 3})), more, name="events", long=True
    )


def _event_row(event: Event, names: tuple[str, ...]) -> list[Child]:
    after: Child = chip("missed", "bad") if event.delay_s is None else _after(event.delay_s)
    left = "–" if event.left_s is None else duration(event.left_s)
    lasted = duration(event.stretch.end - event.stretch.start)
    return [el("div", event.run, class_="name"), lasted, after, left, _sources(event.channels, names)]


def _after(delay_s: float) -> str:
    return duration(delay_s) if delay_s > 0 else "at once"


def _sources(channels: Floats, names: tuple[str, ...], most: int = 3) -> str:
    order = np.argsort(-channels)[:most]
    return ", ".join(f"{_name(names, int(i))} {share(float(channels[i]))}" for i in order if channels[i] > 0)


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index] if index < len(names) else f"channel {index}"


def _channels(facts: AnomalyFacts, names: tuple[str, ...]) -> Html | None:
    real, false = facts.shares(false=False), facts.shares(false=True)
    if real is None and false is None:
        return None
    first = real if real is not None else false
    assert first is not None
    most = max(float(part.max()) for part in (real, false) if part is not None) or 1.0
    order = np.argsort(-np.max([part for part in (real, false) if part is not None], axis=0))[:_CHANNELS]
    head: list[Child] = ["channel", *(["in events found", ""] if real is not None else []),
                         *(["in false alarms", ""] if false is not None else [])]  # fmt: skip
    rows: list[list[Child]] = []
    for index in order:
        row: list[Child] = [el("div", _name(names, int(index)), class_="name")]
        for part, colour in ((real, "brand"), (false, "overkill")):
            if part is not None:
                row += [_bar(float(part[index]) / most, colour), share(float(part[index]))]
        rows.append(row)
    rest = len(first) - len(rows)
    more = el("p", f"and {count(rest, 'channel')} with less", class_="note") if rest > 0 else None
    told = (
        "Shares of the score by channel. A channel that leads the false alarms but not the events is where to look "
        "first: a loose sensor, a change of product, a condition that the healthy run did not hold."
    )
    return section("Where alarms come from", told, table(head, rows, numeric=frozenset({2, 4})), more, name="channels")


def _bar(width: float, colour: str) -> Html:
    track = el("rect", x=0, y=4, width=120, height=8, rx=4, fill="var(--track)")
    filled = el("rect", x=0, y=4, width=max(2.0, 120 * width), height=8, rx=4, fill=f"var(--{colour})")
    return el("svg", track, filled, viewBox="0 0 120 16", role="img", aria_label=f"{width:.0%} of the largest")


def _compared(facts: AnomalyFacts) -> Html | None:
    if not facts.pointwise:
        return None
    rows: list[list[Child]] = [
        [item.name, f"{item.f1:.3f}", share(item.false), share(item.missed)] for item in facts.pointwise
    ]
    head: list[Child] = ["", "F1", "normal windows with an alarm", "abnormal windows without"]
    area = (
        f" Whatever the threshold, a run's abnormal windows score above its normal ones in {share(facts.auroc)} of the "
        f"pairs (AUROC, mean over runs; 50\u00a0% is chance)."
        if facts.auroc is not None
        else ""
    )
    told = (
        f"Window by window, as public tables count. F1 alone says little: an alarm that never stops has one too.{area}"
    )
    return section(
        "Beside an alarm that never stops", told, table(head, rows, numeric=frozenset({1, 2, 3})), name="compared"
    )


def _runs(facts: AnomalyFacts) -> Html:
    head: list[Child] = ["run", "normal time", "events", "found", "false alarms", "AUROC", "threshold"]
    rows: list[list[Child]] = []
    for item in facts.watched[:_ROWS]:
        known = item.run.threshold[np.isfinite(item.run.threshold)]
        found = sum(event.opened is not None for event in item.events)
        rows.append(
            [
                el("div", item.run.name, class_="name"),
                duration(item.normal_s),
                f"{len(item.events)}",
                f"{found}" if item.events else "–",
                f"{len(item.false)}",
                "–" if item.auroc is None else f"{item.auroc:.3f}",
                f"{float(known[-1]):.3g}" if len(known) else chip("none"),
            ]
        )
    rest = len(facts.watched) - len(rows)
    more = el("p", f"and {count(rest, 'run')} more", class_="note") if rest > 0 else None
    told = "Thresholds differ because machines do: each comes from the run's own healthy stretch."
    return section("Run by run", told, table(head, rows, numeric=frozenset(range(1, 7))), more, name="runs", long=True)


def limits(facts: AnomalyFacts) -> list[Child]:
    """What remains unknown, from this model's own numbers."""
    items: list[Child] = []
    if not facts.events:
        items.append("No event is labelled here, so nothing shows what would be found; only false alarms are counted.")
    elif len(facts.events) < 20:
        low, high = clopper_pearson(len(facts.found), len(facts.events))
        items.append(
            f"{count(len(facts.events), 'event')} are few: the true share found may lie in {between(low, high)}."
        )
    items += [
        "Commissioning on a machine that is already ill teaches it to call illness normal.",
        "A new product, season or operating point that the healthy run did not hold looks abnormal. Commission again.",
        "The model says that a machine behaves unlike itself, not what is wrong with it.",
        "Where labels come from people, an event's begin and end are theirs; delays are no better than that.",
    ]
    return items
