"""`edge-sft doctor`: what this machine has, what is wrong with it, what to do. Never changes anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.cli.paths import device_root

if TYPE_CHECKING:
    from edge_sft.machine.finding import Finding
    from edge_sft.machine.gathering.place import Place

_MARKS = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}


def doctor(
    broker: Annotated[str | None, typer.Option(help="MQTT broker to try, HOST or HOST:PORT.")] = None,
    root: Annotated[Path | None, typer.Option(help="The device's folder of slots and journals.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="agent.toml: its broker, certificates, cameras and folder are looked at too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at software, GPU, power, disk, clock, cameras, certificates, memory; say what to mend."""
    from edge_sft.machine.looking import look_over

    findings = look_over(_place(broker, root, config))
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            _print(finding)
    if any(finding.health == "bad" for finding in findings):
        raise typer.Exit(5)


def _print(finding: Finding) -> None:
    from rich.markup import escape

    console.print(f"{_MARKS[finding.health]}  {finding.thing}: {escape(finding.fact)}")
    if finding.remedy:
        console.print(f"      → {escape(finding.remedy)}")


def _place(broker: str | None, root: Path | None, config: Path | None) -> Place:
    """Return what is to be looked at. Raises UserError for a configuration with problems."""
    from edge_sft.machine.gathering.place import Place

    if config is None:
        return Place(root or device_root(), broker)
    from edge_sft.runtime.config import load

    told = load(config)
    mqtt = told.mqtt
    sources = [pipeline.source for pipeline in told.pipeline]
    numbers = tuple(source.device for source in sources if source.kind == "camera" and isinstance(source.device, int))
    return Place(
        root or told.agent.root or device_root(),
        broker or f"{mqtt.host}:{mqtt.port}",
        ca_file=mqtt.ca_file,
        cert_file=mqtt.cert_file,
        key_file=mqtt.key_file,
        cameras=numbers,
    )
