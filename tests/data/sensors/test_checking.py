from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_sft.data.findings import Finding
from edge_sft.data.sensors.findings import SensorFindings
from edge_sft.errors import DeviceError

Checked = Callable[..., SensorFindings]


def of(findings: SensorFindings, kind: str) -> list[Finding]:
    return [finding for finding in findings.findings if finding.kind == kind]


def test_a_sound_plant_has_nothing_to_mend(plant: Any, checked: Checked) -> None:
    findings = checked(plant.fleet(15))
    assert not findings.of("error")
    assert not findings.of("warning")
    assert [side.groups for side in findings.sides] == [9, 3, 3]
    temp = findings.channels[0]
    assert temp.present == 1.0
    assert 56 < temp.low < temp.median < temp.high < 65
    assert temp.sketch is not None
    assert len(temp.sketch.lows) == 160


def test_a_clock_that_jumps_back_a_day(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    later = plant.rows(3, 150, start=np.datetime64("2024-02-29T06:02:30"))
    plant.write("m3.csv", [*plant.rows(3, 150), *later])
    (said,) = of(checked(plant.root), "clock-jump")
    assert "jumps back 1 time in 1 run, by 1 day in m3.csv after 2024-03-01 06:02:29 (row 150)" in said.text


def test_summer_time_and_an_unset_clock(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    plant.write("m2.csv", [*plant.rows(2, 150), *plant.rows(9, 150, start=np.datetime64("2024-03-01T05:02:30"))])
    plant.write("m4.csv", [*plant.rows(4, 5, start=np.datetime64("1970-01-01T00:00:10")), *plant.rows(4)])
    findings = checked(plant.root)
    assert "did summer time end?" in of(findings, "clock-jump")[0].remedy
    assert "5 rows in 1 run are dated decades from the others" in of(findings, "clock-unset")[0].text


def test_gaps_and_a_wrong_period(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    rows = plant.rows(1, 900)
    plant.write("m1.csv", [*rows[:100], *rows[700:]])
    findings = checked(plant.root, more="[window]\nperiod_s = 0.05\n")
    assert "1 gap longer than ten steps" in of(findings, "gap")[0].text
    assert "the longest 10 minutes in m1.csv after 2024-03-01 06:01:39" in of(findings, "gap")[0].text
    (period,) = of(findings, "period")
    assert (period.severity, period.remedy[:25]) == ("error", "Set window.period_s = 1 (")


def test_one_file_in_another_unit_of_time(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = [[str(k * (1000 if i == 2 else 1)), *row[1:]] for k, row in enumerate(plant.rows(i))]
        plant.write(f"m{i}.csv", rows)
    assert "m2.csv has 1000" in of(checked(plant.root), "period")[0].text


@pytest.mark.parametrize(
    ("column", "convert", "words"),
    [
        (1, lambda v: v * 1.8 + 32, "°F instead of °C"),
        (1, lambda v: v + 273.15, "K instead of °C"),
        (2, lambda v: v * 100, "kPa instead of bar"),
        (2, lambda v: v * 14.5038, "psi instead of bar"),
        (2, lambda v: v * 1000, "1,000 times"),
        (3, lambda v: v / 60, "per second instead of per minute"),
        (3, lambda v: v / 10, "a tenth"),
    ],
)
def test_unit_mistakes_between_machines(
    plant: Any, checked: Checked, column: int, convert: Callable[[float], float], words: str
) -> None:
    plant.fleet(8)
    rows = plant.rows(5)
    for row in rows:
        row[column] = f"{convert(float(row[column])):.5g}"
    plant.write("m5.csv", rows)
    (said,) = of(checked(plant.root), "unit")
    assert words in said.text
    assert "'m5.csv'" in said.text
    assert said.severity == "error"


def test_machines_that_merely_differ_are_no_unit_mistake(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    rows = plant.rows(5)
    for row in rows:
        row[2] = f"{float(row[2]) * 1.6:.4f}"
        row[3] = f"{float(row[3]) * 0.5:.4f}"
    plant.write("m5.csv", rows)
    assert not of(checked(plant.root), "unit")


def test_stuck_dead_and_missing_values(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    stuck = plant.rows(1)
    for row in stuck[100:220]:
        row[1] = "61.500"
    plant.write("m1.csv", stuck)
    plant.write("m2.csv", [[a, b, "4.0000", d] for a, b, _, d in plant.rows(2)])
    burst = plant.rows(3)
    for row in burst[50:90]:
        row[3] = "NaN"
    plant.write("m3.csv", burst)
    findings = checked(plant.root)
    (said,) = of(findings, "stuck")
    assert "Channel 'temp' is stuck in 1 run: 120 equal values (61.5) in m1.csv from 2024-03-01 06:01:40" in said.text
    (dead,) = of(findings, "dead")
    assert "Channel 'pressure' never changes on 1 machine ('m2.csv')" in dead.text
    (nothing,) = of(findings, "nothing")
    assert "40 rows (13 %) of 1 run" in nothing.text
    assert "stuck" in findings.channels[0].words


def test_a_machine_that_stands_still_is_not_stuck(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = plant.rows(i)
        plant.write(
            f"m{i}.csv", [[row[0], "20.0", "0.0", "0.0"] if 100 < k < 180 else row for k, row in enumerate(rows)]
        )
    assert not of(checked(plant.root), "stuck")


def test_error_codes_limits_and_twins(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = [[*row, row[2]] for row in plant.rows(i)]
        rows[7][1] = rows[8][1] = "-9999"
        plant.write(f"m{i}.csv", rows, columns=[*plant.columns, "p2"])
    channels = ["temp", "name = 'pressure'\nhigh = 5.0\nunit = 'bar'", "rpm", "p2"]
    findings = checked(plant.root, channels=channels)
    (code,) = of(findings, "code")
    assert "Channel 'temp' is exactly -9999 16 times" in code.text
    assert code.remedy.startswith("Set low for the channel")
    assert "outside -inf to 5 bar" in of(findings, "outside")[0].text
    assert "'pressure' and 'p2' are equal in every row" in of(findings, "twin")[0].text


def test_text_cells_and_cut_rows(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    rows = plant.rows(2)
    rows[5][1] = "Bad Input"
    rows[-1] = rows[-1][:2]
    plant.write("m2.csv", rows)
    findings = checked(plant.root)
    assert "1 cell in 1 file, for example 'Bad Input' in m2.csv" in of(findings, "no-number")[0].text
    assert of(findings, "broken-rows")[0].ids == ("m2.csv",)


def test_labels_that_only_one_machine_has(plant: Any, checked: Checked) -> None:
    for name in ("a1", "a2", "a3", "b1", "b2", "b3", "b4", "b5"):
        plant.write(f"{name}.csv", plant.rows(int(name[1]) + ord(name[0])))
    task = 'kind = "classification"\nlabels = ["a", "b"]\nok = ["b"]'
    findings = checked(plant.root, data='time = "time"\nlabel = "file:^([a-z])"', task=task)
    assert "'a' comes from 3 groups only" in of(findings, "confounded")[0].text
    assert [row.label for row in findings.labels] == ["a", "b"]
    assert sum(findings.labels[0].rows.values()) == 900


def test_lives_in_another_unit_than_the_cap(plant: Any, checked: Checked) -> None:
    findings = checked(plant.fleet(8, step=86400), task='kind = "regression"\ncap = 125.0')
    assert any("dates count seconds" in finding.remedy for finding in of(findings, "life"))


def test_a_rul_column_that_rises(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = [[*row, str(k % 50)] for k, row in enumerate(plant.rows(i))]
        plant.write(f"m{i}.csv", rows, columns=[*plant.columns, "RUL"])
    findings = checked(plant.root, data='time = "time"\nrul = "RUL"', task='kind = "regression"')
    assert any(f.severity == "error" and "rises within 8 runs" in f.text for f in of(findings, "life"))


def test_a_valve_that_opens_is_no_temperature(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = plant.rows(i)
        for row in rows:
            row[1] = f"{(75.2 if i == 3 else 24.7) + float(row[1]) / 60:.3f}"
        plant.write(f"m{i}.csv", rows, columns=["time", "valve", "pressure", "rpm"])
    assert not of(checked(plant.root, channels=["valve", "pressure", "rpm"]), "unit")


def test_a_logger_that_froze_altogether_is_no_stuck_sensor(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    rows = plant.rows(2)
    frozen = [[row[0], *rows[100][1:]] for row in rows[100:250]]
    frozen[1][3] = rows[101][3]
    frozen[0][3] = rows[99][3]
    plant.write("m2.csv", [*rows[:100], *frozen, *rows[250:]])
    assert not of(checked(plant.root), "stuck")


def test_newest_row_first_is_turned_round(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    plant.write("m3.csv", plant.rows(3)[::-1])
    findings = checked(plant.root)
    assert not of(findings, "clock-jump")
    assert "1 file with the newest row first, for example m3.csv" in of(findings, "newest-first")[0].text


def test_day_numbers_of_a_spreadsheet_are_recognised(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = plant.rows(i)
        plant.write(f"m{i}.csv", [[f"{46027.25 + k / 86400:.8f}", *row[1:]] for k, row in enumerate(rows)])
    (said,) = of(checked(plant.root), "excel-days")
    assert "Times like 46027.25000 look like a spreadsheet's day numbers: 2026-01-05 06:00:00" in said.text
    findings = checked(plant.root, data='time = "time"\ntime_format = "excel"')
    assert not findings.of("error")
    assert findings.channels[0].present == 1.0


def test_values_that_no_sensor_measures(plant: Any, checked: Checked) -> None:
    plant.fleet(8)
    rows = plant.rows(3)
    for k, value in ((10, "1e308"), (20, "-1e39"), (30, "inf")):
        rows[k][2] = value
    plant.write("m3.csv", rows)
    (said,) = of(checked(plant.root), "absurd")
    assert "'pressure' has 2 values as far out as 1e+308, where 5." in said.text
    limits = 'name = "pressure"\nlow = 0\nhigh = 16'
    assert not of(checked(plant.root, channels=("temp", limits, "rpm")), "absurd")


def test_a_file_of_a_type_that_cannot_be_read_here_stops_nobody(
    plant: Any, checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    plant.fleet(8)
    (plant.root / "stray.parquet").write_bytes(b"PAR1")
    (said,) = of(checked(plant.root), "unreadable")
    assert "stray.parquet cannot be read on this machine (Parquet files: need PyArrow" in said.text
    for file in plant.root.glob("*.csv"):
        file.unlink()
    with pytest.raises(DeviceError, match="need PyArrow"):
        checked(plant.root)


def test_a_slow_channel_is_told_how_long_its_value_must_stand(plant: Any, checked: Checked) -> None:
    for i in range(8):
        rows = plant.rows(i)
        plant.write(f"m{i}.csv", [[a, b, "" if k % 10 else c, d] for k, (a, b, c, d) in enumerate(rows)])
    (said,) = of(checked(plant.root), "nothing")
    assert said.remedy.startswith("It speaks every 10 seconds: set window.hold_s = 15 (it is 0)")
    (said,) = of(checked(plant.root, more="[window]\nhold_s = 15"), "nothing")
    assert "hold_s =" not in said.remedy
