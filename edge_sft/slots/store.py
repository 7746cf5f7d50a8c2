"""Where bundles live on a device: two slots a pipeline and one small file that says which of them serves.

    <root>/pipelines/<pipeline>/current.json     replaced atomically: this is the flip
    <root>/pipelines/<pipeline>/a/, b/           a verified bundle's files, proof.json, perhaps site-policy.json
    <root>/pipelines/<pipeline>/.staging-*/      a deploy at work, or what a killed one left

A slot never changes after the flip. Whatever is killed at whatever instant, current.json names a whole slot.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_sft import durable
from edge_sft.bundle import manifest as manifests
from edge_sft.bundle.manifest import MANIFEST, POLICY, Manifest
from edge_sft.checkpoint import sha256_of
from edge_sft.errors import BundleRefused, DataError, DeviceError, UserError
from edge_sft.prediction import rfc3339
from edge_sft.slots.lock import exclusive
from edge_sft.slots.proof import PROOF, SITE_POLICY

CURRENT = "current.json"
LOCK = "deploy.lock"
STAGING = ".staging-"
_SLOTS: tuple[Literal["a"], Literal["b"]] = ("a", "b")
_PIPELINE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


class _Entry(BaseModel):
    """A slot, what must be in it, and the SHA-256 of its proof and of the site's policy where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: Literal["a", "b"]
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    extras: dict[Literal["proof.json", "site-policy.json"], str] = {}


class _Current(_Entry):
    """The whole of current.json. ``generation`` grows with every flip, also with a rollback."""

    schema_version: Literal[1] = 1
    generation: int = Field(ge=1)
    flipped_at: str
    previous: _Entry | None = None


@dataclass(frozen=True)
class Slot:
    """A slot that may serve.

    Attributes:
        name: ``a`` or ``b``.
        path: Its folder.
        digest: SHA-256 of the bundle's manifest.
        generation: Which flip made it current.
        flipped_at: When, UTC RFC 3339.
        note: Why this one serves although another was meant to; None normally. Worth an alarm.
    """

    name: Literal["a", "b"]
    path: Path
    digest: str
    generation: int
    flipped_at: str
    note: str | None = None

    @property
    def policy_path(self) -> Path:
        """The active policy: the site's where it gave one, else the bundle's own."""
        site = self.path / SITE_POLICY
        return site if site.is_file() else self.path / POLICY


class SlotStore:
    """The two slots of one pipeline. Reading needs no lock; a deploy or rollback holds `lock`."""

    def __init__(self, root: Path, pipeline: str = "main") -> None:
        if not _PIPELINE.match(pipeline):
            raise UserError(f"pipeline '{pipeline}'", "is not usable as a name", "Use letters, digits, '-' and '_'.")
        self.pipeline = pipeline
        self.directory = root.resolve() / "pipelines" / pipeline

    def current(self) -> Slot | None:
        """Return the slot that serves, unverified and cheap; None before the first deploy.

        Raises:
            DeviceError: current.json is damaged.
        """
        pointer = self._read()
        return None if pointer is None else self._slot(pointer, pointer)

    def generation(self) -> int:
        """Return the number of the last flip, 0 before the first. Cheap enough to poll every second."""
        pointer = self._read()
        return 0 if pointer is None else pointer.generation

    def verified(self) -> Slot:
        """Return the slot to serve after checking every file's SHA-256: the current one, or, when that one is
        damaged, the previous one with the reason in ``note``.

        Raises:
            UserError: Nothing was deployed yet.
            BundleRefused: Neither slot verifies.
        """
        pointer = self._read()
        if pointer is None:
            raise UserError(f"pipeline '{self.pipeline}'", "has no model yet", "Run: edge-sft deploy BUNDLE --to local")
        try:
            self.verify(pointer)
        except BundleRefused as error:
            if self._read() != pointer:  # deploys flipped it under us: that is no damage
                return self.verified()
            if pointer.previous is None:
                raise
            self.verify(pointer.previous)
            note = f"slot {pointer.slot} is damaged ({error}); serving the previous slot {pointer.previous.slot}"
            return self._slot(pointer.previous, pointer, note)
        return self._slot(pointer, pointer)

    def previous(self) -> Slot | None:
        """Return the slot a rollback would go to, unverified, or None."""
        pointer = self._read()
        return None if pointer is None or pointer.previous is None else self._slot(pointer.previous, pointer)

    def spare(self) -> Path:
        """Return the folder of the slot that does not serve; it may hold the previous bundle or not exist."""
        return self.directory / self._spare_name()

    @property
    def policy_path(self) -> Path:
        """The active policy's file: the current slot's. Raises UserError before the first deploy."""
        slot = self.current()
        if slot is None:
            raise UserError(f"pipeline '{self.pipeline}'", "has no policy yet", "Deploy a bundle first.")
        return slot.policy_path

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold off other deploys and rollbacks. Raises UserError when one is at work."""
        return exclusive(self.directory / LOCK)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield an empty folder to build a slot in; removed on leaving unless `commit` moved it away.

        What killed deploys left is cleared first. Hold `lock`.
        """
        self._clear_leftovers()
        try:
            path = Path(tempfile.mkdtemp(prefix=STAGING, dir=self.directory))
            path.chmod(0o755)  # the agent may run as another user than who deploys
        except OSError as error:
            raise durable.disk_error(self.directory, error) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def commit(self, built: Path) -> Slot:
        """Make a built folder the serving slot: move it to the spare place, then flip. Hold `lock`.

        Args:
            built: A folder from `staging`, or `spare` itself; holds a bundle's files and its proof.

        Raises:
            DeviceError: The disk refused; the old slot still serves.
        """
        pointer = self._read(damaged_is_none=True)
        name = self._spare_name()
        entry = _Entry(slot=name, digest=_digest(built / MANIFEST), extras=_extras(built))
        if built.resolve() != self.directory / name:
            self._move_to_spare(built, self.directory / name)
        kept = None if pointer is None else _Entry(slot=pointer.slot, digest=pointer.digest, extras=pointer.extras)
        return self._flip(entry, kept, 1 if pointer is None else pointer.generation + 1)

    def repair(self) -> Slot | None:
        """Make sure that the slot a deploy will overwrite is not the one that has to serve. Hold `lock`.

        Where the current slot is damaged and the previous one is whole, flip back to that for good; the damaged
        one becomes the spare. Returns the whole slot that serves, or None where nothing whole does.
        """
        pointer = self._read(damaged_is_none=True)
        if pointer is None:
            return None
        with contextlib.suppress(BundleRefused):
            self.verify(pointer)
            return self._slot(pointer, pointer)
        if pointer.previous is not None:
            with contextlib.suppress(BundleRefused):
                self.verify(pointer.previous)
                return self._flip(pointer.previous, None, pointer.generation + 1)
        return None

    def rollback(self) -> Slot:
        """Flip back to the previous slot; rolling back twice returns to where it began. Hold `lock`.

        Raises:
            UserError: There is no previous slot.
            BundleRefused: The previous slot does not verify; the current one keeps serving.
        """
        pointer = self._read()
        if pointer is None or pointer.previous is None:
            raise UserError(f"pipeline '{self.pipeline}'", "has nothing to roll back to", "Deploy a bundle instead.")
        self.verify(pointer.previous)
        kept = _Entry(slot=pointer.slot, digest=pointer.digest, extras=pointer.extras)
        return self._flip(pointer.previous, kept, pointer.generation + 1)

    def verify(self, entry: _Entry | Slot) -> Manifest:
        """Check a slot's manifest, every file it lists, its proof and its site policy against their SHA-256.

        Raises:
            BundleRefused: A file is missing or differs: bit rot, or somebody changed it.
        """
        if isinstance(entry, Slot):
            entry = self._entry_of(entry)
        folder = self.directory / entry.slot
        _expect(folder / MANIFEST, entry.digest)
        manifest = read_manifest(folder)
        for file in manifest.files:
            _expect(folder / file.name, file.sha256)
        for extra, digest in entry.extras.items():
            _expect(folder / extra, digest)
        return manifest

    def _entry_of(self, slot: Slot) -> _Entry:
        pointer = self._read()
        known = [] if pointer is None else [pointer, *([pointer.previous] if pointer.previous else [])]
        for entry in known:
            if (entry.slot, entry.digest) == (slot.name, slot.digest):
                return entry
        raise BundleRefused(str(slot.path), "was replaced by a newer deploy", "Read the current slot again.")

    def _slot(self, entry: _Entry, pointer: _Current, note: str | None = None) -> Slot:
        path = self.directory / entry.slot
        return Slot(entry.slot, path, entry.digest, pointer.generation, pointer.flipped_at, note)

    def _spare_name(self) -> Literal["a", "b"]:
        pointer = self._read(damaged_is_none=True)
        return "b" if pointer is not None and pointer.slot == "a" else "a"

    def _read(self, *, damaged_is_none: bool = False) -> _Current | None:
        path = self.directory / CURRENT
        try:
            return _Current.model_validate_json(_read_patiently(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DeviceError(str(path), f"cannot be read ({error.strerror or error})", "Check its rights.") from error
        except ValidationError as error:
            if damaged_is_none:
                return None
            raise DeviceError(str(path), "is damaged", "Deploy the bundle again.") from error

    def _flip(self, entry: _Entry, previous: _Entry | None, generation: int) -> Slot:
        pointer = _Current(
            slot=entry.slot,
            digest=entry.digest,
            extras=entry.extras,
            generation=generation,
            flipped_at=rfc3339(datetime.now(timezone.utc)),
            previous=previous,
        )
        durable.write_text(self.directory / CURRENT, pointer.model_dump_json(indent=2) + "\n")
        return self._slot(pointer, pointer)

    def _move_to_spare(self, built: Path, spare: Path) -> None:
        aside = built.with_name(f"{built.name}.old")
        try:
            if spare.exists():
                spare.replace(aside)  # a rename first: deleting file by file could be cut short half way
            built.replace(spare)
            durable.sync_directory(self.directory)
        except OSError as error:
            raise DeviceError(
                str(spare), f"cannot be replaced ({error.strerror or error})", "Stop what holds its files open."
            ) from error
        shutil.rmtree(aside, ignore_errors=True)

    def _clear_leftovers(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for left in self.directory.glob(f"{STAGING}*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in self.directory.glob(f".{CURRENT}.*.part"):
            left.unlink(missing_ok=True)


def read_manifest(folder: Path) -> Manifest:
    """Parse the manifest of an extracted bundle. Raises BundleRefused when it is missing or no manifest v1."""
    return manifests.from_bytes(manifest_bytes(folder), source=str(folder))


def manifest_bytes(folder: Path) -> bytes:
    """Return the bytes that a bundle's digest is taken of. Raises BundleRefused when they cannot be read."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleRefused(str(folder), f"has no readable {MANIFEST}", "Deploy the bundle again.") from error


def _extras(folder: Path) -> dict[Literal["proof.json", "site-policy.json"], str]:
    return {name: _digest(folder / name) for name in (PROOF, SITE_POLICY) if (folder / name).is_file()}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleRefused(str(path), f"cannot be read ({error.strerror or error})", "Deploy again.") from error


def _expect(path: Path, digest: str) -> None:
    try:
        found = sha256_of(path)
    except DataError as error:
        raise BundleRefused(error.thing, error.fact, "Deploy the bundle again.") from error
    if found != digest:
        raise BundleRefused(
            str(path), "does not match its SHA-256: damaged or changed", "Deploy the bundle again; check the disk."
        )


def _read_patiently(path: Path) -> bytes:
    """Read a file that may be replaced this instant; Windows refuses a reader for that moment."""
    for _ in range(20 if os.name == "nt" else 0):
        with contextlib.suppress(PermissionError):
            return path.read_bytes()
        time.sleep(0.01)
    return path.read_bytes()
