"""Public data as users meet it: turbofans, a test bed of pumps, one machine's temperature, vibration recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_sft import strict_toml
from edge_sft.data.sensors.checking import check_sensors
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.data.sensors.drafting import draft_sensor_recipe
from edge_sft.data.sensors.findings import SensorFindings
from edge_sft.data.sensors.reader import open_sensor_dataset
from edge_sft.errors import DataError
from edge_sft.sensor_recipe import SensorRecipe


def drafted(path: Path) -> tuple[SensorRecipe, SensorDataset]:
    recipe = strict_toml.loads(draft_sensor_recipe(path), SensorRecipe, source="draft")
    return recipe, open_sensor_dataset(recipe)


def kinds(findings: SensorFindings) -> set[str]:
    return {finding.kind for finding in findings.findings}


def test_turbofans(shared: Path) -> None:
    recipe, dataset = drafted(shared / "cmapss" / "train_FD001.csv.gz")
    assert recipe.task.kind == "regression"
    assert len(dataset.runs) == 100
    assert sum(len(run.time) for run in dataset.runs) == 20631
    first = next(run for run in dataset.runs if run.id.endswith("/1"))
    assert first.rul is not None
    assert first.rul[[0, -1]].tolist() == [191.0, 0.0]
    findings = check_sensors(recipe, dataset)
    assert not findings.of("error")
    assert [f.text.split("'")[1] for f in findings.findings if f.kind == "dead"] == [
        "s1",
        "s5",
        "s10",
        "s16",
        "s18",
        "s19",
    ]


def test_pump_test_bed(shared: Path) -> None:
    recipe, dataset = drafted(shared / "skab" / "valve1")
    assert recipe.data.label == "anomaly"
    assert dataset.labels == ("normal", "anomaly")
    assert len(dataset.runs) == 16
    assert not check_sensors(recipe, dataset).of("error")


def test_the_published_pump_files_share_rows(shared: Path) -> None:
    """573 rows of other/5.csv lie in anomaly-free.csv too, with the same times: true, and worth being told."""
    with pytest.raises(DataError, match=r"leaks: .*other/5.csv.*anomaly-free"):
        drafted(shared / "skab")


def test_one_machines_temperature(shared: Path) -> None:
    recipe, dataset = drafted(shared / "nab_machine_temperature" / "machine_temperature_system_failure.csv")
    assert recipe.data.group.startswith("time:")
    assert recipe.window.period_s == 300.0
    findings = check_sensors(recipe, dataset)
    assert "clock-jump" in kinds(findings)
    assert np.median([run.time.max() for run in dataset.split("train")]) < min(
        run.time.min() for run in dataset.split("test")
    )


def test_vibration_by_bearing(shared: Path, opened: Callable[..., SensorDataset]) -> None:
    dataset = opened(
        shared / "cwru" / "cwru_48k_load0_DE.npz",
        data="group = 'file:1797_(.+)_DE48'\nlabel = 'file:_(IR|B|OR)'\npattern = '*'",
        task='kind = "classification"\nlabels = ["IR", "B", "OR"]',
        channels=["name = 'de'\ncolumn = '1'"],
    )
    assert len(dataset.runs) == 14
    assert sum(len(run.time) for run in dataset.runs) > 2_000_000
