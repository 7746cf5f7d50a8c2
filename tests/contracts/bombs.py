"""Pictures of a few bytes that say they are huge, one of every kind. PNG, BMP and JPEG really decode to gigabytes."""

from __future__ import annotations

import struct
import zlib

SIDE = 30_000


def bombs(side: int = SIDE) -> dict[str, bytes]:
    """Return a bomb by the suffix of its name."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 122), (278, 4, 64)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*tags, (279, 4, 16)])
    small = min(side, 16_383)
    webp = b"VP8L" + struct.pack("<IBI", 40, 0x2F, (small - 1) | (small - 1) << 14) + bytes(35)
    return {
        ".jpg": _jpeg(side),
        ".png": _png(side),
        ".tif": b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4 + 16),
        ".bmp": _bmp(side),
        ".webp": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
        ".gif": b"GIF89a" + struct.pack("<HH", side, side) + bytes(20) + b"\x3b",
        ".jp2": b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, side, side, 0, 0) + bytes(16) + b"\0\3" + bytes(40),
        ".ppm": b"P6\n# a comment\n%d %d\n255\n" % (side, side) + bytes(40),
    }


def _jpeg(side: int) -> bytes:
    import cv2
    import numpy as np

    content = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    frame = content.index(b"\xff\xc0") + 5
    return content[:frame] + struct.pack(">HH", side, side) + content[frame + 4 :]


def _png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _bmp(side: int) -> bytes:
    """Run-length coded: one escape ends the bitmap, and all of it is black."""
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 2, 0, 0, 256, 0)
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + 2, 0, 0, start) + head + palette + b"\0\1"
