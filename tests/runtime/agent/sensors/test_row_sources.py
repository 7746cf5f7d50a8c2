"""Messages and recordings → rows: all the shapes they come in, and what is refused with the reason."""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DataError, UserError
from edge_sft.prediction import Rows, Sample
from edge_sft.runtime.config import PipelineSection, RowsFromFile, RowsFromMqtt
from edge_sft.runtime.sources import rows_replay
from edge_sft.runtime.sources.protocol import SourceEnded, open_source
from edge_sft.runtime.sources.row_messages import RowReader
from edge_sft.runtime.sources.rowtime import to_seconds

NOW = 1_800_000_000.0


def _reader(**fields: Any) -> RowReader:
    return RowReader(RowsFromMqtt.model_validate({"kind": "mqtt", "topics": ["plant/+/#"], **fields}))


def _read(message: Any, topic: str = "plant/p1/x", **fields: Any) -> list[Rows]:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return _reader(**fields).read(topic, payload, NOW)


def test_a_row_with_its_time_and_every_number_in_it() -> None:
    (one,) = _read({"time": 12.5, "temp": 20, "state": "RUN", "rpm": None, "more": {"x": 1}})
    assert (one.asset, one.channels) == ("p1", ("temp", "rpm"))
    assert one.time_s.tolist() == [12.5]
    assert one.values[0, 0] == 20
    assert math.isnan(one.values[0, 1])


def test_a_field_map_reaches_inside_and_a_renamed_field_is_missing() -> None:
    fields = {"temp": "data.t1", "rpm": "data.n"}
    (one,) = _read({"time": 1, "data": {"t1": 3, "n": "7.5"}}, fields=fields)
    assert (one.channels, one.values.tolist()) == (("temp", "rpm"), [[3.0, 7.5]])
    (one,) = _read({"time": 1, "data": {"t1": 3, "speed": 7.5}}, fields=fields)
    assert (one.channels, one.values.tolist()) == (("temp",), [[3.0]])
    with pytest.raises(DataError, match=r"none of the fields data.t1, data.n"):
        _read({"time": 1, "data": {}}, fields=fields)


def test_a_field_that_began_as_text_is_a_number_as_soon_as_it_is_one() -> None:
    reader = _reader()
    given = ["n/a", 20.5, "n/a"]
    messages = [json.dumps({"time": k, "t": t, "p": 1}).encode() for k, t in enumerate(given)]
    found = [reader.read("plant/p1/x", message, NOW)[0] for message in messages]
    assert [one.channels for one in found] == [("p",), ("t", "p"), ("t", "p")]
    assert math.isnan(found[2].values[0, 0])
    assert found[1].values.tolist() == [[20.5, 1.0]]


def test_blanks_around_a_name_are_none_of_it() -> None:
    assert _read({"time": 1, "who": " P6 ", "x": 1}, asset="who")[0].asset == "P6"
    with pytest.raises(DataError, match="does not name its asset"):
        _read({"time": 1, "who": "  ", "x": 1}, asset="who")


def test_lists_of_rows_of_several_machines_and_columns() -> None:
    found = _read([{"who": "a", "time": 1, "x": 1}, {"who": "b", "time": 2, "x": 2}], asset="who")
    assert [(one.asset, one.channels, one.time_s[0]) for one in found] == [("a", ("x",), 1), ("b", ("x",), 2)]
    (one,) = _read({"time": [1, 2, 3], "x": [1, None, "bad"], "y": [4, 5, 6]})
    assert one.time_s.tolist() == [1, 2, 3]
    assert np.array_equal(one.values, [[1, 4], [math.nan, 5], [math.nan, 6]], equal_nan=True)


def test_one_value_a_message_named_by_the_topic_or_a_field() -> None:
    (one,) = _read(b"23.5", "plant/p1/temp", channel="topic:2", time="")
    assert (one.asset, one.channels, one.values.tolist(), one.time_s.tolist()) == ("p1", ("temp",), [[23.5]], [NOW])
    (one,) = _read({"t": "2026-01-01T00:00:00Z", "n": "rpm", "v": 7}, channel="n", value="v", time="t")
    assert (one.channels, one.values.tolist(), one.time_s.tolist()) == (("rpm",), [[7.0]], [1767225600.0])


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "neither an object nor a list"),
        (b"[1, 2]", "neither an object nor a list"),
        (b"3", "neither an object nor a list"),
        (b'{"time": "soon", "x": 1}', "time that is none"),
        (b'{"time": 1, "x": [1, 2], "y": [1]}', "different lengths"),
        (b'{"time": [1], "x": [1, 2]}', "1 times for 2 rows"),
        (b'{"x": [1, 2]}', "2 rows and no 'time'"),
        (b'{"time": 1}', "none of the fields"),
    ],
)
def test_what_is_no_row_is_refused_with_the_reason(payload: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        _read(payload)


def test_a_topic_without_the_level_names_nobody() -> None:
    with pytest.raises(DataError, match="does not name its asset"):
        _read({"time": 1, "x": 1}, "plant", asset="topic:4")


DIGITS = b"9" * 400  # json makes an int of it that no float holds


def test_numbers_that_no_float_holds_are_missing_values() -> None:
    assert math.isnan(_read(b'{"time": 1, "x": ' + DIGITS + b"}")[0].values[0, 0])
    (one,) = _read(b'{"time": [1, 2], "x": [' + DIGITS + b', 3], "y": [1, 2]}')
    assert np.array_equal(one.values, [[math.nan, 1.0], [3.0, 2.0]], equal_nan=True)
    with pytest.raises(DataError, match="time that is none"):
        _read(b'{"time": ' + DIGITS + b', "x": 1}')


@pytest.mark.parametrize("name", ["\\ud800", "a\\u0000b", "a\\nb", "\\u009b31m", "x" * 201, ""])
def test_names_that_cannot_be_kept_or_shown_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="does not name its asset"):
        _read(f'{{"machine": "{name}", "time": 1, "x": 1}}'.encode(), asset="machine")
    with pytest.raises(DataError, match="does not name its asset or channel"):
        _read(f'{{"tag": "{name}", "time": 1, "x": 1}}'.encode(), channel="tag", value="x")
    (one,) = _read(f'{{"time": 1, "x": 1, "{name[:8]}\\u0001": 2}}'.encode())
    assert one.channels == ("x",)


def test_sets_of_fields_from_the_network_do_not_fill_the_memory() -> None:
    reader = _reader()
    (one,) = reader.read("plant/p1/x", json.dumps({f"c{n}": n for n in range(200_000)}).encode(), NOW)
    assert len(one.channels) == 512
    for number in range(3000):
        reader.read("plant/p1/x", json.dumps({f"c{number}": 1}).encode(), NOW)
    assert sum(map(len, reader._sets)) <= 1000


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01 01:00:00.5+01:00", 1767225600.5),
        ("2026-01-01T00:00:00.1234567", 1767225600.123456),
        (1767225600, 1767225600.0),
        (1767225600500, 1767225600.5),
        ("1767225600500000", 1767225600.5),
        (1767225600500000000, 1767225600.5),
        (125, 125.0),
        ("no", math.nan),
        (None, math.nan),
    ],
)
def test_times_as_they_are_written(written: Any, seconds: float) -> None:
    assert to_seconds(written, "auto") == pytest.approx(seconds, nan_ok=True, abs=1e-6)


def test_a_message_delivered_again_counts_once_and_stays_the_brokers_until_it_is_kept() -> None:
    from edge_sft.runtime.delivery import Delivery
    from edge_sft.runtime.mqtt import MqttSettings
    from edge_sft.runtime.sources.rows_mqtt import RowsMqtt

    config = RowsFromMqtt.model_validate({"kind": "mqtt", "topics": ["plant/#"]})
    source = RowsMqtt(config, MqttSettings(port=1), "test", "main")
    accepted: list[str] = []

    def come(payload: str, *, again: bool = False) -> None:
        source._take(Delivery("plant/p1", payload.encode(), lambda: accepted.append(payload), again))

    try:
        two = '[{"time": 1, "x": 1}, {"time": 2, "x": 2}]'
        come(two)
        come('{"x": 5}')
        come('{"x": 5}')  # the same value twice, each when it came
        come(two, again=True)
        come("{")
        samples = [source.read(0.0) for _ in range(5)]
        assert [one.fault is None for one in samples if one is not None] == [True, True, True, True, False]
        assert source.read(0.0) is None
        assert accepted == [two], "of the repetition, at once"
        source.settle([one for one in samples[:1] if one is not None])
        assert accepted == [two]
        source.settle([one for one in samples[1:] if one is not None])
        assert accepted == [two, two, '{"x": 5}', '{"x": 5}', "{"]
    finally:
        source.close()
        source.release()


def test_a_message_that_breaks_the_reader_stops_none_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_sft.runtime.delivery import Delivery
    from edge_sft.runtime.mqtt import MqttSettings
    from edge_sft.runtime.sources.rows_mqtt import RowsMqtt

    source = RowsMqtt(RowsFromMqtt.model_validate({"kind": "mqtt", "topics": ["p/#"]}), MqttSettings(port=1), "t", "m")
    understood = source._reader.read

    def read(topic: str, payload: bytes, now_s: float) -> list[Rows]:
        if payload == b"poison":
            raise RecursionError("out of the blue")
        return understood(topic, payload, now_s)

    monkeypatch.setattr(source._reader, "read", read)
    accepted: list[bytes] = []
    try:
        for payload in (b"poison", b'{"x": 1}'):
            source._take(Delivery("p/p1", payload, lambda payload=payload: accepted.append(payload), False))  # type: ignore[misc]
        samples = [one for one in (source.read(0.0), source.read(0.0)) if one is not None]
        assert [one.fault for one in samples] == ["message on 'p/p1': could not be read (RecursionError)", None]
        source.settle(samples)
        assert accepted == [b"poison", b'{"x": 1}'], "nor does the broker send it for ever"
    finally:
        source.close()
        source.release()


# --- recordings ----------------------------------------------------------------------------------------------


def _csv(path: Path, one: Rows, header: str | None = None) -> Path:
    lines = [header or "time," + ",".join(one.channels)]
    lines += [",".join(map(repr, [t, *row])) for t, row in zip(one.time_s.tolist(), one.values.tolist(), strict=True)]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _open(tmp_path: Path, path: Path, **fields: Any) -> Any:
    given = {"kind": "replay", "path": path, "time": "time", "speed": 0, "time_format": "number", **fields}
    return open_source(RowsFromFile.model_validate(given), stream="main", state=tmp_path / "state")


def _all(source: Any, *, settle: bool = True) -> list[Rows]:
    found: list[Rows] = []
    while True:
        try:
            one: Sample | None = source.read(0.1)
        except SourceEnded:
            return found
        if one is not None:
            assert isinstance(one.data, Rows)
            found.append(one.data)
            if settle:
                source.settle([one])


def _joined(found: list[Rows], asset: str) -> tuple[Any, Any]:
    mine = [one for one in found if one.asset == asset]
    return np.concatenate([one.time_s for one in mine]), np.concatenate([one.values for one in mine])


def test_files_are_played_at_once_and_bit_for_bit(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    recordings = {name: rows(name, 70) for name in ("a", "b")}
    _csv(data / "a.csv", recordings["a"])
    _csv(data / "b.csv.gz", recordings["b"])
    found = _all(_open(tmp_path, data, rows=8))
    assert {found[0].asset, found[1].asset} == {"a", "b"}
    for name, one in recordings.items():
        times, values = _joined(found, name)
        assert np.array_equal(times, one.time_s)
        assert np.array_equal(values, one.values)


def test_one_file_of_several_machines_with_a_field_map(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("t;unit;temp [C];junk\n1;a;20;x\n2;a;;x\n1;b;30;x\n3;a;22;x\n")
    source = _open(tmp_path, path, time="t", asset="unit", separator=";", fields={"temp": "temp [C]", "gone": "nope"})
    found = _all(source)
    assert [(one.asset, one.channels, one.time_s.tolist()) for one in found] == [
        ("a", ("temp",), [1, 2]),
        ("b", ("temp",), [1]),
        ("a", ("temp",), [3]),
    ]
    assert math.isnan(found[0].values[1, 0])


def test_a_table_as_a_german_spreadsheet_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "Presse 1.csv"
    head = "Anlage;Presse 1\n\nZeitstempel;Temperatur in °C;Druck\n"
    body = "".join(f"0{1 + i // 24}.02.2024 {i % 24:02d}:30;{20 + i},5;1.0{10 + i},25\n" for i in range(40))
    path.write_bytes((head + body).encode("cp1252"))
    found = _all(_open(tmp_path, path, time="Zeitstempel", time_format="auto", rows=7))
    times, values = _joined(found, "Presse 1")
    first = datetime(2024, 2, 1, 0, 30, tzinfo=timezone.utc).timestamp()
    assert times.tolist() == [first + 3600 * i for i in range(40)]
    assert values.tolist() == [[20.5 + i, 1010.25 + i] for i in range(40)]
    assert found[0].channels == ("Temperatur in °C", "Druck")


def test_a_table_that_ends_in_the_middle_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    body = "t,x\n" + "".join(f"{i},{i * 0.37}\n" for i in range(50_000))
    path.write_bytes(gzip.compress(body.encode())[:-3000])
    with pytest.raises(DataError, match="cannot be read"):
        _all(_open(tmp_path, path, time="t"))


def test_a_table_without_rows_is_said_and_a_recording_that_was_played_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,x\n")
    with pytest.raises(DataError, match=r"a\.csv: holds no rows to play"):
        _open(tmp_path, path, time="t")
    path.write_text("t,x\n1,2\n")
    rows_replay.remember(tmp_path / "state", "1")
    assert len(_all(_open(tmp_path, path, time="t"))) == 1


def test_an_archive_of_arrays(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    one = rows("a", 20)
    np.savez(tmp_path / "a.npz", time=one.time_s, **{name: one.values[:, i] for i, name in enumerate(one.channels)})
    times, values = _joined(_all(_open(tmp_path, tmp_path / "a.npz", rows=7)), "a")
    assert np.array_equal(times, one.time_s)
    assert np.array_equal(values, one.values)


def test_it_goes_on_where_it_was_and_begins_anew_after_its_end(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    one = rows("a", 40)
    path = _csv(tmp_path / "a.csv", one)
    first = _open(tmp_path, path, rows=4)
    for _ in range(3):
        first.settle([first.read(0.1)])
    rest = _all(_open(tmp_path, path, rows=4))
    assert np.array_equal(_joined(rest, "a")[0], one.time_s[12:])
    assert len(_joined(_all(_open(tmp_path, path, rows=4)), "a")[0]) == 40
    rows_replay.remember(tmp_path / "state", "5")  # what the raw ring knows wins
    assert np.array_equal(_joined(_all(_open(tmp_path, path, rows=4)), "a")[0], one.time_s[20:])


def test_it_keeps_its_time(tmp_path: Path, rows: Callable[..., Rows]) -> None:
    path = _csv(tmp_path / "a.csv", rows("a", 50))
    began = time.monotonic()
    assert len(_joined(_all(_open(tmp_path, path, rows=1, speed=10)), "a")[0]) == 50
    assert 0.4 <= time.monotonic() - began < 30


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recording"):
        _open(tmp_path, tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("t,x\n1,2\n")
    with pytest.raises(DataError, match="no column 'time'"):
        _open(tmp_path, tmp_path / "a.csv")
    with pytest.raises(DataError, match="none of the columns y"):
        _open(tmp_path, tmp_path / "a.csv", time="t", fields={"y": "y"})
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read as NPZ"):
        _open(tmp_path, tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"source": {"kind": "replay", "path": "."}, "trigger": {"kind": "mqtt"}}, "leave trigger out"),
        ({"source": {"kind": "replay", "path": "."}, "workers": 2, "threads": 2}, "one worker"),
        ({"source": {"kind": "files", "path": "."}, "assets": {}}, "for sources of sensor rows"),
        ({"source": {"kind": "mqtt", "topics": []}}, "at least 1"),
        ({"source": {"kind": "mqtt", "topics": ["a/#/b"]}}, "not a topic filter"),
        ({"source": {"kind": "replay", "path": "."}, "assets": {"late_s": 9, "jump_s": 5}}, "jump_s must be above"),
    ],
)
def test_what_does_not_go_together_is_refused(section: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PipelineSection.model_validate(section)
