"""Writing a bundle: same contents and key, same bytes; a power cut leaves no half of one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_sft import durable
from edge_sft.bundle import container
from edge_sft.bundle.keys import PrivateKey
from edge_sft.bundle.manifest import MANIFEST, SIGNATURE, Draft, FileEntry, Manifest
from edge_sft.errors import BugError, DataError, UserError

_BLOCK = 1 << 20


def write_bundle(out: Path, draft: Draft, files: Mapping[str, bytes | Path], private_key: PrivateKey) -> Path:
    """Write ``<out>/<name>-<version>.edge``.

    Args:
        out: Folder to write into; made if missing. An older file of that name is replaced in one step.
        draft: Everything the manifest says but its list of files.
        files: Contents by name inside the bundle, as bytes or as files to copy.
        private_key: Who signs.

    Returns:
        The bundle's path.

    Raises:
        BugError: A name that no bundle may hold, or a file that the draft needs is not given.
        DataError: A file cannot be read, or changed while it was copied.
        UserError: The whole would be larger than a bundle may be (2 GiB).
        DeviceError: The disk is full or refuses.
    """
    for name in files:
        if not container.NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise BugError(f"bundle file '{name}'", "has a name that no bundle may hold", "Please report this.")
    measured = {name: _measure(files[name], name) for name in sorted(files)}
    entries = tuple(FileEntry(name=name, size_bytes=size, sha256=sha) for name, (size, sha, _) in measured.items())
    try:
        manifest = Manifest(**{field: getattr(draft, field) for field in Draft.model_fields}, files=entries)
    except ValueError as error:
        raise BugError("the bundle to write", f"contradicts itself ({error})", "Please report this.") from error
    contents: dict[str, bytes | Path] = {MANIFEST: manifest.to_bytes()}
    contents[SIGNATURE] = private_key.sign(manifest.to_bytes())
    contents.update({name: files[name] for name in measured})
    target = out / f"{manifest.name}-{manifest.version}.edge"
    _write(target, contents, {name: sha for name, (_, sha, _) in measured.items()})
    return target


def _write(target: Path, contents: Mapping[str, bytes | Path], digests: Mapping[str, str]) -> None:
    sizes = [(name, *_measure(content, name)) for name, content in contents.items()]
    members = container.lay_out([(name, size, crc) for name, size, _, crc in sizes])
    tail = container.directory(members)
    if len(members) > container.MAX_MEMBERS or members[-1].end + len(tail) > container.MAX_BUNDLE_BYTES:
        raise UserError(str(target), "would be larger than a bundle may be (2 GiB, 64 files)", "Export fewer variants.")
    with durable.replacing(target) as file:
        for member in members:
            file.write(member.header)
            digest = hashlib.sha256()
            for block in _blocks(contents[member.name], member.name):
                digest.update(block)
                file.write(block)
            if digests.get(member.name, digest.hexdigest()) != digest.hexdigest():
                raise DataError(member.name, "changed while it was copied into the bundle", "Run it again.")
        file.write(tail)


def _measure(content: bytes | Path, name: str) -> tuple[int, str, int]:
    """Return size, SHA-256 and CRC-32."""
    size, digest, crc = 0, hashlib.sha256(), 0
    for block in _blocks(content, name):
        size += len(block)
        digest.update(block)
        crc = zlib.crc32(block, crc)
    return size, digest.hexdigest(), crc


def _blocks(content: bytes | Path, name: str) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    try:
        with content.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        fact = f"cannot be read for '{name}' ({error.strerror or error})"
        raise DataError(str(content), fact, "Run the export again.") from error
