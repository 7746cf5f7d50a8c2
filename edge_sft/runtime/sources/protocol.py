"""The Source port and the registry of its implementations, imported on use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from edge_sft.errors import DeviceError, UserError
from edge_sft.prediction import Sample
from edge_sft.runtime.config import SourceConfig


class SourceEnded(Exception):
    """A finite source has given all it had. Not an error."""


@dataclass(frozen=True)
class SourceStatus:
    """Whether frames can come; ``detail`` says in words what is the matter when they cannot."""

    connected: bool
    detail: str = ""


class Source(Protocol):
    """Gives raw frames, one at a time, to one thread.

    A frame that exists but cannot be read is a Sample with ``data=None`` and ``fault``, so that it still gets its
    (no-)decision. A source that lost its hardware returns None, says so in `status`, and recovers by itself.
    """

    live: bool
    """True where frames are lost unless taken in time (cameras); a trigger then wants a frame newer than itself."""

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next Sample, or None when none came within the time.

        Raises:
            SourceEnded: A finite source is exhausted.
            EdgeSftError: Something that waiting does not mend.
        """
        ...

    def settle(self, samples: Iterable[Sample]) -> None:
        """Learn that these samples' decisions are on disk: only now move, delete or remember their files."""
        ...

    @property
    def status(self) -> SourceStatus:
        """Whether frames can come."""
        ...

    def close(self) -> None:
        """Release everything; may be called twice, and from another thread than `read`."""
        ...


@dataclass(frozen=True)
class SourceEntry:
    """Where a source lives and which extra brings it; ``module`` has ``open_source(config, stream, state)``."""

    module: str
    extra: str


SOURCES: dict[str, SourceEntry] = {
    "folder": SourceEntry("edge_sft.runtime.sources.folder", "vision"),
    "files": SourceEntry("edge_sft.runtime.sources.files", "vision"),
    "video": SourceEntry("edge_sft.runtime.sources.video", "vision"),
    "camera": SourceEntry("edge_sft.runtime.sources.camera", "vision"),
    "replay": SourceEntry("edge_sft.runtime.sources.rows_replay", "cpu"),
}


def open_source(config: SourceConfig, *, stream: str, state: Path) -> Source:
    """Open the source that a pipeline's configuration names.

    Args:
        config: Its ``source`` section.
        stream: Name that its Samples carry.
        state: Folder that the source may keep its memory in.

    Raises:
        UserError: Unknown kind, or a path that does not exist.
        DeviceError: A library is missing.
    """
    entry = SOURCES.get(config.kind)
    if entry is None:
        raise UserError(f"source '{config.kind}'", "is not known", f"Known: {', '.join(SOURCES)}.")
    try:
        module = import_module(entry.module)
    except ImportError as error:
        raise DeviceError(
            f"source '{config.kind}'", f"cannot be loaded ({error})", f"pip install 'edge-sft[{entry.extra}]'"
        ) from error
    source: Source = module.open_source(config, stream=stream, state=state)
    return source
