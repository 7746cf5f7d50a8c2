"""A page of the documentation as something to run: its blocks in order, each with the place where it is typed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"(?:<!-- at: ([^>]+?) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
STAYS = "# stays"
# What may differ between one machine and the next in a line of output: numbers, digests, times.
_VARIES = r"(?:[0-9a-f]{4} ){3,}[0-9a-f]{4}|[0-9a-f]{16,}|\d[\d.,:]*"
_VARYING = re.compile(_VARIES)


@dataclass(frozen=True)
class Block:
    """A fenced block: ``console`` is typed at a place, ``text`` was printed, ``toml`` stands in a file."""

    kind: str
    place: str
    lines: tuple[str, ...]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page in ``docs/``, in order."""
    found = _BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return [
        Block(kind, place, tuple(line for line in body.splitlines() if line.strip())) for place, kind, body in found
    ]


def commands(page: str) -> list[str]:
    """Return every command of a page, without its comment."""
    return [command(line) for block in blocks(page) if block.kind == "console" for line in block.lines]


def command(line: str) -> str:
    """Return a line without its comment."""
    return re.sub(r"\s+#.*", "", line).strip()


def shape(line: str) -> re.Pattern[str]:
    """Return what a line of output shown on a page must look like: numbers may differ, ``…`` is anything."""
    parts = []
    for piece in re.split(r"(…)", " ".join(line.split())):
        if piece == "…":
            parts.append(".*")
            continue
        cut = [re.escape(one) for one in _VARYING.split(piece)]
        parts.append(f"(?:{_VARIES})".join(cut))
    return re.compile("".join(parts).replace(r"\ ", r"\s+"))
