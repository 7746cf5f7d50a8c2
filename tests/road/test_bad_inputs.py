"""What goes wrong in plants, each answered by one clear line, while what can go on goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from .conftest import Factory, free_port, pictures
from .test_whole_road import agent_toml


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error, having checked that it is no traceback and sets an exit status."""
    assert done.returncode not in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines, done.stdout
    assert lines[-1].startswith(("error:", "  - ")), done.stderr
    return done.stderr


def test_empty_folder(factory: Factory) -> None:
    (factory.home / "empty").mkdir(exist_ok=True)
    assert "empty" in one_line(factory.run("init", "empty", "--out", "e.toml"))
    assert not (factory.home / "e.toml").exists()


def test_one_class(factory: Factory, tmp_path: Path) -> None:
    pictures(tmp_path / "all", 4)
    shutil.rmtree(tmp_path / "all" / "scratch")
    assert "class" in one_line(factory.run("init", tmp_path / "all", "--out", tmp_path / "r.toml"))


def test_unreadable_picture_is_left_out_by_name(factory: Factory, tmp_path: Path) -> None:
    pictures(tmp_path / "some", 12)
    (tmp_path / "some" / "good" / "broken.png").write_bytes(b"not a picture")
    whole = (tmp_path / "some" / "scratch" / "scratch_001.png").read_bytes()
    (tmp_path / "some" / "scratch" / "cut.png").write_bytes(whole[: len(whole) // 2])
    factory.must("init", tmp_path / "some", "--out", tmp_path / "r.toml")
    done = factory.run("check", tmp_path / "r.toml")
    assert "broken.png" in done.stdout
    assert "cut.png" in done.stdout
    assert "Traceback" not in done.stderr


def test_wrong_key_in_the_recipe(factory: Factory, tmp_path: Path) -> None:
    text = (factory.home / "recipe.toml").read_text(encoding="utf-8")
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace("batch_size", "batchsize").replace("ema_decay = 0.99", 'ema_decay = "much"'))
    told = one_line(factory.run("build", bad))
    assert "2 problems" in told
    assert "did you mean 'batch_size'" in told
    assert "line " in told


def test_missing_weights(factory: Factory) -> None:
    text = (factory.home / "recipe.toml").read_text(encoding="utf-8")
    bad = factory.home / "weightless.toml"
    bad.write_text(
        text.replace('backbone = "efficientnet_lite0"', 'backbone = "resnet18"\nweights = "nowhere.safetensors"')
    )
    assert "nowhere.safetensors" in one_line(factory.run("train", bad, "--out", "ck-weightless"))


def test_unsigned_key_is_asked_for(factory: Factory, tmp_path: Path) -> None:
    told = one_line(factory.run("build", "recipe.toml", "--key", tmp_path / "none.pem"))
    assert "keys init" in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not permitted here: the full disk is not proved")
    yield place  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_full_disk_while_training(factory: Factory, small_disk: Path) -> None:
    told = one_line(factory.run("train", "recipe.toml", "--out", small_disk / "ck"))
    assert "disk is full" in told
    assert not (small_disk / "ck" / "checkpoint.json").exists()


def test_full_disk_while_deploying(factory: Factory, small_disk: Path) -> None:
    told = one_line(factory.run("deploy", factory.bundle, "--root", small_disk / "device"))
    assert "space" in told or "full" in told


class Agent:
    """The real agent as a process, its log in a file."""

    def __init__(self, factory: Factory, config: Path) -> None:
        self.log = config.parent / "agent.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_sft.cli.main", "run", "--config", str(config)],
                stdout=out, stderr=subprocess.STDOUT, env=factory.environment,
            )  # fmt: skip

    def wait_for(self, *words: str, timeout_s: float = 30) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            text = self.log.read_text(errors="replace")
            if all(word in text for word in words):
                return text
            time.sleep(0.1)
        raise AssertionError(f"{words} not in the agent's log:\n{self.log.read_text(errors='replace')}")

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0
        text = self.log.read_text(errors="replace")
        assert "Traceback" not in text, text
        return text


def watched(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    image = np.full((96, 96, 3), 90, np.uint8)
    for number in range(3):
        cv2.imwrite(str(folder / f"part_{number}.png"), image)
    return folder


@pytest.mark.parametrize(
    ("case", "words"), [("no broker", "refused"), ("wrong password", "password")], ids=["no-broker", "wrong-password"]
)
def test_the_agent_goes_on_without_its_broker(
    factory: Factory, broker: int, tmp_path: Path, case: str, words: str
) -> None:
    port = free_port() if case == "no broker" else broker
    password = "wrong" if case == "wrong password" else "right"
    folder = watched(tmp_path)
    source = f'{{ kind = "folder", path = "{folder.as_posix()}" }}'
    agent = Agent(factory, agent_toml(tmp_path, port, source, password))
    try:
        agent.wait_for(words)
        assert agent.process.poll() is None
    finally:
        agent.stop()


def test_camera_that_is_unplugged(factory: Factory, broker: int, tmp_path: Path) -> None:
    config = agent_toml(tmp_path, broker, '{ kind = "camera", device = 63 }')
    config.write_text(config.read_text().replace("trigger =", "# trigger ="))
    agent = Agent(factory, config)
    try:
        agent.wait_for("camera")
        time.sleep(1)
        assert agent.process.poll() is None
    finally:
        agent.stop()
