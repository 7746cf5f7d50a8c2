"""The `edge-sft` command: a table of verbs. Verb modules import their stage inside the function they run."""

from __future__ import annotations

import sys
from importlib import import_module

# verb (or "group verb") → module:function
VERBS: dict[str, str] = {
    "init": "edge_sft.cli.init:init",
    "check": "edge_sft.cli.check:check",
    "train": "edge_sft.cli.train:train",
    "export": "edge_sft.cli.export:export",
    "build": "edge_sft.cli.build:build",
    "report": "edge_sft.cli.report:report",
    "keys init": "edge_sft.cli.keys:init",
    "keys trust": "edge_sft.cli.keys:trust",
    "bundle inspect": "edge_sft.cli.bundle:inspect",
    "bundle verify": "edge_sft.cli.bundle:verify",
    "bundle sign": "edge_sft.cli.bundle:sign",
    "deploy": "edge_sft.cli.deploy:deploy",
    "rollback": "edge_sft.cli.deploy:rollback",
    "slots": "edge_sft.cli.deploy:slots",
    "devices list": "edge_sft.cli.devices:list_profiles",
    "devices show": "edge_sft.cli.devices:show",
    "predict": "edge_sft.cli.predict:predict",
    "agent init": "edge_sft.cli.agent:init",
    "run": "edge_sft.cli.agent:run",
    "monitor": "edge_sft.cli.monitor:monitor",
    "ledger": "edge_sft.cli.ledger:ledger",
    "broker": "edge_sft.cli.broker:broker",
    "doctor": "edge_sft.cli.doctor:doctor",
    "schema": "edge_sft.cli.schema:schema",
    "demo": "edge_sft.cli.demo:demo",
}

GROUPS = {
    "keys": "Signing keys: make them, trust them.",
    "bundle": "Look into, verify or re-sign a bundle.",
    "devices": "Device profiles.",
    "agent": "The agent's configuration.",
}


def main() -> None:
    """Run the command line; errors of edge-sft print as thing, fact, remedy and set the exit status."""
    import typer

    from edge_sft.errors import EdgeSftError

    app = typer.Typer(
        name="edge-sft",
        help="From your own labelled pictures to a proven model on your machine, streaming decisions over MQTT.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    groups: dict[str, typer.Typer] = {}
    for verb, target in VERBS.items():
        group, _, name = verb.rpartition(" ")
        module, _, function = target.partition(":")
        command = getattr(import_module(module), function)
        if group and group not in groups:
            groups[group] = typer.Typer(help=GROUPS[group], no_args_is_help=True)
            app.add_typer(groups[group], name=group)
        (groups[group] if group else app).command(name)(command)
    try:
        app()
    except EdgeSftError as error:
        from edge_sft.cli.console import errors

        errors.print(f"[bold red]error:[/] {_escaped(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
