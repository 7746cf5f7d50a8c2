from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta, Scores
from edge_sft.metrics.plant import choose_policy
from edge_sft.metrics.summary import summary
from edge_sft.preprocess import Preprocess
from edge_sft.recipe import PolicySection
from edge_sft.task import image_classification

LABELS = ("good", "scratch", "dent")


def make_scores(counts: tuple[int, ...], *, seed: int = 0, apart: float = 3.0, names: str = "part") -> Scores:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    logits = random.normal(0, 1.2, (len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += apart
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"{names}/{index:04d}.png" for index in range(len(labels))]
    return Scores(ids, labels, probabilities.astype(np.float32), np.ones(len(labels), np.float32))


def make_meta(
    scores: dict[str, Scores], labels: tuple[str, ...] = LABELS, ok: tuple[str, ...] = ("good",), **policy: Any
) -> CheckpointMeta:
    task = image_classification(labels, ok, 224, 224)
    section = PolicySection(**policy)
    rule = (
        choose_policy(scores["val"], task, section)
        if "val" in scores
        else choose_policy(next(iter(scores.values())), task, section)
    )
    return CheckpointMeta(
        name="screws",
        version="1.2.0",
        task=task,
        preprocess=Preprocess(height=224, width=224),
        backbone="efficientnet_lite0",
        policy=rule,
        temperature=0.9,
        dataset_fingerprint="a1" * 32,
        test_fingerprint="b2" * 32,
        weights_sha256="c3" * 32,
        metrics={name: summary(item, task, rule, split=name) for name, item in scores.items()},  # type: ignore[arg-type]
        training={"steps": 400, "wall_s": 93.4, "resumed": False, "machine": {"cores": 2}},
    )


def make_gates() -> tuple[GateResult, ...]:
    def gate(variant: Any, lost: int, won: int, passed: bool, note: str = "") -> GateResult:
        return GateResult(
            variant=variant,
            pictures=200,
            right_to_wrong=lost,
            wrong_to_right=won,
            net_loss_points=(lost - won) / 2,
            right_to_wrong_low=0.0,
            right_to_wrong_high=0.04,
            max_score_difference=0.02 * lost,
            tolerance_points=0.5,
            passed=passed,
            balanced_accuracy=0.93,
            note=note,
        )

    return (gate("fp32", 0, 0, True), gate("int8-trt", 5, 1, False, "loses 2 points"), gate("int8-cpu", 1, 1, True))


@pytest.fixture(scope="session")
def made() -> Any:
    """What pages are made from, as functions."""

    class Made:
        scores = staticmethod(make_scores)
        meta = staticmethod(make_meta)
        gates = staticmethod(make_gates)

        @staticmethod
        def both(**policy: Any) -> tuple[CheckpointMeta, dict[str, Scores]]:
            scores = {"val": make_scores((150, 30, 20)), "test": make_scores((150, 30, 20), seed=1)}
            return make_meta(scores, **policy), scores

        @staticmethod
        def picture(name: str) -> np.ndarray:
            shade = sum(name.encode()) % 200
            return np.full((300, 200, 3), shade, dtype=np.uint8)

    return Made


@pytest.fixture(scope="session")
def sensors() -> Any:
    """Made-up models of sensors: ``rul_meta()`` with ``lives()`` and so on."""
    from . import sensors as made_up

    return made_up


class Browser:
    """Chromium over its debugging pipe: no port, no library."""

    def __init__(self, program: str, profile: Path) -> None:
        self._ours_in, theirs_out = os.pipe()
        theirs_in, self._ours_out = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
        flags += ["--disable-component-update", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]

        def wire() -> None:  # Chromium reads commands from 3 and writes events to 4
            high_in, high_out = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=wire,  # noqa: PLW1509 - no other thread runs here
            close_fds=False,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._ours_out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path, width: int, *, dark: bool = False, printed: bool = False) -> None:
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if printed else "", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def requests(self) -> list[str]:
        sent = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._ours_out)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait(10)
        os.close(self._ours_in)

    def _receive(self, timeout_s: float = 60) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._ours_in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "chromium did not answer"
            block = os.read(self._ours_in, 1 << 20)
            assert block, "chromium ended"
            self._buffer += block
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None or sys.platform == "win32":
        pytest.skip("no Chromium here: the pages were not looked at in a real browser")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(html: str) -> Path:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        return path

    return save
