from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.data.sensors.splitting import fingerprints
from edge_sft.errors import DataError, UserError

Opened = Callable[..., SensorDataset]


def test_groups_stay_whole(plant: Any, opened: Opened) -> None:
    for machine in range(6):
        for run in range(3):
            plant.write(f"m{machine}-{run}.csv", plant.rows(10 * machine + run, 60))
    dataset = opened(plant.root, data='time = "time"\ngroup = "file:(m[0-9]+)-"')
    sides: dict[str, set[str]] = {}
    for run in dataset.runs:
        sides.setdefault(run.group, set()).add(run.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "val", "test"}


def test_named_groups_and_patterns(plant: Any, opened: Opened) -> None:
    dataset = opened(plant.fleet(8), more="[data.split]\nval_groups = ['m1.csv']\ntest_groups = ['m[67].csv']\n")
    assert [run.id for run in dataset.split("val")] == ["m1.csv"]
    assert [run.id for run in dataset.split("test")] == ["m6.csv", "m7.csv"]
    assert len(dataset.split("train")) == 5


def test_a_group_that_is_not_there_is_refused(plant: Any, opened: Opened) -> None:
    with pytest.raises(UserError, match=r"names 'm9.csv', which is no group. Did you mean 'm\d.csv'"):
        opened(plant.fleet(4), more="[data.split]\nval_groups = ['m9.csv']\n")


def test_a_group_on_two_sides_is_refused(plant: Any, opened: Opened) -> None:
    with pytest.raises(UserError, match=r"put 'm1.csv' in val and in test"):
        opened(plant.fleet(4), more="[data.split]\nval_groups = ['m1.csv']\ntest_groups = ['m*']\n")


def test_one_machine_on_two_sides_is_refused(plant: Any, opened: Opened) -> None:
    for i in range(8):
        plant.write(f"r{i}.csv", [[*row, f"pump{i % 3}"] for row in plant.rows(i)], columns=[*plant.columns, "pump"])
    with pytest.raises(DataError, match=r"leaks: 3 machines .* would lie on several sides.* data.group = 'pump'"):
        opened(plant.root, data='time = "time"\nasset = "pump"')
    assert opened(plant.root, data='time = "time"\nasset = "pump"\ngroup = "pump"').runs


def test_copied_rows_under_another_name_are_refused(plant: Any, opened: Opened) -> None:
    plant.fleet(6)
    rows = plant.rows(0)
    shifted = [[a[0], *b[1:]] for a, b in zip(plant.rows(99, 180), rows[100:280], strict=True)]
    plant.write("copy.csv", shifted)
    split = "[data.split]\ntest_groups = ['copy.csv']\nval_groups = ['m5.csv']\n"
    with pytest.raises(
        DataError, match=r"leaks: 1e\+02 %|leaks: 100 % of the test rows are also in train.*copy.csv.*m0"
    ):
        opened(plant.root, more=split)
    together = split.replace("'copy.csv'", "'copy.csv', 'm0.csv'")
    assert opened(plant.root, more=together).split("test")


def test_standing_still_is_no_copy(plant: Any, opened: Opened) -> None:
    for i in range(6):
        rows = plant.rows(i)
        plant.write(f"m{i}.csv", [[row[0], "20.0", "0.0", "0.0"] if k < 200 else row for k, row in enumerate(rows)])
    assert len(opened(plant.root).runs) == 6


def test_equal_files_are_kept_on_one_side(plant: Any, opened: Opened) -> None:
    plant.fleet(6)
    for i in range(4):
        plant.write(f"again{i}.csv", plant.rows(0))
    dataset = opened(plant.root)
    assert len({run.split for run in dataset.runs if run.id.startswith("again") or run.id == "m0.csv"}) == 1


def test_too_few_groups_say_what_to_do(plant: Any, opened: Opened) -> None:
    plant.write("one.csv", plant.rows(0))
    with pytest.raises(DataError, match=r"has 1 group \('one.csv'\).*data.group = 'time:7d'"):
        opened(plant.root)
    with pytest.raises(DataError, match="has 1 group"):
        opened(plant.root, task='kind = "regression"')


def test_one_machines_time_is_cut_into_blocks_in_order(plant: Any, opened: Opened) -> None:
    plant.write("one.csv", plant.rows(0, 2000))
    dataset = opened(plant.root, data='time = "time"\ngroup = "time:2m"')
    ends = {side: max(run.time.max() for run in dataset.split(side)) for side in ("train", "val", "test")}
    assert ends["train"] < ends["val"] < ends["test"]
    assert sum(len(run.time) for run in dataset.runs) == 2000
    with pytest.raises(UserError, match="for anomaly detection only"):
        opened(plant.root, data='time = "time"\ngroup = "time:2m"', task='kind = "regression"')
    with pytest.raises(UserError, match="is no span of time"):
        opened(plant.root, data='time = "time"\ngroup = "time:soon"')


def test_a_label_without_a_run_to_train_on_is_refused(plant: Any, opened: Opened) -> None:
    for name in ("a1", "a2", "a3", "b1"):
        plant.write(f"{name}.csv", plant.rows(ord(name[0]) + int(name[1])))
    task = 'kind = "classification"\nlabels = ["a", "b", "c"]'
    with pytest.raises(DataError, match="has no run of 'c' to train on"):
        opened(plant.root, data='time = "time"\nlabel = "file:^([a-z])"', task=task)


def test_fingerprints_do_not_depend_on_where_rows_lie() -> None:
    values = np.random.default_rng(0).normal(size=(400, 3))
    values[50, 1] = np.nan
    assert set(fingerprints(values[120:300]).tolist()) <= set(fingerprints(values).tolist())
    assert len(fingerprints(np.ones((400, 3)))) == 0
    assert len(fingerprints(values[:20])) == 0
