from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.errors import DataError, UserError

Opened = Callable[..., SensorDataset]
T0 = np.datetime64("2024-03-01T06:00:00")
DATA = 'time = "time"\ngroup = "file:(m[0-9]+)"'
LOG = "[data.events]\npath = '{}'\ntime = 'when'\ngroup = 'machine'\nkind = 'what'\nfailures = ['failure']\n"


def log(plant: Any, rows: list[tuple[str, int, str]]) -> str:
    path = plant.root.parent / "failures.csv"
    lines = [f"{machine};{str(T0 + np.timedelta64(at, 's')).replace('T', ' ')};{what}" for machine, at, what in rows]
    path.write_text("machine;when;what\n" + "\n".join(lines) + "\n")
    return LOG.format(path)


def test_life_is_counted_to_the_failure_also_beyond_the_last_row(plant: Any, opened: Opened) -> None:
    more = log(plant, [(f"m{i}", 299 + 10 * i, "failure") for i in range(5)])
    dataset = opened(plant.fleet(5), data=DATA, task='kind = "regression"', more=more)
    ends = [None if run.rul is None else run.rul[-1] for run in dataset.runs]
    assert ends == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert all(run.failed for run in dataset.runs)


def test_a_run_ends_at_an_event_and_begins_anew(plant: Any, opened: Opened) -> None:
    rows = [(f"m{i}", 299, "failure") for i in range(1, 5)]
    more = log(plant, [("m0", 99, "failure"), ("m0", 199, "overhaul"), *rows])
    dataset = opened(plant.fleet(5), data=DATA, task='kind = "regression"', more=more)
    pieces = {run.id: run for run in dataset.runs if run.group == "m0"}
    assert list(pieces) == ["m0.csv@1", "m0.csv@2", "m0.csv@3"]
    assert [len(run.time) for run in pieces.values()] == [100, 100, 100]
    assert [run.failed for run in pieces.values()] == [True, False, False]
    assert pieces["m0.csv@1"].rul is not None
    assert pieces["m0.csv@2"].rul is None
    assert len({run.split for run in pieces.values()}) == 1


def test_rows_before_a_failure_are_labelled_and_those_nobody_knows_are_not(plant: Any, opened: Opened) -> None:
    more = log(plant, [(f"m{i}", 299, "failure") for i in range(4)]) + "horizon = 50\n"
    dataset = opened(plant.fleet(5), data=DATA, more=more)
    failed, silent = dataset.runs[0].labels, dataset.runs[4].labels
    assert failed is not None
    assert silent is not None
    assert np.bincount(failed).tolist() == [249, 51]
    assert [int((silent == label).sum()) for label in (-1, 0)] == [51, 249]


def test_kinds_of_failures_are_labels(plant: Any, opened: Opened) -> None:
    kinds = ["seal", "bearing"] * 3
    more = log(plant, [(f"m{i}", 299, kind) for i, kind in enumerate(kinds)])
    more = more.replace("['failure']", "['seal', 'bearing']") + "horizon = 50\n"
    task = 'kind = "classification"\nlabels = ["fine", "seal", "bearing"]\nok = ["fine"]'
    dataset = opened(plant.fleet(6), data=DATA, task=task, more=more)
    assert [set(run.labels) for run in dataset.runs if run.labels is not None] == [{0, 1}, {0, 2}] * 3
    with pytest.raises(DataError, match="failure of kind 'bearing', which is none of the labels"):
        opened(plant.root, data=DATA, task=task.replace('"bearing"', '"gear"'), more=more)
    with pytest.raises(UserError, match=r"data\.events\.horizon: is missing"):
        opened(plant.root, data=DATA, task=task, more=more.replace("horizon = 50", ""))


def test_unknown_machines_are_named_with_what_they_may_be(plant: Any, opened: Opened) -> None:
    rows = [(f"m{i}", 299, "failure") for i in range(5)]
    more = log(plant, [*rows, ("M-04", 50, "failure"), ("pump 9", 60, "failure"), ("pump 9", 70, "failure")])
    dataset = opened(plant.fleet(6), data=DATA, task='kind = "regression"', more=more)
    said = {finding.kind: finding for finding in dataset.findings}
    assert "names 2 machines without recordings ('M-04', 'pump 9'); 3 events" in said["unknown-machine"].text
    assert "Did 'M-04' mean 'm4'?" in said["unknown-machine"].remedy
    assert said["no-event"].ids == ("m5",)


def test_a_log_of_other_machines_only_is_refused(plant: Any, opened: Opened) -> None:
    with pytest.raises(DataError, match="names no machine of the recordings: it says 'x1', 'x2'"):
        opened(plant.fleet(5), data=DATA, more=log(plant, [("x1", 5, "failure"), ("x2", 5, "failure")]))


def test_a_log_in_another_clock_is_an_error(plant: Any, opened: Opened) -> None:
    more = log(plant, [(f"m{i}", 86400 * 400, "failure") for i in range(5)])
    dataset = opened(plant.fleet(5), data=DATA, task='kind = "regression"', more=more)
    assert [f.severity for f in dataset.findings if f.kind == "log-times"] == ["error"]


def test_a_log_that_lacks_something_says_what(plant: Any, opened: Opened) -> None:
    more = log(plant, [("m1", 5, "failure")])
    with pytest.raises(DataError, match="has no column 'code'; it has 'machine', 'when', 'what'"):
        opened(plant.fleet(5), data=DATA, more=more.replace("'what'", "'code'"))
    with pytest.raises(DataError, match="has no event of kind 'crash'; it has 'failure'"):
        opened(plant.root, data=DATA, more=more.replace("['failure']", "['crash']"))
    with pytest.raises(DataError, match="does not exist"):
        opened(plant.root, data=DATA, more=more.replace("failures.csv", "none.csv"))


def test_a_corrected_log_is_other_data(plant: Any, opened: Opened) -> None:
    rows = [(f"m{i}", 299, "failure") for i in range(5)]
    before = opened(plant.fleet(5), data=DATA, task='kind = "regression"', more=log(plant, rows)).fingerprint
    rows[0] = ("m0", 310, "failure")
    assert opened(plant.root, data=DATA, task='kind = "regression"', more=log(plant, rows)).fingerprint != before


def test_stretches_of_one_machine_without_a_header(plant: Any, opened: Opened) -> None:
    path = plant.root.parent / "labels.csv"
    path.write_text("2024-03-01T06:01:00.000000,2024-03-01T06:01:29.000000\n2024-03-01T06:03:20,2024-03-01T06:03:21\n")
    more = f"[data.events]\npath = '{path}'\ntime = '1'\nuntil = '2'\ngroup = ''\n"
    dataset = opened(plant.fleet(4), more=more)
    assert dataset.labels == ("normal", "anomaly")
    for run in dataset.runs:
        assert run.labels is not None
        assert np.flatnonzero(run.labels).tolist() == [*range(60, 90), 200, 201]
    with pytest.raises(UserError, match="marks stretches of time"):
        opened(plant.root, task='kind = "regression"', more=more)


def test_a_log_may_call_a_recording_by_its_files_or_its_runs_name(plant: Any, opened: Opened) -> None:
    more = log(plant, [(f"m{i}", 299, "failure") for i in range(5)])
    dataset = opened(plant.fleet(5), task='kind = "regression"', more=more)
    assert all(run.rul is not None for run in dataset.runs)
    for file in plant.root.iterdir():
        file.unlink()
    rows = [[f"m{i}", *row] for i in range(5) for row in plant.rows(i)]
    plant.write("all.csv", rows, columns=["engine", *plant.columns])
    dataset = opened(plant.root, data='time = "time"\nrun = "engine"', task='kind = "regression"', more=more)
    assert [run.group for run in dataset.runs] == [f"all.csv/m{i}" for i in range(5)]
    assert all(run.rul is not None for run in dataset.runs)


def findings(dataset: SensorDataset) -> dict[str, str]:
    return {found.kind: found.text for found in dataset.findings}


def test_failures_outside_the_recordings_and_told_twice_are_named(plant: Any, opened: Opened) -> None:
    rows = [(f"m{i}", 299, "failure") for i in range(5)]
    more = log(plant, [("m0", -86400, "failure"), ("m1", 299, "failure"), ("m2", 86400, "failure"), *rows])
    told = findings(opened(plant.fleet(5), data=DATA, task='kind = "regression"', more=more))
    assert "1 failure lies before the machine's first row" in told["early-event"]
    assert "m0: 2024-02-29 06:00:00, recorded from 2024-03-01 06:00:00 on" in told["early-event"]
    assert "1 failure long after the machine's last row, for example m2" in told["late-event"]
    assert "1 event of the failure log at the same time" in told["event-twice"]


def test_of_a_failure_and_a_repair_in_the_same_minute_the_failure_ends_the_life(plant: Any, opened: Opened) -> None:
    rows = [(f"m{i}", 299, what) for i in range(5) for what in ("overhaul", "failure")]
    dataset = opened(plant.fleet(5), data=DATA, task='kind = "regression"', more=log(plant, rows))
    assert all(run.failed for run in dataset.runs)
