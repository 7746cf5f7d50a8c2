from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from edge_sft import sensor_recipe, strict_toml
from edge_sft.data.sensors.drafting import draft_sensor_recipe
from edge_sft.data.sensors.reader import open_sensor_dataset
from edge_sft.data.sensors.telling import holds_sensor_data
from edge_sft.errors import DataError
from edge_sft.sensor_recipe import SensorRecipe


def drafted(path: Path) -> SensorRecipe:
    return strict_toml.loads(draft_sensor_recipe(path), SensorRecipe, source="draft")


def test_a_draft_needs_no_edit_and_holds_from_anywhere(plant: Any, tmp_path: Path) -> None:
    plant.fleet(6)
    text = draft_sensor_recipe(plant.root, here=tmp_path)
    (tmp_path / "recipe.toml").write_text(text)
    assert 'path = "plant"' in text
    recipe = sensor_recipe.load(tmp_path / "recipe.toml")
    assert recipe.data.time == "time"
    assert [channel.name for channel in recipe.data.channels] == ["temp", "pressure", "rpm"]
    assert recipe.data.conditions == ("rpm",)
    assert recipe.window.period_s == 1.0
    assert len(open_sensor_dataset(recipe).runs) == 6


def test_every_key_is_written(plant: Any) -> None:
    text = draft_sensor_recipe(plant.fleet(6))

    def walk(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation)
            elif name != "task":
                assert f"{name} = " in text or f"{name}]" in text, name

    walk(SensorRecipe)


def test_one_machine_is_cut_into_blocks(plant: Any) -> None:
    plant.write("pump.csv", plant.rows(0, 2000, step=300))
    recipe = drafted(plant.root / "pump.csv")
    assert recipe.name == "pump"
    assert recipe.data.group == "time:6h"
    assert recipe.window.period_s == 300.0
    assert {run.split for run in open_sensor_dataset(recipe).runs} == {"train", "val", "test"}


def test_units_in_headers_and_decimal_commas(plant: Any) -> None:
    for i in range(5):
        rows = [[cell.replace(".", ",") for cell in row] for row in plant.rows(i)]
        plant.write(f"m{i}.csv", rows, columns=["Zeit", "Temp [°C]", "Druck (bar)", "Drehzahl"], separator=";")
    recipe = drafted(plant.root)
    assert [(c.name, c.column, c.unit) for c in recipe.data.channels] == [
        ("Temp", "Temp [°C]", "°C"),
        ("Druck", "Druck (bar)", "bar"),
        ("Drehzahl", None, ""),
    ]
    assert np.isfinite(open_sensor_dataset(recipe).runs[0].values).all()


def test_labels_long_rows_and_folders(plant: Any, tmp_path: Path) -> None:
    for i in range(6):
        rows = [[*row, "0" if k < 200 else "1"] for k, row in enumerate(plant.rows(i))]
        plant.write(f"m{i}.csv", rows, columns=[*plant.columns, "anomaly"])
    assert drafted(plant.root).task.kind == "anomaly"
    assert drafted(plant.root).data.label == "anomaly"
    plant.root = tmp_path / "long"
    for i in range(4):
        long = [[row[0], name, row[1 + k]] for row in plant.rows(i, 40) for k, name in enumerate(("temp", "flow"))]
        plant.write(f"m{i}.csv", long, columns=["timestamp", "sensor", "value"])
    recipe = drafted(plant.root)
    assert (recipe.data.layout, [c.name for c in recipe.data.channels]) == ("long", ["temp", "flow"])
    assert len(open_sensor_dataset(recipe).runs) == 4
    plant.root = tmp_path / "historian"  # each tag at its own moment, machines mixed: no two rows are a period apart
    tags = [
        (m, name, k * 10 + 3 * m + 5 * (name == "flow")) for k in range(60) for m in (0, 1) for name in ["temp", "flow"]
    ]
    tags.sort(key=lambda tag: tag[2])
    mixed = [[f"{when}", f"press {m}", name, f"{20 + when % 7}"] for m, name, when in tags]
    plant.write("all.csv", mixed, columns=["seconds", "machine", "sensor", "value"])
    window = drafted(plant.root / "all.csv").window
    assert (window.period_s, window.hold_s) == (10, 20)
    plant.root = tmp_path / "folders"
    for i in range(4):
        plant.write(f"normal/{i}.csv", plant.rows(i))
        plant.write(f"imbalance/{i}.csv", plant.rows(10 + i))
    recipe = drafted(plant.root)
    assert recipe.task.kind == "classification"
    assert recipe.task.labels == ("normal", "imbalance")
    assert len(open_sensor_dataset(recipe).runs) == 8


def test_lookout_layouts(plant: Any, tmp_path: Path) -> None:
    """A folder a component, with one file of all its sensors, or a file a sensor."""
    for i in range(4):
        plant.write(f"pump{i}/data.csv", plant.rows(i), columns=["Timestamp", "s1", "s2", "s3"])
    recipe = drafted(plant.root)
    assert recipe.data.time == "Timestamp"
    assert len(open_sensor_dataset(recipe).runs) == 4
    plant.root = tmp_path / "each"
    for i in range(4):
        rows = plant.rows(i)
        for k, name in enumerate(("s1", "s2", "s3")):
            plant.write(f"pump{i}/{name}.csv", [[r[0], r[1 + k]] for r in rows], columns=["Timestamp", name])
    recipe = drafted(plant.root)
    dataset = open_sensor_dataset(recipe)
    assert [run.id for run in dataset.runs] == ["pump0", "pump1", "pump2", "pump3"]
    assert all(np.isfinite(run.values).all() for run in dataset.runs)


def test_runs_to_failure_and_a_failure_log(plant: Any, tmp_path: Path) -> None:
    rows = [[str(u), str(k + 1), *row[1:]] for u in range(6) for k, row in enumerate(plant.rows(u, 60))]
    plant.write("fleet.csv", rows, columns=["unit", "cycle", "temp", "pressure", "rpm"])
    recipe = drafted(plant.root / "fleet.csv")
    assert (recipe.task.kind, recipe.data.run, recipe.data.time) == ("regression", "unit", "cycle")
    plant.root = tmp_path / "log"
    for i in range(5):
        plant.write(f"m{i}.csv", [[f"m{i}", *row] for row in plant.rows(i)], columns=["machine", *plant.columns])
    log = [[f"m{i}", "2024-03-01 06:04:59", "failure"] for i in range(5)]
    plant.write("failures.csv", log, columns=["machine", "time", "event"])
    recipe = drafted(plant.root)
    assert recipe.data.events is not None
    assert recipe.data.events.kind == "event"
    assert recipe.data.group == "machine"
    dataset = open_sensor_dataset(recipe)
    assert len(dataset.runs) == 5
    assert all(run.rul is not None and run.rul[-1] == 0 for run in dataset.runs)


def test_pictures_are_told_from_rows(plant: Any, tmp_path: Path) -> None:
    assert holds_sensor_data(plant.fleet(2))
    assert holds_sensor_data(plant.root / "m0.csv")
    pictures = tmp_path / "pictures"
    (pictures / "ok").mkdir(parents=True)
    (pictures / "ok" / "1.png").write_bytes(b"x")
    (pictures / "splits.csv").write_text("path,label\nok/1.png,ok\n")
    assert not holds_sensor_data(pictures)
    assert not holds_sensor_data(pictures / "splits.csv")
    assert not holds_sensor_data(tmp_path / "nowhere")


def test_nothing_to_learn_from(plant: Any) -> None:
    plant.write("names.csv", [["Ann", "x"], ["Bob", "y"]], columns=["name", "team"])
    with pytest.raises(DataError, match="has no column of numbers"):
        draft_sensor_recipe(plant.root)


def test_a_column_renamed_in_one_file_is_no_channel_of_its_own(plant: Any) -> None:
    plant.fleet(6)
    plant.write("m3.csv", plant.rows(3), columns=["time", "Temp_C", "pressure", "rpm"])
    recipe = drafted(plant.root)
    assert [channel.name for channel in recipe.data.channels] == ["temp", "pressure", "rpm"]
    (said,) = [f for f in open_sensor_dataset(recipe).findings if f.kind == "renamed-channel"]
    assert "m3.csv has no column 'temp' but 'Temp_C'" in said.text


def test_long_rows_with_a_cycle_count(plant: Any) -> None:
    rows = [
        [str(unit), str(k), name, row[1 + i]]
        for unit in range(5)
        for k, row in enumerate(plant.rows(unit, 60))
        for i, name in enumerate(("temp", "flow"))
    ]
    plant.write("long.csv", rows, columns=["unit", "cycle", "sensor", "value"])
    dataset = open_sensor_dataset(drafted(plant.root / "long.csv"))
    assert [len(run.time) for run in dataset.runs] == [60] * 5


def test_arrays_are_columns_where_one_is_a_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cycles = np.tile(np.arange(1.0, 51.0), 6)
    np.savez(tmp_path / "fd.npz", unit=np.repeat(np.arange(6.0), 50), cycle=cycles, s1=rng.normal(size=300))
    recipe = drafted(tmp_path / "fd.npz")
    assert (recipe.data.run, recipe.data.time) == ("unit", "cycle")
    assert len(open_sensor_dataset(recipe).runs) == 6


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_one_machine_is_cut_into_about_twenty_blocks_whatever_the_file(tmp_path: Path, kind: str) -> None:
    import gzip

    import pyarrow
    from pyarrow import parquet

    path, time = tmp_path / f"one.{kind}", np.arange(20_000) * 0.5
    temp = np.sin(time / 100)
    text = "time,temp\n" + "".join(f"{t},{v:.4f}\n" for t, v in zip(time, temp, strict=True))
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"time": time, "temp": temp}), path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    assert drafted(path).data.group == "time:500"


def test_a_draft_looks_at_the_first_rows_of_parquet_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    for machine in range(4):
        table = pyarrow.table({"time": np.arange(900.0), "temp": np.arange(900.0) % 7, "site": ["A"] * 900})
        parquet.write_table(table, tmp_path / f"m{machine}.parquet")
    monkeypatch.setattr(parquet.ParquetFile, "read", None)
    recipe = drafted(tmp_path)
    assert recipe.data.time == "time"
    assert [channel.name for channel in recipe.data.channels] == ["temp"]


@pytest.mark.parametrize(("content", "said"), [("", "is an empty file"), ("time,temp\n", "has a header but no rows")])
def test_a_file_without_rows_says_so(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(DataError, match=f"m.csv {said}"):
        draft_sensor_recipe(tmp_path)


def test_parquet_without_rows_says_so(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"time": np.zeros(0), "temp": np.zeros(0)}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m\.parquet has a header but no rows"):
        draft_sensor_recipe(tmp_path)
