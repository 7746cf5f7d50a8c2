import json
from itertools import pairwise

import pytest

from edge_sft.prediction import Envelope
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.publisher import Publisher
from edge_sft.runtime.topics import Topics

TOPICS = Topics("s", "l", "d")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class FakeLink:
    """The link's port: answers when told to, loses what was unanswered when it reconnects."""

    def __init__(self):
        self.connected, self.session, self.window = True, 1, 10_000
        self.sent, self.waiting, self.callbacks, self.resets = [], [], {}, 0

    def publish(self, topic, payload, qos=1, retain=False, *, done=None):
        if not self.connected:
            return False
        self.sent.append((topic, Envelope.from_json(payload)))
        self.waiting.append(done)
        return True

    def subscribe(self, topic, callback, qos=1):
        self.callbacks[topic] = callback

    def reset(self):
        self.resets += 1
        self.reconnect()

    def reconnect(self):
        self.waiting.clear()
        self.connected, self.session = True, self.session + 1

    def answer(self, accepted=True, count=None):
        for done in self.waiting[:count]:
            done(accepted)
        del self.waiting[:count]

    @property
    def seqs(self):
        return [envelope.seq for _, envelope in self.sent]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "j.db") as journal:
        yield journal


@pytest.fixture
def fill(journal, prediction):
    def fill(*numbers, stream="cam"):
        for number in numbers:
            journal.append(prediction(number, stream))
        assert journal.flush(5)

    return fill


def run(publisher, clock, seconds=0.0, step=0.05):
    end = clock.now + seconds
    while True:
        while publisher.step():
            pass
        if clock.now >= end:
            return
        clock.now += step


def test_live_entries_go_out_in_order_and_leave_on_the_brokers_answer(journal, fill, clock, eventually):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, clock=clock)
    run(publisher, clock)
    fill(*range(5))
    fill(*range(3), stream="side")
    run(publisher, clock)
    assert [t for t, _ in link.sent] == ["edge-sft/v1/s/l/d/cam/prediction"] * 5 + [
        "edge-sft/v1/s/l/d/side/prediction"
    ] * 3
    assert link.seqs == [0, 1, 2, 3, 4, 0, 1, 2]
    assert not any(envelope.backfill for _, envelope in link.sent)
    assert journal.waiting == 8
    link.answer(count=6)
    run(publisher, clock)
    eventually(lambda: journal.waiting == 2)
    assert publisher.stats.in_flight == 2
    assert len(link.sent) == 8, "nothing is published twice within one connection"


def test_the_window_bounds_what_is_unanswered(journal, fill, clock):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, window=4, clock=clock)
    run(publisher, clock)
    fill(*range(10))
    run(publisher, clock)
    assert link.seqs == [0, 1, 2, 3]
    link.answer(count=2)
    run(publisher, clock)
    assert link.seqs == [0, 1, 2, 3, 4, 5]
    link.window = 2  # what an MQTT 5 broker allows
    link.answer()
    run(publisher, clock)
    assert len(link.sent) == 8


def test_what_was_stored_before_the_connection_is_backfill(journal, fill, clock):
    fill(*range(5))
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, clock=clock)
    run(publisher, clock, 2)
    fill(5)
    run(publisher, clock)
    assert [(e.seq, e.backfill) for _, e in link.sent] == [*((n, True) for n in range(5)), (5, False)]


def test_live_goes_first_and_backfill_is_rate_limited(journal, fill, clock):
    fill(*range(100))
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, backfill_per_s=10, clock=clock)
    run(publisher, clock, 2)
    early = len(link.sent)
    assert 15 <= early <= 22
    fill(100, 101)
    run(publisher, clock)
    assert link.seqs[early : early + 2] == [100, 101]
    for _ in range(10):
        run(publisher, clock, 2)
        link.answer()
    late = [e.seq for _, e in link.sent if e.backfill]
    assert late == list(range(100))


def test_everything_unanswered_is_published_again_after_a_reconnect(journal, fill, clock, eventually):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, clock=clock)
    run(publisher, clock)
    fill(*range(6))
    run(publisher, clock)
    link.answer(count=2)
    run(publisher, clock)
    link.connected = False
    fill(6, 7)
    run(publisher, clock)
    eventually(lambda: journal.waiting == 6)
    link.sent.clear()
    link.reconnect()
    run(publisher, clock, 2)
    assert [(e.seq, e.backfill) for _, e in link.sent] == [(n, True) for n in range(2, 8)]
    link.answer()
    run(publisher, clock)
    eventually(lambda: journal.waiting == 0)


def test_what_the_broker_refuses_stays_and_is_tried_again(journal, fill, clock, eventually):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, ack_timeout_s=5, clock=clock)
    run(publisher, clock)
    fill(0, 1)
    run(publisher, clock)
    link.answer(accepted=False)
    run(publisher, clock, 3)
    assert publisher.stats.refused == 2
    assert journal.waiting == 2
    run(publisher, clock, 4)
    assert link.seqs == [0, 1, 0, 1]
    link.answer()
    run(publisher, clock)
    eventually(lambda: journal.waiting == 0)


def test_a_broker_that_answers_nothing_gets_a_new_connection(journal, fill, clock):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, ack_timeout_s=10, clock=clock)
    run(publisher, clock)
    fill(0)
    run(publisher, clock, 9)
    assert link.resets == 0
    run(publisher, clock, 3)
    assert link.resets == 1
    assert link.seqs == [0, 0]


def ack(journal, *ranges, stream="cam"):
    return json.dumps({"acks": [{"stream": stream, "epoch": journal.epoch, "ranges": list(ranges)}]}).encode()


def test_in_ledger_mode_only_the_ledger_lets_go(journal, fill, clock, eventually):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, ack="ledger", ack_timeout_s=10, clock=clock)
    run(publisher, clock)
    fill(*range(5))
    run(publisher, clock)
    link.answer()
    run(publisher, clock, 1)
    assert journal.waiting == 5
    link.callbacks[TOPICS.ack](TOPICS.ack, ack(journal, [0, 2]))
    eventually(lambda: journal.waiting == 2)
    run(publisher, clock, 30)
    again = [e for _, e in link.sent[5:]]
    assert {e.seq for e in again} == {3, 4}
    assert all(e.backfill for e in again)
    link.callbacks[TOPICS.ack](TOPICS.ack, ack(journal, [0, 4]))
    eventually(lambda: journal.waiting == 0)


def test_a_silent_ledger_is_asked_less_and_less_often_and_heard_at_once(journal, fill, clock):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, ack="ledger", ack_timeout_s=10, clock=clock)
    run(publisher, clock)
    fill(0)
    times = []
    for _ in range(12000):
        before = len(link.sent)
        run(publisher, clock, 0.1, step=0.1)
        link.answer()
        times += [clock.now] * (len(link.sent) - before)
    pauses = [round(b - a) for a, b in pairwise(times[1:])]
    assert pauses[0] <= 41
    assert pauses == sorted(pauses)
    assert max(pauses) >= 290
    link.callbacks[TOPICS.ack](TOPICS.ack, ack(journal, [7, 9], stream="other"))
    run(publisher, clock, 0.3)
    assert len(link.sent) == len(times) + 1


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"[]", b"{}", b'{"acks": 3}', b'{"acks": [{"stream": "cam", "epoch": "x", "ranges": [1]}]}'],
)
def test_a_hostile_acknowledgement_lets_nothing_go(journal, fill, clock, payload):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, ack="ledger", clock=clock)
    run(publisher, clock)
    fill(0)
    link.callbacks[TOPICS.ack](TOPICS.ack, payload)
    run(publisher, clock, 1)
    fill(1)
    assert journal.waiting == 2


def test_a_step_that_fails_does_not_end_the_publisher(journal, fill, eventually):
    link = FakeLink()
    real, fail = link.publish, [True]

    def publish(*args, **options):
        if fail and fail.pop():
            raise RuntimeError("out of the blue")
        return real(*args, **options)

    link.publish = publish
    with Publisher(journal, link, TOPICS):
        fill(0)
        eventually(lambda: link.seqs == [0])


def test_on_a_link_that_is_too_slow_the_newest_stay_live(journal, fill, clock):
    link = FakeLink()
    publisher = Publisher(journal, link, TOPICS, window=2, clock=clock, backfill_per_s=1000)
    run(publisher, clock)
    fill(*range(100))
    for _ in range(60):
        run(publisher, clock, 0.25)
        link.answer(count=1)  # four a second
    link.sent.clear()
    fill(100)
    for _ in range(8):
        run(publisher, clock, 0.05)
        link.answer(count=1)
    assert (100, False) in [(e.seq, e.backfill) for _, e in link.sent[:3]]
    for _ in range(200):
        run(publisher, clock, 0.05)
        link.answer()
    late = [e.seq for _, e in link.sent if e.backfill]
    assert late == sorted(set(late))
    assert late[-1] == 99
