"""What the agent's tests share: a real Mosquitto, a fake model, real small bundles, pictures, a listener."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.prediction import Envelope, ModelIdentity, Prediction, Sample, rfc3339
from edge_sft.runtime.config import AgentConfig, PipelineSection
from edge_sft.runtime.crew import Crew
from edge_sft.runtime.pipeline import Pipeline


def shared(name: str) -> ModuleType:
    """Load tests/contracts/<name>.py, once, under a name that no test folder can shadow."""
    key = f"edge_sft_tests_{name}"
    if key not in sys.modules:
        spec = spec_from_file_location(key, Path(__file__).parent.parent.parent / "contracts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


shared("small_bundle")
shared("dense_bundles")
shared("source")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return shared("small_bundle")


@pytest.fixture(scope="session")
def dense() -> ModuleType:
    return shared("dense_bundles")


@pytest.fixture(scope="session")
def bombs() -> dict[str, bytes]:
    """Pictures of a few bytes that say they are huge, by suffix."""
    return dict(shared("bombs").bombs())


def eventually(condition: Callable[[], Any], timeout_s: float = 30.0, what: str = "") -> Any:
    """Wait until something is truthy; return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"did not happen within {timeout_s} s: {what or condition}")


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Any]:
    return eventually


@pytest.fixture
def write_picture() -> Callable[..., Path]:
    """write_picture(path, colour=128, size=(48, 64)) writes beside and renames."""
    import cv2

    def write(path: Path, colour: int = 128, size: tuple[int, int] = (48, 64)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        done, encoded = cv2.imencode(path.suffix, np.full((*size, 3), colour, np.uint8))
        assert done
        beside = path.with_name(f".{path.name}.part")
        beside.write_bytes(encoded.tobytes())
        beside.replace(path)
        return path

    return write


def sample(number: int = 0, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "data": np.full((4, 4, 3), number % 256, np.uint8),
        "captured_at": datetime.now(timezone.utc),
        "captured_monotonic_s": time.monotonic(),
        "stream": "main",
        "name": str(number),
    }
    return Sample(**{**fields, **changes})


@pytest.fixture(name="sample")
def _sample() -> Callable[..., Sample]:
    return sample


class FakeModel:
    """Implements `edge_sft.runtime.crew.LoadedModel`; its verdict tells its version."""

    def __init__(self, version: int = 1, *, infer_s: float = 0.0, deadline_ms: float | None = None) -> None:
        self.model = ModelIdentity(name="fake", version=f"{version}.0.0", digest="0" * 64, variant="fp32")
        self.memory_mb = 1.0
        self.infer_s = infer_s
        self.deadline_ms = deadline_ms
        self.closed = False
        self.at_work = 0
        self.gate: threading.Event | None = None

    def prepare(self, one: Sample) -> Any:
        if one.data is None:
            raise DataError(one.name or "frame", "holds no data", "")
        return one.data

    def infer(self, tensor: Any, one: Sample) -> Prediction:
        assert not self.closed, "a closed model was asked"
        self.at_work += 1
        assert self.at_work == 1, "two threads in one model"
        if self.gate is not None:
            self.gate.wait(20)
        if self.infer_s:
            time.sleep(self.infer_s)
        self.at_work -= 1
        age_ms = (time.monotonic() - one.captured_monotonic_s) * 1000
        if self.deadline_ms is not None and age_ms > self.deadline_ms:
            return self.no_decision(one, "deadline missed")
        return self._say(one, "ok", None)

    def no_decision(self, one: Sample, reason: str) -> Prediction:
        return self._say(one, "no_decision", reason)

    def _say(self, one: Sample, verdict: Any, reason: str | None) -> Prediction:
        now = rfc3339(datetime.now(timezone.utc))
        return Prediction(
            stream=one.stream,
            part_id=one.part_id,
            name=one.name,
            captured_at=rfc3339(one.captured_at),
            decided_at=now,
            latency_ms=max(0.0, (time.monotonic() - one.captured_monotonic_s) * 1000),
            verdict=verdict,
            reason=reason,
            model=self.model,
        )

    def close(self) -> None:
        self.closed = True


class FakeLoader:
    """A Loader whose deploys the test makes."""

    def __init__(self, *models: FakeModel) -> None:
        self.current = 1 if models else 0
        self.models = list(models)
        self.error: Exception | None = None
        self.loads = 0

    def deploy(self, *models: FakeModel) -> None:
        self.models = list(models)
        self.current += 1

    def generation(self) -> int:
        return self.current

    def load(self, generation: int, current: Crew | None) -> Crew:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return Crew(self.models, policy_version="p", generation=generation)


@dataclass
class Line:
    """A pipeline over a fake model, and what came out of it."""

    pipeline: Pipeline
    loader: FakeLoader
    out: list[Prediction] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    durable: bool = True

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    def names(self) -> list[str | None]:
        return [prediction.name for prediction in self.out]


@pytest.fixture
def fakes() -> type:
    """FakeModel and FakeLoader."""

    class Fakes:
        Model = FakeModel
        Loader = FakeLoader

    return Fakes


@pytest.fixture
def make_line() -> Iterator[Callable[..., Line]]:
    """make_line(source, loader=…, **section) starts a pipeline; it is stopped at the end."""
    lines: list[Line] = []

    def make(source: Any, loader: FakeLoader | None = None, /, *, start: bool = True, **section: Any) -> Line:
        fields: dict[str, Any] = {"source": {"kind": "files", "path": "."}, **section}
        config = PipelineSection.model_validate(fields)
        loader = FakeLoader(FakeModel()) if loader is None else loader
        line = Line.__new__(Line)
        line.out, line.told, line.durable, line.loader = [], [], True, loader
        line.pipeline = Pipeline(
            config,
            source=source,
            loader=loader,
            sink=line.out.append,
            flush=lambda timeout_s: line.durable,
            tell=lambda kind, detail: line.told.append((kind, detail)),
        )
        lines.append(line)
        if start:
            line.pipeline.start()
        return line

    yield make
    for line in lines:
        line.pipeline.stop(5.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A real broker on a free port."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        access = "" if "password_file" in extra else "allow_anonymous true\n"
        self._config.write_text(f"user root\nlistener {self.port} 127.0.0.1\n{access}{extra}")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        path = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([path, "-c", str(self._config)], stdout=quiet, stderr=quiet)
        eventually(self._answers, what="mosquitto listens")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=0.5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    if not (shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").exists()):
        pytest.skip("Mosquitto is not installed: the agent is not proved against a real broker")
    brokers: list[Mosquitto] = []

    def make(extra: str = "") -> Mosquitto:
        folder = tmp_path / f"broker{len(brokers)}"
        folder.mkdir()
        brokers.append(Mosquitto(folder, extra))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    return make_mosquitto()


class Listener:
    """A plain MQTT client that keeps what it hears."""

    def __init__(self, port: int, topic: str = "edge-sft/v1/#") -> None:
        import paho.mqtt.client as mqtt

        self.messages: list[tuple[str, bytes, bool]] = []
        self._ready = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _c, _u, m: self.messages.append((m.topic, m.payload, m.retain))
        self.client.on_connect = lambda c, *_: c.subscribe(topic, 1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(5)

    def envelopes(self) -> list[Envelope]:
        return [Envelope.from_json(body) for topic, body, _ in list(self.messages) if topic.endswith("/prediction")]

    def predictions(self) -> list[Prediction]:
        return [one.prediction for one in self.envelopes() if one.prediction is not None]

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(body) for topic, body, _ in list(self.messages) if topic.endswith(f"/{kind}")]

    def state(self, pipeline: str = "main") -> dict[str, Any]:
        found = [json.loads(body) for topic, body, _ in list(self.messages) if topic.endswith(f"/{pipeline}/state")]
        return found[-1] if found else {}

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    listeners: list[Listener] = []

    def make(port: int, topic: str = "edge-sft/v1/#") -> Listener:
        listeners.append(Listener(port, topic))
        return listeners[-1]

    yield make
    for listener in listeners:
        listener.close()


@pytest.fixture
def deploy(tmp_path: Path, small: ModuleType) -> Callable[..., Any]:
    """deploy(root, pipeline="main", seed=0) really deploys a small signed bundle."""
    from edge_sft.deploy.local import deploy as deploy_here

    signer = small.Signer.make(tmp_path / "keys")

    def run(root: Path, pipeline: str = "main", seed: int = 0, **changes: Any) -> Any:
        bundle = small.plan(seed, **changes).write(tmp_path / "bundles", signer)
        return deploy_here(
            bundle, root, pipeline=pipeline, profile=small.profile(), trusted_keys=[signer.public], timeout_s=60
        )

    return run


@pytest.fixture
def configure() -> Callable[..., AgentConfig]:
    """configure(root, port, pipelines…, mqtt={}) returns an AgentConfig with quick heartbeats."""

    def make(root: Path, port: int, *pipelines: dict[str, Any], **sections: Any) -> AgentConfig:
        agent = {"root": root, "heartbeat_s": 0.5, "metrics_s": 0.5, **sections.pop("agent", {})}
        mqtt = {"port": port, **sections.pop("mqtt", {})}
        return AgentConfig.model_validate({"agent": agent, "mqtt": mqtt, "pipeline": pipelines, **sections})

    return make


@pytest.fixture
def running() -> Iterator[Callable[..., Any]]:
    """running(agent) runs it in a thread; stopped at the end. Returns a function that stops it now."""
    stops: list[Callable[[], None]] = []

    def run(agent: Any, **options: Any) -> Callable[[], None]:
        stop = threading.Event()
        thread = threading.Thread(target=agent.run, args=(stop,), kwargs=options)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

        stops.append(end)
        return end

    yield run
    for end in stops:
        end()
