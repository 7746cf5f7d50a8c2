"""The one number that a federated page compares by: its name, which way is better, how it is written."""

from __future__ import annotations

from dataclasses import dataclass

from edge_sft.federated.report_facts import Gap, Run, SiteResult
from edge_sft.report.wording import share

_KNOWN: dict[str, tuple[str, bool, bool]] = {  # name → (words, more is better, is a share); the first found is taken
    "balanced_accuracy": ("balanced accuracy", True, True),
    "rmse": ("root mean square error", False, False),
    "auroc": ("area under the ROC curve", True, False),
    "roc_auc": ("area under the ROC curve", True, False),
    "accuracy": ("accuracy", True, True),
    "macro_f1": ("macro F1", True, False),
    "mae": ("mean absolute error", False, False),
    "score": ("score (more is better)", True, False),
}
_MINUS = "\u2212"


@dataclass(frozen=True)
class Measure:
    """A number by name, in words, with its direction; ``share`` ones are in [0, 1] and shown in percent."""

    key: str
    words: str
    more: bool
    share: bool

    def form(self, value: float | None) -> str:
        """Write a value."""
        if value is None:
            return "–"
        return share(value) if self.share else f"{value:.4g}".replace("-", _MINUS)

    def gain(self, new: float, old: float) -> float:
        """How much better ``new`` is: in the number itself where more is better, else as a part of ``old``."""
        return new - old if self.more else (old - new) / abs(old) if old else 0.0

    def gained(self, gain: float) -> str:
        """Write a gain: +1.2 points, −3 %."""
        if self.share:
            return f"{_signed(100 * gain, 1)} points"
        return _signed(gain, 3) if self.more else f"{_signed(100 * gain, 1)}\u00a0%"

    def interval(self, gap: Gap) -> str:
        """Write a gain's interval: −0.4 to +2.8."""
        scale, digits = (1, 3) if self.more and not self.share else (100, 1)
        return f"{_signed(scale * gap.low, digits)} to {_signed(scale * gap.high, digits)}"


def choose(run: Run) -> Measure:
    """Take the number that the run names, else the best known of those that are there."""
    ended = {
        name
        for result in run.results.values()
        for side in result.numbers.values()
        for split in side.values()
        for name in split
    }
    during = {path.split("/", 1)[1] for one in run.attempts for site in one.sites.values() for path in site.numbers}
    there = ended | during
    key = run.score if run.score in there else next((name for name in _KNOWN if name in there), "score")
    words, more, is_share = _KNOWN.get(key, (key.replace("_", " "), True, False))
    return Measure(key, words, more, is_share)


def value(result: SiteResult | None, side: str, split: str, measure: Measure) -> float | None:
    """Return a side's number on a split, or None."""
    return None if result is None else result.numbers.get(side, {}).get(split, {}).get(measure.key)


def shown_split(run: Run, measure: Measure) -> str:
    """Return "test" where any side was judged on it, else "val"."""
    judged = [
        split
        for result in run.results.values()
        for side in result.numbers.values()
        for split, numbers in side.items()
        if measure.key in numbers
    ]
    return "test" if "test" in judged or not judged else "val"


def gap(result: SiteResult, new: str, old: str, split: str, measure: Measure) -> tuple[float, Gap | None] | None:
    """Return what ``new`` gains over ``old`` at a site, with the paired interval where there is one."""
    paired = result.gaps.get(f"{new}-{old}", {}).get(split)
    if paired is not None:
        return paired.difference, paired
    there, here = value(result, new, split, measure), value(result, old, split, measure)
    return None if there is None or here is None else (measure.gain(there, here), None)


def _signed(number: float, digits: int) -> str:
    text = f"{abs(number):.{digits}f}"
    if not float(text):
        return "0"
    return f"{'+' if number > 0 else _MINUS}{text}"
