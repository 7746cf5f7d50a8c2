"""The zip layout of a bundle: one way to lay out given contents, so that no byte of the file is without meaning.

A general zip reader is lenient (comments, extra fields, gaps, two directories that disagree); everything it
ignores is a place to hide or lose something. Here the reader takes apart the directory for clear messages, then
rebuilds all headers from names, sizes and checksums, and refuses a file whose headers differ in any byte.
Pure: bytes in, values out. docs/bundle.md has the tables.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from edge_sft.errors import BundleRefused

MAX_BUNDLE_BYTES = 2 << 30  # below zip64, and far above any model an edge device runs
MAX_MEMBERS = 64
MAX_DIRECTORY_BYTES = MAX_MEMBERS * (46 + 100)
END_BYTES = 22

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_MADE_BY_UNIX = 3 << 8 | 10  # so that external attributes are read as a mode
_NEEDS = 10  # stored files only
_MIDNIGHT, _FIRST_OF_JANUARY_1980 = 0, 1 << 5 | 1
_REGULAR_FILE = 0o100644 << 16
_SYMLINK, _TYPE_MASK = 0o120000, 0o170000
_REPACKED = "Take the file as its maker wrote it; a bundle cannot be repacked."


@dataclass(frozen=True)
class Member:
    """One stored file of the container and where its content lies. ``offset`` is that of its local header."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def header(self) -> bytes:
        """The local header that must stand right before the content."""
        name = self.name.encode("ascii")
        fixed = (_NEEDS, 0, 0, _MIDNIGHT, _FIRST_OF_JANUARY_1980, self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(b"PK\x03\x04", *fixed) + name

    @property
    def content_offset(self) -> int:
        """Where the content starts."""
        return self.offset + _LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        """Where the next local header, or the directory, starts."""
        return self.content_offset + self.size


def lay_out(contents: list[tuple[str, int, int]]) -> list[Member]:
    """Place (name, size, CRC-32) one after the other from offset 0."""
    members: list[Member] = []
    for name, size, crc in contents:
        members.append(Member(name, size, crc, members[-1].end if members else 0))
    return members


def directory(members: list[Member]) -> bytes:
    """Return what follows the last content: the central directory and its end record, no comment."""
    entries = b"".join(_central_entry(member) for member in members)
    start = members[-1].end if members else 0
    return entries + _END.pack(b"PK\x05\x06", 0, 0, len(members), len(members), len(entries), start, 0)


def directory_span(end_record: bytes, file_size: int, *, source: str) -> tuple[int, int]:
    """Read the last 22 bytes of a file; return offset and size of its central directory.

    Raises:
        BundleRefused: No end record there (truncated, or something appended), or it points elsewhere.
    """
    if len(end_record) != END_BYTES or not end_record.startswith(b"PK\x05\x06"):
        raise BundleRefused(
            source, "does not end as a bundle does: truncated, or something was appended", "Copy again."
        )
    _, disk, first, here, total, size, offset, comment = _END.unpack(end_record)
    if disk or first or comment or here != total or not 0 < total <= MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        raise BundleRefused(source, "has a zip end record that no bundle has", _REPACKED)
    if offset + size + END_BYTES != file_size:
        raise BundleRefused(source, "is truncated, or its directory is not where it must be", "Copy it again.")
    return offset, size


def parse_directory(content: bytes, *, source: str) -> list[Member]:
    """Read the central directory.

    Raises:
        BundleRefused: A member that is compressed, encrypted, a link, twice there, or named as no bundle names
            its files; or any byte that the layout does not put there.
    """
    members: list[Member] = []
    position = 0
    while position < len(content):
        if len(content) - position < _CENTRAL.size or content[position : position + 4] != b"PK\x01\x02":
            raise BundleRefused(source, "has a damaged zip directory", "Copy it again.")
        fields = _CENTRAL.unpack_from(content, position)
        flags, method, crc, packed, size, name_size, extra, comment = fields[3], fields[4], *fields[7:13]
        name = content[position + _CENTRAL.size : position + _CENTRAL.size + name_size].decode("latin-1")
        _check_member(name, flags, method, packed == size, fields[15] >> 16, source)
        if name.casefold() in {member.name.casefold() for member in members}:
            raise BundleRefused(source, f"holds '{name}' twice", "Get the bundle from its maker again.")
        members.append(Member(name, size, crc, fields[16]))
        position += _CENTRAL.size + name_size + extra + comment
    expected = lay_out([(member.name, member.size, member.crc) for member in members])
    if members != expected or b"".join(_central_entry(member) for member in expected) != content:
        raise BundleRefused(source, "is not laid out as a bundle: damaged or repacked", _REPACKED)
    return members


def _check_member(name: str, flags: int, method: int, stored: bool, mode: int, source: str) -> None:
    if not NAME.fullmatch(name):
        fact = f"holds a file named {name!r}: a bundle's names are plain, without folders"
        raise BundleRefused(source, fact, "Do not unpack it; ask where it comes from.")
    if mode & _TYPE_MASK == _SYMLINK:
        raise BundleRefused(source, f"holds the link '{name}'", "Do not unpack it; ask where it comes from.")
    if flags & 1:
        raise BundleRefused(source, f"holds the encrypted file '{name}'", _REPACKED)
    if method != 0 or not stored:
        raise BundleRefused(source, f"holds the compressed file '{name}'; bundles store", _REPACKED)


def _central_entry(member: Member) -> bytes:
    name = member.name.encode("ascii")
    fixed = (_MADE_BY_UNIX, _NEEDS, 0, 0, _MIDNIGHT, _FIRST_OF_JANUARY_1980, member.crc, member.size, member.size)
    return _CENTRAL.pack(b"PK\x01\x02", *fixed, len(name), 0, 0, 0, 0, _REGULAR_FILE, member.offset) + name
