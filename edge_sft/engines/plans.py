"""Where built engines are kept: sealed files, bound to all that an engine depends on.

    <root>/engines/<key>.plan       an engine, ready to run
    <root>/engines/<key>.timing     which kernels were fastest, so that the next build is shorter
    <root>/engines/<key>.runtime    kernels that TensorRT-RTX compiled when the engine first ran

The key is the SHA-256 of what the content depends on. A file is a line of text, a line of JSON that says what is in
it, a line with the Ed25519 signature over both, then the content. An engine is machine code: nothing of a file
reaches NVIDIA's libraries before the signature, the binding and the SHA-256 are right. Anything else is built anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_sft import durable
from edge_sft.errors import EdgeSftError

_MAGIC: Final = b"edge-sft engine 1\n"
_HEAD_MAX = 64 * 1024
_STALE_S = 3600.0  # a half-written file older than this was left by a power cut, not by a build at work
DEFAULT_MAX_BYTES = 4 << 30


class Seal(Protocol):
    """The device's own key."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature of this device over ``message``."""
        ...

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Tell whether this device signed ``message``."""
        ...


class Facts(BaseModel):
    """All that a cached file depends on; a change of any means another key. ``building`` is canonical JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    kind: Literal["plan", "timing", "runtime"] = "plan"
    library: str
    library_version: str
    gpu: str
    compute_capability: str
    driver: str
    building: str = ""
    model_sha256: str = ""

    @property
    def key(self) -> str:
        """The file's name."""
        return hashlib.sha256(_MAGIC + self.model_dump_json().encode()).hexdigest()

    @property
    def file(self) -> str:
        """The file's whole name."""
        return f"{self.key}.{self.kind}"


class Head(BaseModel):
    """The line of JSON of a cached file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: Facts
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)
    seconds: float = Field(ge=0, description="how long building took")
    created_at: str


@dataclass(frozen=True)
class Found:
    """What the cache had. ``content`` is None where it must be made, and ``why`` then says why, in words."""

    content: bytes | None
    why: str = ""


_WORDS = {
    "library_version": "version",
    "gpu": "GPU",
    "compute_capability": "compute capability",
    "driver": "driver",
    "building": "[building] of the profile",
}


class PlanCache:
    """The built engines of one device.

    Args:
        directory: Made on first use.
        seal: The device's key.
        in_use: Returns the SHA-256 of the models that slots hold: their engines are never thrown out.
        max_bytes: Above it the oldest files go.
    """

    def __init__(
        self,
        directory: Path,
        seal: Seal,
        *,
        in_use: Callable[[], frozenset[str]] = frozenset,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self.directory = directory
        self._seal = seal
        self._in_use = in_use
        self._max_bytes = max_bytes

    def read(self, facts: Facts) -> Found:
        """Return what is cached under exactly these facts, verified; never raises."""
        path = self.directory / facts.file
        try:
            if path.exists() and not path.is_file():  # a pipe in its place would be waited for, for ever
                return Found(None, f"{path} cannot be read (it is no file)")
            with path.open("rb") as file:
                head = self._head(file.readline(len(_MAGIC)), file.readline(_HEAD_MAX), file.readline(256))
                if isinstance(head, str):
                    return Found(None, f"the cached engine {path.name[:12]}… {head}")
                if head.facts != facts:
                    return Found(None, f"the cached engine {path.name[:12]}… {_difference(head.facts, facts)}")
                content = file.read(head.size_bytes + 1)
        except FileNotFoundError:
            return Found(None, self._why_missing(facts))
        except OSError as error:
            return Found(None, f"{path} cannot be read ({error.strerror or error})")
        if len(content) != head.size_bytes or hashlib.sha256(content).hexdigest() != head.sha256:
            return Found(None, f"the cached engine {path.name[:12]}… is damaged")
        with contextlib.suppress(OSError):  # a cache that is read only is no reason not to run
            os.utime(path)
        return Found(content)

    def write(self, facts: Facts, content: bytes, seconds: float) -> None:
        """Keep a content, wholly or not at all. Raises EdgeSftError when the disk or the device's key refuses."""
        head = Head(
            facts=facts,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            seconds=round(seconds, 3),
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        line = head.model_dump_json().encode() + b"\n"
        signature = self._seal.sign(_MAGIC + line).hex().encode() + b"\n"
        path = self.directory / facts.file
        self._make_room(path, len(content))
        with durable.replacing(path) as file:
            for part in (_MAGIC, line, signature, content):
                file.write(part)

    def last_seconds(self, model_sha256: str) -> float | None:
        """Return how long this model's newest engine took to build here; None where none was."""
        known = [head for _, head in self._heads() if head.facts.model_sha256 == model_sha256]
        plans = [head for head in known if head.facts.kind == "plan"]
        return max(plans, key=lambda head: head.created_at).seconds if plans else None

    def _head(self, magic: bytes, line: bytes, signature: bytes) -> Head | str:
        """Return a verified head, or what is wrong with it."""
        if magic != _MAGIC:
            return "is of another version of edge-sft, or damaged"
        try:
            sealed = bytes.fromhex(signature.decode("ascii").strip())
        except ValueError:
            return "is damaged"
        try:
            if not self._seal.verifies(sealed, _MAGIC + line):
                return "was not sealed by this device, or was changed"
        except (EdgeSftError, OSError) as error:  # the key belongs to another user: the engine is as good as none
            return f"cannot be verified ({error})"
        try:
            return Head.model_validate_json(line)
        except ValidationError:
            return "is of another version of edge-sft"

    def _heads(self) -> list[tuple[Path, Head]]:
        found = []
        for path in (each for each in self.directory.glob("*.*") if each.is_file()):
            with contextlib.suppress(OSError), path.open("rb") as file:
                head = self._head(file.readline(len(_MAGIC)), file.readline(_HEAD_MAX), file.readline(256))
                if isinstance(head, Head):
                    found.append((path, head))
        return found

    def _why_missing(self, facts: Facts) -> str:
        """Say what has changed since an engine of this model was built, or that none was."""
        same = [
            head
            for _, head in self._heads()
            if (head.facts.kind, head.facts.library, head.facts.model_sha256)
            == (facts.kind, facts.library, facts.model_sha256)
        ]
        if not same:
            return "no engine of this model was built here yet"
        nearest = min(same, key=lambda head: sum(getattr(head.facts, each) != getattr(facts, each) for each in _WORDS))
        return "the cached engine " + _difference(nearest.facts, facts)

    def _make_room(self, new: Path, size: int) -> None:
        """Throw out the oldest until the new one fits; never one that a slot may start with."""
        files: list[tuple[float, int, Path]] = []
        for path in (each for each in self.directory.glob("*") if each.is_file()):
            with contextlib.suppress(OSError):
                found = path.stat()
                if path.name.startswith("."):
                    if time.time() - found.st_mtime > _STALE_S:
                        path.unlink()
                elif path != new:
                    files.append((found.st_mtime, found.st_size, path))
        total = size + sum(each for _, each, _ in files)
        if total <= self._max_bytes:
            return
        kept, models = self._in_use(), {path: head.facts.model_sha256 for path, head in self._heads()}
        for _, each, path in sorted(files):
            if total > self._max_bytes and models.get(path, "") not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= each


def _difference(was: Facts, now: Facts) -> str:
    for name, words in _WORDS.items():
        before, after = getattr(was, name), getattr(now, name)
        if before != after:
            product = f"{now.library} " if name == "library_version" else ""
            values = f" {before or 'none'}, this is {after or 'none'}" if name != "building" else ", which has changed"
            return f"was built for {product}{words}{values}"
    return "was built of another model"
