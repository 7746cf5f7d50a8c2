from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_sft.prediction import Mark, Prediction
from edge_sft.report import predictions_page
from edge_sft.report.predictions_page import Row, worst_first

HOSTILE = '"><script>document.title="pwned"</script><img src=http://198.51.100.1/x.png onerror=alert(1)>'
LONG = "a_very_long_file_name_without_any_place_to_break_it_" * 5 + ".png"
MARK = Mark(score=2.0, left=0, top=0, right=4, bottom=4, length_mm=3.25)


def row(verdict: Any, score: float | None = None, name: str = "x.png", **fields: Any) -> Row:
    told = Prediction(
        stream="s", captured_at="t", decided_at="t", latency_ms=1, verdict=verdict, score=score, name=name, **fields
    )
    return Row(told, None if verdict == "no_decision" else "pictures/00001_x.jpg")


ROWS = [
    row("ok", 0.4, LONG),
    row("nok", 1.5, "日本語.png", marks=(MARK,) * 3, marks_found=250),
    row("nok", 9.0, HOSTILE, marks=(MARK,)),
    row("no_decision", reason="is an empty file"),
    row("uncertain", 0.95),
    row("ok", 0.9),
]


def thumb() -> str:
    content = cv2.imencode(".jpg", np.full((90, 120, 3), 80, np.uint8))[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def page() -> str:
    rows = worst_first(ROWS)
    return predictions_page.render(rows, [thumb() if one.link else None for one in rows], model="screws 1.0.0 (fp32)")


def test_the_worst_come_first() -> None:
    ordered = [(one.prediction.verdict, one.prediction.score) for one in worst_first(ROWS)]
    assert ordered == [
        ("nok", 9.0),
        ("nok", 1.5),
        ("no_decision", None),
        ("uncertain", 0.95),
        ("ok", 0.9),
        ("ok", 0.4),
    ]


def test_it_says_what_was_found() -> None:
    text = page()
    assert "250 marks, longest 3.25 mm" in text
    assert "1 mark, longest 3.25 mm" in text
    assert "is an empty file" in text
    assert "2 not ok, 1 no decision, 1 uncertain, 2 ok" in text


def test_what_is_not_shown_is_said() -> None:
    rows = worst_first(ROWS)
    assert "The worst 2 of 6 are shown" in predictions_page.render(rows, [None, None], model="m")
    assert "The worst" not in page()


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True), (320, False)])
def test_it_stands_alone_and_fits(browser: Any, write: Callable[[str], Path], width: int, dark: bool) -> None:
    written = write(page())
    browser.open(written, width, dark=dark)
    assert browser.requests() == [written.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.title") == "Predictions"
    assert browser.evaluate("document.querySelectorAll('script, iframe, link').length") == 0


def test_a_click_filters(browser: Any, write: Callable[[str], Path]) -> None:
    browser.open(write(page()), 1200)
    seen = "[...document.querySelectorAll('figure')].filter(f => f.getBoundingClientRect().height > 0).length"
    assert browser.evaluate(seen) == 6
    for verdict, count in (("nok", 2), ("ok", 2), ("uncertain", 1), ("no_decision", 1), ("all", 6)):
        browser.evaluate(f"document.querySelector('label[for={verdict}]').click()")
        assert browser.evaluate(seen) == count
