"""The verbs `ledger`, `monitor` and `broker` as a user runs them, each in a process of its own."""

import csv
import signal
import subprocess
import sys
import time

import pytest

from edge_sft.prediction import DroppedRange, Envelope
from edge_sft.runtime.broker_engines import find_mosquitto
from edge_sft.runtime.ledger import Ledger
from edge_sft.runtime.mqtt import MqttLink, MqttSettings
from edge_sft.runtime.topics import DEFAULT_PREFIX, Topics

EPOCH = "0123456789abcdef"
RUN = """
import sys, typer
from importlib import import_module
from edge_sft.errors import EdgeSftError
verb = sys.argv.pop(1)
try:
    typer.run(getattr(import_module("edge_sft.cli." + verb), verb))
except EdgeSftError as error:
    print("error:", error)
    sys.exit(error.exit_code)
"""


def command(*args):
    return [sys.executable, "-c", RUN, *map(str, args)]


def run(*args, timeout_s=30):
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture
def book(tmp_path, prediction):
    """A ledger's file where 2 is missing and 4 to 6 were dropped."""
    topic = Topics("s", "l", "d").prediction("cam")
    with Ledger(tmp_path / "l.db") as ledger:
        for seq in (0, 1, 3):
            envelope = Envelope(stream="cam", epoch=EPOCH, seq=seq, prediction=prediction(seq))
            ledger.accept([(topic, envelope.to_json())], prefix=DEFAULT_PREFIX)
        drop = DroppedRange(first_seq=4, last_seq=6, reason="full")
        envelope = Envelope(stream="cam", epoch=EPOCH, seq=7, dropped=drop)
        ledger.accept([(topic, envelope.to_json())], prefix=DEFAULT_PREFIX)
    return tmp_path / "l.db"


def test_ledger_status_says_what_is_missing(book):
    done = run("ledger", book, "--status")
    assert done.returncode == 3
    assert "1 missing" in done.stdout
    assert "Traceback" not in done.stderr


def test_ledger_export(book, tmp_path):
    done = run("ledger", book, "--export", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seq"], row["part_id"], row["verdict"]) for row in rows] == [
        ("0", "part-0", "ok"),
        ("1", "part-1", "ok"),
        ("3", "part-3", "ok"),
    ]
    assert {"asset", "value", "low", "high"} < set(rows[0])  # of sensors: which machine, and its remaining life


def test_ledger_of_nothing_and_without_a_broker(tmp_path, free_port):
    done = run("ledger", tmp_path / "none.db", "--status")
    assert (done.returncode, "does not exist" in done.stdout) == (2, True)
    done = run("ledger", tmp_path / "l.db", "--port", free_port(), "--duration", "1")
    assert done.returncode == 6
    assert "no broker answers there" in done.stdout


def test_ledger_receives_until_it_is_told_to_stop(mosquitto, tmp_path, prediction, eventually):
    broker = mosquitto()
    process = subprocess.Popen(command("ledger", tmp_path / "l.db", "--port", broker.port), stdout=subprocess.PIPE)
    topics = Topics("s", "l", "d")
    acknowledged = []
    with MqttLink(MqttSettings(port=broker.port), client_id="d") as link:
        link.subscribe(topics.ack, lambda _, payload: acknowledged.append(payload))
        link.wait_connected(20)
        payload = Envelope(stream="cam", epoch=EPOCH, seq=0, prediction=prediction(0)).to_json()
        deadline = time.monotonic() + 20
        while not acknowledged and time.monotonic() < deadline:
            link.publish(topics.prediction("cam"), payload)
            time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 0
    assert "0 missing" in said
    assert b'"ranges":[[0,0]]' in acknowledged[0]


def test_monitor_shows_decisions_and_who_is_online(mosquitto, prediction):
    broker = mosquitto()
    process = subprocess.Popen(
        command("monitor", "--port", broker.port, "--duration", "4"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    topics = Topics("s", "l", "press3")
    with MqttLink(MqttSettings(port=broker.port), client_id="d") as link:
        link.wait_connected(20)
        link.publish(topics.device_state, b'{"online": true}', retain=True)
        for seq in range(18):
            payload = Envelope(stream="cam", epoch=EPOCH, seq=seq, prediction=prediction(seq)).to_json()
            link.publish(topics.prediction("cam"), payload)
            time.sleep(0.2)
    said = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 0, said
    assert "online" in said
    assert "press3" in said
    assert "part-1" in said


def test_monitor_without_a_broker(free_port):
    done = run("monitor", "--port", free_port())
    assert done.returncode == 6
    assert "no broker answers there" in done.stdout


def test_broker_runs_and_refuses_to_be_open(tmp_path, free_port):
    done = run("broker", "--host", "0.0.0.0", "--root", tmp_path)
    assert (done.returncode, "without encryption" in done.stdout) == (2, True)
    if find_mosquitto() is None:
        pytest.skip("no mosquitto here: the running verb was not proved")
    done = run("broker", "--port", free_port(), "--root", tmp_path, "--duration", "1", "--engine", "mosquitto")
    assert done.returncode == 0, done.stdout
    assert "broker (mosquitto) on 127.0.0.1" in done.stdout
