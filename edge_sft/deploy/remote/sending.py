"""Sending files by their SHA-256, from where the device has them on; never more under way than it acknowledges."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_sft.deploy.remote.link import Link
from edge_sft.errors import UserError
from edge_sft.progress import Progress

_PIECE = 64 << 10
_UNDER_WAY = 16  # pieces: 1 MiB, so that a slow link's answers do not queue behind minutes of data


@dataclass(frozen=True)
class Parcel:
    """A file to send."""

    path: Path
    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> Parcel:
        """Sum a file. Raises UserError when it cannot be read."""
        summed = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    summed.update(piece)
            return cls(path, summed.hexdigest(), path.stat().st_size)
        except OSError as error:
            raise UserError(str(path), f"cannot be read ({error.strerror or error})", "Check the path.") from error


def send(link: Link, parcels: Sequence[Parcel], title: str, watch: Progress, *, room: int = 0) -> int:
    """Send what the device does not have yet; returns how many bytes that were.

    Args:
        link: The open link.
        parcels: The files.
        title: For the progress.
        watch: Watched by people, in kB.
        room: Bytes that the device must have free besides.

    Raises:
        EdgeSftError: The disk over there is full or refuses, or the link is cut.
    """
    files = [{"sha256": one.sha256, "size": one.size} for one in parcels]
    offsets = link.call("have", files=files, room=room)["offsets"]
    missing = [(one, offset) for one, offset in zip(parcels, offsets, strict=True) if offset < one.size]
    left: int = sum(one.size - offset for one, offset in missing)
    if left:
        watch.start(title, max(1, left >> 10))
    window = _Window(link, watch)
    for parcel, offset in missing:
        _send_one(window, parcel, offset)
    window.drain()
    return left


class _Window:
    """Requests whose answers are awaited."""

    def __init__(self, link: Link, watch: Progress) -> None:
        self._link, self._watch = link, watch
        self._sizes: deque[int] = deque()
        self._owed = 0

    def put(self, parcel: Parcel, offset: int, piece: bytes) -> None:
        """Send a piece, once there is room for it under way."""
        if len(self._sizes) >= _UNDER_WAY:
            self._take()
        self._link.send("put", piece, sha256=parcel.sha256, total=parcel.size, offset=offset)
        self._sizes.append(len(piece))

    def drain(self) -> None:
        """Wait until all is acknowledged."""
        while self._sizes:
            self._take()

    def _take(self) -> None:
        self._link.answer()
        self._owed += self._sizes.popleft()
        self._watch.advance(self._owed >> 10)
        self._owed &= 0x3FF


def _send_one(window: _Window, parcel: Parcel, offset: int) -> None:
    with parcel.path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_PIECE):
            window.put(parcel, offset, piece)
            offset += len(piece)
