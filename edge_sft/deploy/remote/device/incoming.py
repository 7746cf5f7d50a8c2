"""Files on their way in, by their SHA-256: half a file goes on where it was, a whole one is known to be right."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from edge_sft.deploy.remote.device.disk import spoken
from edge_sft.deploy.remote.device.wire import Refusal

_SPARE_BYTES = 32 << 20  # never the last byte of a device's disk


class Incoming:
    """`<root>/incoming`: ``<sha256>`` is whole and verified, ``<sha256>.part`` is on its way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def offset(self, digest: str, size: int) -> int:
        """Return how many bytes of a file are there; all of them only when it was verified."""
        whole, part = self._paths(digest)
        if whole.is_file() and whole.stat().st_size == size:
            return size
        if not part.is_file():
            return 0
        there = part.stat().st_size
        if there >= size:  # cut just before it was verified, or damaged
            return size if self._finish(digest) else 0
        return there

    def require_room(self, needed: int) -> None:
        """Refuse before anything is sent when the disk has no room for it."""
        free = shutil.disk_usage(self.folder).free
        if free < needed + _SPARE_BYTES:
            fact = f"has {free / 1e6:.0f} MB free, this needs {(needed + _SPARE_BYTES) / 1e6:.0f} MB: the disk is full"
            raise Refusal("DeviceError", str(self.folder), fact, "Free some space there and run it again.")

    def append(self, digest: str, size: int, offset: int, data: bytes) -> int:
        """Take bytes; returns where the file now ends. At its end it is verified.

        Raises:
            Refusal: The disk refuses, or the whole is not what its digest says; it is then removed.
        """
        _, part = self._paths(digest)
        with spoken(part), part.open("ab") as file:
            if file.tell() != offset:
                file.truncate(min(offset, file.tell()))
                raise Refusal("NetworkError", part.name, "did not arrive in order", "Run the same command again.")
            file.write(data)
        if offset + len(data) >= size and not self._finish(digest):
            raise Refusal("NetworkError", digest[:12], "arrived damaged", "Run the same command again.")
        return offset + len(data)

    def named(self, digest: str, path: Path) -> Path:
        """Make a verified file appear under a name: a second link, or a copy where the disk has none."""
        whole, _ = self._paths(digest)
        with spoken(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            try:
                os.link(whole, path)
            except OSError:
                shutil.copyfile(whole, path)
        return path

    def keep_only(self, digests: set[str]) -> None:
        """Remove what nothing needs any more."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.is_file() and path.name.removesuffix(".part") not in digests:
                path.unlink(missing_ok=True)

    def _paths(self, digest: str) -> tuple[Path, Path]:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise Refusal("BugError", digest, "is no SHA-256")
        return self.folder / digest, self.folder / f"{digest}.part"

    def _finish(self, digest: str) -> bool:
        whole, part = self._paths(digest)
        with spoken(part):
            summed = hashlib.sha256()
            with part.open("rb") as file:
                while piece := file.read(1 << 20):
                    summed.update(piece)
                os.fsync(file.fileno())
            if summed.hexdigest() != digest:
                part.unlink()
                return False
            part.replace(whole)
        return True
