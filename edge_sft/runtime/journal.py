"""The durable bounded outbox between deciding and publishing: an entry leaves it only when acknowledged.

`append` puts a prediction on a queue and returns; one writer thread numbers, stores and fsyncs whatever has come
together within a few milliseconds (group commit). What was committed survives a crash or power cut; what was
appended in the last `window_s` may not, was never published and never numbered, so no gap shows.

While the disk refuses (full, read-only, failing), entries go on in memory under an epoch of their own: decisions
keep flowing, nothing blocks, and the rest moves to the disk once it is back. A damaged file is set aside by name,
never deleted. Ages count running time on the monotonic clock, so a wrong wall clock purges nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from edge_sft.errors import DeviceError
from edge_sft.prediction import Envelope, Prediction
from edge_sft.runtime.outbox import Batch, Limits, Outbox
from edge_sft.runtime.setting_aside import is_damage, set_aside, why

log = logging.getLogger(__name__)
Listener = Callable[[Sequence[tuple[str, str, int]]], None]
Follower = Callable[[Sequence[tuple[Prediction, tuple[str, str, int]]]], None]
MEMORY_IDS = 2**40  # row ids in memory start here: above all ids of the file
MOST_SEQ = 2**63 - 1
SLOWEST_RETRY_S = 15.0


class Journal:
    """Journal of many streams in one SQLite file. Thread-safe; a context manager.

    Args:
        path: The file; its folder is made.
        max_bytes: Most that waits; beyond it the oldest goes first and every loss is named by range.
        max_age_s: Longest that an entry waits, in seconds of running time.
        memory_bytes: Most that waits in memory while the disk refuses.
        queue_limit: Most predictions between `append` and the writer; beyond it the oldest is counted as lost.
        window_s: How long a group commit gathers when the last one is a while ago.
        spacing_s: Least time from one group commit to the next: a busy line shares its fsyncs.
        clock: Monotonic seconds.
        on_event: Told (kind, sentence) once per change: ``journal_set_aside``, ``journal_in_memory``,
            ``journal_on_disk_again``.

    Raises:
        DeviceError: Another process holds the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = 256 * 2**20,
        max_age_s: float = 72 * 3600.0,
        memory_bytes: int = 8 * 2**20,
        queue_limit: int = 10_000,
        window_s: float = 0.002,
        spacing_s: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[str, str], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.generation = 0  # grows when row ids lose their meaning (file replaced, memory moved to disk)
        self._limits = Limits(max_bytes, max_age_s)
        self._memory_limits = Limits(min(memory_bytes, max_bytes), max_age_s)
        self._queue_limit = queue_limit
        self._window_s = window_s
        self._spacing_s = spacing_s
        self._clock = clock
        self._on_event = on_event
        self._listeners: list[Listener] = []
        self._followers: list[Follower] = []
        self._queue: deque[Prediction] = deque()
        self._lost: dict[str, int] = {}
        self._acknowledged: set[int] = set()
        self._ranges: list[tuple[str, str, int, int]] = []
        self._appended = self._durable = 0
        self._inbox = threading.Condition()  # guards the queue, acknowledgements and counters
        self._table = threading.RLock()  # guards the outboxes
        self._wake = threading.Event()
        self._closing = False
        self._disk: Outbox | None = None
        self._memory: Outbox | None = None
        self._memory_id = MEMORY_IDS
        self._retry_at = self._retry_s = 0.0
        self._open_first()
        self._writer = threading.Thread(target=self._run, name="journal", daemon=True)
        self._writer.start()

    # --- what the pipeline calls -----------------------------------------------------------------------------

    def append(self, prediction: Prediction) -> None:
        """Hand over a prediction; returns at once, never raises for the disk's sake."""
        with self._inbox:
            if len(self._queue) >= self._queue_limit:
                oldest = self._queue.popleft()
                self._lost[oldest.stream] = self._lost.get(oldest.stream, 0) + 1
            self._queue.append(prediction)
            self._appended += 1
        self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything appended before is durable on disk. False when the time is up before that."""
        with self._inbox:
            goal = self._appended
            self._wake.set()
            return self._inbox.wait_for(lambda: self._durable >= goal, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """Commit what is queued and close the file."""
        self._closing = True
        self._wake.set()
        self._writer.join(timeout_s)
        with self._table:
            for outbox in (self._disk, self._memory):
                if outbox is not None:
                    outbox.close()
            self._disk = self._memory = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what the publisher calls ----------------------------------------------------------------------------

    def pending(self, limit: int, *, after: int = 0, until: int | None = None) -> list[tuple[int, Envelope]]:
        """Return the oldest unacknowledged entries as (row id, envelope), ``after < row id <= until``, in order."""
        with self._inbox:
            gone = set(self._acknowledged)
        found: list[tuple[int, Envelope]] = []
        with self._table:
            for outbox in (self._disk, self._memory):
                while outbox is not None and len(found) < limit:
                    page = self._read(outbox, limit, after, until)
                    found += [entry for entry in page if entry[0] not in gone]
                    if len(page) < limit:
                        break
                    after = page[-1][0]
        return found[:limit]

    def acknowledge(self, rowids: Sequence[int]) -> None:
        """Let entries go; they are deleted with the next commit."""
        with self._inbox:
            self._acknowledged.update(rowids)

    def acknowledge_range(self, stream: str, epoch: str, first: int, last: int) -> None:
        """Let a range of sequence numbers go, both ends included; those already gone do not matter."""
        first, last = max(first, 0), min(last, MOST_SEQ)
        if first > last or not (stream.isprintable() and epoch.isalnum()):
            return  # from the network: nothing SQLite could choke on
        with self._inbox:
            self._ranges.append((stream, epoch, first, last))

    def listen(self, listener: Listener) -> None:
        """Have the (stream, epoch, seq) of each commit's predictions told, on the writer's thread, once stored.

        Stored means durable, except while the disk refuses (see `on_disk`).
        """
        self._listeners.append(listener)

    def follow(self, follower: Follower) -> None:
        """Have each commit's predictions told with their (stream, epoch, seq), as `listen` tells the places alone."""
        self._followers.append(follower)

    @property
    def epoch(self) -> str:
        """16 hex digits under which new entries are numbered."""
        with self._table:
            outbox = self._memory or self._disk
            return outbox.epoch if outbox else ""

    @property
    def newest(self) -> int:
        """Row id of the newest entry ever stored."""
        with self._table:
            outbox = self._memory or self._disk
            return outbox.newest if outbox else 0

    @property
    def waiting(self) -> int:
        """How many entries are stored and not yet deleted."""
        with self._table:
            return sum(outbox.count for outbox in (self._disk, self._memory) if outbox)

    @property
    def size_bytes(self) -> int:
        """How much they take."""
        with self._table:
            return sum(outbox.size_bytes for outbox in (self._disk, self._memory) if outbox)

    @property
    def on_disk(self) -> bool:
        """False while the disk refuses and entries are kept in memory."""
        return self._memory is None

    # --- the writer ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last_s = -math.inf
        while True:
            self._wake.wait(0.25)
            if self._wake.is_set() and not self._closing:
                time.sleep(max(self._window_s, last_s + self._spacing_s - time.monotonic()))
            self._wake.clear()
            last_s = time.monotonic()
            try:
                self._turn()
            except Exception:  # the writer must outlive whatever happens; what it held was put back
                log.exception("journal %s: a commit failed in an unforeseen way", self.path)
                time.sleep(0.25)
            if self._closing and (not self._queue or self._memory is not None):
                return

    def _turn(self) -> None:
        with self._table:
            if self._memory is not None and (self._closing or self._clock() >= self._retry_at):
                self._return_to_disk()
            batch, goal = self._take()
            outbox, limits = self._outbox()
            if batch.empty and not outbox.expects_drop(limits, self._clock()):
                return
            try:
                places = self._commit(outbox, batch, limits)
            except sqlite3.Error as error:
                self._put_back(batch)
                self._fall_back(error)
                self._wake.set()
                return
            except BaseException:
                self._put_back(batch)
                raise
        with self._inbox:
            self._acknowledged.difference_update(batch.acknowledged)
            if self._memory is None:
                self._durable = goal
                self._inbox.notify_all()
        for listener in self._listeners:
            listener(places)
        stored = list(zip(batch.predictions, places, strict=True))
        for follower in self._followers:
            follower(stored)

    def _commit(self, outbox: Outbox, batch: Batch, limits: Limits) -> list[tuple[str, str, int]]:
        outbox.relaxed(not batch.adds)
        places = outbox.commit(batch, limits, self._clock())
        with contextlib.suppress(sqlite3.Error):  # the entries are stored; space can be given back another time
            outbox.trim()
        return places

    def _outbox(self) -> tuple[Outbox, Limits]:
        if self._memory is not None:
            return self._memory, self._memory_limits
        if self._disk is None:
            raise sqlite3.OperationalError("the journal is closed")
        return self._disk, self._limits

    def _take(self) -> tuple[Batch, int]:
        """Empty the inbox into a batch; acknowledgements of rows on disk wait there while the disk refuses."""
        with self._inbox:
            predictions, self._queue = list(self._queue), deque()
            gaps = {stream: (lost, "the journal's queue was full") for stream, lost in self._lost.items()}
            self._lost = {}
            ranges = list(self._ranges)
            degraded = self._memory is not None
            if not degraded:  # else they are kept for the disk as well
                self._ranges = []
            rows = [rowid for rowid in self._acknowledged if not degraded or rowid > MEMORY_IDS]
            return Batch(predictions, gaps, rows, ranges), self._appended

    def _put_back(self, batch: Batch) -> None:
        with self._inbox:
            self._queue.extendleft(reversed(batch.predictions))
            for stream, (lost, _) in batch.gaps.items():
                self._lost[stream] = self._lost.get(stream, 0) + lost
            if self._memory is None:
                self._ranges[:0] = batch.acknowledged_ranges

    # --- when the disk refuses -------------------------------------------------------------------------------

    def _open_first(self) -> None:
        try:
            self._disk = self._open()
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise DeviceError(
                    str(self.path), "is in use by another agent", "Stop that one first, or give this one its own root."
                ) from error
            self._fall_back(error)

    def _open(self, first_id: int = 0) -> Outbox:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sqlite3.OperationalError(f"unable to open database file ({error.strerror})") from error
        return Outbox(self.path, now_s=self._clock(), first_id=first_id)

    def _fall_back(self, error: sqlite3.Error) -> None:
        """Go on with a new file where the old one is damaged, in memory where the disk refuses."""
        if is_damage(error):
            # Row ids go on: an acknowledgement under way for the old file must not meet a row of the new one.
            first_id = self._disk.newest if self._disk is not None else 0
            self._close_disk()
            aside = set_aside(self.path)
            if aside is not None:
                self._tell("journal_set_aside", f"journal {self.path} was damaged ({error}); it was kept as {aside}")
            try:
                self._disk = self._open(first_id)
                self.generation += 1
                return
            except sqlite3.Error as second:
                error = second
        if self._memory is None:
            self._memory = Outbox(None, now_s=self._clock(), first_id=self._memory_id)
            self.generation += 1
            self._retry_s = 1.0
            self._tell("journal_in_memory", f"journal {self.path}: {why(error)}; going on in memory until it can")
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(2 * self._retry_s, SLOWEST_RETRY_S)

    def _return_to_disk(self) -> None:
        assert self._memory is not None
        try:
            if self._disk is None:
                self._disk = self._open()
            self._disk.relaxed(False)
            self._disk.adopt(self._memory, self._clock())
        except sqlite3.Error as error:
            self._fall_back(error)
            return
        self._memory_id = self._memory.newest
        self._memory.close()
        with self._inbox:
            self._acknowledged = {rowid for rowid in self._acknowledged if rowid <= MEMORY_IDS}
            self._memory = None
            self._durable = self._appended - len(self._queue)
            self._inbox.notify_all()
        self.generation += 1
        self._tell("journal_on_disk_again", f"journal {self.path}: the disk takes writes again; entries moved there")

    def _read(self, outbox: Outbox, limit: int, after: int, until: int | None) -> list[tuple[int, Envelope]]:
        try:
            return outbox.read(limit, after, until)
        except (sqlite3.Error, ValueError) as error:
            log.warning("journal %s: cannot be read now (%s)", self.path, error)
            if outbox is self._disk and isinstance(error, sqlite3.Error) and is_damage(error):
                self._fall_back(error)
            return []

    def _close_disk(self) -> None:
        if self._disk is not None:
            self._disk.close()
        self._disk = None

    def _tell(self, kind: str, sentence: str) -> None:
        log.warning(sentence)
        if self._on_event is not None:
            self._on_event(kind, sentence)
