"""The table behind the journal: envelopes with their place in the stream, in one SQLite file or in memory.

One connection, one caller at a time (the journal holds the lock). Durability: WAL with ``synchronous=FULL``, so a
commit that returned survives a power cut on a disk that honours fsync. ``locking_mode=EXCLUSIVE`` keeps a second
agent off the same file and needs no shared memory.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_sft.prediction import DroppedRange, Envelope, Prediction
from edge_sft.runtime.ranges import merged
from edge_sft.runtime.transactions import transaction

FORMAT = 1
ROW_OVERHEAD_BYTES = 96  # measured: row, index entry and page slack beside the payload
MOST_RANGES = 8  # a drop names at most so many ranges per stream, then one hull: bounds the drops' own number
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (
  stream TEXT NOT NULL, epoch TEXT NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (stream, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL,
  born_s REAL NOT NULL, first INTEGER, last INTEGER, payload BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS place ON outbox (epoch, stream, seq);
"""

Key = tuple[str, str]  # (stream, epoch)


@dataclass(frozen=True)
class Limits:
    """How much may wait: bytes, and seconds of running time."""

    max_bytes: int
    max_age_s: float


@dataclass
class Batch:
    """What one group commit writes.

    Attributes:
        predictions: To be numbered and stored, in order.
        gaps: Per stream, how many predictions were lost before these, never numbered, and why.
        acknowledged: Row ids that may go.
        acknowledged_ranges: (stream, epoch, first seq, last seq) that may go.
    """

    predictions: Sequence[Prediction]
    gaps: Mapping[str, tuple[int, str]]
    acknowledged: Sequence[int]
    acknowledged_ranges: Sequence[tuple[str, str, int, int]]

    @property
    def adds(self) -> bool:
        """Whether anything new is to be made durable (deletions alone need no fsync)."""
        return bool(self.predictions or self.gaps)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.adds or self.acknowledged or self.acknowledged_ranges)


class Outbox:
    """Numbered envelopes waiting for their acknowledgement. Raises sqlite3.Error as SQLite does."""

    def __init__(self, path: Path | None, *, now_s: float, first_id: int = 0) -> None:
        """Open or create; ``path`` None keeps everything in memory under an epoch of its own.

        Args:
            path: The SQLite file, or None.
            now_s: The monotonic clock now; ages go on from the running time stored in the file.
            first_id: Row ids start above this number (in memory, so that they never meet those of the file).
        """
        where = ":memory:" if path is None else str(path)
        self._db = sqlite3.connect(where, timeout=0.5, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(now_s, first_id)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, now_s: float, first_id: int) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # only counts on a new file
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA journal_size_limit=4194304")
        verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")
        with transaction(self._db):
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            meta = dict(self._db.execute("SELECT key, value FROM meta"))
            if not meta:
                meta = {"format": FORMAT, "epoch": secrets.token_hex(8), "clock_s": 0.0}
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            if meta.get("format") != FORMAT or "epoch" not in meta:
                raise sqlite3.DatabaseError(f"file is not a database of format {FORMAT}")
            if first_id:
                self._db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", (first_id,))
        self.epoch = str(meta["epoch"])
        self._started_s = now_s - float(meta["clock_s"])
        self._measure()

    def _measure(self) -> None:
        """Take counters and sizes from the file."""
        self._next: dict[Key, int] = {
            (stream, epoch): following
            for stream, epoch, following in self._db.execute("SELECT stream, epoch, next FROM counters")
        }
        count, size, newest = self._db.execute(
            "SELECT count(*), coalesce(sum(length(payload)), 0), (SELECT seq FROM sqlite_sequence) FROM outbox"
        ).fetchone()
        self.count: int = count
        self.size_bytes: int = size + count * ROW_OVERHEAD_BYTES
        self.newest: int = newest or 0

    def commit(self, batch: Batch, limits: Limits, now_s: float) -> list[tuple[str, str, int]]:
        """Store and delete in one transaction, then bound the table; all of it happens or nothing.

        Returns:
            (stream, epoch, seq) of each prediction of the batch, now durable.
        """
        clock_s = now_s - self._started_s
        before = dict(self._next)
        try:
            with transaction(self._db):
                self._forget(batch)
                self._name_gaps(batch.gaps, clock_s)
                places = [self._add_prediction(prediction, clock_s) for prediction in batch.predictions]
                self._bound(limits, clock_s)
                changed = [(*key, n) for key, n in self._next.items() if before.get(key) != n]
                self._db.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", changed)
                self._db.execute("UPDATE meta SET value=? WHERE key='clock_s'", (clock_s,))
        except BaseException:
            self._next = before
            with contextlib.suppress(sqlite3.Error):  # a COMMIT that failed may have happened all the same
                self._measure()
            raise
        return places

    def expects_drop(self, limits: Limits, now_s: float) -> bool:
        """Whether the oldest entry has outlived its time (asked when idle; writes nothing)."""
        oldest = self._db.execute("SELECT born_s FROM outbox ORDER BY id LIMIT 1").fetchone()
        return oldest is not None and now_s - self._started_s - oldest[0] > limits.max_age_s

    def read(self, limit: int, after: int, until: int | None) -> list[tuple[int, Envelope]]:
        """Return the oldest entries with ``after < id <= until``."""
        rows = self._db.execute(
            "SELECT id, payload FROM outbox WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            (after, 2**62 if until is None else until, limit),
        )
        found = []
        for rowid, payload in rows:
            with contextlib.suppress(ValueError):  # a flipped bit: it stays until its age, then it is named as lost
                found.append((rowid, Envelope.from_json(payload)))
        return found

    def adopt(self, other: Outbox, now_s: float) -> None:
        """Take over all entries and counters of another outbox, with their epoch and sequence numbers."""
        clock_s = now_s - self._started_s
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO outbox (stream, epoch, seq, born_s, first, last, payload)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                other._db.execute(
                    "SELECT stream, epoch, seq, ?, first, last, payload FROM outbox ORDER BY id", (clock_s,)
                ),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", [(*key, n) for key, n in other._next.items()]
            )
        self._next.update(other._next)
        self._measure()

    def relaxed(self, relaxed: bool) -> None:
        """Do without fsync (deletions: losing one only repeats a message), or with it again."""
        self._db.execute(f"PRAGMA synchronous={'NORMAL' if relaxed else 'FULL'}")

    def trim(self) -> None:
        """Give free pages back to the disk, a few at a time."""
        free = self._db.execute("PRAGMA freelist_count").fetchone()[0]
        if free > 256:
            # `execute` would step this pragma once and free a single page; a script runs it to its end.
            self._db.executescript(f"PRAGMA incremental_vacuum({min(free - 128, 2048)})")

    def close(self) -> None:
        """Close the file; SQLite folds the WAL into it."""
        self._db.close()

    def _add(
        self,
        stream: str,
        epoch: str,
        clock_s: float,
        prediction: Prediction | None = None,
        dropped: DroppedRange | None = None,
    ) -> tuple[str, str, int]:
        seq = self._next.get((stream, epoch), 0)
        self._next[stream, epoch] = seq + 1
        payload = Envelope(stream=stream, epoch=epoch, seq=seq, prediction=prediction, dropped=dropped).to_json()
        ends = (dropped.first_seq, dropped.last_seq) if dropped else (None, None)
        cursor = self._db.execute(
            "INSERT INTO outbox (stream, epoch, seq, born_s, first, last, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (stream, epoch, seq, clock_s, *ends, payload),
        )
        self.newest = cursor.lastrowid or self.newest
        self.count += 1
        self.size_bytes += len(payload) + ROW_OVERHEAD_BYTES
        return stream, epoch, seq

    def _add_prediction(self, prediction: Prediction, clock_s: float) -> tuple[str, str, int]:
        """Store a decision; one that no reader could read back (a file name that is no text, NaN) is a named loss."""
        stream = prediction.stream.encode(errors="replace").decode()
        try:
            Envelope.from_json(Envelope(stream=stream, epoch=self.epoch, seq=0, prediction=prediction).to_json())
        except ValueError:
            self._name_gaps({stream: (1, "the decision could not be written as JSON")}, clock_s)
            return stream, self.epoch, self._next[stream, self.epoch] - 1
        return self._add(stream, self.epoch, clock_s, prediction=prediction)

    def _name_gaps(self, gaps: Mapping[str, tuple[int, str]], clock_s: float) -> None:
        for stream, (lost, reason) in gaps.items():
            first = self._next.get((stream, self.epoch), 0)
            self._next[stream, self.epoch] = first + lost
            dropped = DroppedRange(first_seq=first, last_seq=first + lost - 1, reason=reason)
            self._add(stream, self.epoch, clock_s, dropped=dropped)

    def _forget(self, batch: Batch) -> None:
        for rowid in batch.acknowledged:
            self._removed(self._db.execute("DELETE FROM outbox WHERE id=? RETURNING length(payload)", (rowid,)))
        for stream, epoch, first, last in batch.acknowledged_ranges:
            self._removed(
                self._db.execute(
                    "DELETE FROM outbox WHERE epoch=? AND stream=? AND seq BETWEEN ? AND ? RETURNING length(payload)",
                    (epoch, stream, first, last),
                )
            )

    def _removed(self, sizes: Iterable[tuple[int]]) -> None:
        for (size,) in sizes:
            self.count -= 1
            self.size_bytes -= size + ROW_OVERHEAD_BYTES

    def _bound(self, limits: Limits, clock_s: float) -> None:
        """Drop the oldest until bytes and age fit, and name what went; naming takes room too, so look again."""
        for share in (0.98, 0.9, 0.75):
            full = self.size_bytes > limits.max_bytes
            lost = self._drop_oldest(limits, limits.max_bytes * share if full else float("inf"), clock_s)
            for (stream, epoch, reason), spans in lost.items():
                ranges = merged(spans)
                if len(ranges) > MOST_RANGES:
                    ranges = [(ranges[0][0], ranges[-1][1])]
                for first, last in ranges:
                    dropped = DroppedRange(first_seq=first, last_seq=last, reason=reason)
                    self._add(stream, epoch, clock_s, dropped=dropped)
            if not lost:
                return

    def _drop_oldest(
        self, limits: Limits, target_bytes: float, clock_s: float
    ) -> dict[tuple[str, str, str], list[tuple[int, int]]]:
        """Delete from the oldest on; return the numbers that went per (stream, epoch, reason)."""
        lost: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        newest_lost = 0
        rows = self._db.execute(
            "SELECT id, stream, epoch, seq, born_s, first, last, length(payload) FROM outbox ORDER BY id"
        )
        for rowid, stream, epoch, seq, born_s, first, last, size in rows:
            expired = clock_s - born_s > limits.max_age_s
            if not expired and self.size_bytes <= target_bytes:
                break
            reason = f"older than {limits.max_age_s:g} s" if expired else f"journal full ({limits.max_bytes} bytes)"
            spans = lost.setdefault((stream, epoch, reason), [])
            spans.append((seq, seq))
            if first is not None:  # a drop that is dropped hands on what it named
                spans.append((first, last))
            newest_lost = rowid
            self._removed([(size,)])
        rows.close()
        if newest_lost:
            self._db.execute("DELETE FROM outbox WHERE id <= ?", (newest_lost,))
        return lost
