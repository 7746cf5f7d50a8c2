"""Hundreds of assets with a state each: kept at any row it goes on with the same bits; healths and cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.alarms import Case
from edge_sft.errors import DataError
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Rows
from edge_sft.runtime import keeping
from edge_sft.runtime.asset import Due
from edge_sft.runtime.assets import Change, Fleet, combined, same_windowing
from edge_sft.runtime.news import News
from edge_sft.slots.window_predictor import Captured

RULE = AlarmRule(stale_s=10.0)


def _captured() -> Captured:
    return Captured(datetime.now(timezone.utc), time.monotonic())


def _bits(dues: Sequence[Due]) -> list[tuple[str, float, bytes, bytes]]:
    return [(d.window.asset, d.window.end, d.window.values.tobytes(), d.window.valid.tobytes()) for d in dues]


def _in_order(bits: list[tuple[str, float, bytes, bytes]]) -> list[tuple[str, float, bytes, bytes]]:
    return sorted(bits, key=lambda one: (one[0], one[1]))


def _disordered(rows: Callable[..., Rows], cut: Callable[..., list[Rows]]) -> list[Rows]:
    """Rows of five assets: late ones, holes, a day back, one that falls silent."""
    rng = np.random.default_rng(5)
    pieces: list[Rows] = []
    for name in "abcde":
        one = rows(name, 150)
        one.values[rng.random(one.values.shape) < 0.1] = np.nan
        order = np.argsort(one.time_s + rng.uniform(0, 0.4, 150))
        late = Rows(name, one.time_s[order], one.values[order], one.channels)
        pieces += cut(late, int(rng.integers(5, 150)))
        if name == "c":
            back = rows("c", 50, start=1000.0 - 86_400, seed=1)
            pieces += cut(back, 50)
    keys = rng.uniform(0, 1, len(pieces))
    turn = {name: sorted(k for k, p in zip(keys, pieces, strict=True) if p.asset == name) for name in "abcde"}
    placed = [(turn[p.asset].pop(0), index) for index, p in enumerate(pieces)]
    return [pieces[index] for _, index in sorted(placed)]


@pytest.mark.parametrize("late_s", [0.0, 0.5])
def test_kept_at_any_row_it_goes_on_with_the_same_bits(
    tmp_path: Path, rows: Callable[..., Rows], cut: Callable[..., list[Rows]], how: Callable[..., Any], late_s: float
) -> None:
    came = _disordered(rows, cut)
    windowing = how(aggregate="mean", stuck_s=5.0, age=True)

    def fleet() -> Fleet:
        return Fleet(windowing, late_s=late_s, jump_s=60.0)

    whole = fleet()
    want = [bit for one in came for bit in _bits(whole.take([one], _captured(), 0.0))]
    want += _bits(whole.finish())
    assert len(want) > 250
    for at in np.random.default_rng(0).integers(0, len(came), 8):
        first = fleet()
        got = [bit for one in came[:at] for bit in _bits(first.take([one], _captured(), 0.0))]
        got += _bits(first.push())
        keeping.write(tmp_path / "state", *first.state())
        kept = keeping.read(tmp_path / "state")
        assert kept is not None
        assert same_windowing(kept[0], windowing)
        second = fleet()
        second.restore(*kept, stale_s=10.0)
        for part in np.array_split(np.arange(at, len(came)), 7):
            got += _bits(second.take(combined([came[index] for index in part]), _captured(), 0.0))
        got += _bits(second.finish())
        assert _in_order(got) == _in_order(want)
        assert second.view(RULE).late_rows == whole.view(RULE).late_rows


def test_a_damaged_state_is_refused(how: Callable[..., Any], rows: Callable[..., Rows]) -> None:
    fleet = Fleet(how())
    fleet.take([rows("a", 20)], _captured(), 0.0)
    fleet.push()
    header, arrays = fleet.state()
    for spoilt in (
        {name: array for name, array in arrays.items() if "g/cells" not in name},
        {**arrays, "0/b/values": np.zeros((3, 99))},
        {**arrays, "7/g/cells": np.zeros(1)},
    ):
        with pytest.raises(DataError):
            Fleet(how()).restore(header, spoilt, stale_s=1.0)


def test_open_cases_and_offline_outlive_a_restart(how: Callable[..., Any], rows: Callable[..., Rows]) -> None:
    now = time.monotonic()
    first = Fleet(how(), expected=["never"])
    first.take([rows("a", 20), rows("b", 20)], _captured(), now - 100.0)
    first.take([rows("b", 20, start=1002.0)], _captured(), now)
    first["a"].case = Case(number=3, opened_s=1001.0, worst=2.5)
    first.look(RULE, now)
    first.push()
    second = Fleet(how())
    second.restore(*first.state(), stale_s=RULE.stale_s)
    assert second["a"].case == Case(number=3, opened_s=1001.0, worst=2.5)
    second.look(RULE, time.monotonic())
    view = second.view(RULE)
    assert {name: second[name].health for name in ("a", "b", "never")} == {
        "a": "offline",
        "b": "undecided",
        "never": "offline",
    }
    assert view.cases == {"a": {"number": 3, "opened": 1001.0}}
    assert view.counts["online"] == 0


def test_the_age_outlives_a_model_with_other_windows(
    how: Callable[..., Any], rows: Callable[..., Rows], cut: Callable[..., list[Rows]]
) -> None:
    """The raw ring holds the second half only; the old fleet knows since when the machine runs."""
    pieces = cut(rows("a", 600), 60)
    longer = how(age=True, length=30, hop=3)
    old, new, whole = Fleet(how(age=True)), Fleet(longer), Fleet(longer)
    for one in pieces[:40]:
        old.take([one], _captured(), 0.0)
        whole.take([one], _captured(), 0.0)
    for one in pieces[30:40]:
        new.take([one], _captured(), 0.0)
    old.push()
    new.push()
    new.inherit(old, stale_s=10.0)
    got = [due for one in pieces[40:] for due in new.take([one], _captured(), 0.0)]
    want = [due for one in pieces[40:] for due in whole.take([one], _captured(), 0.0)]
    assert len(got) > 50
    ages = {round(due.window.end, 6): due.window.values[:, -1] for due in want}
    shared = [due for due in got if round(due.window.end, 6) in ages]
    for due in shared:
        np.testing.assert_allclose(due.window.values[:, -1], ages[round(due.window.end, 6)], atol=1e-3)
    assert float(got[-1].window.values[-1, -1]) == pytest.approx(float(want[-1].window.values[-1, -1]), abs=0.5)


def test_names_from_the_network_do_not_fill_the_memory(how: Callable[..., Any], rows: Callable[..., Rows]) -> None:
    fleet = Fleet(how(), most=10)
    for number in range(1000):
        fleet.take([rows(f"x{number}", 1)], _captured(), 0.0)
    assert len(fleet) == 10
    news = [change for change in fleet.look(RULE, 0.0) if change.kind == "asset_refused"]
    assert 1 <= len(news) <= 200
    for number in range(3000):
        one = rows("x1", 1)
        fleet.take([Rows("x1", one.time_s, one.values, (f"a{number}", "b", "c"))], _captured(), 0.0)
    assert len(fleet._columns) <= 1000


def test_a_channel_that_brings_no_number_is_told_and_so_is_its_return(
    rows: Callable[..., Rows], cut: Callable[..., list[Rows]], how: Callable[..., Any]
) -> None:
    fleet = Fleet(how(length=20, hold_s=0.0))  # half of its window is a second
    one = rows("pump", 150)
    one.values[50:55, 1] = np.nan  # no news: shorter
    one.values[70:100, 1] = np.nan
    told: list[tuple[str, str]] = []
    for piece in cut(one, 30):
        fleet.take([piece], _captured(), time.monotonic())
        fleet.push()
        told += [(c.kind, c.sentence) for c in fleet.look(RULE, time.monotonic()) if "number" in c.sentence]
    assert [kind for kind, _ in told] == ["channel_mute", "numbers_back"]
    assert told[0][1] == "no number comes for channel 'c1' (empty, or text); decided without"


def test_many_with_the_same_news_get_one_sentence_and_repeats_are_counted() -> None:
    told: list[tuple[str, str]] = []
    now = [0.0]
    news = News(lambda kind, text: told.append((kind, text)), clock=lambda: now[0])
    news.changes([Change(f"p{n:03d}", "asset_offline", "offline") for n in range(300)])
    assert len(told) == 1
    assert told[0][1].startswith("300 assets (p000, p001")
    told.clear()
    for _ in range(50):
        news.changes([Change("p1", "rows_late", "late"), Change("p2", "asset_offline", "offline")])
    assert [kind for kind, _ in told].count("rows_late") == 1
    assert [kind for kind, _ in told].count("asset_offline") == 50
    now[0] = 61.0
    news.changes([Change("p1", "rows_late", "late")])
    assert told[-1][1] == "p1: late (and 49 times more in the last minute)"


def test_rows_are_joined_in_order_of_arrival() -> None:
    def one(asset: str, at: float, *channels: str) -> Rows:
        return Rows(asset, np.array([at]), np.full((1, len(channels)), at), channels)

    came = [one("a", 1, "x"), one("b", 1, "x"), one("a", 2, "x"), one("a", 3, "y"), one("a", 4, "x"), one("b", 2, "x")]
    joined = [(r.asset, r.channels, r.time_s.tolist()) for r in combined(came)]
    assert joined == [("a", ("x",), [1, 2]), ("b", ("x",), [1, 2]), ("a", ("y",), [3]), ("a", ("x",), [4])]
