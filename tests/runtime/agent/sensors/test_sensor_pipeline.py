"""A pipeline of sensor rows over really installed models: streamed = offline, what goes wrong, and going on."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.policy import AlarmRule, AnomalyPolicy, RegressionPolicy
from edge_sft.prediction import Rows
from edge_sft.runtime.sources.rows_iterator import RowsIterator


def _interleaved(recordings: list[Rows], cut: Callable[..., list[Rows]], pieces: int) -> list[Rows]:
    return [one for together in zip(*(cut(r, pieces) for r in recordings), strict=True) for one in together]


def _open_ended(rows: list[Rows], stop: threading.Event) -> Iterator[Rows | None]:
    yield from rows
    while not stop.is_set():
        time.sleep(0.01)
        yield None


class Feed:
    """A source whose rows the test gives while the pipeline runs."""

    def __init__(self) -> None:
        self.rows: list[Rows] = []
        self.over = False

    def __iter__(self) -> Iterator[Rows | None]:
        at = 0
        while not self.over or at < len(self.rows):
            if at < len(self.rows):
                at += 1
                yield self.rows[at - 1]
            else:
                time.sleep(0.005)
                yield None


@pytest.mark.parametrize("pieces", [1, 37, 200])
def test_streamed_equals_offline(
    tmp_path: Path,
    factory: Any,
    make_stream: Any,
    rows: Any,
    cut: Any,
    offline: Any,
    same: Any,
    eventually: Any,
    pieces: int,
) -> None:
    slot = factory.install(tmp_path / "root")
    recordings = [rows(f"pump-{number}", 200) for number in range(12)]
    stream = make_stream(RowsIterator(_interleaved(recordings, cut, pieces), "main"))
    eventually(lambda: stream.pipeline.finished, what="the recording is decided")
    for one in recordings:
        want = offline(slot.path, one)
        assert len(want) > 90
        assert same(stream.of(one.asset), want) <= 1e-6


def test_rows_within_the_stated_lateness_change_nothing_and_later_ones_are_counted(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, offline: Any, same: Any, eventually: Any
) -> None:
    slot = factory.install(tmp_path / "root")
    one = rows("pump", 300)
    rng = np.random.default_rng(0)
    order = np.argsort(one.time_s + rng.uniform(0, 0.9, 300))  # late by up to 0.9
    shuffled = [Rows("pump", one.time_s[[i]], one.values[[i]], one.channels) for i in order]
    stream = make_stream(RowsIterator(shuffled, "main"), late_s=1.0)
    eventually(lambda: stream.pipeline.finished)
    assert same(stream.of("pump"), offline(slot.path, one)) <= 1e-6
    assert stream.pipeline.view().assets.late_rows == 0
    late = [
        shuffled[0],
        *shuffled[1:200],
        Rows("pump", one.time_s[:1] + 0.01, one.values[:1] + 9, one.channels),
        *shuffled[200:],
    ]
    other = make_stream(RowsIterator(late, "main"), tmp_path / "other", late_s=1.0)
    factory.install(tmp_path / "other")
    eventually(lambda: other.pipeline.finished)
    assert same(other.of("pump"), offline(slot.path, one)) <= 1e-6
    assert other.pipeline.view().assets.late_rows == 1


def test_a_clock_set_back_by_a_day_begins_anew_and_one_stray_row_does_not(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, offline: Any, same: Any, eventually: Any
) -> None:
    slot = factory.install(tmp_path / "root")
    before, after = rows("pump", 100, start=200_000.0), rows("pump", 100, start=200_000.0 - 86_400, seed=1)
    stray = Rows("pump", np.array([5.0]), np.array([[9.0, 9.0, 9.0]]), before.channels)
    parts = [
        Rows("pump", before.time_s[:50], before.values[:50], before.channels),
        stray,
        Rows("pump", before.time_s[50:], before.values[50:], before.channels),
        after,
    ]
    stream = make_stream(RowsIterator(parts, "main"), late_s=0.5)
    eventually(lambda: stream.pipeline.finished)
    whole = Rows("pump", np.r_[before.time_s, after.time_s], np.r_[before.values, after.values], before.channels)
    assert same(stream.of("pump"), offline(slot.path, whole)) <= 1e-6
    assert "clock_back" in stream.kinds()
    assert "went back" in stream.sentence("rows_clock")
    assert stream.pipeline.view().assets.late_rows == 1


def test_a_renamed_column_is_told_and_the_stream_goes_on(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, eventually: Any
) -> None:
    factory.install(tmp_path / "root")
    good = rows("pump", 40)
    renamed = Rows("pump", good.time_s + 4, good.values, ("c0", "temperature", "c2"))
    feed = Feed()
    stream = make_stream(RowsIterator(feed, "main"))
    feed.rows += [good]
    eventually(lambda: stream.out)
    for at in range(40):
        feed.rows.append(Rows("pump", renamed.time_s[[at]], renamed.values[[at]], renamed.channels))
        time.sleep(0.1)
    sentence = eventually(lambda: stream.sentence("channel_missing"))
    assert "'c1' does not come" in sentence
    assert "'temperature'" in sentence
    assert eventually(lambda: max(float(str(one.name)) for one in stream.out) > renamed.time_s[-4])
    assert "without c1" in stream.pipeline.view().assets.not_online["pump"]
    feed.over = True


def test_bursts_of_nothing_a_stuck_sensor_and_silence_are_never_healthy(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, how: Any, eventually: Any
) -> None:
    policy = RegressionPolicy(act_below=0.0, judge="value", alarm=AlarmRule(stale_s=2.0))
    factory.install(tmp_path / "root", how=how(stuck_s=1.0), policy=policy)
    fine, stuck, burst = rows("fine", 600), rows("stuck", 600), rows("burst", 600)
    stuck.values[30:, 1] = 3.0
    burst.values[20:] = np.nan
    feed, stop = Feed(), threading.Event()
    stream = make_stream(RowsIterator(feed, "main"), expected=["never-heard"])

    def give() -> None:
        for at in range(600):
            if stop.wait(0.03):
                return
            feed.rows += [Rows(r.asset, r.time_s[[at]], r.values[[at]], r.channels) for r in (fine, stuck, burst)]

    giver = threading.Thread(target=give)
    giver.start()
    try:
        health = eventually(lambda: _all_known(stream, 4))
    finally:
        stop.set()
        giver.join()
    assert health["never-heard"].endswith("offline")
    assert "c1" in health["stuck"]
    assert health["burst"].startswith("rows come, but no decision")
    eventually(
        lambda: any("no number comes" in sentence for _, sentence in stream.told), what="that numbers are missing"
    )
    eventually(lambda: stream.pipeline.view().assets.counts["offline"] == 4, what="silence is offline")
    assert stream.pipeline.view().assets.counts["online"] == 0
    assert {"asset_offline", "asset_stuck"} <= set(stream.kinds())
    assert all(np.isfinite(one.value) for one in stream.out if one.value is not None)
    feed.over = True


def _all_known(stream: Any, count: int) -> dict[str, str] | None:
    assets = stream.pipeline.view().assets
    known = {**assets.not_online}
    return known if len(known) == count - 1 and assets.counts["online"] == 1 else None


def test_one_case_an_asset_with_hysteresis(
    tmp_path: Path, factory: Any, make_stream: Any, how: Any, eventually: Any
) -> None:
    rule = AlarmRule(on_after_s=0.5, off_after_s=1.0, stale_s=60)
    policy = RegressionPolicy(act_below=2.0, warn_below=4.0, judge="value", alarm=rule)
    factory.install(tmp_path / "root", how=how(length=2, hop=1, hold_s=0.0), policy=policy)
    level = np.repeat([9.0, 1.0, 9.0, 1.0, 3.0, 9.0, 1.0, 9.0], [20, 2, 10, 30, 20, 5, 20, 40])
    time_s = 100 + 0.1 * np.arange(len(level))
    values = np.stack([level, np.zeros_like(level), np.zeros_like(level)], axis=1)
    feed = [Rows("pump", time_s[[i]], values[[i]], ("c0", "c1", "c2")) for i in range(len(level))]
    stream = make_stream(RowsIterator(feed, "main"))
    eventually(lambda: stream.pipeline.finished)
    # 0.2 s of nok opens nothing; 3 s opens one case; neither 2 s of warning nor 0.5 s of ok close it, 4 s of ok do.
    assert [kind for kind, _ in stream.cases] == ["case_opened", "case_closed"]
    opened, closed = (facts for _, facts in stream.cases)
    assert opened["asset"] == "pump"
    assert opened["case"] == closed["case"] == 1
    assert opened["at"] - opened["since"] >= 0.5
    assert closed["at"] - closed["since"] >= 1.0
    assert stream.pipeline.view().assets.open_cases == 0


def test_rows_from_before_the_first_model_open_no_case_that_nobody_was_told_of(
    tmp_path: Path, factory: Any, make_stream: Any, how: Any, eventually: Any
) -> None:
    feed = Feed()
    source = RowsIterator(feed, "main")
    source.live = True  # as MQTT is: rows are taken before there is a model
    stream = make_stream(source)

    def give(*levels: float) -> None:
        for level in levels:
            at = 100 + 0.1 * len(feed.rows)
            feed.rows.append(Rows("pump", np.array([at]), np.array([[level, 0.0, 0.0]]), ("c0", "c1", "c2")))

    give(*[1.0] * 30)
    eventually(lambda: stream.pipeline._memory._log.end.offset > 0 and not stream.pipeline._queue.qsize())
    rule = AlarmRule(on_after_s=0.5, off_after_s=1.0, stale_s=60)
    policy = RegressionPolicy(act_below=2.0, judge="value", alarm=rule)
    factory.install(tmp_path / "root", how=how(length=2, hop=1, hold_s=0.0), policy=policy)
    eventually(lambda: stream.pipeline.view().model is not None and "pump" in (stream.pipeline._fleet or ()))
    assert stream.pipeline.view().assets.open_cases == 0
    give(*[1.0] * 30)
    eventually(lambda: stream.cases)
    assert [kind for kind, _ in stream.cases] == ["case_opened"]
    feed.over = True


def test_a_swap_in_mid_stream_loses_no_window(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, cut: Any, offline: Any, same: Any, eventually: Any
) -> None:
    root = tmp_path / "root"
    first = factory.install(root, seed=0)
    one = rows("pump", 400)
    want_first = offline(first.path, one)
    feed = Feed()
    stream = make_stream(RowsIterator(feed, "main"))
    feed.rows += cut(one, 400)[:200]
    eventually(lambda: len(stream.out) > 90)
    second = factory.install(root, seed=7)
    want_second = offline(second.path, one)
    eventually(lambda: "swapped" in stream.kinds())
    feed.rows += cut(one, 400)[200:]
    feed.over = True
    eventually(lambda: stream.pipeline.finished)
    got = stream.of("pump")
    assert list(got) == list(want_first)
    versions = [p.model.version for p in got.values()]
    assert versions == sorted(versions)
    assert len(set(versions)) == 2
    for name, prediction in got.items():
        want = want_first if prediction.model.version == versions[0] else want_second
        assert prediction.value == pytest.approx(want[name].value, abs=1e-6)


def test_a_model_with_longer_windows_is_warmed_from_the_raw_ring(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, cut: Any, how: Any, offline: Any, eventually: Any
) -> None:
    root = tmp_path / "root"
    factory.install(root)
    one = rows("pump", 400)
    feed = Feed()
    stream = make_stream(RowsIterator(feed, "main"))
    feed.rows += cut(one, 400)[:200]
    eventually(lambda: len(stream.out) > 90)
    second = factory.install(root, how=how(length=50, hop=5, period_s=0.2))
    want = offline(second.path, one)
    eventually(lambda: "swapped" in stream.kinds())
    feed.rows += cut(one, 400)[200:]
    feed.over = True
    eventually(lambda: stream.pipeline.finished)
    new = {name: p for name, p in stream.of("pump").items() if p.model.version == stream.out[-1].model.version}
    assert len(new) >= 18
    for name, prediction in new.items():  # the first one too has all 50 steps
        assert prediction.value == pytest.approx(want[name].value, abs=1e-5)


def test_a_clean_stop_and_a_start_go_on_as_if_nothing_was(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, cut: Any, offline: Any, same: Any, eventually: Any
) -> None:
    slot = factory.install(tmp_path / "root")
    recordings = [rows(f"pump-{n}", 200) for n in range(5)]
    pieces = _interleaved(recordings, cut, 200)
    got: list[Any] = []
    for part in (pieces[:333], pieces[333:700], pieces[700:]):
        stop = threading.Event()
        last = part is not pieces[:333] and part[-1] is pieces[-1]
        stream = make_stream(RowsIterator(part if last else _open_ended(part, stop), "main"), late_s=0.3)
        if last:
            eventually(lambda: stream.pipeline.finished)  # noqa: B023
        else:
            eventually(lambda: stream.pipeline.view().model is not None and not stream.pipeline._queue.qsize())  # noqa: B023
            time.sleep(0.3)
        stop.set()
        assert stream.pipeline.stop(10.0)
        got += stream.out
    for one in recordings:
        mine = {str(p.name): p for p in got if p.asset == one.asset}
        assert same(mine, offline(slot.path, one)) <= 1e-6
    assert len(got) == len({(p.asset, p.name) for p in got})


def test_a_machine_is_decided_once_it_is_commissioned_and_not_before(
    tmp_path: Path, factory: Any, make_stream: Any, rows: Any, how: Any, small_windows: Any, eventually: Any
) -> None:
    from edge_sft.slots.commissioning import Commissioning
    from edge_sft.slots.commissioning_file import CommissioningStore

    root, windowing = tmp_path / "root", how()
    policy = AnomalyPolicy(alarm=AlarmRule(stale_s=1.0))
    graph, task = small_windows.anomaly(8, 3), small_windows.anomaly_task(windowing)
    slot = factory.install(root, how=windowing, task=task, graph=graph, policy=policy)
    feed, stop, one = Feed(), threading.Event(), rows("pump", 3000)
    stream = make_stream(RowsIterator(feed, "main"))

    def give() -> None:
        for at in range(3000):
            if stop.wait(0.02):
                return
            feed.rows.append(Rows("pump", one.time_s[[at]], one.values[[at]], one.channels))

    giver = threading.Thread(target=give)
    giver.start()
    try:
        eventually(lambda: len(stream.out) > 3)
        assert {p.verdict for p in stream.out} == {"no_decision"}
        assert stream.pipeline.view().assets.counts["online"] == 0
        eventually(lambda: "not commissioned" in stream.pipeline.view().assets.not_online["pump"])
        store = CommissioningStore(root, "main", slot.digest)
        store.path("pump").parent.mkdir(parents=True)
        store.path("pump").write_bytes(b"torn")
        eventually(lambda: "is no commissioning" in stream.out[-1].reason)
        assert store.path("pump").name in stream.sentence("commissioning_refused")
        eventually(lambda: "is no commissioning" in stream.pipeline.view().assets.not_online["pump"])
        made = Commissioning(
            model_digest=slot.digest,
            asset="pump",
            inputs={"mean": np.full(3, 5, np.float32), "std": np.ones(3, np.float32)},
            threshold=100.0,
            windows=30,
            first=0.0,
            last=1.0,
            created_at="2026-01-01T00:00:00.000Z",
            source="a test",
        )
        store.write(made)
        eventually(lambda: stream.out[-1].verdict == "ok")
        assert stream.out[-1].channels
        eventually(lambda: stream.pipeline.view().assets.counts["online"] == 1)
        assert "pump" in stream.sentence("commissioned")
    finally:
        stop.set()
        giver.join()
        feed.over = True


_VICTIM = """
import sys, time, json, threading, itertools
from pathlib import Path
import numpy as np
sys.path.insert(0, {here!r})
from edge_sft.prediction import Rows
from edge_sft.runtime.agent import Agent
from edge_sft.runtime.config import AgentConfig
from edge_sft.runtime.sources import rows_replay
root, data = Path({root!r}), Path({data!r})
config = AgentConfig.model_validate({{
    "agent": {{"root": root}}, "mqtt": {{"port": 1}},
    "pipeline": [{{
        "source": {{
            "kind": "replay", "path": data, "time": "time", "time_format": "number", "speed": {speed}, "rows": 3
        }},
        "assets": {{"late_s": 0.3, "save_every_s": 0.4}},
    }}],
}})
print("ready", flush=True)
Agent(config).run(threading.Event(), until_done=True)
print("done", flush=True)
"""


def _write_csv(folder: Path, one: Rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["time," + ",".join(one.channels)]
    lines += [
        f"{t!r}," + ",".join(repr(v) for v in row)
        for t, row in zip(one.time_s.tolist(), one.values.tolist(), strict=True)
    ]
    (folder / f"{one.asset}.csv").write_text("\n".join(lines) + "\n")


def test_killed_in_mid_stream_again_and_again_and_every_decision_is_there(
    tmp_path: Path, factory: Any, rows: Any, offline: Any, same: Any
) -> None:
    """kill -9 of the real agent on a replay, three times; then let it end. Its journal holds what offline gives."""
    from edge_sft.runtime.journal import Journal

    root, data = tmp_path / "root", tmp_path / "data"
    slot = factory.install(root)
    recordings = [rows(f"pump-{n}", 120) for n in range(4)]
    for one in recordings:
        _write_csv(data, one)
    script = textwrap.dedent(_VICTIM).format(here=".", root=str(root), data=str(data), speed=3)
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    for pause in itertools.chain(np.random.default_rng(3).uniform(0.5, 1.3, 3), [None]):
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if pause is None:
            assert child.wait(60) == 0
            break
        time.sleep(float(pause))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    child.stdout.close()
    with Journal(root / "journal.sqlite") as journal:
        envelopes = [envelope for _, envelope in journal.pending(100_000)]
    found = [envelope.prediction for envelope in envelopes if envelope.prediction is not None]
    assert [one.dropped for one in envelopes if one.dropped] == []
    for one in recordings:
        mine = {str(p.name): p for p in sorted((p for p in found if p.asset == one.asset), key=lambda p: float(p.name))}
        assert same(mine, offline(slot.path, one)) <= 1e-4
    twice = len(found) - len({(p.asset, p.name) for p in found})
    assert twice <= 3 * 4 * 20, "only the last moments before a kill are decided again"
