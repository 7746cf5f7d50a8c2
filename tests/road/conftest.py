"""A small factory: pictures of caps, some scratched, a key, a built bundle, a real broker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@dataclass(frozen=True)
class Factory:
    """Where the module's factory lies and how to call the command line in it."""

    home: Path

    def run(self, *arguments: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_sft.cli.main", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.home, env=self.environment, timeout=timeout_s, check=False
        )

    def must(self, *arguments: str | Path) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "EDGE_SFT_KEYS": str(self.home / "keys"),
            "EDGE_SFT_ROOT": str(self.home / "device"),
            "COLUMNS": "200",
        }

    @property
    def bundle(self) -> Path:
        return next((self.home / "runs").rglob("*.edge"))


def cap(rng: np.random.Generator, *, scratched: bool) -> np.ndarray:  # type: ignore[type-arg]
    image = np.full((96, 96, 3), 60, np.uint8)
    cv2.circle(image, (48 + int(rng.integers(-3, 4)), 48 + int(rng.integers(-3, 4))), 36, (170, 180, 175), -1)
    if scratched:
        start = rng.integers(30, 60, 2)
        end = start + rng.integers(-25, 26, 2)
        cv2.line(image, tuple(map(int, start)), tuple(map(int, end)), (40, 30, 30), 2)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def pictures(folder: Path, count: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for label in ("good", "scratch"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            cv2.imwrite(str(folder / label / f"{label}_{number:03d}.png"), cap(rng, scratched=label == "scratch"))


def commands(block: str) -> list[str]:
    """Return the lines of a marked block of the README."""
    found = re.search(rf"<!-- commands: {block} -->\n```console\n(.*?)```", README, re.DOTALL)
    assert found, block
    return [line for line in found.group(1).splitlines() if line.strip()]


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """Return a factory whose bundle was built by the command line alone."""
    home = tmp_path_factory.mktemp("factory")
    pictures(home / "caps", 50)
    made = Factory(home)
    for line in commands("road"):
        verb, *rest = shlex.split(line, comments=True)[1:]
        if verb in ("check", "predict"):  # these have tests of their own
            continue
        made.must(verb, *rest)
        if verb == "init":
            _shorten(home / "recipe.toml")
    return made


def _shorten(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8").replace('steps = "auto"', "steps = 8")
    recipe.write_text(text.replace("calibration_pictures = 128", "calibration_pictures = 16"), encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """Run a real Mosquitto with a user `line` and the password `right`; yields its port."""
    if MOSQUITTO is None:
        pytest.skip("no mosquitto on this machine: delivery over a real broker is not proved")
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd") or "mosquitto_passwd"
    subprocess.run([tool, "-b", "-c", str(passwords), "line", "right"], check=True, capture_output=True)
    passwords.chmod(0o644)
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)
