from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edge_sft.data.sensors import csv_tables
from edge_sft.data.sensors.tables import Table, Wanted, number, read_tables, resolve

WANTED = Wanted(numbers=("a", "b"), times=("t",))


def read(path: Path, content: str | bytes, wanted: Wanted = WANTED) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tables = read_tables(path, path.name, wanted)
    assert not isinstance(tables, str), tables
    return tables[0]


@pytest.mark.parametrize(
    "text",
    [
        "t,a,b\n1,1.5,2\n2,3,4\n",
        "t;a;b\n1;1,5;2\n2;3;4\n",
        "t\ta\tb\n1\t1.5\t2\n2\t3\t4\n",
        "t a b\n1 1.5 2\n2 3 4\n",
        "sep=;\nt;a;b\n1;1,5;2\n2;3;4\n",
        "Logger: DX-2000\nSerial: 17\n\nt;a;b\n1;1,5;2\n2;3;4\n",
        "t,a,b\ns,°C,bar\n1,1.5,2\n2,3,4\n",
        "# t,a,b\n1,1.5,2\n2,3,4\n",
        "t,a,b,\n1,1.5,2,\n2,3,4,\n",
        "\ufefft,a,b\r\n1,1.5,2\r\n2,3,4\r\n",
        '"t","a","b"\n"1","1.5","2"\n"2","3","4"\n',
    ],
)
def test_the_same_table_however_it_is_written(tmp_path: Path, text: str) -> None:
    table = read(tmp_path / "x.csv", text)
    assert table.columns["a"].tolist() == [1.5, 3.0]
    assert table.columns["b"].tolist() == [2.0, 4.0]
    assert table.columns["t"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig"])
def test_encodings_of_windows_loggers(tmp_path: Path, encoding: str) -> None:
    table = read(tmp_path / "x.csv", "t;Temp °C\n1;2,5\n".encode(encoding), Wanted(numbers=("Temp °C",)))
    assert table.columns["Temp °C"].tolist() == [2.5]


def test_gzip_is_looked_through_whatever_the_name(tmp_path: Path) -> None:
    for name in ("x.csv.gz", "x.csv"):
        assert read(tmp_path / name, gzip.compress(b"t,a,b\n1,2,3\n")).columns["a"].tolist() == [2.0]


def test_units_row_is_kept_as_units(tmp_path: Path) -> None:
    assert read(tmp_path / "x.csv", "t,a,b\n,[°C],(bar)\n1,1,2\n").units == {"t": "", "a": "°C", "b": "bar"}


def test_files_without_a_header_have_numbered_columns(tmp_path: Path) -> None:
    table = read(tmp_path / "x.txt", "1 1 5.5\n1 2 6.5\n", Wanted(numbers=("3",), texts=("1",)))
    assert table.header == ("1", "2", "3")
    assert table.columns["3"].tolist() == [5.5, 6.5]


def test_cells_that_are_no_numbers_are_counted_and_shown(tmp_path: Path) -> None:
    table = read(tmp_path / "x.csv", "t,a,b\n1,Bad Input,1\n2,,2\n3,NaN,3\n4,I/O Timeout,4\n5,inf,5\n6,1e3,6\n")
    assert np.isnan(table.columns["a"][:5]).all()
    assert table.columns["a"][5] == 1000.0
    assert table.unread == {"a": (2, "Bad Input")}


def test_rows_of_another_width_are_left_out_and_counted(tmp_path: Path) -> None:
    table = read(tmp_path / "x.csv", "t,a,b\n1,2,3\n2,3\n3,4,5,6\n4,5,6\n5,6,7,,\n6,7")
    assert table.columns["a"].tolist() == [2.0, 5.0, 6.0]
    assert table.broken == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n \n", "nothing but empty lines"),
        (b"\0" * 300, "zero bytes"),
        (gzip.compress(b"t,a,b\n" + b"1,2,3\n" * 9000, mtime=0)[:-40], "truncated"),
    ],
)
def test_what_is_no_table_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    result = read_tables(tmp_path / "x.csv", "x.csv", WANTED)
    assert isinstance(result, str)
    assert words in result


def test_columns_may_differ_from_file_to_file() -> None:
    assert resolve("X*_DE_time", ["X097_DE_time", "X097_FE_time"]) == "X097_DE_time"
    assert resolve("X*_time", ["X097_DE_time", "X097_FE_time"]) is None
    assert resolve("a[1]", ["a[1]", "a1"]) == "a[1]"


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1,5", 1.5), ("1.234,5", 1234.5), ("1,234.5", 1234.5), ("-0,3", -0.3), ("ON", 1.0), ("False", 0.0), ("2e3", 2e3)],
)
def test_numbers_of_any_country(cell: str, value: float) -> None:
    assert number(cell) == value


def test_many_rows_are_read_in_pieces(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i / 2},x\n" for i in range(60_001))
    table = read(tmp_path / "x.csv", "t,a,b\n" + rows)
    assert table.rows == 60_001
    assert table.columns["a"][-1] == 30_000.0
    assert table.unread["b"] == (60_001, "x")


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1,012.5", "998", "1,013"], [1012.5, 998, 1013]),
        (["1.012,5", "998", "1.013"], [1012.5, 998, 1013]),
        (["1,012", "998", "1,013"], [1012, 998, 1013]),
        (["5,846", "6,001", "n/a"], [5.846, 6.001, np.nan]),
        (["5,8", "1.013"], [5.8, 1013]),
        (["0,846", "1.013.500"], [0.846, 1013500]),
        (["12345,678", "1.013"], [12345.678, 1013]),
        (["5,8", "3.5", "1,234.5", "1.234,5"], [5.8, 3.5, 1234.5, 1234.5]),
        (["-1.234,5", "-1.234"], [-1234.5, -1234]),
        (["1,5E3", "2,0E-1"], [1500, 0.2]),
    ],
)
def test_a_column_tells_what_its_comma_means(tmp_path: Path, cells: list[str], numbers: list[float]) -> None:
    rows = "".join(f"{k};{cell}\n" for k, cell in enumerate(cells))
    table = read(tmp_path / "x.csv", f"t;a\n{rows}", Wanted(numbers=("a",), times=("t",)))
    np.testing.assert_array_equal(table.columns["a"], numbers)


def test_a_long_file_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_tables, "_CHUNK", 10)
    path = tmp_path / "x.csv"
    path.write_text("t,a,b\n" + "".join(f"{i},{i},2\n" for i in range(35)))
    told: list[int] = []
    tables = read_tables(path, "x.csv", WANTED, told.append)
    assert told == [10, 20, 30, 35]
    assert not isinstance(tables, str)
    assert tables[0].columns["a"].tolist() == list(range(35))
