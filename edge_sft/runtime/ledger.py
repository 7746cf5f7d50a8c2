"""The receiving end's book: every envelope once, what is missing by range, what came twice or out of order.

One SQLite file. `Ledger.accept` stores a batch in one durable transaction and returns what may be acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.prediction import Envelope, rfc3339
from edge_sft.runtime import topics
from edge_sft.runtime.ranges import Range, RangeSet, gaps
from edge_sft.runtime.setting_aside import is_damage, why
from edge_sft.runtime.transactions import transaction

FORMAT = 1
MOST_SEQ = 2**53  # what JSON numbers carry exactly in every language
KEPT_REFUSED = 1000  # messages that were no envelopes: kept for a look, not without end
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY, stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, device TEXT NOT NULL,
  received_at TEXT NOT NULL, backfill INTEGER NOT NULL, verdict TEXT, part_id TEXT, captured_at TEXT,
  payload TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS place ON entries (epoch, stream, seq);
CREATE TABLE IF NOT EXISTS spans (
  stream TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (epoch, stream, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (
  stream TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (epoch, stream, first, last)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tallies (
  stream TEXT NOT NULL, epoch TEXT NOT NULL, device TEXT NOT NULL, duplicates INTEGER NOT NULL,
  reordered INTEGER NOT NULL, conflicts INTEGER NOT NULL, last_received_at TEXT NOT NULL,
  PRIMARY KEY (epoch, stream)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (
  id INTEGER PRIMARY KEY, received_at TEXT NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL);
"""
Key = tuple[str, str]  # (stream, epoch)


@dataclass
class Account:
    """What the ledger knows of one (stream, epoch).

    Attributes:
        device: Topic root of the device, ``<prefix>/<site>/<line>/<device>``.
        arrived: Sequence numbers stored.
        dropped: Sequence numbers that the device named as lost.
        duplicates: Arrivals of what was already stored.
        reordered: First arrivals below the highest number seen before.
        conflicts: Duplicates whose content differs: two devices share one journal (a cloned disk, a restored image).
        last_received_at: UTC RFC 3339.
    """

    device: str
    arrived: RangeSet = field(default_factory=RangeSet)
    dropped: RangeSet = field(default_factory=RangeSet)
    duplicates: int = 0
    reordered: int = 0
    conflicts: int = 0
    last_received_at: str = ""

    @property
    def missing(self) -> list[Range]:
        """Numbers from 0 to the highest known one that neither arrived nor were named as dropped."""
        highest = max(self.arrived.highest, self.dropped.highest)
        return gaps([*self.arrived, *self.dropped], 0, highest)


@dataclass(frozen=True)
class Acknowledgement:
    """What may be acknowledged to a device: closed ranges, cumulative."""

    device: str
    stream: str
    epoch: str
    ranges: tuple[Range, ...]


class Ledger:
    """The book. One caller at a time; a context manager.

    Args:
        path: The SQLite file; made when absent, unless ``read_only``.

    Raises:
        DataError: The file is no ledger, or is damaged.
        DeviceError: The disk refuses.
        UserError: ``read_only`` and there is no such file.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.accounts: dict[Key, Account] = {}
        if read_only and not path.exists():
            raise UserError(str(path), "does not exist", "Give the file that `edge-sft ledger` writes.")
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(read_only)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, read_only: bool) -> None:
        if read_only:
            self._db.execute("PRAGMA query_only=1")
        else:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (FORMAT,))
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('client_id', ?)", (secrets.token_hex(6),))
        meta = dict(self._db.execute("SELECT key, value FROM meta"))
        if meta.get("format") != FORMAT:
            raise DataError(str(self.path), "was written by another version of edge-sft", "Use a new file.")
        self.client_id = f"edge-sft-ledger-{meta['client_id']}"
        self._load()

    def _load(self) -> None:
        self.accounts = {
            (stream, epoch): Account(device, RangeSet(), RangeSet(), *counts)
            for stream, epoch, device, *counts in self._db.execute(
                "SELECT stream, epoch, device, duplicates, reordered, conflicts, last_received_at FROM tallies"
            )
        }
        for stream, epoch, first, last in self._db.execute("SELECT stream, epoch, first, last FROM spans"):
            self.accounts[stream, epoch].arrived.add(first, last)
        for stream, epoch, first, last in self._db.execute("SELECT stream, epoch, first, last FROM dropped"):
            self.accounts[stream, epoch].dropped.add(first, last)

    def accept(self, messages: Sequence[tuple[str, bytes]], *, prefix: str) -> list[Acknowledgement]:
        """Store a batch of (topic, payload) durably: all or nothing.

        Returns:
            What may now be acknowledged: for each (stream, epoch) of the batch, the ranges that hold its numbers.

        Raises:
            DeviceError: The disk refuses; nothing of the batch was stored.
        """
        now = rfc3339(datetime.now(timezone.utc))
        touched: dict[Key, RangeSet] = {}
        with self._explained():
            try:
                with transaction(self._db):
                    for topic, payload in messages:
                        self._accept_one(topic, payload, now, prefix, touched)
                    self._write_accounts(touched, now)
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._load()
                raise
        return [self._acknowledgement(key, ranges) for key, ranges in touched.items()]

    def acknowledgements(self) -> list[Acknowledgement]:
        """Everything that may be acknowledged, for when the ledger comes back."""
        return [
            Acknowledgement(account.device, *key, tuple(account.arrived)[-64:])
            for key, account in self.accounts.items()
        ]

    def rows(self) -> Iterator[tuple[str, str, str, int, str, bool, Envelope]]:
        """Yield (device, stream, epoch, seq, received_at, backfill, envelope), ordered by stream, epoch, seq."""
        query = (
            "SELECT device, stream, epoch, seq, received_at, backfill, payload FROM entries ORDER BY epoch, stream, seq"
        )
        with self._explained():
            for device, stream, epoch, seq, received_at, backfill, payload in self._db.execute(query):
                yield device, stream, epoch, seq, received_at, bool(backfill), Envelope.from_json(payload)

    def refused(self) -> int:
        """Count the messages that were no envelopes (the last 1,000 are kept)."""
        with self._explained():
            return int(self._db.execute("SELECT coalesce(max(id), 0) FROM refused").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------------------

    def _accept_one(self, topic: str, payload: bytes, now: str, prefix: str, touched: dict[Key, RangeSet]) -> None:
        place = topics.parse(topic, prefix)
        try:
            envelope = Envelope.from_json(payload)
        except ValidationError as error:
            self._refuse(topic, payload, now, f"not an envelope: {error.errors()[0]['msg']}")
            return
        if not _countable(envelope):
            self._refuse(topic, payload, now, "numbers out of range")
            return
        key = (envelope.stream, envelope.epoch)
        device = place.root if place else topic
        account = self.accounts.setdefault(key, Account(device))
        touched.setdefault(key, RangeSet()).add(envelope.seq, envelope.seq)
        if envelope.seq in account.arrived:
            account.duplicates += 1
            account.conflicts += not self._same_as_stored(envelope, device)
            return
        account.reordered += envelope.seq < account.arrived.highest
        self._insert(envelope, device, now)
        account.arrived.add(envelope.seq, envelope.seq)
        if envelope.dropped is not None:
            drop = envelope.dropped
            account.dropped.add(drop.first_seq, drop.last_seq)
            self._db.execute(
                "INSERT OR IGNORE INTO dropped VALUES (?, ?, ?, ?, ?)",
                (*key, drop.first_seq, drop.last_seq, drop.reason),
            )

    def _insert(self, envelope: Envelope, device: str, now: str) -> None:
        said = envelope.prediction
        self._db.execute(
            "INSERT INTO entries (stream, epoch, seq, device, received_at, backfill, verdict, part_id, captured_at,"
            " payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                envelope.stream,
                envelope.epoch,
                envelope.seq,
                device,
                now,
                envelope.backfill,
                said.verdict if said else None,
                said.part_id if said else None,
                said.captured_at if said else None,
                _content(envelope),
            ),
        )

    def _same_as_stored(self, envelope: Envelope, device: str) -> bool:
        stored = self._db.execute(
            "SELECT device, payload FROM entries WHERE epoch=? AND stream=? AND seq=?",
            (envelope.epoch, envelope.stream, envelope.seq),
        ).fetchone()
        return bool(stored == (device, _content(envelope)))

    def _refuse(self, topic: str, payload: bytes, now: str, reason: str) -> None:
        cursor = self._db.execute(
            "INSERT INTO refused (received_at, topic, reason, payload) VALUES (?, ?, ?, ?)",
            (now, topic, reason, payload[:4096]),
        )
        self._db.execute("DELETE FROM refused WHERE id <= ?", ((cursor.lastrowid or 0) - KEPT_REFUSED,))

    def _write_accounts(self, touched: dict[Key, RangeSet], now: str) -> None:
        for (stream, epoch), numbers in touched.items():
            account = self.accounts[stream, epoch]
            for first, last in self._joined(account, numbers):
                where = (epoch, stream, first, last)
                self._db.execute("DELETE FROM spans WHERE epoch=? AND stream=? AND first BETWEEN ? AND ?", where)
                self._db.execute("INSERT INTO spans VALUES (?, ?, ?, ?)", (stream, epoch, first, last))
            account.last_received_at = now
            counts = (account.duplicates, account.reordered, account.conflicts, now)
            self._db.execute(
                "INSERT OR REPLACE INTO tallies VALUES (?, ?, ?, ?, ?, ?, ?)", (stream, epoch, account.device, *counts)
            )

    def _acknowledgement(self, key: Key, touched: RangeSet) -> Acknowledgement:
        account = self.accounts[key]
        return Acknowledgement(account.device, *key, tuple(self._joined(account, touched)))

    @staticmethod
    def _joined(account: Account, touched: RangeSet) -> list[Range]:
        """Return the whole ranges of arrived numbers that hold the touched ones."""
        return sorted({account.arrived.around(first) or (first, last) for first, last in touched})

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if is_damage(error) or "no such table" in str(error):
                remedy = "Move it away; a new ledger begins with what devices still hold."
                raise DataError(str(self.path), f"is no readable ledger ({error})", remedy) from error
            raise DeviceError(str(self.path), why(error), "Mend the disk; nothing was acknowledged.") from error
        except OSError as error:
            raise DeviceError(str(self.path), f"cannot be used ({error.strerror})", "Check the path.") from error


def ack_payload(acknowledgements: Sequence[Acknowledgement]) -> bytes:
    """Return the JSON published on a device's ``ack`` topic."""
    acks = [{"stream": a.stream, "epoch": a.epoch, "ranges": [list(r) for r in a.ranges]} for a in acknowledgements]
    return json.dumps({"schema_version": 1, "acks": acks}, separators=(",", ":")).encode()


def _content(envelope: Envelope) -> str:
    """Return what makes two arrivals the same message: everything but the backfill flag."""
    return envelope.model_copy(update={"backfill": False}).to_json().decode()


def _countable(envelope: Envelope) -> bool:
    """Whether the numbers fit a database and a range runs forwards: a hostile message must not stop the others."""
    drop = envelope.dropped
    return envelope.seq <= MOST_SEQ and (drop is None or drop.first_seq <= drop.last_seq <= MOST_SEQ)
