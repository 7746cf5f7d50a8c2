"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Health = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        health: ``bad`` = something will fail; ``note`` = it works, but slower, shorter or unwatched.
        thing: What was looked at.
        fact: What it is.
        remedy: What to do about it.
    """

    health: Health
    thing: str
    fact: str
    remedy: str = ""
