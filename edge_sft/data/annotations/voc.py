"""One XML file a picture, as Pascal VOC has them."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from edge_sft.data.truth import Annotation, Truth
from edge_sft.errors import DataError

_MOST_BYTES = 16 << 20
# The format needs neither, and they can make a parser grow without end.
_FORBIDDEN = (b"<!DOCTYPE", b"<!ENTITY")


def read(path: Path) -> Truth:
    """Read a file's boxes; VOC counts pixels from 1 and includes the last one.

    Raises:
        DataError: Not readable, no XML, or a box that is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror or error})", "Check the file.") from error
    if len(content) > _MOST_BYTES or any(word in content[:4096].upper() for word in _FORBIDDEN):
        raise DataError(str(path), "is no plain annotation file", "Export it again, without a document type.")
    try:
        tree = ElementTree.fromstring(content)  # noqa: S314 (document types, where entities live, were refused above)
    except ElementTree.ParseError as error:
        raise DataError(str(path), f"is no XML ({error})", "Export it again.") from error
    return Truth(tuple(_annotation(part, path) for part in tree.iter("object")))


def _annotation(part: ElementTree.Element, path: Path) -> Annotation:
    name = (part.findtext("name") or "").strip()
    box = part.find("bndbox")
    if not name or box is None:
        raise DataError(str(path), "has an object without a name or a box", "Mend it in the tool that made it.")
    try:
        sides = [float(box.findtext(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError as error:
        raise DataError(str(path), f"has a box that is no number ({error})", "Mend it.") from error
    left, top, right, bottom = sides[0] - 1, sides[1] - 1, sides[2], sides[3]
    if not all(map(math.isfinite, sides)) or left >= right or top >= bottom:
        raise DataError(str(path), f"has a box of '{name}' without an area: {sides}", "Mend or remove it.")
    return Annotation(name, (left, top, right, bottom))
