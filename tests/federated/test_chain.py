from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from edge_sft.federated import chain


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "rounds.jsonl"
    for number in range(1, 5):
        chain.append(path, {"round": number, "sites": {"Ölbach": {"status": "in"}}})
    return path


def test_each_line_names_the_one_before(record: Path) -> None:
    lines = record.read_bytes().splitlines()
    assert [json.loads(line)["prev"] for line in lines] == ["", *(sha256(line).hexdigest() for line in lines[:-1])]
    found = chain.check(record)
    assert found.holds
    assert found.head == sha256(lines[-1]).hexdigest()
    assert [line["round"] for line in found.records] == [1, 2, 3, 4]
    assert chain.append(record, {"round": 5}) == chain.check(record).head


def test_nothing_is_an_empty_chain(tmp_path: Path) -> None:
    assert chain.check(tmp_path / "none") == chain.Chain((), "", "")


def test_a_changed_line_is_named(record: Path) -> None:
    content = record.read_bytes()
    record.write_bytes(content.replace(b'"round":2', b'"round":7'))
    assert "line 3 does not follow from line 2" in chain.check(record).broken
    assert len(chain.check(record).records) == 4  # shown all the same


def test_a_dropped_or_added_line_is_named(record: Path) -> None:
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert "line 2 does not follow" in chain.check(record).broken
    record.write_bytes(b"".join(lines[1:]))
    assert "the beginning is missing" in chain.check(record).broken
    record.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    assert "line 2 does not follow" in chain.check(record).broken
    record.write_bytes(b"".join([lines[0], b"\xff[\n", *lines[1:]]))
    assert chain.check(record).broken == "line 2 is no JSON object"


def test_a_missing_end_shows_in_the_head(record: Path) -> None:
    kept = chain.check(record).head
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:-1]))
    assert chain.check(record).holds  # which is why the other side keeps the head
    assert chain.check(record).head != kept


@pytest.mark.parametrize("left", [1, 20, 60])
def test_half_a_line_is_cut_off(record: Path, left: int) -> None:
    whole = record.read_bytes()
    chain.append(record, {"round": 5})
    record.write_bytes(record.read_bytes()[: len(whole) + left])
    assert len(chain.check(record).records) == 4
    assert chain.check(record).holds
    chain.append(record, {"round": 5})
    assert chain.check(record).holds
    assert len(chain.check(record).records) == 5


def test_only_half_a_first_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"prev":"","x":1')
    chain.append(tmp_path / "ledger.jsonl", {"x": 2})
    assert [line["x"] for line in chain.check(tmp_path / "ledger.jsonl").records] == [2]
    assert chain.check(tmp_path / "ledger.jsonl").holds


def test_long_lines(tmp_path: Path) -> None:
    for number in range(3):
        chain.append(tmp_path / "long", {"n": number, "text": "x" * 150_000})
    assert chain.check(tmp_path / "long").holds


def test_numbers_that_json_lacks_are_refused(record: Path) -> None:
    before = record.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        chain.append(record, {"loss": float("nan")})
    assert record.read_bytes() == before
