from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from edge_sft.data.sensors.recordings import machine, named, read_recordings
from edge_sft.errors import DataError, DeviceError
from edge_sft.sensor_recipe import SensorRecipe

Maker = Callable[..., SensorRecipe]


def test_what_cannot_be_used_is_told_and_the_rest_is_read(
    plant: Any, make_recipe: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    plant.fleet(2)
    plant.write("m2.csv", [row[:3] for row in plant.rows(2)], columns=plant.columns[:3])
    plant.write("m3.csv", [["x"]], columns=["y"])
    (plant.root / "m4.csv").touch()
    (plant.root / "m5.parquet").write_bytes(b"PAR1")
    told: list[str] = []
    found = read_recordings(make_recipe(plant.root), [plant.root], told.append)
    assert [machine(part) for part in found] == ["m0.csv", "m1.csv", "m2.csv"]
    assert [named(part) for part in found] == ["", "", ""]
    assert told == [
        "left out: m3.csv has no column 'time'; its columns are 'y'",
        "left out: m4.csv is an empty file",
        (
            "left out: m5.parquet cannot be read on this machine "
            "(Parquet files: need PyArrow. Install it: pip install pyarrow)"
        ),
        "m2.csv has no column for rpm: goes on without",
    ]


def test_nothing_that_can_be_used(plant: Any, make_recipe: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (plant.root / "m4.csv").touch()
    with pytest.raises(DataError, match=r"hold no usable rows: m4\.csv is an empty file"):
        read_recordings(make_recipe(plant.root), [plant.root], lambda line: None)
    (plant.root / "m5.parquet").write_bytes(b"PAR1")
    with pytest.raises(DeviceError, match="need PyArrow"):
        read_recordings(make_recipe(plant.root), [plant.root], lambda line: None)
