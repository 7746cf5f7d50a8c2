import random
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from edge_sft.errors import DeviceError
from edge_sft.runtime import journal as journal_module
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.outbox import Outbox


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def seqs(entries, stream="cam"):
    return [envelope.seq for _, envelope in entries if envelope.stream == stream]


def accounted(entries, acknowledged=()):
    """Every number that is pending, named as dropped, or was acknowledged."""
    numbers = set(acknowledged)
    for _, envelope in entries:
        numbers.add(envelope.seq)
        if envelope.dropped:
            numbers |= set(range(envelope.dropped.first_seq, envelope.dropped.last_seq + 1))
    return numbers


def test_numbers_are_contiguous_per_stream_and_survive_a_restart(tmp_path, prediction):
    with Journal(tmp_path / "j.db") as journal:
        for i in range(10):
            journal.append(prediction(i, "a"))
            journal.append(prediction(i, "b"))
        assert journal.flush(5)
        epoch = journal.epoch
        entries = journal.pending(100)
        assert seqs(entries, "a") == seqs(entries, "b") == list(range(10))
        assert {envelope.epoch for _, envelope in entries} == {epoch}
        assert len(epoch) == 16
        assert entries[0][1].prediction == prediction(0, "a")
        journal.acknowledge([rowid for rowid, _ in entries])
        assert journal.pending(100) == []
    with Journal(tmp_path / "j.db") as journal:
        assert journal.epoch == epoch
        assert journal.pending(100) == []
        journal.append(prediction(10, "a"))
        assert journal.flush(5)
        assert seqs(journal.pending(1), "a") == [10]


def test_pending_pages_by_row_id(tmp_path, prediction):
    with Journal(tmp_path / "j.db") as journal:
        for i in range(10):
            journal.append(prediction(i))
        journal.flush(5)
        first = journal.pending(4)
        assert seqs(first) == [0, 1, 2, 3]
        assert seqs(journal.pending(4, after=first[-1][0])) == [4, 5, 6, 7]
        assert seqs(journal.pending(9, after=first[-1][0], until=first[-1][0] + 2)) == [4, 5]


def test_ranges_are_acknowledged_also_when_they_are_unknown(tmp_path, prediction, eventually):
    with Journal(tmp_path / "j.db") as journal:
        for i in range(10):
            journal.append(prediction(i))
        journal.flush(5)
        journal.acknowledge_range("cam", journal.epoch, 0, 6)
        journal.acknowledge_range("cam", "0" * 16, 0, 9)
        journal.acknowledge_range("other", journal.epoch, 0, 9)
        eventually(lambda: journal.waiting == 3)
        assert seqs(journal.pending(10)) == [7, 8, 9]


@pytest.mark.parametrize("seed", range(4))
def test_a_full_journal_drops_the_oldest_and_names_every_number(tmp_path, prediction, seed):
    rng = random.Random(seed)
    acknowledged = set()
    with Journal(tmp_path / "j.db", max_bytes=30_000) as journal:
        for i in range(1500):
            journal.append(prediction(i))
            if rng.random() < 0.05:
                journal.flush(5)
                entries = journal.pending(200)
                gone = rng.sample(entries, min(len(entries), rng.randrange(12)))
                journal.acknowledge([rowid for rowid, _ in gone])
                acknowledged |= accounted(gone)
                assert journal.size_bytes <= 30_000
        journal.flush(5)
        entries = journal.pending(10_000)
        numbers = accounted(entries, acknowledged)
        assert numbers == set(range(max(numbers) + 1))
        drops = [envelope.dropped for _, envelope in entries if envelope.dropped]
        assert drops
        assert all("journal full (30000 bytes)" in drop.reason for drop in drops)
        assert seqs(entries) == sorted(seqs(entries))
        names = [envelope.prediction.name for _, envelope in entries if envelope.prediction]
        assert names[-1] == "1499", "the newest stays"


def test_what_is_too_old_is_dropped_by_running_time_not_by_the_wall_clock(
    tmp_path, prediction, eventually, monkeypatch
):
    clock = Clock()
    with Journal(tmp_path / "j.db", max_age_s=3600, clock=clock) as journal:
        for i in range(5):
            journal.append(prediction(i))
        journal.flush(5)
        clock.now += 3000
        journal.append(prediction(5))
        journal.flush(5)
        assert len(journal.pending(100)) == 6
    monkeypatch.setattr(time, "time", lambda: 4e9)  # decades away: nobody may look at it
    clock.now = 50.0  # a reboot: monotonic time starts anew
    with Journal(tmp_path / "j.db", max_age_s=3600, clock=clock) as journal:
        time.sleep(0.4)
        assert len(journal.pending(100)) == 6
        clock.now += 700
        eventually(lambda: len(journal.pending(100)) == 2)
        (_, newest), (_, drop) = journal.pending(100)
        assert newest.seq == 5
        assert (drop.dropped.first_seq, drop.dropped.last_seq) == (0, 4)
        assert "older than 3600 s" in drop.dropped.reason


@pytest.mark.parametrize("damage", ["garbage", "header", "truncated"])
def test_a_damaged_file_is_kept_under_another_name_and_a_new_epoch_begins(tmp_path, prediction, damage):
    path = tmp_path / "j.db"
    with Journal(path) as journal:
        for i in range(200):
            journal.append(prediction(i))
        journal.flush(5)
        old = journal.epoch
    content = path.read_bytes()
    if damage == "garbage":
        broken = b"\x00\xff" * 4096
    elif damage == "header":
        broken = b"X" * 100 + content[100:]
    else:
        broken = content[: len(content) // 2 - 100]
    path.write_bytes(broken)
    events = []
    with Journal(path, on_event=lambda *event: events.append(event)) as journal:
        assert journal.epoch != old
        journal.append(prediction(0))
        assert journal.flush(5)
        assert seqs(journal.pending(10)) == [0]
    kept = [p for p in tmp_path.iterdir() if ".damaged-" in p.name]
    assert broken in [p.read_bytes() for p in kept]
    assert [kind for kind, _ in events] == ["journal_set_aside"]
    assert str(kept[0].name)[:20] in events[0][1]


def test_a_file_damaged_while_open_is_replaced_and_nothing_appended_is_lost(tmp_path, prediction, monkeypatch):
    real = Outbox.commit
    broken = threading.Event()

    def commit(self, *args):
        if broken.is_set():
            broken.clear()
            raise sqlite3.DatabaseError("database disk image is malformed")
        return real(self, *args)

    monkeypatch.setattr(Outbox, "commit", commit)
    with Journal(tmp_path / "j.db") as journal:
        journal.append(prediction(0))
        journal.flush(5)
        generation, ((old_id, _),) = journal.generation, journal.pending(10)
        broken.set()
        for i in range(1, 4):
            journal.append(prediction(i))
        assert journal.flush(5)
        assert journal.generation > generation
        assert [e.prediction.name for _, e in journal.pending(10)] == ["1", "2", "3"]
        assert seqs(journal.pending(10)) == [0, 1, 2]
        assert old_id not in [rowid for rowid, _ in journal.pending(10)], "an answer under way must hit nothing new"


def test_a_second_agent_is_refused(tmp_path):
    with Journal(tmp_path / "j.db"):
        with pytest.raises(DeviceError, match="in use by another agent"):
            Journal(tmp_path / "j.db")


def refusing(monkeypatch, message):
    """Make the disk refuse while the returned event is set; what is kept in memory goes on."""
    refuses = threading.Event()
    real_commit, real_adopt = Outbox.commit, Outbox.adopt

    def on_disk(self):
        return self._db.execute("PRAGMA database_list").fetchone()[2] != ""

    def commit(self, *args):
        if refuses.is_set() and on_disk(self):
            raise sqlite3.OperationalError(message)
        return real_commit(self, *args)

    def adopt(self, *args):
        if refuses.is_set():
            raise sqlite3.OperationalError(message)
        return real_adopt(self, *args)

    monkeypatch.setattr(Outbox, "commit", commit)
    monkeypatch.setattr(Outbox, "adopt", adopt)
    return refuses


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("database or disk is full", "the disk is full"),
        ("attempt to write a readonly database", "read-only"),
        ("disk I/O error", "the disk fails"),
    ],
)
def test_while_the_disk_refuses_decisions_flow_from_memory_and_move_to_disk_after(
    tmp_path, prediction, eventually, monkeypatch, message, words
):
    refuses = refusing(monkeypatch, message)
    events = []
    with Journal(tmp_path / "j.db", on_event=lambda *event: events.append(event)) as journal:
        journal.append(prediction(0))
        assert journal.flush(5)
        epoch = journal.epoch
        refuses.set()
        for i in range(1, 5):
            journal.append(prediction(i))
        eventually(lambda: len(journal.pending(10)) == 5)
        assert not journal.on_disk
        assert not journal.flush(0.1), "memory is not durable"
        volatile = [envelope for _, envelope in journal.pending(10)][1:]
        assert [e.seq for e in volatile] == [0, 1, 2, 3]
        assert {e.epoch for e in volatile} == {journal.epoch} != {epoch}
        journal.acknowledge([journal.pending(10)[1][0]])
        refuses.clear()
        eventually(lambda: journal.on_disk)
        assert journal.flush(5)
        assert journal.epoch == epoch
        names = [e.prediction.name for _, e in journal.pending(10)]
        assert names == ["0", "2", "3", "4"]
    assert [kind for kind, _ in events] == ["journal_in_memory", "journal_on_disk_again"]
    assert words in events[0][1]
    with Journal(tmp_path / "j.db") as journal:
        assert [e.prediction.name for _, e in journal.pending(10)] == ["0", "2", "3", "4"]


def test_memory_is_bounded_too_and_its_drops_are_named(tmp_path, prediction, eventually, monkeypatch):
    refuses = refusing(monkeypatch, "disk I/O error")
    with Journal(tmp_path / "j.db", memory_bytes=20_000) as journal:
        refuses.set()
        for i in range(500):
            journal.append(prediction(i))
            time.sleep(0.0005)
        eventually(lambda: journal.pending(1000) and journal.pending(1000)[-1][1].seq >= 499)
        assert journal.size_bytes <= 20_000
        refuses.clear()
        eventually(lambda: journal.on_disk)
        numbers = accounted(journal.pending(1000))
        assert numbers == set(range(max(numbers) + 1))


def test_append_does_not_wait_for_a_hanging_disk_and_counts_what_does_not_fit(tmp_path, prediction, monkeypatch):
    real = Outbox.commit
    go = threading.Event()

    def commit(self, *args):
        go.wait(20)
        return real(self, *args)

    monkeypatch.setattr(Outbox, "commit", commit)
    with Journal(tmp_path / "j.db", queue_limit=100) as journal:
        journal.append(prediction(0))
        time.sleep(0.1)  # the writer hangs in its first commit now
        slowest = 0.0
        for i in range(1, 301):
            began = time.perf_counter()
            journal.append(prediction(i))
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 0.05
        go.set()
        assert journal.flush(5)
        entries = journal.pending(1000)
        drop = next(e.dropped for _, e in entries if e.dropped)
        assert drop.last_seq - drop.first_seq + 1 == 200
        assert "queue was full" in drop.reason
        numbers = accounted(entries)
        assert numbers == set(range(302))


def test_appending_is_quick(tmp_path, prediction):
    one = prediction()
    with Journal(tmp_path / "j.db") as journal:
        times = []
        for _ in range(2000):
            began = time.perf_counter()
            journal.append(one)
            times.append(time.perf_counter() - began)
        journal.flush(10)
    assert sorted(times)[len(times) // 2] < 0.001


def test_an_unwritable_place_does_not_stop_the_line(tmp_path, prediction, eventually):
    (tmp_path / "file").write_text("not a folder")
    events = []
    with Journal(tmp_path / "file" / "j.db", on_event=lambda *event: events.append(event)) as journal:
        journal.append(prediction(1))
        eventually(lambda: len(journal.pending(10)) == 1)
        assert not journal.on_disk
    assert events[0][0] == "journal_in_memory"


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 512 KiB, remountable read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small tmpfs: a really full disk was not proved")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_really_full_disk(small_disk, prediction, eventually):
    events = []
    with Journal(small_disk / "j.db", on_event=lambda *event: events.append(event)) as journal:
        (small_disk / "others").write_bytes(bytes(300 * 1024))
        for i in range(2000):
            journal.append(prediction(i))
            if i % 20 == 0:
                time.sleep(0.001)
        eventually(lambda: not journal.on_disk)
        eventually(lambda: journal.pending(5000)[-1][1].prediction.name == "1999")
        (small_disk / "others").unlink()
        rows = journal.pending(5000)
        assert [e.prediction.name for _, e in rows] == [str(i) for i in range(2000)]
        journal.acknowledge([rowid for rowid, _ in rows[:1900]])
        eventually(lambda: journal.on_disk, 20)
        assert journal.pending(5000)[-1][1].prediction.name == "1999"
    assert events[0][0] == "journal_in_memory"
    assert events[-1][0] == "journal_on_disk_again"


def test_a_disk_that_is_read_only_at_the_start(small_disk, prediction, eventually):
    with Journal(small_disk / "j.db") as journal:
        journal.append(prediction(0))
        assert journal.flush(5)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Journal(small_disk / "j.db") as journal:
        journal.append(prediction(1))
        eventually(lambda: [e.prediction.name for _, e in journal.pending(10)] == ["1"])
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        assert journal.flush(20)
        assert [e.prediction.name for _, e in journal.pending(10)] == ["0", "1"]


@pytest.mark.parametrize("oddity", [{"name": "\udcff.png"}, {"probabilities": {"good": float("nan")}}])
def test_a_decision_that_cannot_be_written_is_a_named_loss_and_stops_nothing(tmp_path, prediction, oddity):
    with Journal(tmp_path / "j.db") as journal:
        journal.append(prediction(0))
        journal.append(prediction(1).model_copy(update=oddity))
        journal.append(prediction(2))
        assert journal.flush(5)
        first, drop, last = (envelope for _, envelope in journal.pending(10))
        assert (first.seq, last.seq, drop.dropped.first_seq, drop.dropped.last_seq) == (0, 3, 1, 1)
        assert "could not be written" in drop.dropped.reason


SENDER = """
import os, sys, time
from pathlib import Path
from edge_sft.prediction import Prediction
from edge_sft.runtime.journal import Journal
truth = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
journal = Journal(Path(sys.argv[1]))
journal.listen(lambda places: os.write(truth, "".join(f"{s} {e} {n}\\n" for s, e, n in places).encode()))
print("ready", flush=True)
while True:
    journal.append(Prediction(stream="cam", captured_at="x", decided_at="x", latency_ms=1, verdict="ok"))
    time.sleep(0.0002)
"""


def test_what_was_committed_survives_kill_9(tmp_path):
    path, truth = tmp_path / "j.db", tmp_path / "truth"
    rng = random.Random(7)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SENDER, str(path), str(truth)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.4))
        process.kill()
        process.wait()
        process.stdout.close()
    with Journal(path) as journal:
        stored = {(e.stream, e.epoch, str(e.seq)) for _, e in journal.pending(10**6)}
        assert {int(seq) for _, _, seq in stored} == set(range(len(stored)))
    confirmed = {tuple(line.split()) for line in truth.read_text().splitlines()}
    assert confirmed
    assert confirmed <= stored


def test_space_is_given_back(tmp_path, prediction, eventually):
    path = tmp_path / "j.db"
    with Journal(path) as journal:
        for i in range(6000):
            journal.append(prediction(i))
        journal.flush(20)
        journal.acknowledge([rowid for rowid, _ in journal.pending(10**6)])
        eventually(lambda: journal.waiting == 0)
        for i in range(30):  # trimming is a little with each commit
            journal.append(prediction(i))
            journal.flush(5)
    assert path.stat().st_size < 1_500_000
    assert journal_module.log.name


def test_what_is_in_memory_moves_to_disk_at_the_end_if_it_can(tmp_path, prediction, eventually, monkeypatch):
    refuses = refusing(monkeypatch, "disk I/O error")
    with Journal(tmp_path / "j.db") as journal:
        refuses.set()
        journal.append(prediction(0))
        eventually(lambda: not journal.on_disk and len(journal.pending(10)) == 1)
        refuses.clear()
    with Journal(tmp_path / "j.db") as journal:
        assert [e.prediction.name for _, e in journal.pending(10)] == ["0"]


def test_a_commit_that_failed_but_happened_blocks_nothing(tmp_path, prediction, monkeypatch):
    real = Outbox.commit
    lie = threading.Event()

    def commit(self, *args):
        places = real(self, *args)
        if lie.is_set():
            lie.clear()
            raise sqlite3.OperationalError("disk I/O error")
        return places

    monkeypatch.setattr(Outbox, "commit", commit)
    with Journal(tmp_path / "j.db") as journal:
        lie.set()
        journal.append(prediction(0))
        assert journal.flush(10)
        journal.append(prediction(1))
        assert journal.flush(10)
        names = {e.prediction.name for _, e in journal.pending(10)}
        assert names == {"0", "1"}
