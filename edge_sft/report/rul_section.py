"""The cards of a remaining-useful-life page: are failures called in time, and how far off is it how long before."""

from __future__ import annotations

import numpy as np

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.policy import RegressionPolicy
from edge_sft.report import sensor_scores
from edge_sft.report.charts import Axis, Frame, interval_bar, nice_axis
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import callout, chip, legend, section, table
from edge_sft.report.rul_facts import Call, Calls, Horizon, RulFacts, show
from edge_sft.report.sensor_scores import Arrays, RulRun
from edge_sft.report.wording import count, share, split_words

_RUNS = 40
_FEW = 10
_CHANGE = (
    "The interval holds for machines that age like these. Another product, another load or a repair in between needs "
    "runs of its own."
)


def cards(meta: CheckpointMeta, scores: Arrays) -> tuple[Child, Child, list[Html | None], list[Child]]:
    """Return headline, the sentence below it, the cards, and what the numbers do not prove."""
    facts = facts_of(meta, scores)
    drawn = [
        _hero(meta, facts),
        _choices(meta, facts),
        _trajectories(meta, facts),
        _horizons(meta, facts),
        _compared(meta, facts),
        _runs(meta, facts),
    ]
    return *headline(meta, facts), drawn, limits(meta, facts)


def facts_of(meta: CheckpointMeta, scores: Arrays) -> RulFacts:
    """Read the scores. Raises DataError where there is nothing to report."""
    policy = meta.policy if isinstance(meta.policy, RegressionPolicy) else RegressionPolicy()
    if "cap" not in scores and isinstance(meta.training.get("cap"), (int, float)):
        scores = {**scores, "cap": np.asarray(meta.training["cap"])}
    shown = sensor_scores.regression(scores, name=meta.name)
    known = scores.get("val/rul")
    beside = shown.split == "test" and known is not None and bool(np.isfinite(known).any())
    return RulFacts(shown, policy, sensor_scores.regression(scores, name=meta.name, only="val") if beside else None)


def headline(meta: CheckpointMeta, facts: RulFacts) -> tuple[str, str]:
    """Say it in one line: failures called in time where that is known, else the error near the end."""
    unit, split = meta.task.unit, split_words(facts.scores.split)
    runs = count(len(facts.scores.runs), f"{split} run")
    source = f"Measured on {runs} of machines that the model never saw in training."
    error = _error_words(facts, unit)
    calls = facts.calls
    if calls.failures and facts.policy.act_below > 0:
        ahead = f", typically {_n(float(np.median(calls.notices)))} {unit} ahead" if len(calls.notices) else ""
        title = f"{_caught(calls)} announced in time{ahead}"
        return title, f"{error} {unit}; its {_promise(meta)} interval held the truth {_held(facts)}. {source}"
    lede = f"Its {_promise(meta)} interval held the truth {_held(facts)}. {source}"
    return f"{error} {unit}", lede


def _error_words(facts: RulFacts, unit: str) -> str:
    near = facts.near
    if near is None:
        return f"It is typically off by {_n(facts.overall.typical)}"
    return f"With {_range(near)} {unit} left it is typically off by {_n(near.typical)}"


def _hero(meta: CheckpointMeta, facts: RulFacts) -> Html:
    figures = el("div", *_figures(meta, facts), class_="figures")
    body = el("div", el("div", _error_chart(meta, facts), _error_key()), figures, class_="hero")
    told = f"How far the estimate was off, by how many {meta.task.unit} truly remained; life runs out to the right."
    return section("How far off, how long before", told, body, *_remarks(meta, facts), name="error")


def _figures(meta: CheckpointMeta, facts: RulFacts) -> list[Html]:
    unit, near, calls = meta.task.unit, facts.near or facts.overall, facts.calls
    found = []
    if calls.failures and facts.policy.act_below > 0:
        detail = (
            f"announced when the {_judged(facts)} falls to {facts.policy.act_below:g} {unit} (the recipe's act_below)"
        )
        colour = "escape" if calls.missed else "good"
        found.append(
            _figure(f"{calls.missed}", f"of {count(calls.failures, 'failure')} came unannounced", detail, colour)
        )
        if len(calls.notices):
            low, high = calls.notices[0], calls.notices[-1]
            words = f"{unit} of life given away, typically"
            detail = f"left on the machine when it was announced: between {_n(float(low))} and {_n(float(high))}"
            found.append(_figure(_n(float(np.median(calls.notices))), words, detail, "overkill"))
    if not found:
        detail = f"nine of ten estimates within {_n(near.most)}; {count(near.runs, 'run')}"
        words = f"{unit} off, typically" + (f", with {_range(near)} left" if facts.near else "")
        found.append(_figure(_n(near.typical), words, detail, "ink"))
    covered = facts.overall.held
    words = f"of the {_promise(meta)} intervals held the truth"
    found.append(
        _figure(share(covered), words, f"half of them are at most {_n(facts.overall.width)} {unit} wide", "ink")
    )
    return found


def _figure(number: str, words: str, detail: str, colour: str) -> Html:
    return el("div", el("b", number, class_=colour), el("span", words), el("i", detail), class_="figure")


def _error_chart(meta: CheckpointMeta, facts: RulFacts) -> Html:
    parts = [part for part in facts.horizons if np.isfinite(part.high)]
    if not parts:
        return el("p", "No window here was near enough to a failure to draw an error.", class_="note")
    top = max(abs(value) for part in parts for value in (part.p10, part.p90))
    reach = nice_axis(top, _n)
    ticks = [(value, f"{_n(value)} late") for value, _ in reach.ticks[1:]] + [(0.0, "right")]
    ticks += [(-value, f"{_n(value)} early") for value, _ in reach.ticks[1:]]
    right = parts[-1].high
    # Time runs to the right everywhere else on the page: life left therefore falls to the right.
    x = Axis(-right, -parts[0].low, [(-p.high, _n(p.high)) for p in parts] + [(-parts[0].low, _n(parts[0].low))],
             f"{meta.task.unit} left")  # fmt: skip
    frame = Frame(x, Axis(-reach.high, reach.high, ticks), height=320, left=76)
    frame.area([-right, -parts[0].low], [0, 0], [reach.high] * 2, "escape", 0.07)
    frame.line([-right, -parts[0].low], [0, 0], "ink", width=1.2, dash="4 4")
    for part in parts:
        middle = -(part.low + part.high) / 2
        pad = (part.high - part.low) * 0.12
        frame.area([-part.high + pad, -part.low - pad], [part.p10] * 2, [part.p90] * 2, "brand", 0.28)
        frame.dot(middle, part.median, "brand", 5)
    return frame.draw("Error of the estimate by remaining life")


def _error_key() -> Html:
    return legend(
        [
            ("brand", "dot: the middle estimate; box: eight of ten estimates"),
            ("escape", "upper half: fails sooner than told"),
        ]
    )


def _remarks(meta: CheckpointMeta, facts: RulFacts) -> list[Html]:
    remarks = []
    wanted = _level(meta)
    if wanted is not None and facts.overall.held < wanted - 0.05:
        told = (
            f"The intervals promise {share(wanted)} and held {share(facts.overall.held)}: these machines age unlike "
            f"those that set the intervals. Trust the lower end less than its name says; train with runs like these."
        )
        remarks.append(callout(told, "warn"))
    why = meta.training.get("why")
    if isinstance(why, str) and why and meta.training.get("base"):
        remarks.append(callout(f"Fine-tuned from a base model: {why}."))
    if facts.policy.act_below <= 0:
        told = (
            "The recipe does not say when to act, so no failure is ever announced. "
            + (
                "Choose a line of the table below and put it"
                if facts.calls.failures
                else "Put the life left at which to act"
            )
            + " into the recipe: [policy] act_below."
        )
        remarks.append(callout(told, "warn"))
    return remarks


def _choices(meta: CheckpointMeta, facts: RulFacts) -> Html | None:
    shown_on = facts.scores.split
    facts = facts.followed
    failures = facts.calls.failures
    if not failures:
        return None
    other = f"No {split_words(shown_on)} run was followed to its failure; these are {split_words(facts.scores.split)}. "
    unit = meta.task.unit
    head: list[Child] = [f"act below ({unit})", "failures announced in time", "come unannounced", "shortest notice",
                         "typical life given away", "most given away"]  # fmt: skip
    marked = frozenset(i for i, calls in enumerate(facts.choices) if calls.act_below == facts.policy.act_below)
    rows = [_choice(calls) for calls in facts.choices]
    told = (
        f"{other if facts.scores.split != shown_on else ''}"
        f"What the recipe's act_below does to {count(failures, 'run')} followed to the failure: acting early gives "
        f"life away, acting late risks the failure. A failure is announced when the {_judged(facts)} falls to this line"
        + (f" and stays there for {facts.policy.alarm.on_after_s:g}." if facts.policy.alarm.on_after_s else ".")
    )
    shown = table(head, rows, numeric=frozenset(range(6)), marked=marked)
    return section("When to act", told, shown, name="choices")


def _choice(calls: Calls) -> list[Child]:
    notices = calls.notices
    ends = ["–", "–", "–"]
    if len(notices):
        ends = [_n(float(value)) for value in (notices[0], np.median(notices), notices[-1])]
    missed: Child = chip(f"{calls.missed}", "bad") if calls.missed else "0"
    return [_n(calls.act_below), f"{calls.failures - calls.missed} of {calls.failures}", missed, *ends]


def _trajectories(meta: CheckpointMeta, facts: RulFacts) -> Html:
    called = {call.run: call for call in facts.calls.calls}
    ranked = facts.ranked
    drawn = [_trajectory(meta, facts, run, word, called[run.name]) for word, run in show(ranked)]
    key = [("ink", "what truly remained"), ("brand", f"estimate, with its {_promise(meta)} interval")]
    if facts.policy.act_below > 0:
        key.append(("overkill", "failure announced"))
    rest = f" of {len(ranked)}" if len(ranked) > len(drawn) else ""
    told = f"{count(len(drawn), 'run')}{rest}, the hardest first: estimate against truth as the machine aged."
    return section("Life by life", told, el("div", drawn, class_="two"), legend(key), name="lives", long=True)


def _trajectory(meta: CheckpointMeta, facts: RulFacts, run: RulRun, word: str, call: Call) -> Html:
    keep = np.unique(np.linspace(0, len(run.end) - 1, min(300, len(run.end))).astype(int))
    end, truth = run.end[keep], run.rul[keep]
    low, high, value = (np.clip(part[keep], 0, None) for part in (run.low, run.high, run.value))
    shown = np.minimum(truth, facts.cap) if np.isfinite(facts.cap) else truth
    top = float(max(shown.max(), high.max(), 1e-9))
    x = Axis(float(end[0]), float(end[-1]), _three(float(end[0]), float(end[-1])), f"time ({meta.task.unit})")
    frame = Frame(x, nice_axis(top, _n), height=230)
    frame.area(end.tolist(), low.tolist(), high.tolist(), "brand", 0.22)
    frame.line(end.tolist(), shown.tolist(), "ink", width=1.6, dash="5 3")
    frame.line(end.tolist(), value.tolist(), "brand", width=2.2)
    if call.at is not None:
        frame.upright(call.at, f"announced, {_n(call.left or 0)} left", "overkill")
    fate = {"called": None, "missed": chip("failed unannounced", "bad"), "not due": chip("still running")}[call.outcome]
    fate = fate if facts.policy.act_below > 0 else None
    head = el("h3", run.name, " ", el("span", word, class_="soft") if word else None, " ", fate, class_="name")
    return el("div", head, frame.draw(f"Estimated and true remaining life of {run.name}"))


def _horizons(meta: CheckpointMeta, facts: RulFacts) -> Html:
    unit = meta.task.unit
    head: list[Child] = [f"{unit} left", "runs", "typically off by", "nine of ten within", "too late", "interval held",
                         "", "interval is wide"]  # fmt: skip
    rows: list[list[Child]] = [
        [
            _range(part),
            f"{part.runs:,}",
            _n(part.typical),
            _n(part.most),
            share(part.late),
            share(part.held),
            interval_bar(part.held, part.held, part.held, "brand"),
            _n(part.width),
        ]
        for part in facts.horizons
    ]
    cap = (
        f" Beyond {facts.cap:g} {unit} wear cannot be seen yet: truth counts as {facts.cap:g} there, and the estimate "
        f"means “at least”."
        if np.isfinite(facts.cap)
        else ""
    )
    told = f"Every window of every run, by how many {unit} truly remained; interval promised: {_promise(meta)}.{cap}"
    return section("Error by horizon", told, table(head, rows, numeric=frozenset({1, 2, 3, 4, 5, 7})), name="horizons")


def _compared(meta: CheckpointMeta, facts: RulFacts) -> Html:
    cycles = meta.task.unit == "cycles"
    capped = np.isfinite(facts.cap)
    head: list[Child] = ["", f"RMSE, truth capped at {facts.cap:g}" if capped else "RMSE"]
    head += ["RMSE, raw truth"] if capped else []
    kinds = [("every window", facts.compared), ("last window of each run", facts.compared_last)]
    rows: list[list[Child]] = []
    for words, compared in kinds:
        for item in compared:
            row: list[Child] = [el("div", item.name, el("div", words, class_="note")), f"{item.capped:.2f}"]
            row += [f"{item.raw:.2f}"] if capped else []
            if cycles:
                row.append(f"{item.nasa:,.0f}" if compared is facts.compared_last else "–")
            rows.append(row)
    head += ["NASA score"] if cycles and facts.compared_last else []
    width = len(head)
    told = (
        f"Root mean square error in {meta.task.unit} beside the answer that needs no sensor: always the mean life of "
        f"other machines. A model that is not clearly better than that has learned nothing."
    )
    note = (
        el(
            "p",
            "Published tables mix both: below a cap the raw error has a floor that no model can beat.",
            class_="note",
        )
        if capped
        else None
    )
    shown = table(head, [row[:width] for row in rows], numeric=frozenset(range(1, width)))
    return section("Beside a simpler answer", told, shown, note, name="compared")


def _runs(meta: CheckpointMeta, facts: RulFacts) -> Html:
    called = {call.run: call for call in facts.calls.calls}
    head: list[Child] = ["run", "windows", "error (RMSE)", "truly left at its end", "estimated at its end", "interval",
                         "announced with"]  # fmt: skip
    rows = [_run_row(run, error, called[run.name]) for run, error in facts.ranked[:_RUNS]]
    rest = len(facts.ranked) - len(rows)
    more = el("p", f"and {count(rest, 'run')} with smaller errors", class_="note") if rest > 0 else None
    told = f"The largest error first; all in {meta.task.unit}."
    return section("Run by run", told, table(head, rows, numeric=frozenset(range(1, 7))), more, name="runs", long=True)


def _run_row(run: RulRun, error: float, call: Call) -> list[Child]:
    left: Child = f"{_n(call.left)} left" if call.left is not None else "–"
    if call.outcome == "missed":
        left = chip("unannounced", "bad")
    interval = f"{_n(max(0.0, run.low[-1]))}–{_n(max(0.0, run.high[-1]))}"
    return [el("div", run.name, class_="name"), f"{len(run.end):,}", _n(error), _n(float(run.rul[-1])),
            _n(max(0.0, float(run.value[-1]))), interval, left]  # fmt: skip


def limits(meta: CheckpointMeta, facts: RulFacts) -> list[Child]:
    """What remains unknown, from this model's own numbers."""
    items: list[Child] = []
    failures = facts.calls.failures
    if not failures:
        items.append(
            f"No {split_words(facts.scores.split)} run was followed to its failure, so no test shows how many would be "
            "announced in time."
        )
    elif failures < _FEW:
        items.append(f"{count(failures, 'failure')} are few: one more or less changes the headline.")
    items += [
        _CHANGE,
        "Runs are counted, not windows: thousands of windows of one machine are one experience.",
        "A failure that the sensors do not see coming (an operator's mistake, a foreign body) is not in these numbers.",
    ]
    if meta.windowing.age:
        items.append(
            "The model also sees the machine's age. It must be reset at every overhaul, as it was in the training data."
        )
    return items


def _promise(meta: CheckpointMeta) -> str:
    level = _level(meta)
    return share(level) if level is not None else "stated"


def _level(meta: CheckpointMeta) -> float | None:
    quantiles = meta.task.quantiles
    return round(quantiles[-1] - quantiles[0], 6) if len(quantiles) > 1 else None


def _held(facts: RulFacts) -> str:
    return f"in {share(facts.overall.held)} of the windows"


def _judged(facts: RulFacts) -> str:
    return "interval's lower end" if facts.policy.judge == "low" else "estimate"


def _caught(calls: Calls) -> str:
    """All 20 failures were / Of 20 failures, 19 were / The only failure was."""
    whole, caught = calls.failures, calls.failures - calls.missed
    if whole == 1:
        return "The only failure was" if caught else "The only failure was not"
    return f"All {whole} failures were" if caught == whole else f"Of {whole} failures, {caught} {_was(caught)}"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _range(part: Horizon) -> str:
    if not np.isfinite(part.high):
        return f"over {part.low:g}"
    return f"under {part.high:g}" if part.low == 0 else f"{part.low:g} to {part.high:g}"


def _n(value: float) -> str:
    """A number as precise as a plant needs it: 0.4, 3.2, 47, 1,200."""
    size = abs(value)
    if size >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if size >= 0.095 or size == 0 else f"{value:.2g}"


def _three(low: float, high: float) -> list[tuple[float, str]]:
    return [(value, _n(value)) for value in (low, (low + high) / 2, high)]
