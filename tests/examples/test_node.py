"""The Node.js examples, run by a real node against real packages and a real broker."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_sft import policy as policies
from edge_sft.policy import Policy
from edge_sft.prediction import DroppedRange, Envelope, ModelIdentity, Prediction, schema_text

EPOCH = "0123456789abcdef"


@pytest.fixture
def bundle_folder(small: ModuleType, unpack: ModuleType, tmp_path: Path) -> Path:
    signer = small.Signer.make(tmp_path / "keys")
    policy = Policy(labels=small.LABELS, ok_labels=("good",), threshold=0.3, uncertain_low=0.2, uncertain_high=0.5)
    bundle = small.plan(policy=policy, tolerance=1e-5).write(tmp_path, signer)
    return Path(unpack.unpack(bundle, signer.public_path, tmp_path / "out"))


def infer(node_folder: Path, folder: Path) -> tuple[int, dict[str, object]]:
    command = ["node", "infer.mjs", str(folder)]
    done = subprocess.run(command, cwd=node_folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_node_gets_our_numbers_and_our_decisions(node_folder: Path, bundle_folder: Path) -> None:
    status, told = infer(node_folder, bundle_folder)
    assert status == 0
    assert told["equal"] is True
    assert told["tolerance"] == 1e-5
    assert told["largest_difference"] <= 1e-5  # type: ignore[operator]
    policy = policies.load(bundle_folder / "policy.json")
    probabilities = np.frombuffer((bundle_folder / "out-probabilities.bin").read_bytes(), dtype=np.float32)
    ours = [policies.decide({"probabilities": row}, policy) for row in probabilities.reshape(-1, 3)]
    theirs = told["decisions"]
    assert isinstance(theirs, list)
    assert [item["verdict"] for item in theirs] == [decision.verdict for decision in ours]
    assert [item["label"] for item in theirs] == [decision.label for decision in ours]
    assert [item["score"] for item in theirs] == pytest.approx([decision.score for decision in ours], abs=1e-5)
    assert len({decision.verdict for decision in ours}) > 1


def test_node_notices_other_numbers(node_folder: Path, bundle_folder: Path) -> None:
    file = bundle_folder / "out-probabilities.bin"
    spoilt = np.frombuffer(file.read_bytes(), dtype=np.float32).copy()
    spoilt[4] += 1e-3
    file.write_bytes(spoilt.tobytes())
    status, told = infer(node_folder, bundle_folder)
    assert status == 1
    assert told["equal"] is False
    spoilt[4] = np.nan
    file.write_bytes(spoilt.tobytes())
    assert infer(node_folder, bundle_folder)[0] == 1


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed: the MQTT consumer was not run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def envelopes() -> list[Envelope]:
    model = ModelIdentity(name="screws", version="1.0.0", digest="a" * 64, variant="fp32")
    times = {"captured_at": "2026-01-31T12:00:00.125Z", "decided_at": "2026-01-31T12:00:00.150Z"}
    decided = Prediction(
        stream="main", part_id="P-17", latency_ms=25.0, verdict="nok", label="scratch", score=0.91, confidence=0.9,
        probabilities={"good": 0.09, "scratch": 0.91}, model=model, policy_version="abcabcabcabc", **times,
    )  # fmt: skip
    undecided = Prediction(stream="main", latency_ms=90.0, verdict="no_decision", reason="deadline missed", **times)
    lost = DroppedRange(first_seq=2, last_seq=9, reason="journal full")
    return [
        Envelope(stream="main", epoch=EPOCH, seq=0, prediction=decided),
        Envelope(stream="main", epoch=EPOCH, seq=0, backfill=True, prediction=decided),  # a second delivery
        Envelope(stream="main", epoch=EPOCH, seq=1, backfill=True, prediction=undecided),
        Envelope(stream="main", epoch=EPOCH, seq=10, dropped=lost),
    ]


def test_the_consumer_understands_what_we_publish(node_folder: Path, broker: int, tmp_path: Path) -> None:
    import paho.mqtt.client as paho

    schema = tmp_path / "schema.json"
    schema.write_text(schema_text())
    command = ["node", "consumer.mjs", "--url", f"mqtt://127.0.0.1:{broker}", "--schema", str(schema), "--count", "3"]
    consumer = subprocess.Popen(
        command, cwd=node_folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert consumer.stderr is not None
        assert "listening" in consumer.stderr.readline()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.connect("127.0.0.1", broker)
        client.loop_start()
        topic = "edge-sft/v1/plant/line1/pc7/main/prediction"
        payloads = [b"{", b'{"schema_version": 2}', *(item.to_json() for item in envelopes())]
        for payload in payloads:
            client.publish(topic, payload, qos=1).wait_for_publish(10)
        printed, _ = consumer.communicate(timeout=30)
        client.disconnect()
        client.loop_stop()
    finally:
        consumer.kill()
        consumer.wait(10)
    lines = printed.splitlines()
    assert consumer.returncode == 0
    assert lines[:2] == [f"refused  {topic}: not an envelope of edge-sft v1"] * 2
    assert lines[2] == "nok      main #0 part P-17 scratch (evidence for a defect 0.910) 2026-01-31T12:00:00.125Z"
    assert lines[3] == "no_decision main #1 part – deadline missed 2026-01-31T12:00:00.125Z late"
    assert lines[4] == "lost     main 2…9: journal full"
    assert len(lines) == 5
