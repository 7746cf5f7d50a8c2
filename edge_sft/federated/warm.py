"""Tasks from a process that has everything imported: Flower's launcher of tasks, forking instead of starting Pythons.

Flower starts a new Python for every message, which imports torch, Flower and edge-sft anew. Here Flower's own loop
(`run_superexec`) hands each task to Python's fork server, which imported them once and has no threads of its own; the
child runs Flower's own `flwr-clientapp`. The site's way of starting tasks needs a secret and takes ClientApps only.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

PRELOAD: Final = (
    "torch",
    "flwr.supernode.cli.flwr_clientapp",
    "flwr.clientapp",
    "edge_sft.federated.client",
    "edge_sft.federated.learners",
)


def run_task(arguments: list[str]) -> None:
    """Run Flower's ClientApp program; called in the forked child."""
    sys.argv = ["flwr-clientapp", *arguments]
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    flwr_clientapp()


class ForkExecutor:
    """Flower's Executor over a fork server."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOAD))
        forkserver.ensure_running()  # imports while the site waits for its first message
        self._running: list[BaseProcess] = []

    def get_eligible_capacity(self, supported: set[Any], **_: Any) -> tuple[set[Any], set[str]]:
        """Take ClientApps, nothing else."""
        from flwr.supercore.constant import TaskType

        return supported & {TaskType.CLIENT_APP}, set()

    def wait_for_capacity(self, *_: Any, **__: Any) -> None:
        """Return at once: one message at a time comes anyway."""

    def launch(self, spec: Any) -> Any:
        """Fork a child for a task."""
        from flwr.supercore.superexec.executor import LaunchResult

        arguments = ["--runtime-api-address", spec.runtime_api_address, "--token", spec.token, "--insecure"]
        if spec.parent_pid is not None:
            arguments += ["--parent-pid", str(spec.parent_pid)]
        child = self._context.Process(target=run_task, args=(arguments,))
        child.start()
        self._running.append(child)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Forget children that ended."""
        for child in [child for child in self._running if not child.is_alive()]:
            self._running.remove(child)
            child.close()

    def close(self) -> None:
        """End what still runs."""
        for child in self._running:
            child.terminate()


def _end_with(parent: int) -> None:
    """End with the node, however it ended; the fork server and its children end with this process."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


def main() -> None:
    """Serve tasks: ``python -m edge_sft.federated.warm ADDRESS SECRET_FILE PARENT_PID``; started by the node."""
    from edge_sft.federated.node import check_version

    check_version()
    address, secret, parent = sys.argv[1:]
    from flwr.supercore.superexec import run_superexec

    loop: Any = run_superexec
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    executor = ForkExecutor()
    loop.get_executor = lambda *_, **__: executor
    loop.run_superexec(
        runtime_api_address=address,
        insecure=True,  # loopback, within the machine
        superexec_auth_secret=Path(secret).read_bytes(),
    )


if __name__ == "__main__":
    main()
