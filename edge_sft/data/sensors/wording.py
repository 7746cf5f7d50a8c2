"""Times, spans and names in the words of messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EPOCH = 1e8  # seconds since 1970 above this (March 1973) are dates; below, the column counts something else
_UNITS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def is_clock(time: float) -> bool:
    """Tell whether a time is seconds since 1970."""
    return time > _EPOCH


def when(time: float) -> str:
    """Write a time: a date and time of day for clocks, else the number."""
    if not is_clock(time):
        return f"{time:.10g}"
    return str(np.datetime64(round(time), "s")).replace("T", " ")


def span(length: float, *, clock: bool) -> str:
    """Write a length of time: ``5 minutes`` for clocks, else the number."""
    length = abs(length)
    if not clock:
        return f"{length:.6g}"
    for unit, word in _UNITS:
        if length >= unit:
            number = length / unit
            shown = f"{number:.0f}" if abs(number - round(number)) < 0.05 else f"{number:.1f}"
            return f"{shown} {word}{'' if shown == '1' else 's'}"
    return f"{length:.3g} seconds"


def names(words: Sequence[str], most: int = 5) -> str:
    """Write names in quotes, those beyond ``most`` counted."""
    shown = ", ".join(f"'{word[:60]}'" for word in words[:most])
    return f"{shown} and {len(words) - most} more" if len(words) > most else shown


def count(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """Write a share as a percentage of two digits."""
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
