from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.data.sensors.tables import Wanted, read_tables
from edge_sft.errors import DeviceError

Opened = Callable[..., SensorDataset]
RNG = np.random.default_rng(0)


def test_npz_of_recordings(tmp_path: Path, opened: Opened) -> None:
    arrays = {
        f"{rpm}_{fault}_{size}": RNG.normal(size=500) for rpm in (1730, 1797) for fault in "AB" for size in (7, 14, 21)
    }
    np.savez(tmp_path / "v.npz", **arrays)
    dataset = opened(
        tmp_path / "v.npz",
        data="group = 'file:/\\d+_(.+)$'\nlabel = 'file:_([AB])_'",
        task='kind = "classification"\nlabels = ["A", "B"]',
        channels=["name = 'de'\ncolumn = '1'"],
    )
    assert len(dataset.runs) == 12
    assert {run.group for run in dataset.runs} == {f"{f}_{s}" for f in "AB" for s in (7, 14, 21)}
    for run in dataset.runs:
        assert run.labels is not None
        assert set(run.labels) == {"AB".index(run.group[0])}
    sides = {run.group: run.split for run in dataset.runs}
    assert all(sides[run.group] == run.split for run in dataset.runs)


def test_npz_of_columns_with_a_single_number_for_all_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", X097_DE_time=np.arange(5.0), X097RPM=np.array([[1796]]))
    tables = read_tables(tmp_path / "v.npz", "v.npz", Wanted(numbers=("X*_DE_time", "X*RPM")))
    assert not isinstance(tables, str)
    assert tables[0].columns["X*RPM"].tolist() == [1796.0] * 5


def test_mat_files_and_their_column_vectors(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    io.savemat(tmp_path / "v.mat", {"X097_DE_time": np.arange(6.0)[:, None], "X097RPM": 1796, "note": "shop 3"})
    tables = read_tables(tmp_path / "v.mat", "v.mat", Wanted(numbers=("X*_DE_time", "X*RPM")))
    assert not isinstance(tables, str)
    assert tables[0].columns["X*_DE_time"].tolist() == list(range(6))
    assert tables[0].rows == 6


@pytest.mark.parametrize(
    ("name", "content"), [("v.mat", b"MATLAB 5.0" * 30), ("v.npz", b"PK\3\4 cut"), ("v.npy", b"\x93NUMPY")]
)
def test_damaged_files_say_so(tmp_path: Path, name: str, content: bytes) -> None:
    if name == "v.mat":
        pytest.importorskip("scipy")
    (tmp_path / name).write_bytes(content)
    result = read_tables(tmp_path / name, name, Wanted(numbers=("a",)))
    assert isinstance(result, str)
    assert "readable" in result or "cannot be read" in result


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "no readable NPY" in str(read_tables(tmp_path / "v.npy", "v.npy", Wanted(numbers=("a",))))


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.arange(5.0), b=np.arange(6.0))
    result = read_tables(tmp_path / "v.npz", "v.npz", Wanted(numbers=("a", "b")))
    assert result == "holds columns of different lengths (5, 6)"


def test_parquet(tmp_path: Path, opened: Opened) -> None:
    import pyarrow
    from pyarrow import parquet

    for machine in range(5):
        stamps = np.datetime64("2024-01-01T00:00:00", "ms") + np.arange(100).astype("timedelta64[s]")
        table = pyarrow.table(
            {"when": stamps, "temp": RNG.normal(60, 1, 100), "rpm": RNG.integers(0, 9000, 100), "site": ["A"] * 100}
        )
        parquet.write_table(table, tmp_path / f"m{machine}.parquet")
    dataset = opened(tmp_path, data='time = "when"', channels=["temp", "rpm"])
    assert len(dataset.runs) == 5
    assert np.diff(dataset.runs[0].time[:3]).tolist() == [1.0, 1.0]
    assert dataset.runs[0].time[0] == 1704067200.0


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "v.parquet").write_bytes(b"PAR1")
    with pytest.raises(DeviceError, match="pip install pyarrow"):
        read_tables(tmp_path / "v.parquet", "v.parquet", Wanted(numbers=("a",)))


def test_parquet_is_read_column_by_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "v.parquet"
    parquet.write_table(pyarrow.table({"a": [1.0, 2.0], "b": ["3", "x"], "c": [1, 2]}), path)
    asked: list[list[str]] = []
    read = parquet.ParquetFile.read
    monkeypatch.setattr(parquet.ParquetFile, "read", lambda self, columns: asked.append(columns) or read(self, columns))
    tables = read_tables(path, "v.parquet", Wanted(numbers=("a", "b")))
    assert not isinstance(tables, str)
    assert asked == [["a"], ["b"]]
    assert tables[0].rows == 2
    assert tables[0].header == ("a", "b", "c")
    assert tables[0].columns["a"].tolist() == [1.0, 2.0]
    assert tables[0].unread == {"b": (1, "x")}
