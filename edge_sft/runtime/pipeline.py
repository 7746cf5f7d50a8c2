"""Pipeline: source → queue → workers → journal, all at once, in order, with nothing unsaid.

    feed thread ──▶ SampleQueue ──▶ prepare threads ──▶ Ready ──▶ infer threads ──▶ InOrder ──▶ sink (journal)
    swap thread ──▶ Post (which model)             settle thread ──▶ flush journal, then let the source forget

Each copy of the model has a thread that only infers and decides, and another that prepares its next input meanwhile,
so a copy never waits for geometry or for a thread to wake. OpenCV and ONNX Runtime release the interpreter lock, so
threads do. Every Sample of a triggered source comes out as exactly one Prediction.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.prediction import Prediction, Sample, rfc3339
from edge_sft.runtime.config import PipelineSection
from edge_sft.runtime.crew import Crew, Post
from edge_sft.runtime.meter import Meter
from edge_sft.runtime.queues import InOrder, Numbered, Ready, SampleQueue
from edge_sft.runtime.snapshots import Snapshots, Wanted
from edge_sft.runtime.sources.protocol import Source, SourceEnded, SourceStatus
from edge_sft.runtime.swap import TELL, Loader, Swapper
from edge_sft.runtime.threads import Threads
from edge_sft.runtime.triggers import NamedSource, Trigger, TriggeredSource, TriggerInbox, faulty
from edge_sft.runtime.views import PipelineView, Queueing, view_of

log = logging.getLogger(__name__)

_TURN_S = 0.2
# A kill decides again what was not settled yet: so many seconds of pictures at most, plus a group commit.
_SETTLE_S = 0.05
_STUCK_S = 10.0
# Decided files whose decision could not be made durable yet (disk full); older ones are decided again on restart.
_RECEIPTS_MAX = 10_000


@dataclass(frozen=True)
class _Decided:
    """A decision on its way to the journal; ``wanted`` is what a snapshot of it is drawn from, if one is wanted."""

    prediction: Prediction
    sample: Sample
    wanted: Wanted | None = None


@dataclass(frozen=True)
class _Prepared:
    """A Sample with its model input, and the claimed crew that will decide it."""

    numbered: Numbered
    crew: Crew
    tensor: NDArray[Any]


class Pipeline:
    """One stream. `start`, then `stop`; everything in between looks after itself.

    Args:
        section: Its part of agent.toml.
        source: Where Samples come from (unwrapped; triggers are added here).
        loader: Where models come from.
        sink: Takes each Prediction, in order; must not block for long.
        flush: Waits until what the sink took is on disk; True when it is.
        tell: Told (kind, sentence) of what a person may want to know.
        snapshots: Makes what takes the decisions that were made; None = nobody wants pictures.
    """

    def __init__(
        self,
        section: PipelineSection,
        *,
        source: Source,
        loader: Loader,
        sink: Callable[[Prediction], None],
        flush: Callable[[float], bool],
        tell: TELL,
        snapshots: Callable[[Meter], Snapshots] | None = None,
    ) -> None:
        self.section = section
        self.meter = Meter()
        self.snapshots = None if snapshots is None else snapshots(self.meter)
        self.post = Post()
        self.inbox: TriggerInbox | None = None
        self._source = self._triggered(source)
        self._sink = sink
        self._flush = flush
        self._tell = tell
        self._queue = SampleQueue(section.queue.size, section.queue_policy)
        self._ready: Ready[_Prepared] = Ready(ahead=section.workers, producers=section.workers)
        self._order: InOrder[_Decided] = InOrder(self._deliver)
        self._swapper = Swapper(loader, self.post, tell)
        self._receipts: deque[Sample] = deque(maxlen=_RECEIPTS_MAX)
        self._stopping = threading.Event()
        self._fed = threading.Event()
        self._threads = Threads(section.name, self._stopping, tell)
        self._preparing = [f"prepare{number}" for number in range(section.workers)]
        self._inferring = [f"infer{number}" for number in range(section.workers)]
        self._busy_since: dict[str, float] = {}
        self._connected = True
        self._fed_at_s = time.monotonic()

    def _triggered(self, source: Source) -> Source:
        trigger = self.section.trigger
        if trigger.kind == "mqtt":
            self.inbox = TriggerInbox(trigger.waiting_max, self._refuse)
            return TriggeredSource(source, self.inbox, trigger.timeout_ms / 1000, self.section.name)
        if trigger.kind == "filename":
            return NamedSource(source, trigger.pattern)
        return source

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all threads and return."""
        self._threads.start("swap", lambda: self._swapper.run(self._stopping))
        self._threads.start("settle", self._settle_for_ever)
        if self.snapshots is not None:
            snapshots = self.snapshots
            self._threads.start("snapshot", lambda: snapshots.run(self._stopping))
        for name in self._inferring:
            self._threads.start(name, self._infer)
        for name in self._preparing:
            self._threads.start(name, self._prepare)
        self._threads.start("feed", self._feed)  # last: a source that has ended is only finished when these have

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Take nothing more, decide what was taken, settle it. False when something hung past the time."""
        deadline = time.monotonic() + timeout_s
        self._stopping.set()
        self._source.close()
        self._threads.join(deadline, "feed")
        self._turn_away()
        self._queue.close()
        self._threads.join(deadline, *self._preparing)
        self._ready.close()
        clean = self._threads.join(deadline)
        self._settle()
        self._swapper_release()
        return clean

    def _swapper_release(self) -> None:
        crew = self.post.hand_over(None)
        if crew is not None and self.post.wait_idle(crew, 0.1):
            crew.close()

    def _turn_away(self) -> None:
        """Answer the triggers that are still waiting."""
        while self.inbox is not None:
            trigger = self.inbox.next(0.0)
            if trigger is None:
                return
            self._refuse(trigger, "the agent is stopping")

    @property
    def finished(self) -> bool:
        """The source has ended and every Sample is decided."""
        return self._fed.is_set() and not any(self._threads.alive(name) for name in self._inferring)

    # --- source → queue --------------------------------------------------------------------------------------

    def _feed(self) -> None:
        while not self._stopping.is_set():
            self._fed_at_s = time.monotonic()
            # Nothing deployed: files wait where they are and cameras run on unseen, but a trigger is always answered.
            if self.inbox is None and not self.post.wait_manned(_TURN_S):
                if self._source.live:
                    self._source.read(0.0)
                self._watch_source()
                continue
            try:
                sample = self._source.read(_TURN_S)
            except SourceEnded:
                self._fed.set()
                self._queue.close()
                return
            self._watch_source()
            if sample is not None:
                self._enqueue(sample)

    def _enqueue(self, sample: Sample) -> None:
        while True:
            self._fed_at_s = time.monotonic()
            accepted, dropped = self._queue.put(sample, _TURN_S)
            if dropped is not None:
                self._dropped(dropped)
            if accepted:
                return
            if self._stopping.is_set() and self._queue.drained:
                self._refuse_sample(sample, "the agent is stopping")
                return

    def _dropped(self, numbered: Numbered) -> None:
        """Answer or count what had to make room under ``latest``."""
        self.meter.count("dropped")
        if self.section.trigger.kind == "free":
            self._order.put(numbered.number, None)
            self._keep_receipt(numbered.sample)
            return
        self._answer(numbered, "dropped: newer parts came faster than decisions")

    def _refuse(self, trigger: Trigger, reason: str) -> None:
        self._refuse_sample(faulty(trigger, reason, self.section.name), reason)

    def _refuse_sample(self, sample: Sample, reason: str) -> None:
        self._answer(self._queue.refuse(sample), reason)

    def _answer(self, numbered: Numbered, reason: str) -> None:
        crew = self.post.claim()
        try:
            prediction = no_decision(numbered.sample, reason, crew)
        finally:
            self.post.release(crew)
        self._order.put(numbered.number, _Decided(prediction, numbered.sample))

    def _watch_source(self) -> None:
        status = self._source.status
        if status.connected != self._connected:
            self._connected = status.connected
            self._tell("source_back" if status.connected else "source_lost", status.detail or "frames come again")

    # --- queue → decisions -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        while True:
            if not self._ready.reserve(_TURN_S):
                continue
            kept = False
            try:
                taken = self._queue.take(_TURN_S, self.post.claim)
                if taken is not None:
                    kept = self._prepare_one(*taken)
                elif self._queue.drained:
                    self._ready.leave()
                    return
            finally:
                if not kept:
                    self._ready.free()

    def _prepare_one(self, numbered: Numbered, crew: Crew | None) -> bool:
        """Hand the Sample on with its model input; False when its decision is known without inferring."""
        sample, kept = numbered.sample, False
        with self._busy():
            try:
                if crew is None:
                    answer = no_decision(sample, "no model is deployed", None)
                elif sample.fault is not None:
                    answer = no_decision(sample, sample.fault, crew)
                else:
                    self._ready.put(_Prepared(numbered, crew, crew.prepare(sample)))
                    kept = True
            except Exception as error:  # noqa: BLE001  # the stream goes on
                answer = self._failed(sample, crew, error)
            finally:
                if not kept:
                    self.post.release(crew)
            if not kept:
                self._order.put(numbered.number, _Decided(answer, sample))
        return kept

    def _infer(self) -> None:
        while (item := self._ready.take()) is not None:
            sample, wanted = item.numbered.sample, None
            with self._busy():
                try:
                    prediction, heat = item.crew.decide(item.tensor, sample)
                    if self.snapshots is not None:
                        wanted = Wanted(prediction, sample, item.crew, heat)
                except Exception as error:  # noqa: BLE001  # the stream goes on
                    prediction = self._failed(sample, item.crew, error)
                finally:
                    self.post.release(item.crew)
                self._order.put(item.numbered.number, _Decided(prediction, sample, wanted))

    def _failed(self, sample: Sample, crew: Crew | None, error: Exception) -> Prediction:
        if isinstance(error, DataError):
            return no_decision(sample, str(error), crew)
        log.error("%s: deciding failed", self.section.name, exc_info=error)
        self._tell("decision_failed", f"{type(error).__name__}: {error}")
        return no_decision(sample, f"internal error ({type(error).__name__})", crew)

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Note since when this thread has been at one sample."""
        name = threading.current_thread().name
        self._busy_since[name] = time.monotonic()
        try:
            yield
        finally:
            self._busy_since.pop(name, None)

    def _deliver(self, item: _Decided) -> None:
        prediction, sample = item.prediction, item.sample
        if self.snapshots is not None and item.wanted is not None:
            self.snapshots.offer(item.wanted)  # before the journal has it, which tells its number
        self._sink(prediction)
        self.meter.decision(prediction.verdict, prediction.latency_ms)
        self._keep_receipt(sample)

    def _keep_receipt(self, sample: Sample) -> None:
        if self.section.source.kind == "folder":
            self._receipts.append(replace(sample, data=None))

    # --- decisions → disk → source ---------------------------------------------------------------------------

    def _settle_for_ever(self) -> None:
        while not self._stopping.wait(_SETTLE_S):
            self._settle()

    def _settle(self) -> None:
        batch = [self._receipts.popleft() for _ in range(len(self._receipts))]
        if not batch:
            return
        if self._flush(5.0):
            self._source.settle(batch)
        else:
            self._receipts.extendleft(reversed(batch))

    # --- looking ---------------------------------------------------------------------------------------------

    @property
    def stuck(self) -> str:
        """Which thread hangs inside one sample for too long, in words; empty normally."""
        now = time.monotonic()
        for name, since in list(self._busy_since.items()):
            if now - since > _STUCK_S:
                return f"{name} has been at one sample for {now - since:.0f} s"
        trigger = self.section.trigger
        patience_s = _STUCK_S + (trigger.timeout_ms / 1000 if trigger.kind == "mqtt" else 0.0)
        if not self._fed.is_set() and not self._stopping.is_set() and now - self._fed_at_s > patience_s:
            return f"the source has hung for {now - self._fed_at_s:.0f} s"
        return ""

    def view(self) -> PipelineView:
        """Look at it."""
        return view_of(
            self.section,
            self.meter,
            self.post.crew,
            self._source.status if not self._fed.is_set() else SourceStatus(True, "ended"),
            Queueing(len(self._queue), self.section.queue.size, self.section.queue_policy),
            stopping=self._stopping.is_set(),
            finished=self.finished,
            stuck=self.stuck,
            swap_trouble=self._swapper.trouble,
            triggers_waiting=None if self.inbox is None else len(self.inbox),
        )


def no_decision(sample: Sample, reason: str, crew: Crew | None) -> Prediction:
    """Say that nothing was decided about a sample, also when there is no model."""
    if crew is not None:
        return crew.no_decision(sample, reason)
    return Prediction(
        stream=sample.stream,
        part_id=sample.part_id,
        name=sample.name,
        captured_at=rfc3339(sample.captured_at),
        decided_at=rfc3339(datetime.now(timezone.utc)),
        latency_ms=max(0.0, (time.monotonic() - sample.captured_monotonic_s) * 1000),
        verdict="no_decision",
        reason=reason,
    )
