import json
import sqlite3

import pytest

from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.prediction import DroppedRange, Envelope
from edge_sft.runtime.ledger import Ledger, ack_payload
from edge_sft.runtime.topics import DEFAULT_PREFIX, Topics

EPOCH = "0123456789abcdef"
TOPICS = Topics("s", "l", "d")


@pytest.fixture
def message(prediction):
    def make(seq, stream="cam", *, epoch=EPOCH, backfill=False, dropped=None, number=None, device="d"):
        said = None if dropped else prediction(seq if number is None else number, stream)
        named = DroppedRange(first_seq=dropped[0], last_seq=dropped[1], reason="full") if dropped else None
        envelope = Envelope(stream=stream, epoch=epoch, seq=seq, backfill=backfill, prediction=said, dropped=named)
        return Topics("s", "l", device).prediction(stream), envelope.to_json()

    return make


def accept(book, *messages):
    return book.accept(messages, prefix=DEFAULT_PREFIX)


def test_each_envelope_is_stored_once_and_counted(tmp_path, message):
    with Ledger(tmp_path / "l.db") as book:
        accept(book, message(0), message(1), message(4))
        accept(book, message(1, backfill=True), message(3), message(0, "side"))
        account = book.accounts["cam", EPOCH]
        assert list(account.arrived) == [(0, 1), (3, 4)]
        assert account.missing == [(2, 2)]
        assert (account.duplicates, account.reordered, account.conflicts) == (1, 1, 0)
        assert account.device == TOPICS.root
        assert book.accounts["side", EPOCH].missing == []
        assert [seq for _, stream, _, seq, *_ in book.rows() if stream == "cam"] == [0, 1, 3, 4]
    with Ledger(tmp_path / "l.db", read_only=True) as book:
        again = book.accounts["cam", EPOCH]
        assert list(again.arrived) == [(0, 1), (3, 4)]
        assert (again.duplicates, again.reordered) == (1, 1)


def test_numbers_named_as_dropped_are_not_missing(tmp_path, message):
    with Ledger(tmp_path / "l.db") as book:
        accept(book, message(0), message(6, dropped=(1, 4)), message(7))
        account = book.accounts["cam", EPOCH]
        assert account.missing == [(5, 5)]
        assert list(account.dropped) == [(1, 4)]
    with Ledger(tmp_path / "l.db") as book:
        assert book.accounts["cam", EPOCH].missing == [(5, 5)]


def test_the_beginning_counts_as_missing_too(tmp_path, message):
    with Ledger(tmp_path / "l.db") as book:
        accept(book, message(3))
        assert book.accounts["cam", EPOCH].missing == [(0, 2)]


def test_acknowledgements_are_cumulative_and_per_device(tmp_path, message):
    with Ledger(tmp_path / "l.db") as book:
        accept(book, message(0), message(1), message(5))
        (acknowledgement,) = accept(book, message(2))
        assert acknowledgement.ranges == ((0, 2),)
        assert acknowledgement.device == TOPICS.root
        assert json.loads(ack_payload([acknowledgement])) == {
            "schema_version": 1,
            "acks": [{"stream": "cam", "epoch": EPOCH, "ranges": [[0, 2]]}],
        }
        (duplicate,) = accept(book, message(5))
        assert duplicate.ranges == ((5, 5),), "a duplicate is acknowledged again: the first answer may be lost"
        (everything,) = book.acknowledgements()
        assert everything.ranges == ((0, 2), (5, 5))


def test_two_devices_with_one_journal_are_found_out(tmp_path, message):
    with Ledger(tmp_path / "l.db") as book:
        accept(book, message(0), message(1))
        accept(book, message(1, number=99))
        accept(book, message(0, device="clone"))
        assert book.accounts["cam", EPOCH].conflicts == 2


@pytest.mark.parametrize(
    "payload", [b"", b"\xff\xfe", b"{}", b"[1]", b'{"stream": "cam"}', b"x" * 10_000, b'{"seq":-1}']
)
def test_what_is_no_envelope_is_kept_apart_and_stops_nothing(tmp_path, message, payload):
    with Ledger(tmp_path / "l.db") as book:
        acknowledged = accept(book, (TOPICS.prediction("cam"), payload), message(0))
        assert len(acknowledged) == 1
        assert book.refused() == 1
        assert list(book.accounts["cam", EPOCH].arrived) == [(0, 0)]


@pytest.mark.parametrize(
    "odd", [{"seq": 2**70}, {"stream": "\ud800"}, {"dropped": {"first_seq": 0, "last_seq": 2**70, "reason": "x"}}]
)
def test_numbers_and_names_that_no_database_takes_are_refused(tmp_path, message, odd):
    body = {"schema_version": 1, "stream": "cam", "epoch": EPOCH, "seq": 0, **odd}
    with Ledger(tmp_path / "l.db") as book:
        accept(book, (TOPICS.prediction("cam"), json.dumps(body).encode()), message(1))
        assert book.refused() == 1
        assert 1 in book.accounts["cam", EPOCH].arrived


def test_a_disk_that_refuses_stores_nothing_of_the_batch(tmp_path, message, monkeypatch):
    with Ledger(tmp_path / "l.db") as book:
        accept(book, message(0))
        real = book._insert

        def insert(*args):
            real(*args)
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(book, "_insert", insert)
        with pytest.raises(DeviceError, match="the disk is full"):
            accept(book, message(1), message(2))
        monkeypatch.setattr(book, "_insert", real)
        assert list(book.accounts["cam", EPOCH].arrived) == [(0, 0)]
        accept(book, message(1), message(2))
        account = book.accounts["cam", EPOCH]
        assert list(account.arrived) == [(0, 2)]
        assert account.duplicates == 0


def test_a_file_that_is_no_ledger(tmp_path):
    (tmp_path / "l.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(DataError, match="is no readable ledger"):
        Ledger(tmp_path / "l.db")
    sqlite3.connect(tmp_path / "other.db").close()
    with pytest.raises(DataError):
        Ledger(tmp_path / "other.db", read_only=True)
    with pytest.raises(UserError, match="does not exist"):
        Ledger(tmp_path / "none.db", read_only=True)
