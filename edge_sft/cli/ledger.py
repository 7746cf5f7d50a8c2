"""`edge-sft ledger`: the receiving end that proves nothing was lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import DataError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_sft.runtime.ledger import Ledger
    from edge_sft.runtime.mqtt import MqttSettings

INCOMPLETE = 3  # exit status of --status when something is missing


def ledger(
    db: Annotated[Path, typer.Argument(help="The ledger's file (SQLite); made when absent.")],
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
    acknowledge: Annotated[
        bool, typer.Option(help="Tell devices what is stored (for mqtt.ack = 'ledger' in agent.toml).")
    ] = True,
    status: Annotated[
        bool, typer.Option("--status", help="Only print what the file holds and what is missing, then end.")
    ] = False,
    export: Annotated[Path | None, typer.Option(help="Only write all decisions to this CSV file, then end.")] = None,
) -> None:
    """Receive decisions, store each one once, acknowledge them, and say what is missing."""
    from edge_sft.runtime.ledger import Ledger

    if status or export:
        with Ledger(db, read_only=True) as book:
            if export:
                _export(book, export)
            if status:
                _print(book)
                if any(account.missing for account in book.accounts.values()):
                    raise typer.Exit(INCOMPLETE)
        return
    from edge_sft.runtime.mqtt import MqttSettings

    settings = MqttSettings(
        host, port, "5" if mqtt5 else "3.1.1", username, password_file, ca_file, cert_file, key_file
    )
    with Ledger(db) as book:
        _receive(book, settings, prefix, acknowledge, duration)
        _print(book)


def _receive(book: Ledger, settings: MqttSettings, prefix: str, acknowledge: bool, duration: float | None) -> None:
    import signal
    import threading

    from edge_sft.runtime.receiver import Receiver

    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda *_: stop.set())
    receiver = Receiver(
        book, settings, prefix=prefix, acknowledge=acknowledge, on_event=lambda _, text: console.print(text)
    )
    with receiver:
        stop.wait(duration)
        failure = receiver.link.last_error
    if receiver.link.session == 0 and failure is not None:
        raise failure


def _print(book: Ledger) -> None:
    from rich.table import Table

    from edge_sft.runtime.ranges import total

    table = Table(
        "device", "stream", "epoch", "stored", "dropped by device", "missing", "duplicates", "reordered", "conflicts"
    )
    missing = 0
    for (stream, epoch), account in sorted(book.accounts.items(), key=lambda item: (item[1].device, *item[0])):
        missing += total(account.missing)
        numbers = (total(account.arrived), _ranges(account.dropped), _ranges(account.missing))
        counts = (account.duplicates, account.reordered, account.conflicts)
        table.add_row(account.device, stream, epoch, *map(str, (*numbers, *counts)))
    console.print(table if book.accounts else f"{book.path}: nothing received yet")
    if refused := book.refused():
        console.print(f"{refused} messages were not decisions; see the table 'refused' in {book.path}")
    if any(account.conflicts for account in book.accounts.values()):
        console.print("Conflicts: two devices number decisions alike; was a disk with its journal copied?")
    console.print(f"{missing} missing" if missing else "0 missing: every stream is contiguous")


def _ranges(spans: Iterable[tuple[int, int]]) -> str:
    from edge_sft.runtime.ranges import merged, total

    found = merged(spans)
    if not found:
        return "0"
    shown = ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found[:5])
    more = f", and {len(found) - 5} more ranges" if len(found) > 5 else ""
    return f"{total(found)} ({shown}{more})"


def _export(book: Ledger, target: Path) -> None:
    import csv

    fields = (
        *("part_id", "asset", "name", "captured_at", "decided_at", "latency_ms", "verdict", "label"),
        *("score", "confidence", "value", "low", "high"),
    )
    count = 0
    try:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ("device", "stream", "epoch", "seq", "received_at", "backfill", *fields, "reason", "model", "policy")
            )
            for device, stream, epoch, seq, received_at, backfill, envelope in book.rows():
                said = envelope.prediction
                if said is None:
                    continue
                model = f"{said.model.name} {said.model.version} {said.model.digest}" if said.model else ""
                place = (device, stream, epoch, seq, received_at, backfill)
                values = [getattr(said, name) for name in fields]
                writer.writerow((*place, *values, said.reason, model, said.policy_version))
                count += 1
    except OSError as error:
        raise UserError(str(target), f"cannot be written ({error.strerror})", "Choose another place.") from error
    except ValueError as error:
        raise DataError(str(book.path), f"holds an entry that cannot be read ({error})") from error
    console.print(f"{count} decisions written to {target}")
