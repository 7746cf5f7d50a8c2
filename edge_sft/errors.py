"""The one error tree: every branch says who can mend it, every message names the thing, the fact, the remedy.

EdgeSftError
├── UserError      the person at the keyboard: a recipe, an option, a path
├── DataError      whoever owns the pictures, sensor logs or the bundle file
│   └── BundleRefused   a bundle that must not run (damage, wrong key, failed proof)
├── DeviceError    whoever owns the machine: disk, camera, library, speed
├── NetworkError   whoever owns the broker, the certificates, the link
└── BugError       us: an invariant of edge-sft broke
"""

from __future__ import annotations


class EdgeSftError(Exception):
    """Root of all errors raised on purpose by edge-sft.

    Args:
        thing: What it is about, as the user would name it (a file, a key, a camera).
        fact: What is the matter with it, in one clause.
        remedy: What to do about it; empty only where nothing can be said.
    """

    exit_code = 1

    def __init__(self, thing: str, fact: str, remedy: str = "") -> None:
        self.thing = thing
        self.fact = fact
        self.remedy = remedy
        super().__init__(thing, fact, remedy)

    def __str__(self) -> str:
        text = f"{self.thing}: {self.fact}"
        return f"{text}. {self.remedy}" if self.remedy else text


class UserError(EdgeSftError):
    """Mended by the person who typed the command or wrote the file."""

    exit_code = 2


class DataError(EdgeSftError):
    """Mended by whoever owns the data."""

    exit_code = 3


class BundleRefused(DataError):
    """A bundle that must not be installed or run; the slot that serves stays as it is."""

    exit_code = 4


class DeviceError(EdgeSftError):
    """Mended by whoever owns the machine."""

    exit_code = 5


class NetworkError(EdgeSftError):
    """Mended by whoever owns the broker, the certificates or the link."""

    exit_code = 6


class BugError(EdgeSftError):
    """An invariant of edge-sft itself broke; please report it."""

    exit_code = 70
