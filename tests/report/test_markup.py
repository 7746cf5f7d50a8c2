from __future__ import annotations

from edge_sft.report.markup import Html, el, join, text


def test_text_is_escaped_wherever_it_lands() -> None:
    evil = "<script>\"'&"
    safe = "&lt;script&gt;&quot;&#x27;&amp;"
    assert el("p", evil, title=evil) == f'<p title="{safe}">{safe}</p>'
    assert join([evil, [evil, None]]) == safe * 2


def test_markup_is_not_escaped_twice() -> None:
    inner = el("b", "a & b")
    assert el("p", inner, " ", 3) == "<p><b>a &amp; b</b> 3</p>"
    assert isinstance(inner, Html)


def test_names_of_attributes() -> None:
    assert el("circle", stroke_width=1.5, class_="x", cx=None) == '<circle stroke-width="1.5" class="x"/>'
    assert el("img", src="a", alt="") == '<img src="a" alt="">'


def test_what_must_not_be_seen_is_replaced() -> None:
    assert text("gpj\u202e.exe\x00\x1b") == "gpj\ufffd.exe\ufffd\ufffd"
    assert text("a\udcffb") == "a?b"  # a file name that is not UTF-8
    assert text("zeile\nzwei\t") == "zeile\nzwei\t"
