"""Learners of sensors kept from one message to the next: reading runs and computing features takes longer than a round.

A learner is used again for the same recipe, folders and files, told by names, sizes and times; `load` overwrites all
that it learnt. Pictures are not kept: decoded, they are large, and lie ready on the disk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from edge_sft.federated.learner import Learner

_MOST: Final = 8  # of which a site's node needs one; sites simulated in one process take turns

_kept: OrderedDict[str, Learner] = OrderedDict()


def kept(recipe_text: str, data: Path, work: Path, make: Callable[[], Learner]) -> Learner:
    """Return the learner that was made for the same, or make it."""
    key = _key(recipe_text, data, work)
    if key not in _kept:
        _kept[key] = make()
        while len(_kept) > _MOST:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _key(recipe_text: str, data: Path, work: Path) -> str:
    found = sha256(f"{recipe_text}\0{data}\0{work}".encode())
    files = [data] if data.is_file() else sorted(path for path in data.rglob("*") if path.is_file())
    for path in files:
        facts = path.stat()
        found.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return found.hexdigest()
