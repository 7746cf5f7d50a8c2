"""HTML that is safe by construction: whatever is not already markup is escaped. File names are hostile until then."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Html(str):
    """Finished markup; every other string is text and gets escaped where it is placed."""

    __slots__ = ()


Child = str | float | Html | None | Iterable["Child"]

_VOID = frozenset({"br", "img", "meta", "hr", "input", "line", "rect", "circle", "path", "polyline", "polygon"})
# What must not reach a page even escaped: control and direction-changing characters, which make "gpj.exe" look
# like "exe.jpg".
_UNSEEN = dict.fromkeys(
    [*range(9), *range(11, 32), 127, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFFE, 0xFFFF], "\ufffd"
)


def text(value: object) -> Html:
    """Escape anything for use as text or as an attribute's value."""
    if isinstance(value, Html):
        return value
    visible = str(value).translate(_UNSEEN).encode("utf-8", "replace").decode()
    return Html(html.escape(visible, quote=True))


def el(tag: str, *children: Child, **attributes: object) -> Html:
    """Build an element. Attribute names: ``class_`` → class, ``stroke_width`` → stroke-width; None leaves it out."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_number(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>" if tag in {"br", "img", "meta", "hr", "input"} else f"<{tag}{given}/>")
    return Html(f"<{tag}{given}>{join(children)}</{tag}>")


def join(children: Child) -> Html:
    """Put children one after the other; None is nothing."""
    if children is None:
        return Html("")
    if isinstance(children, (str, int, float)):
        return text(_number(children))
    return Html("".join(join(child) for child in children))


def _number(value: object) -> Html:
    return text(f"{value:.6g}" if isinstance(value, float) else value)
