"""Times of sensor rows as messages and files write them → float seconds (or whatever a plain number counts)."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from typing import Any

# Larger numbers are milli-, micro- or nanoseconds since 1970: seconds reach 1e11 in the year 5138.
_SCALES = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
_FRACTION = re.compile(r"([.,]\d+)")


def to_seconds(value: Any, how: str) -> float:
    """Read one time; NaN where it is none.

    Args:
        value: A number, or a text.
        how: ``auto``, ``seconds``, ``milliseconds``, ``iso`` or ``number`` (as it is).
    """
    if isinstance(value, str):
        text = value.strip()
        if how == "iso" or (how == "auto" and not _is_number(text)):
            return _iso(text)
        value = text
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    if how == "milliseconds":
        return number / 1000.0
    if how == "auto":
        for above, factor in _SCALES:
            if abs(number) > above:
                return number * factor
    return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _iso(text: str) -> float:
    """Read RFC 3339 and its relatives; without a zone it is UTC. Python 3.10 wants three or six digits and no Z."""
    if text.endswith(("Z", "z")):
        text = f"{text[:-1]}+00:00"
    text = _FRACTION.sub(lambda found: "." + found.group(1)[1:7].ljust(6, "0"), text, count=1)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)).timestamp()
