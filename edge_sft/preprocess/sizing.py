"""How large a picture becomes when it is decoded, told by its header alone.

A JPEG of 631 bytes may say that it is 30,000 × 30,000 pixels; OpenCV then takes 5 GB and 25 s (measured). So every
picture's header is read here before a decoder sees it, and what cannot be measured is not decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from edge_sft.errors import DataError
from edge_sft.preprocess.jpeg import jpeg_header

# The decoded picture: an 8-bit line-scan camera of 16,384 pixels with 32,768 lines, or 150 megapixels in colour.
LIMIT_BYTES = 512 * 2**20
_SIDE = 2**20  # OpenCV's own limit for height and width


class PictureSize(NamedTuple):
    """What a header promises: pixels, and bytes a pixel takes while it is decoded."""

    height: int
    width: int
    pixel_bytes: int


def require_decodable(content: bytes, *, source: str) -> None:
    """Refuse an encoded picture whose size is unknown or too large; nothing is decoded.

    Raises:
        DataError: No known kind of picture, a damaged header, or more than `LIMIT_BYTES` when decoded.
    """
    size = picture_size(content)
    if size is None:
        raise DataError(source, "is not a readable picture (damaged or unknown format)", "Replace or remove it.")
    decoded = size.height * size.width * size.pixel_bytes
    if decoded > LIMIT_BYTES or max(size.height, size.width) > _SIDE:
        raise DataError(
            source,
            f"says that it is {size.width} × {size.height} pixels ({len(content):,} bytes of file, "
            f"{decoded / 2**20:,.0f} MiB decoded); at most {LIMIT_BYTES // 2**20} MiB and {_SIDE:,} a side are decoded",
            "Cut it into parts or scale it down; if it should be small, the file is damaged or hostile.",
        )


def picture_size(content: bytes) -> PictureSize | None:
    """Read the header of a JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, AVIF, PBM, PGM or PPM; None for all else."""
    for magic, read in _READERS.items():
        if re.match(magic, content, re.DOTALL):
            try:
                size = read(content)
            except (struct.error, ValueError):  # it ends too soon, or a number has too many digits
                return None
            return size if size is not None and size.height > 0 and size.width > 0 else None
    return None


def _jpeg(content: bytes) -> PictureSize | None:
    header = jpeg_header(content)
    return None if header is None else PictureSize(header.height, header.width, header.components)


def _png(content: bytes) -> PictureSize | None:
    if not _chunks_fit(content):
        return None
    width, height, depth, colour = struct.unpack_from(">IIBB", content, 16)
    channels = {0: 1, 2: 3, 3: 3}.get(colour, 4)
    return PictureSize(height, width, channels * (2 if depth == 16 else 1)) if content[12:16] == b"IHDR" else None


def _chunks_fit(content: bytes) -> bool:
    """Tell whether no chunk claims to be longer than the file: OpenCV takes that much memory first (4 GB, measured)."""
    at = 8
    for _ in range(_PNG_CHUNKS):
        if at + 8 > len(content):
            return True
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IEND":
            return True
        at += 12 + length
        if at > len(content):
            return False
    return False


def _bmp(content: bytes) -> PictureSize | None:
    (header,) = struct.unpack_from("<I", content, 14)
    if header == 12:  # OS/2
        width, height, _planes, bits = struct.unpack_from("<HHHH", content, 18)
        return PictureSize(height, width, max(3, bits // 8))
    width, height, _planes, bits = struct.unpack_from("<iiHH", content, 18)
    (used,) = struct.unpack_from("<I", content, 46)
    palette = content[14 + header :][: 4 * (used or 1 << min(bits, 8))]
    grey = bits <= 8 and palette[0::4] == palette[1::4] == palette[2::4]
    return PictureSize(abs(height), abs(width), 1 if grey else max(3, bits // 8))


_PNG_CHUNKS = 1_000_000  # 512 MiB in the usual ones of 8 KiB are 65,536
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_ENTRIES = 4096  # libtiff takes no more in one directory
_BIT_DEPTH, _COMPRESSION, _KIND, _CHANNELS = 258, 259, 262, 277
_GREYS = (0, 1)  # all other kinds of pixel decode to colours, also one number that points into a palette
_LOG_LUV = (34676, 34677)  # decodes to float32, whatever the depth says


def _tiff(content: bytes) -> PictureSize | None:
    """Read the first directory, the only one that is decoded. Tiles may be larger than the picture."""
    order = "<" if content[:2] == b"II" else ">"
    big = 43 in content[2:4]
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
    if count > _TIFF_ENTRIES:
        return None
    at, step, inline = (start + 8, 20, 8) if big else (start + 2, 12, 4)
    tags: dict[int, int] = {}
    for entry in range(at, at + step * count, step):
        tag, kind = struct.unpack_from(order + "HH", content, entry)
        (number,) = struct.unpack_from(order + ("Q" if big else "I"), content, entry + 4)
        if kind in _TIFF_NUMBERS:
            value_at = entry + step - inline
            if struct.calcsize(_TIFF_NUMBERS[kind]) * number > inline:
                (value_at,) = struct.unpack_from(order + ("Q" if big else "I"), content, value_at)
            (value,) = struct.unpack_from(order + _TIFF_NUMBERS[kind], content, value_at)
            tags[tag] = max(value, tags.get(tag, 0))
    channels = max(tags.get(_CHANNELS, 1), 1 if tags.get(_KIND) in _GREYS else 3)
    pixel = channels * (4 if tags.get(_COMPRESSION) in _LOG_LUV else -(-tags.get(_BIT_DEPTH, 1) // 8))
    shapes = [(tags.get(257, 0), tags.get(256, 0)), (tags.get(323, 0), tags.get(322, 0))]
    height, width = max(shapes, key=lambda shape: shape[0] * shape[1])
    return PictureSize(height, width, pixel)


def _webp(content: bytes) -> PictureSize | None:
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        return None
    return PictureSize(height, width, 4)


def _gif(content: bytes) -> PictureSize | None:
    width, height = struct.unpack_from("<HH", content, 6)
    return PictureSize(height, width, 4)


def _jpeg2000(content: bytes) -> PictureSize | None:
    """Read the codestream's SIZ, for that is what is decoded, to four bytes a channel, whatever the boxes say."""
    stream = content if content.startswith(b"\xff\x4f") else _boxes(content).get(b"jp2c", b"")
    right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
    (channels,) = struct.unpack_from(">H", stream, 40)
    return PictureSize(bottom - top, right - left, 4 * channels) if stream[:4] == b"\xff\x4f\xff\x51" else None


def _avif(content: bytes) -> PictureSize | None:
    """Read the largest extent of a still picture (films have a ``moov``); a pixel may have four channels of 16 bits."""
    boxes = _boxes(content)
    meta = boxes.get(b"meta", b"")
    if b"moov" in boxes or len(meta) > 65536:
        return None
    extents = [struct.unpack_from(">II", meta, found.end() + 4) for found in re.finditer(rb"ispe", meta)]
    width, height = max(extents, key=lambda extent: extent[0] * extent[1], default=(0, 0))
    return PictureSize(height, width, 8)


def _boxes(content: bytes) -> dict[bytes, memoryview | bytes]:
    """Return the first box of every kind among a file's outermost ones, without copying them."""
    view, at, found = memoryview(content), 0, dict[bytes, "memoryview | bytes"]()
    for _ in range(64):  # more is no picture
        if at + 16 > len(content):
            break
        size, kind, long = struct.unpack_from(">I4sQ", content, at)
        head = 16 if size == 1 else 8
        size = {0: len(content) - at, 1: long}.get(size, size)
        if size < head:
            break
        found.setdefault(kind, view[at + head : at + size])
        at += size
    return found


_PNM = re.compile(rb"P([1-6])" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)" * 2 + rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)?")


def _pnm(content: bytes) -> PictureSize | None:
    found = _PNM.match(content[:65536])
    if found is None:
        return None
    kind, width, height, largest = (int(number or 0) for number in found.groups())
    deep = kind not in (1, 4) and largest > 255
    return PictureSize(height, width, (3 if kind in (3, 6) else 1) * (2 if deep else 1))


_READERS: dict[bytes, Callable[[bytes], PictureSize | None]] = {
    rb"\xff\xd8": _jpeg,
    rb"\x89PNG\r\n\x1a\n": _png,
    rb"II[*+]\x00|MM\x00[*+]": _tiff,
    rb"BM": _bmp,
    rb"RIFF....WEBP": _webp,
    rb"GIF8": _gif,
    rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51": _jpeg2000,
    rb"....ftyp": _avif,
    rb"P[1-6]": _pnm,
}
