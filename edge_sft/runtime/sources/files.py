"""Picture files, gone through once or in a loop: for trials, replays and benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from edge_sft.errors import UserError
from edge_sft.prediction import Sample
from edge_sft.runtime.config import FilesSource
from edge_sft.runtime.sources.pacing import Pace
from edge_sft.runtime.sources.picture import is_picture, read_sample
from edge_sft.runtime.sources.protocol import SourceEnded, SourceStatus


class PictureFiles:
    """Source over a fixed list of files, in the order of their names."""

    live = False

    def __init__(self, paths: list[Path], stream: str, *, loop: bool, rate: float | None) -> None:
        self._paths = paths
        self._stream = stream
        self._loop = loop
        self._pace = Pace(rate)
        self._next = 0
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next picture."""
        if self._next == len(self._paths):
            if not self._loop:
                raise SourceEnded
            self._next = 0
        if not self._pace.wait(timeout_s, self._closed):
            return None
        path = self._paths[self._next]
        self._next += 1
        return read_sample(path, self._stream)

    def settle(self, samples: Iterable[Sample]) -> None:
        """Nothing to remember: a restart begins anew."""

    @property
    def status(self) -> SourceStatus:
        """Always there."""
        return SourceStatus(True)

    def close(self) -> None:
        """Stop a read that waits."""
        self._closed.set()


def open_source(config: FilesSource, *, stream: str, state: Path) -> PictureFiles:
    """List the pictures. Raises UserError when there are none."""
    del state
    paths = list(config.paths)
    if config.path is not None:
        if not config.path.is_dir():
            raise UserError(str(config.path), "is not a folder", "Check 'path' of the pipeline's source.")
        paths = sorted(p for p in config.path.rglob("*") if is_picture(p.name) and fnmatch(p.name, config.pattern))
    if not paths:
        raise UserError(str(config.path or "paths"), "holds no picture", "Check the folder and 'pattern'.")
    return PictureFiles(paths, stream, loop=config.loop, rate=config.rate)
