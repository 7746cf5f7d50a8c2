"""Pipeline of sensor rows: source → raw ring on disk → assets' windows → decisions in batches → journal.

    feed thread ──▶ RowLog (then acknowledge) ──▶ queue ──▶ work thread: Fleet ──▶ model ──▶ sink (journal)
    swap thread ──▶ Post (which model), warms a fleet for it     settle thread ──▶ flush, mark, sync, save, trim

Rows are on disk before they are acknowledged or decided. A restart takes the last saved state, reads what came since
from the raw ring, decides anew what the journal had not yet, and goes on; so a kill costs no row and no decision (the
last fraction of a second may be decided twice, under the same asset and name). One thread does all in order: an
asset's rows are neither parallel nor stateless.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_sft.prediction import Prediction, Rows, Sample
from edge_sft.runtime.asset import Due
from edge_sft.runtime.assets import AssetsView, Fleet, combined
from edge_sft.runtime.cases import describe_case, rule_of, threshold_of
from edge_sft.runtime.config import AssetsSection, PipelineSection
from edge_sft.runtime.continuing import Continuity
from edge_sft.runtime.crew import Crew, Post
from edge_sft.runtime.meter import Meter
from edge_sft.runtime.news import News
from edge_sft.runtime.rowlog import Position
from edge_sft.runtime.sources.protocol import Source, SourceEnded, SourceStatus
from edge_sft.runtime.swap import TELL, Loader, Swapper
from edge_sft.runtime.threads import Threads
from edge_sft.runtime.views import PipelineView, Queueing, view_of
from edge_sft.runtime.warming import WarmingLoader, model_of
from edge_sft.slots.window_predictor import Captured

ANNOUNCE = Callable[[str, str, Mapping[str, Any]], None]
_TURN_S = 0.2
_SETTLE_S = 0.2
_LOOK_S = 0.5
_STUCK_S = 10.0
_BATCHES_MAX = 64  # between feed and work; then the source is held back
_SAMPLES_MAX = 1000  # of one batch
_GATHER_S = 0.004  # rows that come one by one go on together: a thousand wakes a second cost more than the work
_CLOCK = 1e8  # seconds since 1970 are larger; below, rows count from their own beginning
_BEHIND_S = 10.0  # from which it is said that rows are old when they come
# The journal takes some thousands between two commits; a replay at full speed would outrun it.
_UNFLUSHED_MAX = 2000


@dataclass(frozen=True)
class _Batch:
    """Rows that were read together; ``end`` is the place behind them in the raw ring, None where it refused them."""

    end: Position | None
    rows: list[Rows]
    captured: Captured


class SensorPipeline:
    """One stream of rows of many assets. `start`, then `stop`; everything in between looks after itself.

    Args:
        section: Its part of agent.toml.
        source: Where Samples of Rows come from.
        loader: Where models come from.
        sink: Takes each Prediction, in order; must not block for long.
        flush: Waits until what the sink took is on disk; True when it is.
        tell: Told (kind, sentence) of what a person may want to know.
        announce: Told (kind, sentence, facts) of cases.
        memory: The raw ring and the assets' state.
        release: Called when the source is read and settled no more.
    """

    inbox = None

    def __init__(
        self,
        section: PipelineSection,
        *,
        source: Source,
        loader: Loader,
        sink: Callable[[Prediction], None],
        flush: Callable[[float], bool],
        tell: TELL,
        announce: ANNOUNCE,
        memory: Continuity,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.section = section
        self.meter = Meter()
        self.post = Post()
        self._save_every_s = (section.assets or AssetsSection()).save_every_s
        self._source = source
        self._sink = sink
        self._flush = flush
        self._tell = tell
        self._announce = announce
        self._news = News(tell)
        self._memory = memory
        self._release = release
        warming = WarmingLoader(loader, lambda windowing: memory.warm(windowing, self._fleet))
        self._swapper = Swapper(warming, self.post, tell)
        self._queue: queue.Queue[_Batch | None] = queue.Queue(_BATCHES_MAX)
        self._fleet: Fleet | None = None
        self._generation = 0
        self._saved_at_s = time.monotonic()
        self._unflushed = 0
        self._looked_s = 0.0
        self._view = AssetsView()
        self._behind_s: float | None = None
        self._stopping = threading.Event()
        self._fed = threading.Event()
        self._done = threading.Event()
        self._threads = Threads(section.name, self._stopping, tell)
        self._busy_since_s: float | None = None
        self._connected = True
        self._has_clock = section.source.kind == "mqtt" and section.source.time_format != "number"
        self._fed_at_s = time.monotonic()

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads and return."""
        self._threads.start("swap", lambda: self._swapper.run(self._stopping))
        self._threads.start("settle", self._settle_for_ever)
        self._threads.start("feed", self._feed)
        self._threads.start("work", self._work)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Take nothing more, decide what was taken, save the state. False when something hung past the time."""
        self._stopping.set()
        self._source.close()
        clean = self._threads.join(time.monotonic() + timeout_s)
        self._release()
        if clean:
            self._save_at_the_end()
        crew = self.post.hand_over(None)
        if crew is not None and self.post.wait_idle(crew, 0.1):
            crew.close()
        self._memory.close()
        return clean

    @property
    def finished(self) -> bool:
        """The source has ended and every window is decided."""
        return self._done.is_set()

    # --- source → raw ring → queue ---------------------------------------------------------------------------

    def _feed(self) -> None:
        while not self._stopping.is_set():
            self._fed_at_s = time.monotonic()
            # Nothing deployed: recordings wait where they are; what comes by itself goes into the raw ring unseen.
            if not self._source.live and not self.post.wait_manned(_TURN_S):
                self._watch_source()
                continue
            samples, ended = self._drain()
            self._watch_source()
            if samples:
                self._keep(samples)
            if ended:
                self._fed.set()
                self._put(None)
                return

    def _drain(self) -> tuple[list[Sample], bool]:
        """Wait for a Sample and take what else is there."""
        samples: list[Sample] = []
        try:
            one = self._source.read(_TURN_S)
            if one is not None and self._source.live:
                time.sleep(_GATHER_S)
            while one is not None:
                samples.append(one)
                one = self._source.read(0.0) if len(samples) < _SAMPLES_MAX else None
        except SourceEnded:
            return samples, True
        return samples, False

    def _keep(self, samples: list[Sample]) -> None:
        """Write rows to the raw ring, then let the source forget them, then hand them on."""
        for sample in samples:
            if sample.fault is not None:
                self.meter.count("refused")
                self._news.tell("rows_refused", sample.name or "source", sample.fault)
        rows = self._memory.without_repeats([one.data for one in samples if isinstance(one.data, Rows)])
        newest = samples[-1]
        captured = Captured(newest.captured_at, newest.captured_monotonic_s)
        end = self._memory.keep(rows, captured, newest.name or "") if rows else None
        self._source.settle(samples)
        if rows:
            self._put(_Batch(end, rows, captured))

    def _put(self, batch: _Batch | None) -> None:
        while not self._stopping.is_set() or batch is not None:
            self._fed_at_s = time.monotonic()
            try:
                self._queue.put(batch, timeout=_TURN_S)
                return
            except queue.Full:
                if self._stopping.is_set() and not self._threads.alive("work"):
                    return  # it is in the raw ring: the next start takes it from there

    def _watch_source(self) -> None:
        status = self._source.status
        if status.connected != self._connected:
            self._connected = status.connected
            self._tell("source_back" if status.connected else "source_lost", status.detail or "rows come again")

    # --- queue → decisions -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            batches, ended = self._next()
            crew = self.post.claim()
            self._busy_since_s = time.monotonic()
            try:
                if crew is not None:
                    self._install(crew)
                self._pass(batches, crew)
                if ended:
                    self._finish(crew)
                    return
                self._tick(crew)
            finally:
                self._busy_since_s = None
                self.post.release(crew)
            if self._stopping.is_set() and not batches and self._queue.empty() and not self._threads.alive("feed"):
                return

    def _next(self) -> tuple[list[_Batch], bool]:
        """Wait for a batch and take what else is there; True when the source has ended behind them."""
        batches: list[_Batch] = []
        try:
            one = self._queue.get(timeout=_TURN_S)
            while one is not None:
                batches.append(one)
                one = self._queue.get_nowait()
        except queue.Empty:
            return batches, False
        return batches, True

    def _pass(self, batches: Sequence[_Batch], crew: Crew | None) -> None:
        """Put rows through the fleet. Without a model they stay in the raw ring, for the first one to warm with."""
        new = [batch for batch in batches if self._memory.is_new(batch.end)]
        if not new or crew is None or self._fleet is None:
            return
        rows = combined([one for batch in new for one in batch.rows])
        self._decide(self._fleet.take(rows, new[-1].captured, time.monotonic()), crew)
        for batch in new:
            self._memory.passed(batch.end)

    def _decide(self, dues: Sequence[Due], crew: Crew, *, silent: bool = False) -> None:
        """Decide about windows; ``silent``: the journal has the decisions, only the cases must learn of them."""
        if not dues:
            return
        model = model_of(crew)
        predictions = model.decide(
            [due.window for due in dues], stream=self.section.name, captured=[due.captured for due in dues]
        )
        rule, threshold, now_s = rule_of(model.policy), threshold_of(model.policy), time.monotonic()
        if self._has_clock and not silent:
            ages = sorted(due.captured.at.timestamp() - due.window.end for due in dues if due.window.end > _CLOCK)
            self._behind_s = ages[len(ages) // 2] if ages else None  # one machine's wrong clock says nothing of others
        for due, prediction in zip(dues, predictions, strict=True):
            events = due.asset.decided(prediction, due.window.end, rule, threshold, now_s)
            if silent:
                continue
            self._sink(prediction)
            self.meter.decision(prediction.verdict, prediction.latency_ms)
            for event in events:
                self._announce(*describe_case(event, prediction))
        self.meter.count("batches")
        self._unflushed += 0 if silent else len(predictions)
        if self._unflushed >= _UNFLUSHED_MAX:
            self._flush(5.0)
            self._unflushed = 0

    def _tick(self, crew: Crew | None) -> None:
        """Do what is due by the clock: rows that waited, healths, the state to save."""
        now_s = time.monotonic()
        if self._fleet is None or crew is None or now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        self._decide(self._fleet.tick(now_s), crew)
        known = model_of(crew).commissioning
        if known is not None:
            for asset in known.refresh():
                trouble = known.why_not(asset)
                kind = "commissioning_refused" if trouble else "commissioned"
                self._tell(kind, f"{asset}: {trouble or 'its commissioning was read anew'}")
        self._say(self._fleet, crew, now_s)
        if now_s - self._saved_at_s >= self._save_every_s:
            self._save(self._fleet, crew)

    def _save(self, fleet: Fleet, crew: Crew) -> None:
        self._saved_at_s = time.monotonic()
        self._decide(fleet.push(), crew)
        self._memory.save(fleet)

    def _say(self, fleet: Fleet, crew: Crew, now_s: float) -> None:
        rule = rule_of(model_of(crew).policy)
        self._news.changes(fleet.look(rule, now_s))
        self._view = fleet.view(rule)

    def _finish(self, crew: Crew | None) -> None:
        if self._fleet is not None and crew is not None:
            self._decide(self._fleet.finish(), crew)
            self._say(self._fleet, crew, time.monotonic())
        self._flush(5.0)
        self._done.set()

    def _install(self, crew: Crew) -> None:
        """Have a fleet with the crew's windows, which go on where they were, or come from the raw ring."""
        if crew.generation == self._generation and self._fleet is not None:
            return
        self._generation = crew.generation
        model = model_of(crew)
        rule = rule_of(model.policy)
        if self._fleet is None:
            self._fleet = self._memory.resume(
                model.windowing, rule, lambda dues, silent: self._decide(dues, crew, silent=silent)
            )
        elif self._fleet.windowing != model.windowing:
            self._fleet = self._memory.change(self._fleet, model.windowing, rule)
        self._view = self._fleet.view(rule)

    # --- keeping ---------------------------------------------------------------------------------------------

    def _settle_for_ever(self) -> None:
        every_s = (self.section.assets or AssetsSection()).sync_s
        synced_s = time.monotonic()
        while not self._stopping.wait(_SETTLE_S):
            self._memory.settle(self._flush)
            if time.monotonic() - synced_s >= every_s:
                self._memory.sync()
                synced_s = time.monotonic()

    def _save_at_the_end(self) -> None:
        """Save: all threads are gone."""
        crew = self.post.crew
        if self._fleet is not None and crew is not None:
            self._save(self._fleet, crew)
        self._memory.settle(self._flush)

    # --- looking ---------------------------------------------------------------------------------------------

    @property
    def stuck(self) -> str:
        """What hangs for too long, in words; empty normally."""
        now_s, since_s = time.monotonic(), self._busy_since_s
        if since_s is not None and now_s - since_s > _STUCK_S:
            return f"{self.section.name}/work has been at one batch for {now_s - since_s:.0f} s"
        if not self._fed.is_set() and not self._stopping.is_set() and now_s - self._fed_at_s > _STUCK_S:
            return f"the source has hung for {now_s - self._fed_at_s:.0f} s"
        return ""

    def view(self) -> PipelineView:
        """Look at it."""
        return view_of(
            self.section,
            self.meter,
            self.post.crew,
            self._source.status if not self._fed.is_set() else SourceStatus(True, "ended"),
            Queueing(self._queue.qsize(), _BATCHES_MAX, "block"),
            stopping=self._stopping.is_set(),
            finished=self.finished,
            stuck=self.stuck,
            swap_trouble=self._swapper.trouble,
            notice=self._behind(),
            assets=self._view,
            rows_behind_s=self._behind_s,
        )

    def _behind(self) -> str:
        """Say it when decisions are about rows of long ago; empty normally."""
        behind_s = self._behind_s or 0.0
        if abs(behind_s) < _BEHIND_S:
            return ""
        if behind_s < 0:
            return f"rows are {-behind_s:.0f} s ahead of this machine's clock: one of the clocks is wrong"
        return (
            f"decisions are about rows of {behind_s:.0f} s ago: the broker hands on what it kept, this machine is too "
            "slow for them, or one of the clocks is wrong"
        )
