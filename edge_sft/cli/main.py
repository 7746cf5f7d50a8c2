"""The `edge-sft` command: a table of verbs. A verb's module is imported when the verb is called, not before."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import typer
import typer.core

from edge_sft.errors import EdgeSftError


@dataclass(frozen=True)
class Verb:
    """Where a verb lives (``module:function``) and its line in ``--help``."""

    target: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb("edge_sft.cli.demo:demo", "See the whole road in one command, on real or your own pictures."),
    "init": Verb("edge_sft.cli.init:init", "Look at pictures or sensor readings and write a recipe for them."),
    "check": Verb("edge_sft.cli.check:check", "Find what is wrong with pictures, readings and labels, in words."),
    "build": Verb("edge_sft.cli.build:build", "Check, train, export, prove and sign: one file to deploy."),
    "train": Verb("edge_sft.cli.train:train", "Fine-tune a model by a recipe."),
    "export": Verb("edge_sft.cli.export:export", "Make and gate the ONNX variants of a trained model."),
    "report": Verb("edge_sft.cli.report:report", "Write a trained model's HTML report."),
    "deploy": Verb("edge_sft.cli.deploy:deploy", "Prove a bundle on a device and switch to it."),
    "bench": Verb("edge_sft.cli.bench:bench", "Measure how fast a model is on this machine."),
    "commission": Verb(
        "edge_sft.cli.commission:commission", "Teach a deployed anomaly model what is healthy on a machine."
    ),
    "rollback": Verb("edge_sft.cli.deploy:rollback", "Switch a device back to the model before."),
    "slots": Verb("edge_sft.cli.deploy:slots", "Show which models a device holds."),
    "run": Verb("edge_sft.cli.agent:run", "Run the agent: pictures or sensor rows in, decisions out over MQTT."),
    "predict": Verb("edge_sft.cli.predict:predict", "Decide about pictures or recorded sensor rows with a bundle."),
    "monitor": Verb("edge_sft.cli.monitor:monitor", "Watch decisions live in the terminal."),
    "ledger": Verb("edge_sft.cli.ledger:ledger", "Receive decisions into a database and say what is missing."),
    "broker": Verb("edge_sft.cli.broker:broker", "Start a small MQTT broker for trying things out."),
    "doctor": Verb("edge_sft.cli.doctor:doctor", "Look at this machine and say what to mend."),
    "schema": Verb("edge_sft.cli.schema:schema", "Print the JSON Schema of the published decisions."),
    "wheelhouse": Verb("edge_sft.cli.wheelhouse:wheelhouse", "Collect what a device without internet installs from."),
    "service show": Verb("edge_sft.cli.service:show", "Print the agent's systemd unit for this machine."),
    "service install": Verb("edge_sft.cli.service:install", "Have the agent start with the machine, hardened."),
    "federate init": Verb("edge_sft.cli.federate:init", "Make a federation: its authority, certificate, settings."),
    "federate up": Verb("edge_sft.cli.federate:up", "Run the coordinator, for sites to reach."),
    "federate simulate": Verb(
        "edge_sft.cli.federate_simulate:simulate", "Try it on this machine alone, on data cut into sites."
    ),
    "federate invite": Verb("edge_sft.cli.federate:invite", "Write the file with which a site joins."),
    "federate run": Verb("edge_sft.cli.federate:run", "Fine-tune one model over all approved sites."),
    "federate status": Verb("edge_sft.cli.federate:status", "Show sites, runs, and what to mend."),
    "federate report": Verb("edge_sft.cli.federate_report:report", "Write a run's report, an HTML page."),
    "federate verify": Verb("edge_sft.cli.federate_report:verify", "Check that a run's record was not changed."),
    "site join": Verb("edge_sft.cli.site:join", "Join a federation with the file it sent."),
    "site run": Verb("edge_sft.cli.site:run", "Take part: train on this site's data when asked."),
    "site status": Verb("edge_sft.cli.site:status", "Show what this site does, and what to mend."),
    "site ledger": Verb("edge_sft.cli.site:ledger", "List exactly what left this site."),
    "site export": Verb("edge_sft.cli.site_export:export", "Pack, prove and sign this site's own model."),
    "site leave": Verb("edge_sft.cli.site:leave", "Leave the federation: remove key and state."),
    "site approve": Verb("edge_sft.cli.site_admin:approve", "At the coordinator: let a site take part."),
    "site revoke": Verb("edge_sft.cli.site_admin:revoke", "At the coordinator: put a site out."),
    "site list": Verb("edge_sft.cli.site_admin:list_sites", "At the coordinator: list the sites."),
    "agent init": Verb("edge_sft.cli.agent:init", "Write a commented agent.toml."),
    "agent health": Verb("edge_sft.cli.agent:health", "Say whether the agent runs and nothing in it hangs."),
    "bundle inspect": Verb("edge_sft.cli.bundle:inspect", "Show what a bundle holds."),
    "bundle verify": Verb("edge_sft.cli.bundle:verify", "Verify a bundle's signature and every file in it."),
    "bundle sign": Verb("edge_sft.cli.bundle:sign", "Sign a bundle with another key."),
    "devices list": Verb("edge_sft.cli.devices:list_profiles", "List the device profiles."),
    "devices match": Verb("edge_sft.cli.devices:match", "Say which profile fits this machine, and why not others."),
    "devices show": Verb("edge_sft.cli.devices:show", "Show one device profile."),
    "keys init": Verb("edge_sft.cli.keys:init", "Make the key pair that signs bundles."),
    "keys trust": Verb("edge_sft.cli.keys:trust", "Trust another maker's public key."),
}

ELSEWHERE = ("bench", "devices", "doctor")  # these look only: with `--to ssh://…` they run over there as they are

GROUPS = {
    "agent": "The agent's configuration and health.",
    "federate": "The coordinator: fine-tune one model over several sites whose data stays with them.",
    "site": "A plant that learns with others; approve, revoke and list are for the coordinator.",
    "bundle": "Look into, verify or re-sign a bundle.",
    "devices": "Device profiles.",
    "service": "The agent as a systemd service.",
    "keys": "Signing keys.",
}


class _Table(typer.core.TyperGroup):
    """A group whose commands are rows of VERBS: listed from the table, imported when called."""

    prefix = ""

    def _rows(self) -> dict[str, Verb]:
        return {verb[len(self.prefix) :]: row for verb, row in VERBS.items() if verb.startswith(self.prefix)}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the table's order."""
        names = [name for name in self._rows() if " " not in name]
        return names if self.prefix else [*names, *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command that has only its help line: enough to list it."""
        if not self.prefix and cmd_name in GROUPS:
            return _group(cmd_name)
        row = self._rows().get(cmd_name)
        return typer.core.TyperCommand(cmd_name, help=row.help, rich_markup_mode=None) if row else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that was called."""
        name, command, rest = super().resolve_command(ctx, args)
        row = self._rows().get(name or "")
        return (name, _load(row), rest) if row else (name, command, rest)


class _Command(typer.core.TyperCommand):
    def get_help(self, ctx: Any) -> str:
        """Return the help as people read it: typer 0.20 escapes brackets for rich also where rich is not used."""
        return super().get_help(ctx).replace("\\[", "[")


def _load(row: Verb) -> Any:
    module, _, function = row.target.partition(":")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=None, cls=_Command)(getattr(import_module(module), function))
    return typer.main.get_command(app)


def _group(name: str) -> _Table:
    group = _Table(name=name, help=GROUPS[name], no_args_is_help=True, rich_markup_mode=None)
    group.prefix = f"{name} "
    return group


def _root() -> _Table:
    return _Table(
        name="edge-sft",
        help="From your own labelled pictures to a proven model on your machine, streaming decisions over MQTT.",
        no_args_is_help=True,
        rich_markup_mode=None,  # plain help: drawing boxes costs as much again as everything else
    )


def main() -> None:
    """Run the command line; errors of edge-sft print as thing, fact, remedy and set the exit status."""
    if sys.argv[1:] == ["--version"]:
        import edge_sft

        typer.echo(f"edge-sft {edge_sft.__version__}")
        return
    if sys.argv[1:2] == ["federate"] and "--simulate" in sys.argv:  # the same by another name
        sys.argv[1:] = ["federate", "simulate", *(word for word in sys.argv[2:] if word != "--simulate")]
    try:
        if "--to" in sys.argv and sys.argv[1] in ELSEWHERE:
            from edge_sft.cli.remote import look

            if look(sys.argv[1:]):
                return
        _root()(prog_name="edge-sft")
    except EdgeSftError as error:
        typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of Ctrl-C
            _stopped()
        raise


def _stopped() -> NoReturn:
    typer.echo("stopped", err=True)
    sys.exit(130)


if __name__ == "__main__":
    main()
