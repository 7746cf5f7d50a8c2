"""Is a picture file whole? Decoders fill what is missing with grey and say nothing; the container's end marks tell."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable


def damage(content: bytes) -> str | None:
    """Say what is missing from an encoded picture, or None when it looks whole.

    Knows JPEG, PNG, TIFF, BMP, GIF and WebP; anything else is left to the decoder.
    """
    if not content:
        return "is an empty file"
    if not any(content[:4096]):
        return "begins with nothing but zero bytes: the file was never written to the end"
    for magic, check in _CHECKS.items():
        if content.startswith(magic):
            return check(content)
    return None


def _jpeg(content: bytes) -> str | None:
    """Walk the segments up to the first scan, then look for the end-of-image marker behind it.

    The walk matters: a thumbnail in the EXIF segment has an end marker of its own.
    """
    at = 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            return "is damaged: its JPEG segments do not follow one another"
        marker = content[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            whole = content.find(b"\xff\xd9", at) >= 0
            return None if whole else "is truncated: the end-of-image marker of the JPEG is missing"
        if marker in {0x01, *range(0xD0, 0xD8)}:  # markers without a length
            at += 2
            continue
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return "is truncated: it ends before the JPEG's picture begins"


def _png(content: bytes) -> str | None:
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(content):
            break
        if zlib.crc32(content[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            return f"is damaged: the checksum of its PNG chunk {kind.decode('latin-1')} is wrong"
        if kind == b"IEND":
            return None
        at = end
    return "is truncated: the end of the PNG (IEND) is missing"


_STRIPS = {273: 279, 324: 325}  # offsets → byte counts, for strips and for tiles
_TYPE_FORMAT = {3: "H", 4: "I"}


def _tiff(content: bytes) -> str | None:
    order = "<" if content[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        tags = {}
        for index in range(count):
            tag, kind, number = struct.unpack_from(f"{order}HHI", content, start + 2 + 12 * index)
            if tag in (*_STRIPS, *_STRIPS.values()) and kind in _TYPE_FORMAT:
                tags[tag] = _tiff_values(content, order, kind, number, start + 10 + 12 * index)
    except struct.error:
        return "is truncated: the TIFF's directory is missing"
    for offsets, lengths in _STRIPS.items():
        ends = [o + n for o, n in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)]
        if ends and max(ends) > len(content):
            return "is truncated: pixel data of the TIFF is missing"
    return None


def _tiff_values(content: bytes, order: str, kind: int, number: int, at: int) -> tuple[int, ...]:
    letter = _TYPE_FORMAT[kind]
    layout = f"{order}{number}{letter}"
    if number > len(content):
        raise struct.error("more values than bytes")
    if struct.calcsize(layout) > 4:
        (at,) = struct.unpack_from(f"{order}I", content, at)
    values: tuple[int, ...] = struct.unpack_from(layout, content, at)
    return values


def _bmp(content: bytes) -> str | None:
    if len(content) < 30:
        return "is truncated: the BMP's header is missing"
    (pixels,) = struct.unpack_from("<I", content, 10)
    width, height, _planes, bits, packed = struct.unpack_from("<iiHHI", content, 18)
    needed = pixels + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return "is truncated: pixel data of the BMP is missing" if packed in (0, 3) and needed > len(content) else None


def _gif(content: bytes) -> str | None:
    return None if b"\x3b" in content[-16:] else "is truncated: the end of the GIF is missing"


def _riff(content: bytes) -> str | None:
    whole = len(content) >= 8 and int.from_bytes(content[4:8], "little") + 8 <= len(content)
    return None if whole else "is truncated: it is shorter than its RIFF header says"


_CHECKS: dict[bytes, Callable[[bytes], str | None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"BM": _bmp,
    b"GIF8": _gif,
    b"RIFF": _riff,
}
