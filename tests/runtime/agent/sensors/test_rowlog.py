"""The raw ring: what is written is read, whatever breaks it; and the file that holds a state."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.prediction import Rows
from edge_sft.runtime import keeping
from edge_sft.runtime.rowlog import Position, RowLog


@pytest.fixture
def make_log() -> Iterator[Callable[..., RowLog]]:
    """make_log(folder, told=[], **options); closed at the end of the test, not before: killed as it were."""
    made: list[RowLog] = []

    def make(folder: Path, told: list[str] | None = None, **options: Any) -> RowLog:
        fields: dict[str, Any] = {"ring_bytes": 1 << 20, **options}
        made.append(RowLog(folder, tell=lambda kind, _: (told if told is not None else []).append(kind), **fields))
        return made[-1]

    yield make
    for log in made:
        log.close()


def _same(got: list[Rows], want: list[Rows]) -> bool:
    return len(got) == len(want) and all(
        (a.asset, a.channels) == (b.asset, b.channels)
        and np.array_equal(a.time_s, b.time_s)
        and np.array_equal(a.values, b.values, equal_nan=True)
        for a, b in zip(got, want, strict=True)
    )


def _read(log: RowLog, *places: Position | None) -> list[Rows]:
    return [one for kept in log.read(*places) for one in kept.rows]


def test_what_is_written_is_read_from_any_place(
    make_log: Callable[..., RowLog], tmp_path: Path, rows: Callable[..., Rows]
) -> None:
    log = make_log(tmp_path, segment_bytes=2000)
    given = [rows(f"pümp {n}", n % 4 + 1, channels=n % 3 + 1) for n in range(60)]
    given[7].values[0, 0] = np.nan
    ends = [log.append([one], cursor=str(n), received_s=float(n)) for n, one in enumerate(given)]
    assert all(end is not None for end in ends)
    assert len(list(tmp_path.iterdir())) > 3
    assert _same(_read(log), given)
    for cut in (0, 17, 59):
        assert _same(_read(log, ends[cut]), given[cut + 1 :])
        assert _same(_read(log, None, ends[cut]), given[: cut + 1])
    assert [kept.received_s for kept in log.read()] == [float(n) for n in range(60)]


def test_another_process_goes_on_with_marks_and_cursors(
    make_log: Callable[..., RowLog], tmp_path: Path, rows: Callable[..., Rows]
) -> None:
    first = make_log(tmp_path)
    end = first.append([rows("a", 3)], cursor="17", received_s=0.0)
    assert end is not None
    first.mark(end)
    second = make_log(tmp_path)  # the first was killed: never closed
    assert (second.marked, second.cursor) == (end, "17")
    after = second.append([rows("b", 2)], received_s=0.0)
    assert after is not None
    assert after > end
    assert [one.asset for one in _read(second)] == ["a", "b"]
    assert [one.asset for one in _read(second, end)] == ["b"]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_torn_record_ends_its_file_and_nothing_else(
    make_log: Callable[..., RowLog], tmp_path: Path, rows: Callable[..., Rows], damage: str
) -> None:
    first = make_log(tmp_path)
    first.append([rows("a", 3)], received_s=0.0)
    first.append([rows("b", 3)], received_s=0.0)
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-5])
    else:
        content[-5] ^= 1
        path.write_bytes(content)
    second = make_log(tmp_path)
    second.append([rows("c", 3)], received_s=0.0)
    assert [one.asset for one in _read(second)] == ["a", "c"]


def test_only_what_nobody_needs_is_deleted(
    make_log: Callable[..., RowLog], tmp_path: Path, rows: Callable[..., Rows]
) -> None:
    log = make_log(tmp_path, ring_bytes=4000, segment_bytes=1000)
    ends = [log.append([rows("a", 10)], received_s=0.0) for _ in range(50)]
    needed = ends[20]
    assert needed is not None
    log.trim(needed)
    assert _same(_read(log, needed), [rows("a", 10)] * 29)
    last = ends[-1]
    assert last is not None
    log.trim(last)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5000
    assert len(_read(log)) >= 5


def test_a_full_disk_is_told_once_and_outlived(
    make_log: Callable[..., RowLog], tmp_path: Path, rows: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    now = [0.0]
    log = make_log(tmp_path, told, clock=lambda: now[0])
    log.append([rows("a", 3)], received_s=0.0)
    written = RowLog._write

    def full(self: RowLog, content: bytes) -> None:
        assert self._file is not None
        self._file.write(content[:10])  # half a record, as a full disk leaves
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RowLog, "_write", full)
    assert [log.append([rows("lost", 3)], received_s=0.0) for _ in range(5)] == [None] * 5
    monkeypatch.setattr(RowLog, "_write", written)
    assert log.append([rows("lost", 3)], received_s=0.0) is None
    now[0] = 10.0
    assert log.append([rows("b", 3)], received_s=0.0) is not None
    assert told == ["rows_not_kept", "rows_kept_again"]
    assert [one.asset for one in _read(log)] == ["a", "b"]


def test_a_state_is_read_as_it_was_written_and_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert keeping.read(path) is None
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "none": np.zeros((0, 4), np.float32),
        "word": np.array("péter"),
        "one": np.array(7),
    }
    keeping.write(path, {"x": 1}, arrays)
    found = keeping.read(path)
    assert found is not None
    assert found[0] == {"x": 1}
    for name, array in arrays.items():
        assert np.array_equal(found[1][name], array)
        assert found[1][name].dtype == array.dtype
    content = bytearray(path.read_bytes())
    for spoilt in (content[:-3], content[:10], b"", bytes([*content[:-1], content[-1] ^ 1])):
        path.write_bytes(bytes(spoilt))
        with pytest.raises(DataError, match="damaged"):
            keeping.read(path)
