"""docker/mosquitto as it is, with only its paths and port changed, on a real Mosquitto."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from edge_sft.runtime.broker_engines import find_mosquitto, mosquitto_hash
from edge_sft.runtime.journal import Journal
from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.publisher import Publisher
from edge_sft.runtime.topics import Topics

FOLDER = Path(__file__).parents[3] / "docker" / "mosquitto"


@pytest.fixture
def plant(tmp_path, certificates, free_port, eventually):
    """A running broker; returns what makes a user's settings."""
    if find_mosquitto() is None:
        pytest.skip("no mosquitto here: the plant's configuration was not proved")
    ca = certificates("plant")
    cert, key = ca.issue("server")
    port = free_port()
    for user in ("press3", "ledger", "monitor", "plc", "gateway", "stranger"):
        with (tmp_path / "passwords").open("a") as file:
            file.write(f"{user}:{mosquitto_hash(user * 2)}\n")
        (tmp_path / user).write_text(user * 2)
    (tmp_path / "acl").write_bytes((FOLDER / "acl").read_bytes())
    for file in ("acl", "passwords"):
        (tmp_path / file).chmod(0o600)
    text = (FOLDER / "mosquitto.conf").read_text()
    changes = {
        "listener 8883": f"listener {port} 127.0.0.1",
        "/mosquitto/config/ca.pem": str(ca.ca_file),
        "/mosquitto/config/server.pem": str(cert),
        "/mosquitto/config/server.key": str(key),
        "/mosquitto/config": str(tmp_path),
        "/mosquitto/data": str(tmp_path),
        "log_dest stdout": "log_dest stderr",
    }
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "mosquitto.conf").write_text(text + ("user root\n" if os.getuid() == 0 else ""))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([find_mosquitto(), "-c", str(tmp_path / "mosquitto.conf")], stdout=log, stderr=log)

    def settings(user):
        return MqttSettings(
            port=port, username=user, password_file=tmp_path / user, ca_file=ca.ca_file, first_wait_s=0.1
        )

    yield settings
    process.terminate()
    process.wait()
    assert b"Error" not in (tmp_path / "log").read_bytes()


def test_everyone_may_do_their_own_part_and_no_more(plant, eventually):
    mine, other = Topics("s", "l", "press3"), Topics("s", "l", "press4")
    seen, acks = [], []
    links = [MqttLink(plant(user), client_id=user).start() for user in ("monitor", "ledger", "press3", "plc")]
    monitor, ledger, device, plc = links
    monitor.subscribe("edge-sft/v1/#", lambda topic, _: seen.append(topic))
    device.subscribe(mine.ack, lambda topic, _: acks.append(topic))
    device.subscribe("hall1/press3/trigger", lambda topic, _: acks.append(topic))
    for link in links:
        link.wait_connected(10)
    forbidden = [
        (device, other.prediction("cam")),
        (device, mine.of_device("command")),
        (ledger, mine.prediction("cam")),
        (monitor, mine.prediction("cam")),
        (plc, mine.ack),
    ]
    for link, topic in forbidden:
        assert link.publish(topic, b"forbidden")
    allowed = [(device, mine.prediction("cam")), (device, mine.state("cam")), (device, mine.device_state)]
    for link, topic in allowed:
        assert link.publish(topic, b"fine")
    assert ledger.publish(mine.ack, b"fine")
    assert plc.publish("hall1/press3/trigger", b"{}")
    eventually(lambda: len(seen) >= 4 and len(acks) == 2)
    assert sorted(seen) == sorted([mine.prediction("cam"), mine.state("cam"), mine.device_state, mine.ack])
    for link in links:
        link.stop()


def test_rows_go_from_gateways_to_devices_and_nobody_else_sends_them(plant, eventually):
    users = ("press3", "gateway", "plc", "monitor", "ledger")
    links = {user: MqttLink(plant(user), client_id=user).start() for user in users}
    rows, decisions = [], []
    links["press3"].subscribe("plant/+/sensors", lambda topic, payload: rows.append((topic, payload)))
    links["press3"].subscribe("plant/+/temp", lambda topic, payload: rows.append((topic, payload)))
    links["gateway"].subscribe("edge-sft/v1/#", lambda topic, _: decisions.append(topic))
    for link in links.values():
        link.wait_connected(10)
    for user in ("press3", "plc", "monitor", "ledger"):
        assert links[user].publish("plant/pump-07/sensors", b"forbidden")
    assert links["press3"].publish(Topics("s", "l", "press3").prediction("pumps"), b"fine")
    assert links["gateway"].publish("plant/pump-07/sensors", b"fine")
    assert links["gateway"].publish("plant/pump-08/temp", b"fine")
    eventually(lambda: len(rows) >= 2)
    assert sorted(rows) == [("plant/pump-07/sensors", b"fine"), ("plant/pump-08/temp", b"fine")]
    assert decisions == []
    for link in links.values():
        link.stop()


def test_with_mqtt5_a_refused_decision_stays_in_the_journal(plant, tmp_path, prediction, eventually):
    settings = dataclasses.replace(plant("stranger"), version="5")
    with Journal(tmp_path / "j.db") as journal, MqttLink(settings, client_id="x") as link:
        with Publisher(journal, link, Topics("s", "l", "press3")) as publisher:
            link.wait_connected(10)
            journal.append(prediction(0))
            eventually(lambda: publisher.stats.refused == 1)
            assert journal.waiting == 1
