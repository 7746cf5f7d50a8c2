from __future__ import annotations

import numpy as np
import pytest

from edge_sft.data.sensors.times import moment, parse

NOON = 1583748873.0  # 2020-03-09 10:14:33 UTC


@pytest.mark.parametrize(
    "cell",
    [
        "2020-03-09 10:14:33",
        "2020-03-09T10:14:33Z",
        "2020-03-09T10:14:33.000Z",
        "2020-03-09 11:14:33+01:00",
        "2020-03-09T05:14:33-0500",
        "2020-03-09 10:14:33 UTC",
        "09.03.2020 10:14:33",
        "9.3.2020 10:14:33,000",
        "2020/03/09 10:14:33",
        "1583748873",
        "1583748873000",
        "1583748873000000",
    ],
)
def test_one_moment_however_it_is_written(cell: str) -> None:
    assert moment(cell) == NOON


def test_day_and_month_are_told_by_dates_that_can_be_only_one() -> None:
    assert parse(np.array(["03/09/2020 10:14:33", "03/25/2020 10:14:33"], dtype=object))[0] == NOON
    assert parse(np.array(["09/03/2020 10:14:33", "25/03/2020 10:14:33"], dtype=object))[0] == NOON


def test_day_and_month_are_else_told_by_which_makes_time_run_on() -> None:
    rising = [f"03/{day:02d}/2020 10:14:33" for day in range(1, 12)]
    steps = np.diff(parse(np.array(rising, dtype=object)))
    assert (steps == 86400).all()


def test_half_days() -> None:
    cells = np.array(["3/13/2020 12:05 AM", "3/13/2020 1:05 PM"], dtype=object)
    assert np.diff(parse(cells)).tolist() == [13 * 3600.0]


def test_numbers_keep_their_unit() -> None:
    assert parse(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0, 3.0]
    assert parse(np.array([1000.0, 2000.0]), "milliseconds").tolist() == [1.0, 2.0]
    assert parse(np.array([0.0, 1.0]), "index", 0.25).tolist() == [0.0, 0.25]


def test_what_is_no_time_is_nan_and_the_rest_is_read() -> None:
    cells = np.array(["2020-03-09 10:14:33", "", "yesterday", "31.02.2020 10:00", "2020-03-09 10:14:34"], dtype=object)
    assert np.isnan(parse(cells)).tolist() == [False, True, True, True, False]
    assert np.isnan(parse(np.array([1.0]), "iso")).all()


def test_day_numbers_of_a_spreadsheet() -> None:
    days = np.array(["43899.42677083", "43900.42677083"], dtype=object)
    np.testing.assert_allclose(parse(days, "excel"), [NOON, NOON + 86400], atol=0.01)


def test_am_and_pm_on_a_single_day_are_american() -> None:
    cells = np.array(["1/5/2026 11:59:00 AM", "1/5/2026 12:01:00 PM"], dtype=object)
    assert parse(cells)[0] == parse(np.array(["2026-01-05 11:59"], dtype=object))[0]
