"""`edge-sft agent init`, `edge-sft agent health` and `edge-sft run`."""

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import UserError

_CONFIG = Path("agent.toml")
_HEARTBEAT = "Heartbeat file, for `edge-sft agent health` (default: what EDGE_SFT_HEARTBEAT names)."


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
    heartbeat: Annotated[Path | None, typer.Option(help=_HEARTBEAT)] = None,
) -> None:
    """Run the agent: pictures in, decisions out over MQTT, until Ctrl-C or SIGTERM."""
    import logging
    import signal
    import threading

    from edge_sft.cli.paths import device_root, heartbeat_file, notify_socket, quiet_opencv
    from edge_sft.runtime import config as configs
    from edge_sft.runtime.agent import Agent
    from edge_sft.runtime.heartbeat import beating
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
    beat = heartbeat or heartbeat_file()
    listeners = [notifier(notify_socket()), *([beating(beat)] if beat else [])]

    def notify(fact: str) -> None:
        for listener in listeners:
            listener(fact)

    agent = Agent(settings, root=root or settings.agent.root or device_root(), notify=notify)
    names = ", ".join(one.name for one in settings.pipeline)
    console.print(f"Running {names} → {settings.mqtt.host}:{settings.mqtt.port}, state in {agent.root}; Ctrl-C ends.")
    if agent.run(stop, until_done=until_done):
        console.print("Stopped: everything taken was decided and is journalled.")


def health(
    heartbeat: Annotated[Path | None, typer.Option(help=_HEARTBEAT)] = None,
    fresh_s: Annotated[float, typer.Option(help="How old the last beat may be, seconds.")] = 30.0,
) -> None:
    """Say whether the agent on this machine runs and nothing in it hangs: exit status 0, or 5 and the reason.

    For health checks of containers. Reads what `edge-sft run` writes; nothing is asked over the network.
    """
    from edge_sft.cli.paths import heartbeat_file
    from edge_sft.runtime.heartbeat import age_s

    path = heartbeat or heartbeat_file()
    if path is None:
        raise UserError("the heartbeat file", "is not known", "Give --heartbeat FILE here and to `edge-sft run`.")
    console.print(f"healthy: the last beat is {age_s(path, fresh_s=fresh_s):.1f} s old")
