"""`edge-sft site`: one site of a federation. Joining, taking part, and what left."""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_sft.cli.console import console, progress
from edge_sft.cli.paths import notify_socket, site_directory
from edge_sft.errors import DataError, UserError

if TYPE_CHECKING:
    from edge_sft.federated.invite import Invite
    from edge_sft.federated.preflight import Finding

Directory = Annotated[Path | None, typer.Option("--dir", help="The site's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_MARKS = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}


def join(
    invite: Annotated[Path, typer.Argument(help="The SITE.invite file that the coordinator sent.")],
    data: Annotated[Path, typer.Option(help="Folder with this site's pictures or rows; they stay here.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="The federation's recipe: whether the data fits is said now, not in the first round."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where SITE.join goes; default: this folder.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Join although something is wrong.")] = False,
    directory: Directory = None,
) -> None:
    """Join a federation: look whether all is well, make this site's key, and a file for the coordinator."""
    import edge_sft
    from edge_sft.federated import joining, pki

    root = (directory or site_directory()).absolute()
    read, warning = joining.open_invite(invite, datetime.now(timezone.utc))
    console.print(f"Site '{read.site}' of the federation at {read.address}. Its authority (compare by telephone):")
    console.print(f"  {pki.spoken(read.ca_sha256)}")
    if warning:
        console.print(f"[yellow]warning[/] {warning}")
    findings = _look(read, root, data, recipe)
    _print(findings)
    if any(finding.level == "error" for finding in findings) and not anyway:
        raise DataError("this site", "is not ready", "Mend what is marked 'error' above, or join with --anyway.")
    answer = (out or Path()) / f"{read.site}.join" if out is None or out.is_dir() else out
    joined = joining.join(root, read, data, answer, version=edge_sft.__version__)
    if recipe is not None:
        joining.keep_recipe(root, recipe)
    console.print(f"\nThis site's key: {joined.fingerprint}")
    console.print(f"Send [bold]{answer}[/] to the coordinator, who runs: edge-sft site approve {answer.name}")
    console.print(f"Here: edge-sft site run{_dir(directory)} (it waits until it is approved)")


def run(
    cold: Annotated[bool, typer.Option("--cold", help="Start a new Python for each message: less memory.")] = False,
    unit: Annotated[bool, typer.Option("--unit", help="Print a systemd unit instead; changes nothing.")] = False,
    user: Annotated[str, typer.Option(help="For --unit: whom it runs as.")] = "edge-sft",
    directory: Directory = None,
) -> None:
    """Take part until Ctrl-C or SIGTERM: waits for approval, trains when asked, and comes back after any failure."""
    root = (directory or site_directory()).absolute()
    if unit:
        from edge_sft.federated import site_files, site_unit

        site = site_files.read_site(root)
        print(site_unit.render(root, Path(site.data), python=Path(sys.executable), user=user), end="")
        return
    from edge_sft.federated.serving import serve
    from edge_sft.runtime.service import notifier

    stop = Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    notify = notifier(notify_socket())
    notify("READY=1")

    def say(line: str) -> None:
        notify(f"STATUS={line}")
        print(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} {line}", flush=True)

    serve(root, say, stop, warm=not cold)


def status(as_json: AsJson = False, directory: Directory = None) -> None:
    """Show who this site is, what it does now, and look whether the coordinator can be served."""
    from edge_sft.federated import chain, preflight, site_files

    root = (directory or site_directory()).absolute()
    site = site_files.read_site(root)
    state = site_files.read_state(root)
    served = site_files.is_served(root)
    findings = [
        *preflight.coordinator(site.address, site_files.read_ca(root)),
        preflight.disk(root),
        preflight.flower(),
    ]
    record = chain.check(root / site_files.LEDGER)
    told: dict[str, Any] = {
        "site": site.site,
        "address": site.address,
        "data": site.data,
        "running": served,
        "state": state.state if state and served else "stopped",
        "why": state.why if state else "",
        "since": state.since if state else "",
        "runs": sorted(path.name for path in (root / site_files.RUNS).glob("*") if path.is_dir()),
        "sent": {"messages": len(record.records), "bytes": sum(int(one.get("bytes", 0)) for one in record.records)},
        "findings": [finding.__dict__ for finding in findings],
    }
    if as_json:
        print(json.dumps(told, indent=2))
        return
    console.print(f"{site.site}: {told['state']}{' – ' + told['why'] if told['why'] else ''}", markup=False)
    console.print(f"coordinator {site.address}, data {site.data}", markup=False)
    console.print(f"runs: {', '.join(told['runs']) or 'none yet'}", markup=False)
    console.print(f"left this site: {told['sent']['messages']} messages, {_size(told['sent']['bytes'])}")
    if record.broken:
        console.print(f"[red]the ledger was changed[/]: {record.broken}")
    _print(findings)
    if not served:
        console.print(f"It does not run; start it: edge-sft site run{_dir(directory)}")


def ledger(as_json: AsJson = False, directory: Directory = None) -> None:
    """List all that left this site, line by line, and follow the chain that shows whether a line was changed."""
    from rich.markup import escape
    from rich.table import Table

    from edge_sft.federated import chain, site_files

    path = (directory or site_directory()) / site_files.LEDGER
    record = chain.check(path)
    if as_json:
        print(json.dumps({"records": record.records, "head": record.head, "broken": record.broken}, indent=2))
    else:
        table = Table(box=None, pad_edge=False)
        for title in ("time", "run", "round", "kind", "tensors", "bytes", "numbers or words"):
            table.add_column(title, justify="right" if title in {"round", "tensors", "bytes"} else "left")
        for one in record.records:
            cells = [_cell(one.get(key)) for key in ("time", "run", "round", "kind", "tensors", "bytes")]
            table.add_row(*cells, escape(one["said"]) if one.get("said") else _grouped(one.get("metrics", [])))
        console.print(table if record.records else "Nothing left this site yet.")
        total = sum(int(one.get("bytes", 0)) for one in record.records)
        console.print(f"{len(record.records)} messages, {_size(total)}; last line {record.head[:16] or '-'}")
    if record.broken:
        raise DataError(str(path), record.broken, "Somebody changed it, or the disk is failing.")


def leave(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep weights and personal checkpoints.")] = False,
    directory: Directory = None,
) -> None:
    """Remove this site's key, weights and state; its ledger and its data stay."""
    from edge_sft.federated import leaving, site_files

    root = (directory or site_directory()).absolute()
    site = site_files.read_site(root)
    what = "key and state" if keep_runs else "key, state, weights and personal checkpoints"
    if not yes and not typer.confirm(f"Remove the {what} of site '{site.site}' in {root}?"):
        raise UserError("edge-sft site leave", "was not confirmed; nothing was removed", "")
    removed = leaving.leave(root, keep_runs=keep_runs)
    console.print(f"removed: {', '.join(removed)}. The ledger stays: {root / site_files.LEDGER}", markup=False)
    console.print(f"Tell the coordinator: edge-sft site revoke {site.site}")


def _look(invite: Invite, root: Path, data: Path, recipe: Path | None) -> list[Finding]:
    import edge_sft
    from edge_sft.federated import preflight

    found = [preflight.versions(invite.edge_sft, edge_sft.__version__), preflight.flower()]
    found += [*preflight.coordinator(invite.address, invite.ca), preflight.disk(root)]
    if recipe is not None:
        with progress() as bar:
            found += preflight.data(recipe, data, bar)
    return found


def _print(findings: list[Finding]) -> None:
    from rich.markup import escape

    for finding in findings:
        remedy = f". {finding.remedy}" if finding.remedy and finding.level != "ok" else ""
        console.print(f"{_MARKS[finding.level]} {escape(f'{finding.what}: {finding.fact}{remedy}')}")


def _grouped(names: list[str]) -> str:
    """Write ``alone/test/rmse, alone/test/runs`` as ``alone/test: rmse, runs``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        prefix, _, last = name.rpartition("/")
        groups.setdefault(prefix, []).append(last)
    return "; ".join(f"{prefix}: {', '.join(last)}" if prefix else ", ".join(last) for prefix, last in groups.items())


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count} bytes"


def _dir(directory: Path | None) -> str:
    return f" --dir {directory}" if directory else ""
