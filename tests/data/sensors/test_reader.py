from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_sft.data.sensors import csv_tables
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.data.sensors.reader import open_sensor_dataset
from edge_sft.errors import DataError, UserError

Opened = Callable[..., SensorDataset]


def test_a_file_a_machine(plant: Any, opened: Opened) -> None:
    dataset = opened(plant.fleet(10))
    assert [run.id for run in dataset.runs] == [f"m{i}.csv" for i in range(10)]
    assert [len(dataset.split(side)) for side in ("train", "val", "test")] == [6, 2, 2]
    run = dataset.runs[0]
    assert run.values.shape == (300, 3)
    assert run.group == run.asset == "m0.csv"
    assert run.labels is None
    assert dataset.labels == ()


def test_nothing_depends_on_where_files_lie_or_on_their_order(plant: Any, opened: Opened, tmp_path: Any) -> None:
    first = opened(plant.fleet(8))
    elsewhere = tmp_path / "elsewhere"
    plant.root.rename(elsewhere)
    assert opened(elsewhere).fingerprint == first.fingerprint


def test_a_changed_value_is_another_data_set(plant: Any, opened: Opened) -> None:
    before = opened(plant.fleet(6)).fingerprint
    rows = plant.rows(0)
    rows[7][1] = "61.000"
    plant.write("m0.csv", rows)
    assert opened(plant.root).fingerprint != before


def test_machines_mixed_in_one_file_come_apart_in_order(plant: Any, opened: Opened) -> None:
    rows = [[*row, f"{i}.0"] for i in range(5) for row in plant.rows(i)]
    mixed = [rows[300 * m + k] for k in range(300) for m in range(5)]
    plant.write("all.csv", mixed, columns=[*plant.columns, "machine"])
    dataset = opened(plant.root, data='time = "time"\ngroup = "machine"')
    assert [run.id for run in dataset.runs] == [f"all.csv/{i}" for i in range(5)]
    assert {run.group for run in dataset.runs} == {"0", "1", "2", "3", "4"}
    assert all((np.diff(run.time) == 1).all() for run in dataset.runs)


def test_rows_are_kept_as_the_files_have_them_whatever_their_unit(plant: Any, opened: Opened) -> None:
    """`preprocess` converts, so that files and the stream go the same way."""
    plain = opened(plant.fleet(4)).runs[0].values[:, 0]
    scaled = opened(plant.root, channels=["name = 'temp'\nscale = 1.8\noffset = 32.0", "pressure"]).runs[0].values[:, 0]
    assert np.array_equal(scaled, plain)


@pytest.mark.parametrize("order", ["time", "channel"])
def test_long_rows_become_wide(plant: Any, opened: Opened, order: str) -> None:
    for machine in range(4):
        wide = plant.rows(machine, 50)
        long = [[row[0], name, row[1 + i]] for row in wide for i, name in enumerate(("temp", "pressure"))]
        if order == "channel":
            long.sort(key=lambda row: row[1])
        plant.write(f"m{machine}.csv", long, columns=["time", "tag", "val"])
    data = 'time = "time"\nlayout = "long"\nchannel_column = "tag"\nvalue_column = "val"'
    run = opened(plant.root, data=data, channels=["temp", "pressure"]).runs[0]
    assert run.values.shape == (50, 2)
    assert np.isfinite(run.values).all()
    assert run.values[3].tolist() == [float(cell) for cell in plant.rows(0, 50)[3][1:3]]


def test_long_rows_keep_a_clock_that_jumps(plant: Any, opened: Opened) -> None:
    for machine in range(4):
        wide = plant.rows(machine, 60)
        wide = [*wide[:30], *plant.rows(machine, 30, start=np.datetime64("2024-02-29T06:00:00"))]
        long = [[row[0], name, row[1 + i]] for row in wide for i, name in enumerate(("temp", "pressure"))]
        plant.write(f"m{machine}.csv", long, columns=["time", "channel", "value"])
    run = opened(plant.root, data='time = "time"\nlayout = "long"', channels=["temp", "pressure"]).runs[0]
    assert (np.diff(run.time) < 0).sum() == 1
    assert len(run.time) == 60


def test_a_file_a_day_makes_one_run(plant: Any, opened: Opened) -> None:
    for machine in range(4):
        for day in (1, 2, 3):
            start = np.datetime64(f"2024-03-0{day}T00:00:00")
            plant.write(f"p{machine}/day{day}.csv", plant.rows(10 * machine + day, 40, start=start))
    dataset = opened(plant.root, data='time = "time"\nrun = "file:^(p[0-9]+)/"')
    assert [run.id for run in dataset.runs] == ["p0", "p1", "p2", "p3"]
    assert all(len(run.time) == 120 and (np.diff(run.time) > 0).all() for run in dataset.runs)


def test_a_file_a_sensor_is_put_side_by_side(plant: Any, opened: Opened) -> None:
    for machine in range(4):
        rows = plant.rows(machine, 50)
        plant.write(f"p{machine}/a.csv", [[r[0], r[1]] for r in rows], columns=["Timestamp", "temp"])
        plant.write(f"p{machine}/b.csv", [[r[0], r[2]] for r in rows[::5]], columns=["Timestamp", "pressure"])
    data = 'time = "Timestamp"\nrun = "file:^(.+)/"'
    dataset = opened(plant.root, data=data, channels=["temp", "pressure"])
    run = dataset.runs[0]
    assert run.id == "p0"
    assert np.isfinite(run.values).sum(axis=0).tolist() == [50, 10]
    assert not [f for f in dataset.findings if f.kind == "missing-channel"]


def test_a_channel_that_no_file_has_is_refused_with_what_it_may_mean(plant: Any, opened: Opened) -> None:
    with pytest.raises(DataError, match=r"no column 'Temp_C' \(did you mean 'temp'\?\)"):
        opened(plant.fleet(4), channels=["Temp_C", "pressure"])


def test_a_missing_and_a_renamed_channel_go_on_without(plant: Any, opened: Opened) -> None:
    plant.fleet(6)
    plant.write("m1.csv", plant.rows(1), columns=["time", "Temperature", "pressure", "rpm"])
    plant.write("m2.csv", [[r[0], r[1], r[2]] for r in plant.rows(2)], columns=["time", "temp", "pressure"])
    dataset = opened(plant.root)
    said = {finding.kind: finding for finding in dataset.findings}
    assert "m1.csv has no column 'temp' but 'Temperature'; was it renamed?" in said["renamed-channel"].text
    assert said["renamed-channel"].ids == ("m1.csv",)
    assert said["missing-channel"].ids == ("m2.csv",)
    assert np.isnan(dataset.runs[1].values[:, 0]).all()
    assert np.isfinite(dataset.runs[1].values[:, 1]).all()


def test_broken_files_are_set_aside_by_name(plant: Any, opened: Opened) -> None:
    plant.fleet(5)
    (plant.root / "empty.csv").write_bytes(b"")
    (plant.root / "other.csv").write_text("name,phone\nAnn,12\nBob,13\n")
    plant.write("notime.csv", [["soon", "1", "2", "3"]] * 3)
    dataset = opened(plant.root)
    assert len(dataset.runs) == 5
    reasons = {left.id: left.reason for left in dataset.quarantined}
    assert reasons["empty.csv"] == "is an empty file"
    assert "no column 'time'" in reasons["other.csv"]
    assert "no readable time" in reasons["notime.csv"]


def test_nothing_usable_is_one_clear_error(plant: Any, opened: Opened) -> None:
    with pytest.raises(DataError, match="has no file of rows"):
        opened(plant.root)
    with pytest.raises(DataError, match="does not exist"):
        opened(plant.root / "nowhere")
    (plant.root / "x.csv").write_text("")
    with pytest.raises(DataError, match=r"no usable rows: x.csv is an empty file"):
        opened(plant.root)
    plant.write("m.csv", plant.rows(0))
    with pytest.raises(UserError, match="no regular expression"):
        opened(plant.root, data='time = "time"\ngroup = "file:("')


def test_labels_of_rows_and_of_files(plant: Any, opened: Opened) -> None:
    for i in range(6):
        rows = [[*row, "1" if 100 <= k < 150 else "0.0" if k else ""] for k, row in enumerate(plant.rows(i))]
        plant.write(f"m{i}.csv", rows, columns=[*plant.columns, "anomaly"])
    dataset = opened(plant.root, data='time = "time"\nlabel = "anomaly"')
    assert dataset.labels == ("normal", "anomaly")
    labels = dataset.runs[0].labels
    assert labels is not None
    assert labels[:2].tolist() == [-1, 0]
    assert labels[100:150].tolist() == [1] * 50
    with pytest.raises(DataError, match="labels that the recipe does not know: '0', '1'; it knows 'a', 'b'"):
        opened(plant.root, data='time = "time"\nlabel = "anomaly"', task='kind = "classification"\nlabels = ["a", "b"]')


def test_runs_count_down_to_their_end(plant: Any, opened: Opened) -> None:
    run = opened(plant.fleet(5), task='kind = "regression"').runs[0]
    assert run.rul is not None
    assert run.rul[[0, -1]].tolist() == [299.0, 0.0]
    assert run.failed


def test_a_fingerprint_follows_labels(plant: Any, opened: Opened) -> None:
    dataset = opened(plant.fleet(5), task='kind = "regression"')
    other = replace(dataset, runs=tuple(replace(run, split="train") for run in dataset.runs))
    assert other.fingerprint != dataset.fingerprint


def test_rows_without_a_time_and_files_without_a_group_are_told(plant: Any, opened: Opened) -> None:
    plant.fleet(6)
    rows = plant.rows(7)
    rows[3][0] = "later"
    plant.write("other.csv", rows)
    dataset = opened(plant.root, data='time = "time"\ngroup = "file:^(m[0-9]+)"')
    said = {finding.kind: finding for finding in dataset.findings}
    assert "want of a readable time: 1 row in 1 file" in said["no-time"].text
    assert said["no-group"].ids == ("other.csv",)
    assert next(run for run in dataset.runs if run.id == "other.csv").group == "other.csv"


def test_a_renamed_file_is_the_same_rows(plant: Any, opened: Opened) -> None:
    before = opened(plant.fleet(6), data='time = "time"\ngroup = "file:([0-9]+)"').fingerprint
    (plant.root / "m3.csv").rename(plant.root / "pump3.csv")
    assert opened(plant.root, data='time = "time"\ngroup = "file:([0-9]+)"').fingerprint == before


def test_a_channel_with_quite_another_name_is_found_by_being_the_only_strange_one(plant: Any, opened: Opened) -> None:
    plant.fleet(6)
    plant.write("m1.csv", plant.rows(1), columns=["time", "AI_07", "pressure", "rpm"])
    (said,) = opened(plant.root).findings
    assert (said.kind, "'AI_07'; was it renamed?" in said.text) == ("renamed-channel", True)


def test_blocks_of_time_share_the_memory_of_their_rows(plant: Any, opened: Opened) -> None:
    plant.write("one.csv", plant.rows(1, 3000))
    dataset = opened(plant.root, data='time = "time"\ngroup = "time:1m"')
    assert len(dataset.runs) == 50
    assert len({id(run.values.base) for run in dataset.runs}) == 1
    assert all(run.values.base is not None for run in dataset.runs)


def test_blocks_of_time_hold_their_rows_in_the_order_of_the_file_when_the_clock_jumps_back(
    plant: Any, opened: Opened
) -> None:
    rows = plant.rows(1, 600)
    plant.write("one.csv", [*rows[:300], *rows[200:]])
    dataset = opened(plant.root, data='time = "time"\ngroup = "time:1m"')
    assert sum(len(run.time) for run in dataset.runs) == 700
    for run in dataset.runs:
        assert np.ptp(run.time) < 60
        assert len(run.time) == 60 + 60 * (run.time[0] % 600 == 240) + 40 * (run.time[0] % 600 == 180)


def test_progress_counts_rows_on_the_way(
    plant: Any, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_tables, "_CHUNK", 100)

    class Notes:
        def __init__(self) -> None:
            self.notes: list[str] = []

        def start(self, title: str, total: int) -> None:
            pass

        def advance(self, units: int = 1, note: str = "") -> None:
            self.notes.append(f"{units} {note}")

    progress = Notes()
    for machine in range(5):
        plant.write(f"m{machine}.csv", plant.rows(machine, 200))
    open_sensor_dataset(make_recipe(plant.root), progress)
    assert progress.notes[:3] == ["0 100 rows", "0 200 rows", "1 200 rows"]
    assert progress.notes[-1] == "1 1,000 rows"
