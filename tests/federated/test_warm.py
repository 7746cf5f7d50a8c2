"""Tasks from a fork server: that it takes ClientApps only, and that a child runs with what was imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: tasks from a warm process were not proved")

from edge_sft.federated import warm

PROBE = """
import os, sys, time
from types import SimpleNamespace
from edge_sft.federated import warm

def seen(arguments):
    with open(sys.argv[1] if len(sys.argv) > 1 else os.environ["SEEN"], "w") as file:
        file.write(repr((arguments, "json.tool" in sys.modules)))

if __name__ == "__main__":
    warm.PRELOAD = ("json.tool", "no.such.module")
    warm.run_task = seen
    executor = warm.ForkExecutor()
    spec = SimpleNamespace(runtime_api_address="127.0.0.1:9", token="secret", parent_pid=None)
    print(executor.launch(spec).status.value)
    while executor._running:
        executor.reconcile()
        time.sleep(0.01)
    executor.close()
"""


def test_a_task_starts_in_a_child_of_the_fork_server(tmp_path: Path) -> None:
    script, seen = tmp_path / "probe.py", tmp_path / "seen"
    script.write_text(PROBE)
    environment = {"SEEN": str(seen), "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)
    assert (done.returncode, done.stdout.strip()) == (0, "accepted"), done.stderr
    arguments, imported = eval(seen.read_text())
    assert arguments == ["--runtime-api-address", "127.0.0.1:9", "--token", "secret", "--insecure"]
    assert imported


def test_only_client_apps_are_taken() -> None:
    from flwr.supercore.constant import TaskType

    executor = warm.ForkExecutor.__new__(warm.ForkExecutor)
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())


def test_it_is_an_executor_of_flowers() -> None:
    from flwr.supercore.superexec.executor import SubprocessExecutor

    public = {name for name in vars(SubprocessExecutor) if not name.startswith("_")}
    assert public <= {name for name in vars(warm.ForkExecutor) if not name.startswith("_")}
