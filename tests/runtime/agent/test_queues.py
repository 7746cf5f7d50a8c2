from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from edge_sft.runtime.meter import Meter
from edge_sft.runtime.queues import InOrder, SampleQueue


def nothing() -> None:
    return None


def test_latest_drops_the_oldest_and_says_which(sample: Callable[..., Any]) -> None:
    queue = SampleQueue(2, "latest")
    dropped = [queue.put(sample(number), 0)[1] for number in range(5)]
    assert [one.sample.name if one else None for one in dropped] == [None, None, "0", "1", "2"]
    taken = [queue.take(0, nothing), queue.take(0, nothing)]
    assert [item[0].sample.name for item in taken if item] == ["3", "4"]
    assert [one.number for one in dropped if one] == [0, 1, 2]
    assert [item[0].number for item in taken if item] == [3, 4]


def test_block_holds_the_source_back_until_there_is_room(sample: Callable[..., Any]) -> None:
    queue = SampleQueue(1, "block")
    assert queue.put(sample(0), 0) == (True, None)
    began = time.monotonic()
    assert queue.put(sample(1), 0.1) == (False, None)
    assert time.monotonic() - began >= 0.1
    threading.Timer(0.05, lambda: queue.take(0, nothing)).start()
    assert queue.put(sample(1), 2) == (True, None)


def test_closing_lets_what_is_inside_out_and_nothing_in(sample: Callable[..., Any]) -> None:
    queue = SampleQueue(2, "block")
    queue.put(sample(0), 0)
    queue.close()
    assert queue.put(sample(1), 0) == (False, None)
    assert not queue.drained
    assert queue.take(0, nothing) is not None
    assert queue.drained
    assert queue.take(5, nothing) is None


def test_the_claim_changes_between_two_samples_in_their_order(sample: Callable[..., Any]) -> None:
    """Many workers, and a guard that changes all the time: a later sample never gets an earlier guard."""
    queue = SampleQueue(16, "block")
    guard = [0]
    seen: list[tuple[int, int]] = []

    def work() -> None:
        while not queue.drained:
            taken = queue.take(0.05, lambda: guard[0])
            if taken:
                seen.append((taken[0].number, taken[1]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(500):
        queue.put(sample(number), 5)
        guard[0] += 1
    queue.close()
    for thread in threads:
        thread.join()
    seen.sort()
    assert [number for number, _ in seen] == list(range(500))
    assert [held for _, held in seen] == sorted(held for _, held in seen)


def test_order_comes_back(sample: Callable[..., Any]) -> None:
    out: list[int] = []
    order: InOrder[int] = InOrder(out.append)
    for number in (2, 0, 3, 1):
        order.put(number, number)
    order.put(5, 5)
    order.put(4, None)
    assert out == [0, 1, 2, 3, 5]
    assert len(order) == 0


def test_a_number_that_never_comes_holds_up_only_so_many() -> None:
    out: list[int] = []
    order: InOrder[int] = InOrder(out.append, ahead_max=10)
    for number in range(1, 100):
        order.put(number, number)
    assert out == list(range(1, 100))
    order.put(0, 0)
    assert out[-1] == 0


def test_the_meter_reads_rate_and_percentiles() -> None:
    meter = Meter()
    assert meter.read()[1:] == (None, None)
    for latency in range(1, 101):
        meter.decision("ok", float(latency))
    meter.count("dropped", 3)
    _, p50, p99 = meter.read()
    assert (p50, p99) == (51.0, 100.0)
    assert meter.counts == {"decisions": 100, "ok": 100, "dropped": 3}
    assert meter.read()[0] == pytest.approx(0.0)
