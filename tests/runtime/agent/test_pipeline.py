from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edge_sft.errors import DeviceError
from edge_sft.prediction import Sample
from edge_sft.runtime.sources.iterator import IteratorSource
from edge_sft.runtime.sources.protocol import SourceStatus

FRAME = np.zeros((4, 4), np.uint8)


def test_everything_comes_out_once_and_in_order(make_line: Callable[..., Any], fakes: Any, eventually: Any) -> None:
    loader = fakes.Loader(fakes.Model(infer_s=0.001), fakes.Model(infer_s=0.003), fakes.Model())
    line = make_line(IteratorSource([FRAME] * 300, "main"), loader, workers=3, threads=3)
    eventually(lambda: line.pipeline.finished)
    assert line.names() == [str(number) for number in range(1, 301)]
    assert line.pipeline.view().status == "finished"


def test_it_is_not_finished_before_its_threads_have_begun(make_line: Callable[..., Any], eventually: Any) -> None:
    """On a busy machine a short source ends while threads are still being started."""
    line = make_line(IteratorSource([FRAME] * 3, "main"), start=False)
    threads = line.pipeline._threads
    begin = threads.start
    early: list[bool] = []

    def slowly(name: str, body: Callable[[], None]) -> None:
        begin(name, body)
        time.sleep(0.2)
        early.append(line.pipeline.finished and len(line.out) < 3)

    threads.start = slowly
    line.pipeline.start()
    eventually(lambda: line.pipeline.finished)
    assert len(line.out) == 3
    assert not any(early)


def test_latest_drops_are_counted_and_never_journalled(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    queue = {"size": 2, "policy": "latest"}
    loader = fakes.Loader(fakes.Model(infer_s=0.02))
    line = make_line(IteratorSource([FRAME] * 200, "main", rate=400), loader, queue=queue)
    eventually(lambda: line.pipeline.finished)
    counts = line.pipeline.meter.counts
    assert counts["dropped"] > 100
    assert counts["decisions"] + counts["dropped"] == 200
    assert line.names() == sorted(line.names(), key=int)
    assert line.names()[-1] == "200"  # the newest is decided


def test_block_loses_nothing_and_memory_does_not_grow(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    given = 0

    def frames() -> Any:
        nonlocal given
        for _ in range(50):
            given += 1
            yield FRAME

    model = fakes.Model()
    model.gate = threading.Event()
    line = make_line(IteratorSource(frames(), "main"), fakes.Loader(model), queue={"size": 4, "policy": "block"})
    time.sleep(0.5)
    assert given <= 4 + 2 + 1  # queue, workers, and the one in the feeder's hand
    model.gate.set()
    eventually(lambda: line.pipeline.finished)
    assert len(line.out) == 50


def test_nothing_is_taken_before_something_is_deployed(
    make_line: Callable[..., Any], fakes: Any, eventually: Callable[..., Any]
) -> None:
    loader = fakes.Loader()
    line = make_line(IteratorSource([FRAME] * 5, "main"), loader)
    time.sleep(0.4)
    assert line.out == []
    assert line.pipeline.view().status == "not_deployed"
    loader.deploy(fakes.Model())
    eventually(lambda: len(line.out) == 5)
    assert all(one.verdict == "ok" for one in line.out)
    assert line.kinds() == ["deployed"]


def test_bad_frames_late_frames_and_broken_models_are_no_decision(
    make_line: Callable[..., Any], fakes: Any, sample: Callable[..., Sample], eventually: Callable[..., Any]
) -> None:
    model = fakes.Model(deadline_ms=1000)
    frames = [
        sample(0, data=None, fault="picture is truncated"),
        sample(1, captured_monotonic_s=time.monotonic() - 5),
        sample(2, data=None),
        sample(3),
    ]
    line = make_line(IteratorSource(frames, "main"), fakes.Loader(model))
    eventually(lambda: len(line.out) == 4)
    assert [one.verdict for one in line.out] == ["no_decision", "no_decision", "no_decision", "ok"]
    assert line.out[0].reason == "picture is truncated"
    assert "deadline" in line.out[1].reason

    class Broken(fakes.Model):  # type: ignore[name-defined,misc]
        def infer(self, tensor: Any, one: Sample) -> Any:
            raise ValueError("library bug")

    broken = make_line(IteratorSource([FRAME] * 3, "main"), fakes.Loader(Broken()))
    eventually(lambda: len(broken.out) == 3)
    assert all(one.reason == "internal error (ValueError)" for one in broken.out)
    assert "decision_failed" in broken.kinds()


def test_a_thread_that_dies_is_started_again(make_line: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    class Moody:
        live = False
        reads = 0

        def read(self, timeout_s: float) -> Sample | None:
            self.reads += 1
            if self.reads == 1:
                raise RuntimeError("a bug of ours")
            time.sleep(0.01)
            return None

        def settle(self, samples: Any) -> None: ...

        status = SourceStatus(True)

        def close(self) -> None: ...

    source = Moody()
    line = make_line(source)
    eventually(lambda: source.reads > 2)
    assert "thread_died" in line.kinds()


def test_a_worker_that_hangs_is_said(make_line: Callable[..., Any], fakes: Any, monkeypatch: Any) -> None:
    from edge_sft.runtime import pipeline

    monkeypatch.setattr(pipeline, "_STUCK_S", 0.2)
    model = fakes.Model()
    model.gate = threading.Event()
    line = make_line(IteratorSource([FRAME] * 3, "main"), fakes.Loader(model))
    time.sleep(0.6)
    view = line.pipeline.view()
    assert view.status == "stuck"
    assert "at one sample" in view.detail
    model.gate.set()


def test_files_are_settled_only_when_their_decision_is_on_disk(
    make_line: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    settled: list[Sample] = []

    class Watched(IteratorSource):
        def settle(self, samples: Any) -> None:
            settled.extend(samples)

    line = make_line(Watched([FRAME] * 4, "main"), source={"kind": "folder", "path": "x"}, start=False)
    line.durable = False
    line.pipeline.start()
    eventually(lambda: len(line.out) == 4)
    time.sleep(0.5)
    assert settled == []
    line.durable = True
    eventually(lambda: len(settled) == 4)
    assert all(one.data is None for one in settled)  # a receipt holds no picture


def test_a_sink_that_fails_once_costs_no_other_sample(make_line: Callable[..., Any], eventually: Any) -> None:
    line = make_line(IteratorSource([FRAME] * 20, "main"), start=False)
    kept, calls = line.out, [0]

    def sink(prediction: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise DeviceError("journal", "hiccup", "")
        kept.append(prediction)

    line.pipeline._sink = sink
    line.pipeline.start()
    eventually(lambda: calls[0] == 20)
    assert len(kept) == 19
