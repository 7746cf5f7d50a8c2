"""A watched folder: pictures appear in it and each is decided once, also across restarts.

A file is taken when its size and time of change stayed the same for ``settle_ms`` (a writer that renames finished
files into the folder may set 0). It is moved, deleted or remembered only after its decision is on disk: a crash in
between decides it again rather than never.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from edge_sft.errors import DeviceError
from edge_sft.prediction import Sample
from edge_sft.runtime.config import FolderSource
from edge_sft.runtime.sources.memory import SeenFiles, Signature
from edge_sft.runtime.sources.picture import is_picture, read_sample
from edge_sft.runtime.sources.protocol import SourceStatus

# An empty, truncated or locked file is most likely still being written by someone slow; so long it is given.
_PATIENCE_S = 2.0


class WatchedFolder:
    """Source over a folder; see the module's text."""

    live = False

    def __init__(self, config: FolderSource, stream: str, state: Path) -> None:
        self._config = config
        self._stream = stream
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[Signature, float]] = {}
        self._ready: deque[tuple[str, Signature, float]] = deque()
        self._suspect: dict[str, Signature] = {}
        self._taken: dict[str, Signature] = {}
        self._next_scan_s = 0.0
        self._trouble = ""
        self._unsettled = ""
        self._seen = SeenFiles(state / "seen.jsonl") if config.after == "keep" else None

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next finished picture."""
        deadline = time.monotonic() + timeout_s
        while not self._closed.is_set():
            if not self._ready and time.monotonic() >= self._next_scan_s:
                self._scan()
            while self._ready:
                sample = self._take()
                if sample is not None:
                    return sample
            left = min(deadline, self._next_scan_s) - time.monotonic()
            if time.monotonic() >= deadline:
                return None
            self._closed.wait(max(left, 0.001))
        return None

    def _take(self) -> Sample | None:
        name, signature, first_seen_s = self._ready.popleft()
        sample = read_sample(self._config.path / name, self._stream, seen_monotonic_s=first_seen_s)
        if sample.fault is not None and self._suspect.get(name) != signature:
            self._suspect[name] = signature  # a second look after a while; then it is what it is
            self._waiting[name] = (signature, first_seen_s)
            return None
        with self._lock:
            self._taken[name] = signature
        return sample

    def _scan(self) -> None:
        started = time.monotonic()
        found = self._list()
        now = time.monotonic()
        # A folder with a million files takes seconds to list: never spend more than a fifth of the time on it.
        self._next_scan_s = now + max(self._config.poll_ms / 1000, 4 * (now - started))
        if found is None:
            return
        self._forget_vanished(found)
        settle_s = self._config.settle_ms / 1000
        still_waiting: dict[str, tuple[Signature, float]] = {}
        ready: list[tuple[str, Signature, float]] = []
        for name, signature in found.items():
            if self._known(name, signature):
                continue
            before = self._waiting.get(name)
            since = before[1] if before is not None and before[0] == signature else now
            doubtful = not signature[0] or self._suspect.get(name) == signature
            patience = max(settle_s, _PATIENCE_S) if doubtful else settle_s
            if now - since >= patience:
                ready.append((name, signature, since))
            else:
                still_waiting[name] = (signature, since)
        self._waiting = still_waiting
        self._ready.extend(sorted(ready, key=lambda item: (item[1][1], item[0])))
        if still_waiting:
            self._next_scan_s = min(self._next_scan_s, now + max(settle_s / 2, 0.005))

    def _list(self) -> dict[str, Signature] | None:
        found: dict[str, Signature] = {}
        try:
            with os.scandir(self._config.path) as entries:
                for entry in entries:
                    if is_picture(entry.name) and fnmatch(entry.name, self._config.pattern):
                        with contextlib.suppress(OSError):  # gone between listing and looking
                            if entry.is_file():
                                stat = entry.stat()
                                found[entry.name] = (stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            self._trouble = f"folder {self._config.path} cannot be read ({error.strerror or error})"
            return None
        self._trouble = ""
        return found

    def _known(self, name: str, signature: Signature) -> bool:
        with self._lock:
            if self._taken.get(name) == signature:
                return True
        return self._seen is not None and signature in self._seen.get(name)

    def _forget_vanished(self, found: dict[str, Signature]) -> None:
        for name in [name for name in self._suspect if name not in found]:
            del self._suspect[name]
        with self._lock:
            for name in [name for name in self._taken if name not in found]:
                del self._taken[name]
        if self._seen is not None:
            with contextlib.suppress(DeviceError):  # only tidying; the memory itself is complete
                self._seen.keep_only(found)

    def settle(self, samples: Iterable[Sample]) -> None:
        """Move, delete or remember the files of decided samples."""
        done: list[tuple[str, Signature]] = []
        for sample in samples:
            with self._lock:
                signature = self._taken.get(sample.name or "")
            if sample.name is not None and signature is not None:
                done.append((sample.name, signature))
        try:
            self._dispose(done)
            self._unsettled = ""
        except OSError as error:
            self._unsettled = (
                f"decided pictures cannot be {_DISPOSALS[self._config.after]} ({error.strerror or error}); "
                "they would be decided again after a restart"
            )

    def _dispose(self, done: list[tuple[str, Signature]]) -> None:
        if self._seen is not None:
            self._seen.add(done)
            return
        for name, _ in done:
            path = self._config.path / name
            if self._config.after == "delete":
                path.unlink(missing_ok=True)
            else:
                with contextlib.suppress(FileNotFoundError):  # taken away by someone else meanwhile
                    path.replace(_free_name(path.parent / "done", name))

    @property
    def status(self) -> SourceStatus:
        """Whether the folder can be listed, and whether decided files can be put away."""
        return SourceStatus(not self._trouble, self._trouble or self._unsettled)

    def close(self) -> None:
        """Stop a read that waits."""
        self._closed.set()


_DISPOSALS = {"keep": "remembered", "move": "moved", "delete": "deleted"}


def _free_name(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    target, number = folder / name, 1
    while target.exists():
        target = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
        number += 1
    return target


def open_source(config: FolderSource, *, stream: str, state: Path) -> WatchedFolder:
    """Open a watched folder; one that does not exist (yet) is waited for, and the status says so."""
    return WatchedFolder(config, stream, state)
