"""Numbers as a plant reads them."""

from __future__ import annotations

from edge_sft.metrics.plant import percent

_PERCENT = "\u00a0%"  # the sign never stands alone on a line


def share(value: float | None) -> str:
    """A share as a percentage with one digit after the point where it matters: 99.2 %, 87 %, 0.13 %."""
    if value is None:
        return "–"
    if 0.9 < value < 1:
        digits = 1 if value < 0.999 else 2
        return f"{min(100 * value, 99.99):.{digits}f}".removesuffix(".0") + _PERCENT
    return percent(value).replace(" %", _PERCENT)


def between(low: float, high: float) -> str:
    """An interval of shares, as precise as it is narrow: 85–97 %, 99.1–99.8 %."""
    if high <= 0:
        return f"0{_PERCENT}"
    digits = 0 if high - low > 0.05 else 1 if high - low > 0.005 else 2
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}{_PERCENT}"


def amount(value: float) -> str:
    """How many of 1,000 parts: 0, 0.4, 3.2, 13, 940."""
    if value <= 0:
        return "0"
    if value < 0.095:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")


def span(low: float, high: float) -> str:
    """An interval of amounts, in words."""
    return f"between {amount(low)} and {amount(high)}" if low > 0 else f"at most {amount(high)}"


def count(number: float, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 picture, 1,200 pictures."""
    whole = f"{number:,.0f}"
    return f"{whole} {one if whole == '1' else many or one + 's'}"


def listed(words: list[str], most: int = 6) -> str:
    """Words in a row: a, b and c; beyond ``most`` the rest is counted."""
    shown = [*words[:most], f"{len(words) - most} more"] if len(words) > most else list(words)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def split_words(split: str) -> str:
    """A split's name in a sentence."""
    return {"test": "test", "val": "validation", "train": "training"}[split]


def duration(seconds: float) -> str:
    """A time as a plant says it: 45 s, 14 min, 2.1 h, 3.4 days."""
    for most, unit, words in ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if abs(seconds) < most:
            return f"{_short(seconds / unit)}\u00a0{words}"
    return f"{_short(seconds / 86_400)}\u00a0days"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 9.95 else f"{value:.1f}".removesuffix(".0")
