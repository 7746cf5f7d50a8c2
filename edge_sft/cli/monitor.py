"""`edge-sft monitor`: what all devices decide, live in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console

if TYPE_CHECKING:
    from rich.console import Group

    from edge_sft.runtime.board import Board, PipelineView

VERDICTS = {"ok": "green", "nok": "red", "uncertain": "yellow", "no_decision": "magenta"}


def monitor(
    *,
    host: Annotated[str, typer.Option(help="Name or address of the MQTT broker.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the broker; mostly 1883, with TLS 8883.")] = 1883,
    username: Annotated[str | None, typer.Option(help="User name at the broker.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File holding the password, nothing else.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="CA of the broker's certificate; switches TLS on.")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="This machine's certificate, where the broker asks.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its private key.")] = None,
    mqtt5: Annotated[bool, typer.Option("--mqtt5", help="Speak MQTT 5 instead of 3.1.1.")] = False,
    prefix: Annotated[str, typer.Option(help="First levels of the topics.")] = "edge-sft/v1",
    duration: Annotated[float | None, typer.Option(help="Stop after so many seconds.", min=0)] = None,
) -> None:
    """Watch rates, verdicts, last decisions and who is online; Ctrl-C ends it."""
    import secrets
    import time
    from queue import SimpleQueue

    from rich.live import Live

    from edge_sft.runtime import topics
    from edge_sft.runtime.board import Board
    from edge_sft.runtime.mqtt import MqttLink, MqttSettings

    settings = MqttSettings(
        host, port, "5" if mqtt5 else "3.1.1", username, password_file, ca_file, cert_file, key_file
    )
    topics.check_prefix(prefix)
    board, inbox = Board(prefix), SimpleQueue[tuple[str, bytes]]()
    link = MqttLink(settings, client_id=f"edge-sft-monitor-{secrets.token_hex(4)}")
    for wanted in (
        topics.everything("prediction", prefix),
        topics.everything("state", prefix),
        topics.every_device("state", prefix),
    ):
        link.subscribe(wanted, lambda topic, payload: inbox.put((topic, payload)), qos=0)
    ends_at = None if duration is None else time.monotonic() + duration
    with link:
        link.wait_connected(3.0)
        with Live(console=console, refresh_per_second=4, auto_refresh=False) as live:
            while ends_at is None or time.monotonic() < ends_at:
                time.sleep(0.25)
                while not inbox.empty():
                    board.take(*inbox.get(), time.monotonic())
                note = "" if link.connected else f"broker: {link.last_error or 'not connected'}"
                live.update(_table(board, time.monotonic(), note), refresh=True)


def _table(board: Board, now_s: float, note: str) -> Group:
    """Draw the board; legible on 80 columns."""
    from rich import box
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    caption = None if board.pipelines else "nothing received yet"
    table = Table(title=note or None, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("pipeline", overflow="fold")
    for heading in ("", "per s", "ok", "nok", "unsure", "none", "late", "lost", "age"):
        table.add_column(heading, no_wrap=True, justify="right")
    for (device, pipeline), view in sorted(board.pipelines.items()):
        online = board.online(device, now_s)
        age_s = view.age_s(now_s)
        counts = (f"[{colour}]{view.counts[verdict]}[/]" for verdict, colour in VERDICTS.items())
        table.add_row(
            f"{escape(pipeline)}\n{escape(device.removeprefix(board.prefix + '/'))}",
            "[green]online[/]" if online else "[red]offline[/]",
            f"{view.per_s(now_s):.1f}",
            *counts,
            str(view.backfilled),
            str(view.dropped),
            "-" if age_s is None else f"{age_s:.0f} s",
        )
    lines = (f"{escape(pipeline)}: {_last(view)}" for (_, pipeline), view in sorted(board.pipelines.items()))
    return Group(table, *lines)


def _last(view: PipelineView) -> str:
    from rich.markup import escape

    said = []
    for decision in view.last:
        what = decision.part_id or decision.name or ""
        why = decision.label or decision.reason or ""
        said.append(f"[{VERDICTS[decision.verdict]}]{escape(f'{what} {why}'.strip())}[/]")
    return "  ".join(said)
