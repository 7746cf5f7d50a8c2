"""The cards of a fault classifier's page: which recordings are named right, machine by machine."""

from __future__ import annotations

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.metrics.intervals import clopper_pearson
from edge_sft.report import sensor_scores
from edge_sft.report.accuracy_section import matrix
from edge_sft.report.charts import interval_bar
from edge_sft.report.faults_facts import FaultFacts, Label, Voted
from edge_sft.report.markup import Child, Html, el
from edge_sft.report.page import callout, chip, legend, section, table
from edge_sft.report.sensor_scores import Arrays
from edge_sft.report.wording import between, count, listed, share, split_words

_ROWS = 60
_FEW = 10  # faulty machines of a kind, below which a kind is hardly known
_LARGEST_MATRIX = 10
_DIFFERENT = (
    "Another bearing type, sensor position or mounting is another machine: record some of each before trusting it."
)


def cards(meta: CheckpointMeta, scores: Arrays) -> tuple[Child, Child, list[Html | None], list[Child]]:
    """Return headline, the sentence below it, the cards, and what the numbers do not prove."""
    facts = facts_of(meta, scores)
    drawn = [_hero(facts), _votes(facts), _labels(facts), _machines(facts), _compared(facts)]
    return *headline(facts), drawn, limits(facts)


def facts_of(meta: CheckpointMeta, scores: Arrays) -> FaultFacts:
    """Read the scores. Raises DataError where there is nothing to report."""
    return FaultFacts(sensor_scores.faults(scores, name=meta.name), meta.task.labels, meta.task.ok_labels)


def headline(facts: FaultFacts) -> tuple[str, str]:
    """Say it in one line: faults missed and needless stops, or recordings named right."""
    recordings = count(len(facts.voted), f"{split_words(facts.scores.split)} recording")
    source = (
        f"Measured on {recordings} of {count(len(facts.machines), 'machine')} that the model never heard in training."
    )
    (missed, faulty), (needless, healthy) = facts.missed, facts.needless
    right = f"{facts.right} of {count(len(facts.voted), 'recording')} {_is(facts.right)} named right"
    if facts.sorting or not faulty:
        return right[0].upper() + right[1:], source
    title = f"Of {count(faulty, 'faulty recording')}, {missed} {_is(missed)} called healthy"
    if healthy:
        title += f"; of {healthy} healthy ones, {needless} {_is(needless)} called faulty"
    return title, f"{right[0].upper()}{right[1:]}, fault and all. {source}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _hero(facts: FaultFacts) -> Html:
    figures = el("div", *_figures(facts), class_="figures")
    shown = el("div", _confusion(facts), figures, class_="hero")
    told = "Every window of a recording votes; rows are what the machine has, columns what the vote says; recordings."
    return section("What is taken for what", told, shown, *_remarks(facts), name="confusion")


def _confusion(facts: FaultFacts) -> Html:
    if len(facts.labels) <= _LARGEST_MATRIX:
        return matrix(facts.confusion, facts.labels, facts.labels)
    pairs = [(vote.run.label, vote.said) for vote in facts.voted if not vote.correct]
    kinds = sorted(set(pairs), key=lambda pair: (-pairs.count(pair), pair))[:20]
    rows: list[list[Child]] = [[facts.labels[a], facts.labels[b], f"{pairs.count((a, b))}"] for a, b in kinds]
    return table(["the machine has", "the vote says", "recordings"], rows, numeric=frozenset({2}))


def _figures(facts: FaultFacts) -> list[Html]:
    shown = []
    (missed, faulty), (needless, healthy) = facts.missed, facts.needless
    if not facts.sorting and faulty:
        shown.append(
            _figure(f"{missed}", f" of {faulty}", "faulty recordings called healthy", _exact(missed, faulty), "escape")
        )
    if not facts.sorting and healthy:
        words = "healthy recordings called faulty"
        shown.append(_figure(f"{needless}", f" of {healthy}", words, _exact(needless, healthy), "overkill"))
    if not shown:
        words = "recordings named right"
        shown.append(
            _figure(f"{facts.right}", f" of {len(facts.voted)}", words, _exact(facts.right, len(facts.voted)), "ink")
        )
    whole = sum(right == all_ for right, all_ in facts.machines.values())
    machines = len(facts.machines)
    shown.append(
        _figure(
            f"{whole}", f" of {machines}", "machines named right in every recording", _exact(whole, machines), "ink"
        )
    )
    return shown


def _exact(part: int, whole: int) -> str:
    return f"{share(part / whole)}; with 95\u00a0% confidence {between(*clopper_pearson(part, whole))}"


def _figure(number: str, small: str, words: str, detail: str, colour: str) -> Html:
    shown = el("b", number, el("small", small), class_=colour)
    return el("div", shown, el("span", words), el("i", detail), class_="figure")


def _remarks(facts: FaultFacts) -> list[Html]:
    few = [row for row in facts.table if 0 < row.machines < _FEW]
    if not few:
        return []
    worst = min(few, key=lambda row: row.machines)
    told = (
        f"Few machines: {worst.name} was heard on {count(worst.machines, 'machine')} only. Recordings of one machine "
        f"resemble each other, so count machines: with fewer than {_FEW} of a kind, expect surprises on the next one."
    )
    return [callout(told, "warn")]


def _votes(facts: FaultFacts) -> Html:
    head: list[Child] = ["recording", "it has", "", "share for it", "the vote says", "windows"]
    rows = [_vote_row(facts, vote) for vote in facts.voted[:_ROWS]]
    rest = len(facts.voted) - len(rows)
    more = el("p", f"and {count(rest, 'recording')} named right, more surely", class_="note") if rest > 0 else None
    key = legend([("good", "for what it has"), ("escape", "for the strongest other label"), ("part", "for the rest")])
    told = "Wrong ones first, then the least sure. A vote that is nearly even is a recording to listen to."
    return section("Votes", told, key, table(head, rows, numeric=frozenset({3, 5})), more, name="votes", long=True)


def _vote_row(facts: FaultFacts, vote: Voted) -> list[Child]:
    said = facts.labels[vote.said]
    machine = None if vote.run.group == vote.run.name else el("div", vote.run.group, class_="note")
    return [
        el("div", vote.run.name, machine, class_="name"),
        facts.labels[vote.run.label],
        _stack(vote),
        share(vote.right),
        chip(said, "good" if vote.correct else "bad"),
        f"{len(vote.run.probabilities):,}",
    ]


def _stack(vote: Voted) -> Html:
    parts, at = [], 0.0
    for width, colour in ((vote.right, "good"), (vote.wrong, "escape"), (1 - vote.right - vote.wrong, "part")):
        if width > 0.004:
            parts.append(el("rect", x=120 * at, y=3, width=120 * width, height=10, fill=f"var(--{colour})"))
        at += max(0.0, width)
    says = f"{vote.right:.0%} for the right label, {vote.wrong:.0%} for the strongest other"
    return el("svg", parts, viewBox="0 0 120 16", role="img", aria_label=says)


def _labels(facts: FaultFacts) -> Html:
    head: list[Child] = ["label", "machines", "recordings", "found", "", "exact 95\u00a0%"]
    rows = [_label_row(facts, row) for row in facts.table]
    told = (
        "How many recordings of each label were named right. The bounds take recordings as independent; they are not."
    )
    return section("Label by label", told, table(head, rows, numeric=frozenset({1, 2, 3, 5})), name="labels")


def _label_row(facts: FaultFacts, row: Label) -> list[Child]:
    kind = None if facts.sorting else chip("healthy", "good") if row.healthy else chip("fault", "bad")
    name = el("div", row.name, " ", kind, class_="name")
    if not row.recordings:
        return [name, "0", "0", "–", None, "–"]
    low, high = clopper_pearson(row.found, row.recordings)
    bar = interval_bar(row.found / row.recordings, low, high, "brand")
    return [name, f"{row.machines}", f"{row.recordings}", f"{row.found}", bar, between(low, high)]


def _machines(facts: FaultFacts) -> Html | None:
    if len(facts.machines) == len(facts.voted):
        return None
    head: list[Child] = ["machine", "named right", ""]
    rows: list[list[Child]] = [
        [el("div", name, class_="name"), f"{right} of {all_}", chip("all", "good") if right == all_ else None]
        for name, (right, all_) in list(facts.machines.items())[:_ROWS]
    ]
    rest = len(facts.machines) - len(rows)
    more = el("p", f"and {count(rest, 'machine')} more", class_="note") if rest > 0 else None
    told = "The worst first. Machines on this page never stood in training: that is what a new machine will be like."
    return section("Machine by machine", told, table(head, rows, numeric=frozenset({1})), more, name="machines")


def _compared(facts: FaultFacts) -> Html:
    rows: list[list[Child]] = [
        [name, interval_bar(value, value, value, "brand"), share(value)] for name, value in facts.compared
    ]
    told = "Every label counting alike (balanced accuracy), beside the answer that needs no sensor."
    shown = table(["", "", "balanced accuracy"], rows, numeric=frozenset({2}))
    return section("Beside a simpler answer", told, shown, name="compared")


def limits(facts: FaultFacts) -> list[Child]:
    """What remains unknown, from this model's own numbers."""
    none = [row.name for row in facts.table if not row.recordings]
    items: list[Child] = []
    if none:
        split = split_words(facts.scores.split)
        items.append(f"Nothing is known about {listed(none)}: no {split} recording has it.")
    items += [
        "A fault that is not among the labels was never measured; it will be given one of these names.",
        "Faults made in a workshop (a spark-eroded notch) are cleaner than those that grow in a plant.",
        _DIFFERENT,
    ]
    return items
