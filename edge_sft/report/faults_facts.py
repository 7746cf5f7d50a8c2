"""What a fault classifier made of whole recordings: every window votes, and machines are counted, not windows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edge_sft.metrics.classification import balanced_accuracy, confusion_matrix
from edge_sft.report.sensor_scores import FaultRun, FaultScores, Floats


@dataclass(frozen=True)
class Voted:
    """One recording and what its windows say together: ``said`` has the largest share, ``rival`` the largest wrong."""

    run: FaultRun
    said: int
    rival: int
    right: float
    wrong: float

    @property
    def correct(self) -> bool:
        """Whether the vote names the label."""
        return self.said == self.run.label


@dataclass(frozen=True)
class Label:
    """One label: recordings and machines that bear it, and how many were named right."""

    name: str
    healthy: bool
    recordings: int
    found: int
    machines: int


@dataclass(frozen=True)
class FaultFacts:
    """Everything that the page says, computed from one split."""

    scores: FaultScores
    labels: tuple[str, ...]
    ok_labels: tuple[str, ...]

    @property
    def sorting(self) -> bool:
        """Whether no label is told to be healthy, or all are: nothing is missed then, only mixed up."""
        return not self.ok_labels or len(self.ok_labels) == len(self.labels)

    @cached_property
    def voted(self) -> tuple[Voted, ...]:
        """Every recording; wrong ones first, then the least sure."""
        votes = [_voted(run) for run in self.scores.runs]
        return tuple(sorted(votes, key=lambda vote: (vote.correct, vote.right - vote.wrong)))

    @cached_property
    def right(self) -> int:
        """Recordings whose vote names their label."""
        return sum(vote.correct for vote in self.voted)

    @cached_property
    def missed(self) -> tuple[int, int]:
        """Faulty recordings that were called healthy, of how many faulty ones."""
        faulty = [vote for vote in self.voted if not self._healthy(vote.run.label)]
        return sum(self._healthy(vote.said) for vote in faulty), len(faulty)

    @cached_property
    def needless(self) -> tuple[int, int]:
        """Healthy recordings that were called faulty, of how many healthy ones."""
        healthy = [vote for vote in self.voted if self._healthy(vote.run.label)]
        return sum(not self._healthy(vote.said) for vote in healthy), len(healthy)

    @cached_property
    def machines(self) -> dict[str, tuple[int, int]]:
        """Recordings named right, of how many, by machine; the worst first."""
        right = Counter(vote.run.group for vote in self.voted if vote.correct)
        all_ = Counter(vote.run.group for vote in self.voted)
        order = sorted(all_, key=lambda name: (right[name] / all_[name], name))
        return {name: (right[name], all_[name]) for name in order}

    @cached_property
    def confusion(self) -> Floats:
        """Recordings: rows what they are, columns what the vote says, [K, K]."""
        runs = self.voted
        truth, said = np.array([vote.run.label for vote in runs]), np.array([vote.said for vote in runs])
        return confusion_matrix(truth, said, len(self.labels))

    @cached_property
    def windows(self) -> Floats:
        """The same for single windows."""
        truth = np.concatenate([np.full(len(run.probabilities), run.label) for run in self.scores.runs])
        said = np.concatenate([run.probabilities.argmax(axis=1) for run in self.scores.runs])
        return confusion_matrix(truth, said, len(self.labels))

    @cached_property
    def compared(self) -> tuple[tuple[str, float], ...]:
        """Balanced accuracy of the vote, of single windows, and of the answer that listens to nothing."""
        present = int((self.confusion.sum(axis=1) > 0).sum())
        return (
            ("a vote of each recording's windows", float(_balanced(self.confusion))),
            ("each window by itself", float(_balanced(self.windows))),
            ("always the same label", 1.0 / present),
        )

    @cached_property
    def table(self) -> tuple[Label, ...]:
        """One row a label."""
        rows = []
        for index, name in enumerate(self.labels):
            here = [vote for vote in self.voted if vote.run.label == index]
            machines = len({vote.run.group for vote in here})
            rows.append(Label(name, self._healthy(index), len(here), sum(vote.correct for vote in here), machines))
        return tuple(rows)

    def _healthy(self, label: int) -> bool:
        return self.labels[label] in self.ok_labels


def _voted(run: FaultRun) -> Voted:
    vote = run.vote
    others = np.where(np.arange(len(vote)) == run.label, -1.0, vote)
    rival = int(others.argmax())
    return Voted(run, int(vote.argmax()), rival, float(vote[run.label]), float(vote[rival]))


def _balanced(confusion: Floats) -> NDArray[np.float64]:
    return np.asarray(balanced_accuracy(confusion))
