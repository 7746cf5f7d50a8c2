"""`edge-sft broker`: a broker for trying things out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import DeviceError


def broker(
    *,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 1883,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine only with TLS.")] = "127.0.0.1",
    engine: Annotated[
        str, typer.Option(help="mosquitto, amqtt, or auto: Mosquitto where it is installed, else amqtt.")
    ] = "auto",
    cert_file: Annotated[Path | None, typer.Option(help="The broker's certificate (PEM); switches TLS on.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of edge-sft's state on this machine.")] = None,
    duration: Annotated[float | None, typer.Option(help="Stop after so many seconds.", min=0)] = None,
) -> None:
    """Run a broker with a password on this machine, for demos and tests, until Ctrl-C."""
    import signal
    import threading

    from edge_sft.cli.paths import device_root
    from edge_sft.runtime import broker as brokers

    base = root or device_root()
    stop = threading.Event()
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda *_: stop.set())
    running = brokers.start(
        base / "broker",
        port,
        host=host,
        engine=engine,
        cert_file=cert_file,
        key_file=key_file,
        environment=base / "broker-env",
        report=console.print,
    )
    with running:
        console.print(f"broker ({running.engine}) on {running.host}:{running.port}, user {running.username}")
        console.print(f"password in {running.password_file}, log in {running.log_file}; Ctrl-C ends it", soft_wrap=True)
        waited = 0.0
        while running.running and not stop.wait(0.5) and (duration is None or waited < duration):
            waited += 0.5
        if not running.running:
            raise DeviceError(f"broker ({running.engine})", "ended by itself", f"See {running.log_file}.")
