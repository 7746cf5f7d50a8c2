"""Reading a bundle: nothing of it is parsed before a trusted key vouches for it, nothing is used unverified.

Order: zip layout (bounded, pure), signature over manifest.json, its schema version, its strict parse, then size
and SHA-256 of every file. Whatever is handed out later is hashed again, so that the bytes that were verified are
the bytes that are used even if the file is exchanged in between.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from edge_sft import durable
from edge_sft.bundle import container, manifest, onnx_scan
from edge_sft.bundle.keys import PublicKey
from edge_sft.bundle.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest
from edge_sft.errors import BundleRefused, UserError

MAX_MANIFEST_BYTES = 1 << 20
_SIGNATURE_BYTES = 64
_BLOCK = 1 << 20
_AGAIN = "Get the bundle from its maker again."


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose signature, layout and every file were verified.

    Attributes:
        path: The .edge file.
        manifest: Its parsed manifest.
        manifest_bytes: The signed bytes it was parsed from.
        signature: 64 bytes, Ed25519 over ``manifest_bytes``.
        signer: The trusted key that made the signature.
    """

    path: Path
    manifest: Manifest
    manifest_bytes: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signer: PublicKey
    _members: dict[str, container.Member] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of manifest.json in hex: the identity of the model everywhere else."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    def read(self, name: str) -> bytes:
        """Return a file's content, verified as it is read.

        Raises:
            BundleRefused: The file is not in the bundle, or the .edge file was changed since it was verified.
        """
        if name in (MANIFEST, SIGNATURE):
            return self.manifest_bytes if name == MANIFEST else self.signature
        entry = next((entry for entry in self.manifest.files if entry.name == name), None)
        if entry is None:
            raise BundleRefused(str(self.path), f"holds no file '{name}'", _AGAIN)
        with _opened(self.path) as file:
            return b"".join(_verified_blocks(file, self._members[name], entry, source=str(self.path)))

    def extract_to(self, directory: Path) -> None:
        """Write manifest, signature and all files into a folder, each verified while written and fsynced.

        Raises:
            BundleRefused: The .edge file was changed since it was verified; the folder is then incomplete.
            DeviceError: The disk is full or refuses.
        """
        with _opened(self.path) as file:
            for entry in self.manifest.files:
                with durable.replacing(directory / entry.name) as target:
                    for block in _verified_blocks(file, self._members[entry.name], entry, source=str(self.path)):
                        target.write(block)
        durable.write_bytes(directory / SIGNATURE, self.signature)
        durable.write_bytes(directory / MANIFEST, self.manifest_bytes)  # last: a folder with it is whole


def open_verified(path: Path, trusted_keys: Sequence[PublicKey]) -> VerifiedBundle:
    """Verify a bundle from its first byte to its last.

    Args:
        path: The .edge file.
        trusted_keys: Keys whose signature counts (`keys.trusted`).

    Raises:
        BundleRefused: Not a bundle, damaged, changed, signed by nobody trusted, of an unknown schema, or with a
            graph that reaches outside.
        UserError: The file does not exist or no key is trusted.
    """
    source = str(path)
    if not trusted_keys:
        raise UserError(
            "trusted keys", "there are none, so no bundle can be verified", "Run: edge-sft keys trust MAKER.pub.pem"
        )
    with _opened(path) as file:
        members = _read_layout(file, source)
        signed, signature = _read_signed(file, members, source)
        signer = next((key for key in trusted_keys if key.verifies(signature, signed)), None)
        if signer is None:
            raise _untrusted(source, trusted_keys)
        parsed = manifest.from_bytes(signed, source=source)
        _check_names(parsed, list(members), source)
        for entry in parsed.files:
            _check_content(file, members[entry.name], entry, source)
    return VerifiedBundle(path, parsed, signed, signature, signer, members)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(str(path), "does not exist", "Check the path.") from error
    except OSError as error:
        raise BundleRefused(str(path), f"cannot be read ({error.strerror or error})", "Check the file.") from error


def _read_layout(file: BinaryIO, source: str) -> dict[str, container.Member]:
    """Check every header byte; return the members by name in file order."""
    size = file.seek(0, 2)
    if size > container.MAX_BUNDLE_BYTES:
        raise BundleRefused(source, f"is larger than a bundle may be ({size} bytes)", _AGAIN)
    if _at(file, 0, 4) != b"PK\x03\x04":
        raise BundleRefused(source, "is no bundle (not a zip file)", "Give the .edge file that edge-sft build wrote.")
    end = _at(file, max(0, size - container.END_BYTES), container.END_BYTES)
    offset, length = container.directory_span(end, size, source=source)
    members = container.parse_directory(_at(file, offset, length), source=source)
    if members[-1].end != offset:
        raise BundleRefused(source, "has bytes that belong to no file", _AGAIN)
    for member in members:
        if _at(file, member.offset, len(member.header)) != member.header:
            raise BundleRefused(source, f"has a damaged header before '{member.name}'", _AGAIN)
    return {member.name: member for member in members}


def _read_signed(file: BinaryIO, members: dict[str, container.Member], source: str) -> tuple[bytes, bytes]:
    """Return manifest.json's bytes and the signature, sizes bounded before reading."""
    if MANIFEST not in members:
        raise BundleRefused(source, f"is no bundle ({MANIFEST} is missing)", "Give a .edge file.")
    if SIGNATURE not in members:
        raise BundleRefused(source, f"is not signed ({SIGNATURE} is missing)", _AGAIN)
    if members[MANIFEST].size > MAX_MANIFEST_BYTES:
        raise BundleRefused(source, f"has a {MANIFEST} of {members[MANIFEST].size} bytes, 1 MiB is the limit", _AGAIN)
    if members[SIGNATURE].size != _SIGNATURE_BYTES:
        raise BundleRefused(source, f"has a {MANIFEST} signature of the wrong size", _AGAIN)
    signed, signature = (_at(file, members[n].content_offset, members[n].size) for n in (MANIFEST, SIGNATURE))
    if zlib.crc32(signed) != members[MANIFEST].crc or zlib.crc32(signature) != members[SIGNATURE].crc:
        raise BundleRefused(source, f"has a damaged {MANIFEST} or {SIGNATURE}", _AGAIN)
    return signed, signature


def _untrusted(source: str, trusted_keys: Sequence[PublicKey]) -> BundleRefused:
    known = ", ".join(f"{key.name} ({key.key_id})" for key in trusted_keys)
    return BundleRefused(
        source,
        f"is signed by none of the trusted keys [{known}], or was changed after signing",
        "If its maker is right, run: edge-sft keys trust MAKER.pub.pem",
    )


def _check_names(parsed: Manifest, names: list[str], source: str) -> None:
    listed = [MANIFEST, SIGNATURE, *(entry.name for entry in parsed.files)]
    extra, missing = sorted(set(names) - set(listed)), sorted(set(listed) - set(names))
    if extra:
        raise BundleRefused(source, f"holds files that its manifest does not list: {', '.join(extra)}", _AGAIN)
    if missing:
        raise BundleRefused(source, f"lacks files that its manifest lists: {', '.join(missing)}", _AGAIN)
    if names != listed:
        raise BundleRefused(source, "has its files in another order than its manifest", _AGAIN)


def _check_content(file: BinaryIO, member: container.Member, entry: FileEntry, source: str) -> None:
    if not entry.name.endswith(".onnx"):
        for _ in _verified_blocks(file, member, entry, source=source):
            pass
        return
    content = b"".join(_verified_blocks(file, member, entry, source=source))
    problem = onnx_scan.find_external_data(content)
    if problem:
        raise BundleRefused(f"{source}, {entry.name}", problem, "Export it again as a single file.")


def _verified_blocks(file: BinaryIO, member: container.Member, entry: FileEntry, *, source: str) -> Iterator[bytes]:
    """Yield a file's content; the last block is followed by the check that all of it was what was signed."""
    if member.size != entry.size_bytes:
        fact = f"holds '{entry.name}' with {member.size} bytes, its manifest says {entry.size_bytes}"
        raise BundleRefused(source, fact, _AGAIN)
    digest, crc, left = hashlib.sha256(), 0, member.size
    file.seek(member.content_offset)
    while left:
        block = file.read(min(_BLOCK, left))
        if not block:
            raise BundleRefused(source, f"ends inside '{entry.name}'", _AGAIN)
        digest.update(block)
        crc = zlib.crc32(block, crc)
        left -= len(block)
        yield block
    if digest.hexdigest() != entry.sha256 or crc != member.crc:
        raise BundleRefused(source, f"holds a changed '{entry.name}' (its SHA-256 does not match)", _AGAIN)


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
