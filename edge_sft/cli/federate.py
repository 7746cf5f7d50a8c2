"""`edge-sft federate`: coordinating federated fine-tuning over several sites."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_sft.cli.console import console
from edge_sft.errors import UserError

if TYPE_CHECKING:
    from edge_sft.federated.status import Status

Directory = Annotated[Path | None, typer.Option("--dir", help="The federation's folder.")]


def init(
    address: Annotated[
        str, typer.Option(help="HOST:PORT by which sites reach this machine; HOST alone: port 8443.")
    ] = "",
    name: Annotated[str, typer.Option(help="What people call the federation.")] = "federation",
    also: Annotated[list[str] | None, typer.Option("--also", help="A further name or IP address of it.")] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT to listen on; default: every address, that port.")] = "",
    superlink_port: Annotated[
        int | None, typer.Option(help="Port for Flower on this machine, when another has ours; never open it.")
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Issue a new server certificate; sites need nothing.")] = False,
    directory: Directory = None,
) -> None:
    """Make a federation: its own certificate authority, the server's certificate, the settings."""
    from edge_sft.federated import coordinator, pki
    from edge_sft.federated.invite import split_address

    root = _root(directory)
    if renew:
        found = coordinator.renew(root, _now(), also or ())
        console.print(f"Renewed until {found.ends:%Y-%m-%d} for {', '.join(found.names)}.", markup=False)
        console.print("It counts when edge-sft federate up starts again; sites need nothing new.")
        return
    if not address:
        raise UserError("--address", "is missing", "Give HOST:PORT by which sites reach this machine.")
    reached = address if address.rpartition(":")[2].isdecimal() else f"{address}:{coordinator.PROXY_PORT}"
    try:
        port = split_address(reached)[1]
        settings = coordinator.Federation(
            name=name,
            address=reached,
            names=tuple(also or ()),
            listen=listen or f"0.0.0.0:{port}",
            superlink_port=coordinator.SUPERLINK_PORT if superlink_port is None else superlink_port,
        )
    except ValueError as error:
        raise UserError("the federation's settings", _words(error), "Mend the options.") from error
    folder = coordinator.create(root, settings, _now())
    found = pki.facts(folder.certificate.read_bytes())
    console.print(f"Made {folder.root}. Its authority (compare it over the telephone):")
    console.print(f"  {pki.spoken(pki.facts(folder.authority.read_bytes()).fingerprint)}")
    console.print(f"Server certificate until {found.ends:%Y-%m-%d} for {', '.join(found.names)}.", markup=False)
    console.print("Keep ca.key safe: whoever has it can pretend to be this coordinator.")
    console.print(f"Next: edge-sft federate up{_dir(directory)}, and for each site: edge-sft federate invite SITE")


def up(
    unit: Annotated[bool, typer.Option("--unit", help="Print a systemd unit instead; changes nothing.")] = False,
    user: Annotated[str, typer.Option(help="For --unit: whom it runs as.")] = "edge-sft",
    directory: Directory = None,
) -> None:
    """Run the coordinator: Flower's SuperLink on loopback and nginx before it, until Ctrl-C or SIGTERM."""
    import signal
    import sys
    import threading

    from edge_sft.cli.paths import environment, notify_socket
    from edge_sft.federated import coordinator, proxy, superlink
    from edge_sft.federated.supervisor import Supervisor
    from edge_sft.runtime.service import notifier

    folder, federation = coordinator.load(_root(directory))
    if unit:
        from edge_sft.federated.unit import render

        print(render(folder, federation, python=Path(sys.executable), user=user), end="")
        return
    for warning in coordinator.warnings(folder, federation, _now()):
        console.print(f"[yellow]{warning}[/]")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    notify = notifier(notify_socket())

    def ready() -> None:
        notify("READY=1")
        console.print(f"{federation.name} is up: sites reach it at {federation.address}. Ctrl-C ends it.")

    parts = [make(folder, federation, environment()) for make in (superlink.part, proxy.part)]
    Supervisor(folder.root, parts, lambda line: console.print(line, markup=False)).run(stop, ready)
    notify("STOPPING=1")
    console.print("ended; runs go on when it is up again")


def invite(
    site: Annotated[str, typer.Argument(help="The site's name: a-z, 0-9 and '-'.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; default: SITE.invite here.")] = None,
    directory: Directory = None,
) -> None:
    """Write the file with which a site joins. Nothing in it is secret."""
    from edge_sft import __version__
    from edge_sft.federated import coordinator, pki
    from edge_sft.federated.app import app_sha256
    from edge_sft.federated.invite import Invite, write_invite

    folder, federation = coordinator.load(_root(directory))
    authority = folder.authority.read_bytes()
    digest = pki.facts(authority).fingerprint
    try:
        made = Invite(
            site=site,
            address=federation.address,
            ca=authority.decode(),
            ca_sha256=digest,
            apps=(app_sha256(),),
            edge_sft=__version__,
        )
    except ValueError as error:
        raise UserError(f"site '{site}'", _words(error), "Take another name.") from error
    path = out or Path(f"{site}.invite")
    write_invite(path, made)
    console.print(f"Wrote {path}. Bring it to the site; compare the authority by telephone:")
    console.print(f"  {pki.spoken(digest)}")
    console.print(f"There: edge-sft site join {path.name} --data FOLDER")
    console.print("It answers with a .join file; here: edge-sft site approve FILE")


def run(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe; not needed to go on with a run.")] = None,
    name: Annotated[str, typer.Option(help="The run's name; the same name again goes on with it.")] = "",
    rounds: Annotated[int | None, typer.Option(help="Rounds, instead of the recipe's.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the run of this name; it can go on later.")] = False,
    directory: Directory = None,
) -> None:
    """Fine-tune over all approved sites. Ctrl-C only stops watching: the run goes on."""
    import time

    from edge_sft.cli.console import progress
    from edge_sft.cli.paths import environment
    from edge_sft.federated import coordinator, running, sites, superlink
    from edge_sft.federated.app import app_directory

    folder, federation = coordinator.load(_root(directory))
    if not name:
        if recipe is None:
            raise UserError(
                "edge-sft federate run", "needs a recipe or a --name", "Example: … run recipe.toml --name a1"
            )
        name = recipe.stem.lower()
    control = superlink.Control(folder, federation, environment())
    if stop:
        _stop(running.prepare(folder.runs, name, None, None), control)
        return
    place = running.prepare(folder.runs, name, recipe, rounds)
    if running.finished(place):
        console.print(f"{name} is finished: {place / 'result'}")
        return
    running.check_sites(place, sites.read(folder.sites))
    try:
        with progress() as bars:
            running.follow(
                control,
                place,
                app_directory(),
                progress=bars,
                say=lambda line: console.print(line, markup=False),
                sleep=time.sleep,
            )
    except KeyboardInterrupt:
        console.print(f"\nThe run goes on. Watch it again: edge-sft federate run --name {name}; end it: … --stop")
        raise
    console.print(f"{name} is finished: {place / 'result'}")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    directory: Directory = None,
) -> None:
    """Show sites, runs, certificates, and what to mend."""
    import json

    from edge_sft.cli.paths import environment
    from edge_sft.federated import coordinator, superlink
    from edge_sft.federated.status import look

    folder, federation = coordinator.load(_root(directory))
    found = look(folder, federation, superlink.Control(folder, federation, environment()), _now())
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    _print(found)


def _print(found: Status) -> None:
    answers = "[green]answers[/]" if found.superlink == "answers" else f"[red]{found.superlink}[/]"
    console.print(f"{found.name} at {found.address}: Flower {answers}, certificate for {found.certificate_days} days")
    console.print("\nSites" if found.sites else "\nNo site is approved yet: edge-sft federate invite SITE")
    for site in found.sites:
        colour = {"online": "green", "revoked": "dim"}.get(site.state, "yellow")
        since = f" since {site.seen}" if site.seen else ""
        console.print(f"  {site.name:<24} [{colour}]{site.state}[/]{since}")
    console.print("\nRuns" if found.runs else "\nNo run yet: edge-sft federate run RECIPE --name NAME")
    for one in found.runs:
        console.print(f"  {one.name:<24} {one.state}, {one.rounds} of {one.of} rounds", markup=False)
        if one.last:
            console.print(f"    {one.last}", markup=False)
    for problem in found.problems:
        console.print(f"[yellow]mend[/]: {problem}")


def _stop(place: Path, control: object) -> None:
    from edge_sft.federated import running
    from edge_sft.federated.superlink import Control

    assert isinstance(control, Control)
    run_id = running.remembered(place)
    if not run_id or control.run_state(run_id).over:
        raise UserError(f"run {place.name}", "does not run", "See: edge-sft federate status")
    control.stop(run_id)
    console.print(
        f"stopped after {running.done(running.history(place))} rounds; go on: edge-sft federate run --name {place.name}"
    )


def _root(directory: Path | None) -> Path:
    from edge_sft.cli.paths import federation_directory

    return directory or federation_directory()


def _dir(directory: Path | None) -> str:
    return f" --dir {directory}" if directory else ""


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _words(error: ValueError) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
    return str(error)
