"""The heartbeat file: beats while the agent turns, none while it hangs, none after it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sft.errors import DeviceError
from edge_sft.runtime import heartbeat


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_beat_is_fresh_and_grows_old(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "heartbeat"
    notify = heartbeat.beating(path, clock)
    notify("READY=1")
    assert not path.exists()  # ready is not turning
    notify("WATCHDOG=1")
    clock.now_s += 5
    assert heartbeat.age_s(path, clock=clock) == 5
    clock.now_s += 40
    with pytest.raises(DeviceError, match="is 45 s old"):
        heartbeat.age_s(path, clock=clock)
    assert heartbeat.age_s(path, fresh_s=60, clock=clock) == 45


def test_beats_are_written_every_two_seconds_at_most(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "heartbeat"
    notify = heartbeat.beating(path, clock)
    notify("WATCHDOG=1")
    first = path.read_bytes()
    clock.now_s += 1.9
    notify("WATCHDOG=1")
    assert path.read_bytes() == first
    clock.now_s += 0.2
    notify("WATCHDOG=1")
    assert path.read_bytes() != first
    assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert [one.name for one in tmp_path.iterdir()] == ["heartbeat"]


def test_stopping_takes_it_away(tmp_path: Path) -> None:
    notify = heartbeat.beating(tmp_path / "heartbeat")
    notify("WATCHDOG=1")
    notify("STOPPING=1")
    with pytest.raises(DeviceError, match="no agent runs"):
        heartbeat.age_s(tmp_path / "heartbeat")


def test_a_beat_of_before_a_restart_of_the_machine_is_not_fresh(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    path.write_text('{"pid": 1, "monotonic_s": 90000.0}')
    with pytest.raises(DeviceError, match="before this machine was started"):
        heartbeat.age_s(path, clock=Clock())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"monotonic_s": null}'])
def test_what_is_no_heartbeat_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "heartbeat").write_text(content)
    with pytest.raises(DeviceError, match="is no heartbeat"):
        heartbeat.age_s(tmp_path / "heartbeat")


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    notify = heartbeat.beating(tmp_path / "missing" / "heartbeat")
    notify("WATCHDOG=1")
    notify("STOPPING=1")


def health(*options: str, variable: str = "") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "EDGE_SFT_HEARTBEAT"}
    if variable:
        environment["EDGE_SFT_HEARTBEAT"] = variable
    command = [sys.executable, "-m", "edge_sft.cli.main", "agent", "health", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_verb_says_healthy_and_why_not(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    heartbeat.beating(path)("WATCHDOG=1")  # monotonic time is shared by all processes of the machine
    assert health(variable=str(path)).stdout.startswith("healthy")
    path.unlink()
    done = health("--heartbeat", str(path))
    assert done.returncode == 5
    assert "no agent runs" in done.stderr
    assert health().returncode == 2  # nobody said where
