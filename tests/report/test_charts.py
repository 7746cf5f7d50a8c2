from __future__ import annotations

import pytest

from edge_sft.report.charts import Axis, Frame, interval_bar, nice_axis, parts
from edge_sft.report.wording import amount, between, listed, share, span


@pytest.mark.parametrize("high", [0.0, 1e-7, 0.03, 0.9, 1.0, 7.0, 10.0, 99.0, 100.0, 301.0, 9_700.0, 1e9])
def test_axes_are_round_and_reach_the_highest(high: float) -> None:
    axis = nice_axis(high, lambda value: f"{value:g}")
    assert axis.low == 0
    assert axis.high >= high
    assert 3 <= len(axis.ticks) <= 7


def test_places_stay_inside() -> None:
    frame = Frame(Axis(0, 1, []), Axis(0, 1, []), width=200, height=100)
    assert frame.px(-5) == frame.left
    assert frame.px(5) == frame.width - frame.right
    assert frame.py(0.5) == pytest.approx((frame.top + frame.height - frame.bottom) / 2)
    assert Axis(2, 2, []).place(2, 0, 10) == 0


def test_dots_and_bars() -> None:
    drawn = parts([("escape", 2), ("part", 8)], "ten parts", columns=5)
    assert drawn.count("h0") == 10
    assert 'viewBox="0 0 60 24"' in drawn
    assert "circle" not in interval_bar(None, 0.0, 1.0, "brand")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"), (0.0, "0 %"), (0.0013, "0.13 %"), (0.87, "87 %"),
        (0.992, "99.2 %"), (0.95, "95 %"), (0.99951, "99.95 %"), (1.0, "100 %"),
    ],
)  # fmt: skip
def test_shares(value: float | None, words: str) -> None:
    assert share(value).replace("\u00a0", " ") == words


def test_a_share_short_of_all_is_never_called_all() -> None:
    assert share(0.999999).replace("\u00a0", " ") == "99.99 %"


def test_amounts() -> None:
    assert [amount(value) for value in (0, 0.04, 0.4, 3.24, 13.4, 940.2, 12_345)] == [
        "0", "0.04", "0.4", "3.2", "13", "940", "12,345",
    ]  # fmt: skip
    assert span(0, 12) == "at most 12"
    assert span(1.5, 12) == "between 1.5 and 12"
    assert between(0.85, 0.971).replace("\u00a0", " ") == "85–97 %"
    assert between(0.991, 0.9985).replace("\u00a0", " ") == "99.1–99.9 %"


def test_lists() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([*"abcdefgh"], 3) == "a, b, c and 5 more"
