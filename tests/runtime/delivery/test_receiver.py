"""Journal, publisher, a real broker and the ledger together."""

import sqlite3
import time

import pytest

from edge_sft.errors import DeviceError
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.ledger import Ledger
from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.publisher import Publisher
from edge_sft.runtime.ranges import total
from edge_sft.runtime.receiver import Receiver
from edge_sft.runtime.topics import Topics

PERSISTENT = ("max_inflight_messages 1000", "max_queued_messages 0")


def settings(broker, version="3.1.1"):
    return MqttSettings(port=broker.port, version=version, first_wait_s=0.05, longest_wait_s=0.2)


@pytest.fixture
def device(tmp_path):
    """Make a device's journal, link and publisher, started."""
    parts = []

    def make(broker, ack="ledger", version="3.1.1", name="d"):
        journal = Journal(tmp_path / f"{name}.db")
        link = MqttLink(settings(broker, version), client_id=name).start()
        topics = Topics("s", "l", name)
        publisher = Publisher(journal, link, topics, ack=ack, ack_timeout_s=1.0, backfill_per_s=5000).start()
        parts.append((journal, link, publisher))
        return journal, link, publisher

    yield make
    for journal, link, publisher in parts:
        publisher.stop()
        link.stop()
        journal.close()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_the_journal_empties_only_into_the_ledger(mosquitto, tmp_path, device, prediction, eventually, version):
    broker = mosquitto(*PERSISTENT)
    journal, _, publisher = device(broker, version=version)
    for i in range(200):
        journal.append(prediction(i))
    eventually(lambda: publisher.stats.answered == 200, what="broker's answers")
    assert journal.waiting == 200
    with Ledger(tmp_path / "l.db") as book:
        with Receiver(book, settings(broker, version)):
            eventually(lambda: journal.waiting == 0, 20)
        (account,) = book.accounts.values()
        assert list(account.arrived) == [(0, 199)]
        assert account.missing == []


def test_a_broker_killed_again_and_again_loses_nothing(mosquitto, tmp_path, device, prediction, eventually):
    broker = mosquitto(*PERSISTENT)
    journal, _, _ = device(broker)
    with Ledger(tmp_path / "l.db") as book, Receiver(book, settings(broker)):
        for number in range(1500):
            journal.append(prediction(number, f"cam{number % 2}"))
            time.sleep(0.001)
            if number % 400 == 300:
                broker.kill()
                broker.start()
        eventually(lambda: journal.waiting == 0, 30)
    with Ledger(tmp_path / "l.db", read_only=True) as book:
        assert [total(account.arrived) for account in book.accounts.values()] == [750, 750]
        assert [account.missing for account in book.accounts.values()] == [[], []]


def test_the_broker_keeps_messages_for_a_ledger_that_is_away(mosquitto, tmp_path, device, prediction, eventually):
    broker = mosquitto(*PERSISTENT)
    with Ledger(tmp_path / "l.db") as book:
        with Receiver(book, settings(broker)) as receiver:
            receiver.link.wait_connected(20)
            time.sleep(0.2)
        journal, _, _ = device(broker, ack="broker")
        for i in range(50):
            journal.append(prediction(i))
        eventually(lambda: journal.waiting == 0)
        with Receiver(book, settings(broker)) as receiver:
            eventually(lambda: receiver.received == 50)
        (account,) = book.accounts.values()
        assert list(account.arrived) == [(0, 49)]


def test_while_the_ledgers_disk_refuses_nothing_is_answered(
    mosquitto, tmp_path, device, prediction, eventually, monkeypatch
):
    broker = mosquitto(*PERSISTENT)
    refuse = [True]
    real = Ledger.accept

    def accept(self, messages, *, prefix):
        if refuse:
            raise DeviceError(str(self.path), "the disk is full") from sqlite3.OperationalError()
        return real(self, messages, prefix=prefix)

    monkeypatch.setattr(Ledger, "accept", accept)
    journal, _, publisher = device(broker)
    events = []
    with Ledger(tmp_path / "l.db") as book:
        with Receiver(book, settings(broker), on_event=lambda *event: events.append(event)):
            for i in range(20):
                journal.append(prediction(i))
            eventually(lambda: any(kind == "ledger_refused" for kind, _ in events))
            time.sleep(0.5)
            assert journal.waiting == 20
            assert publisher.stats.answered >= 20
            refuse.clear()
            eventually(lambda: journal.waiting == 0)
        assert len([kind for kind, _ in events if kind == "ledger_refused"]) == 1
        (account,) = book.accounts.values()
        assert list(account.arrived) == [(0, 19)]


def test_one_poisonous_message_does_not_stop_the_others(
    mosquitto, tmp_path, device, prediction, eventually, monkeypatch
):
    broker = mosquitto(*PERSISTENT)
    real = Ledger.accept

    def accept(self, messages, *, prefix):
        if any(b"part-7" in payload for _, payload in messages):
            raise OverflowError("out of the blue")
        return real(self, messages, prefix=prefix)

    monkeypatch.setattr(Ledger, "accept", accept)
    journal, _, _ = device(broker)
    with Ledger(tmp_path / "l.db") as book:
        with Receiver(book, settings(broker)):
            for i in range(20):
                journal.append(prediction(i))
            eventually(lambda: journal.waiting == 1)
        (account,) = book.accounts.values()
        assert account.missing == [(7, 7)]
