"""`edge-sft agent init` and `edge-sft run`."""

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import UserError

_CONFIG = Path("agent.toml")


def init(
    out: Annotated[Path, typer.Argument(help="Where to write it.")] = _CONFIG,
    broker: Annotated[str, typer.Option(help="Broker as host:port.")] = "127.0.0.1:1883",
    source: Annotated[
        str,
        typer.Option(
            help="folder:DIR, files:DIR, video:FILE or camera:NUMBER-OR-ADDRESS; rows: mqtt:TOPIC, replay:DIR."
        ),
    ] = "folder:pictures",
    pipeline: Annotated[str, typer.Option(help="Name of the pipeline, as given to deploy.")] = "main",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented agent.toml for this machine."""
    import socket

    from edge_sft import durable
    from edge_sft.runtime.draft import draft_config

    if out.exists() and not force:
        raise UserError(str(out), "exists already", "Edit it, or overwrite it with --force.")
    text = draft_config(broker=broker, source=source, pipeline=pipeline, device=socket.gethostname())
    durable.write_text(out, text)
    console.print(f"Wrote {out}. Look through it, then: edge-sft run --config {out}")


def run(
    config: Annotated[Path, typer.Option(help="What to do: written by `edge-sft agent init`.")] = _CONFIG,
    root: Annotated[Path | None, typer.Option(help="Folder of slots, journal and state.")] = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="End when every source has ended.")] = False,
) -> None:
    """Run the agent: pictures in, decisions out over MQTT, until Ctrl-C or SIGTERM."""
    import logging
    import signal
    import threading

    from edge_sft.cli.paths import device_root, notify_socket, quiet_opencv
    from edge_sft.runtime import config as configs
    from edge_sft.runtime.agent import Agent
    from edge_sft.runtime.service import notifier

    settings = configs.load(config)
    quiet_opencv()
    logging.basicConfig(
        level=settings.agent.log.upper(), format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):  # SIGBREAK: Ctrl-Break, how Windows stops a console service
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    agent = Agent(settings, root=root or settings.agent.root or device_root(), notify=notifier(notify_socket()))
    names = ", ".join(one.name for one in settings.pipeline)
    console.print(f"Running {names} → {settings.mqtt.host}:{settings.mqtt.port}, state in {agent.root}; Ctrl-C ends.")
    if agent.run(stop, until_done=until_done):
        console.print("Stopped: everything taken was decided and is journalled.")
