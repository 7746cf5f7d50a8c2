"""`edge-sft deploy`, `rollback`, `slots`: which model serves on a device."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edge_sft.cli.console import console, errors, progress
from edge_sft.cli.paths import device_root, keys_directory
from edge_sft.errors import BundleRefused, EdgeSftError, UserError

if TYPE_CHECKING:
    from edge_sft.bundle.keys import PublicKey
    from edge_sft.deploy.events import EventLines
    from edge_sft.profile import DeviceProfile
    from edge_sft.slots.proof import Proof, VariantProof
    from edge_sft.slots.store import Slot, SlotStore

Root = Annotated[
    Path | None, typer.Option(help="The device's folder of slots and journals (default: your data folder).")
]
Pipeline = Annotated[str, typer.Option(help="Which pipeline of the agent.")]
Keys = Annotated[
    list[Path] | None, typer.Option("--key", help="Maker's public key file; repeatable (default: the trusted keys).")
]


To = Annotated[str, typer.Option(help="Which device: local, or ssh://user@host[:port].")]
HostKey = Annotated[
    str | None, typer.Option("--accept-host-key", help="Fingerprint that a device met for the first time must show.")
]
SshConfig = Annotated[Path | None, typer.Option("--ssh-config", help="Use this instead of your own ssh configuration.")]


def deploy(  # noqa: PLR0917 - a command line's options
    bundle: Annotated[Path, typer.Argument(help="The .edge file.")],
    to: To = "local",
    pipeline: Pipeline = "main",
    profile: Annotated[str, typer.Option(help="Device profile: auto, a name, or a .toml file.")] = "auto",
    root: Root = None,
    policy: Annotated[Path | None, typer.Option(help="The site's own policy.json, active with this bundle.")] = None,
    bundle_policy: Annotated[
        bool, typer.Option("--bundle-policy", help="Take the bundle's own policy, also where labels change.")
    ] = False,
    key: Keys = None,
    events: Annotated[bool, typer.Option("--events", help="Print progress and outcome as JSON lines.")] = False,
    trust: Annotated[
        Path | None, typer.Option(help="Over ssh: a maker's public key that the device is to trust from now on.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option(help="Over ssh: install edge-sft from this (default: made when needed).")
    ] = None,
    accept_host_key: HostKey = None,
    ssh_config: SshConfig = None,
) -> None:
    """Verify a bundle, prove it on the device, then switch to it. If anything fails, the old model goes on."""
    if policy is not None and bundle_policy:
        raise UserError("--policy and --bundle-policy", "exclude each other", "Give one of them.")
    if _reached(to, trust=trust, wheelhouse=wheelhouse, accept_host_key=accept_host_key, ssh_config=ssh_config):
        from edge_sft.cli import remote

        files = [("--policy", policy)] if policy is not None else []
        files += [("--key", path) for path in key or []]
        said = ["--pipeline", pipeline, *(["--bundle-policy"] if bundle_policy else [])]
        said += ["--root", root.as_posix()] if root else []
        done = remote.deploy(
            remote.Target(to, root, ssh_config, accept_host_key),
            bundle,
            arguments=said,
            files=files,
            profile=profile,
            trust=trust,
            wheelhouse=wheelhouse,
        )
        _print_outcome(
            done.proof, changed=done.changed, pipeline=pipeline, again=_again("rollback", pipeline, root, to)
        )
        return
    lines = _event_lines() if events else None
    try:
        proof, changed = _deploy_here(bundle, pipeline, profile, root, policy, key, lines, bundle_policy=bundle_policy)
    except EdgeSftError as error:
        if lines is not None:
            lines.error(error)
        raise
    if lines is not None:
        lines.result(proof.model_dump(mode="json"), changed=changed)
        return
    _print_outcome(proof, changed=changed, pipeline=pipeline, again=_again("rollback", pipeline, root))


def _deploy_here(
    bundle: Path,
    pipeline: str,
    profile: str,
    root: Path | None,
    policy: Path | None,
    key: list[Path] | None,
    lines: EventLines | None,
    *,
    bundle_policy: bool,
) -> tuple[Proof, bool]:
    """Deploy on this machine; returns the proof, and whether another slot serves now."""
    from edge_sft.deploy.local import deploy as deploy_here
    from edge_sft.slots.store import SlotStore

    place, chosen = root or device_root(), profile_named(profile)
    store = SlotStore(place, pipeline)
    before = _generation(store)
    with contextlib.nullcontext(lines) if lines is not None else progress() as bar:
        proof = deploy_here(
            bundle,
            place,
            pipeline=pipeline,
            profile=chosen,
            trusted_keys=keys_or_trusted(key),
            policy=policy,
            bundle_policy=bundle_policy,
            progress=bar,
        )
    return proof, store.generation() != before


def _event_lines() -> EventLines:
    from edge_sft.deploy.events import EventLines

    return EventLines(lambda line: print(line, flush=True))


def _print_outcome(proof: Proof, *, changed: bool, pipeline: str, again: str) -> None:
    _print_proof(proof)
    what = f"{proof.name} {proof.version} ({proof.chosen})"
    if not changed:
        console.print(f"[green]already serving[/]: {what}; nothing was changed")
        return
    site = ", with the site's policy" if proof.policy_origin == "site" else ""
    console.print(f"[green]serving[/]: {what} on pipeline '{pipeline}'{site}; policy {proof.policy_version}")
    console.print(f"a running agent switches by itself; back again with: {again}")


def rollback(
    pipeline: Pipeline = "main",
    to: To = "local",
    root: Root = None,
    accept_host_key: HostKey = None,
    ssh_config: SshConfig = None,
) -> None:
    """Switch back to the model that served before; its files are verified first."""
    if _reached(to, accept_host_key=accept_host_key, ssh_config=ssh_config):
        from edge_sft.cli import remote

        remote.verb(remote.Target(to, root, ssh_config, accept_host_key), ["rollback", "--pipeline", pipeline])
        return
    from edge_sft.slots.store import SlotStore, read_manifest

    store = SlotStore(root or device_root(), pipeline)
    with store.lock():
        slot = store.rollback()
    manifest = read_manifest(slot.path)
    console.print(f"[green]serving[/]: {manifest.name} {manifest.version} from slot {slot.name} on '{pipeline}'")


def slots(
    root: Root = None,
    to: To = "local",
    accept_host_key: HostKey = None,
    ssh_config: SshConfig = None,
) -> None:
    """Show every pipeline's two slots: what is in them, which one serves, what was proved. Verifies all files."""
    if _reached(to, accept_host_key=accept_host_key, ssh_config=ssh_config):
        from edge_sft.cli import remote

        remote.verb(remote.Target(to, root, ssh_config, accept_host_key), ["slots"])
        return
    from edge_sft.slots.store import SlotStore

    folder = (root or device_root()) / "pipelines"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        console.print(f"no model was deployed under {folder.parent} yet; run: edge-sft deploy BUNDLE --to local")
    for name in names:
        store = SlotStore(folder.parent, name)
        try:
            held = [("serves", store.current()), ("before", store.previous())]
        except EdgeSftError as error:
            console.print(f"pipeline {name}: [red]{error.fact}[/]")
            continue
        console.print(f"pipeline {name}", style="bold")
        for role, slot in held:
            console.print(f"  {role}  {'nothing' if slot is None else _described(store, slot)}", soft_wrap=True)


def profile_named(name: str) -> DeviceProfile:
    """Return a profile by name or file; ``auto`` is the shipped one that fits this machine best.

    Where a better one fails by what is installed, that is said, and the one for the processor is taken.

    Raises:
        UserError: It is not known, has problems, or none fits.
    """
    from edge_sft import profile as profiles

    if name != "auto":
        return profiles.load(name)
    from edge_sft.machine.matching import best, passed_over
    from edge_sft.machine.reading import look

    facts, shipped = look(), [profiles.load(one) for one in profiles.shipped()]
    chosen = best(facts, shipped)
    for words in passed_over(facts, shipped):
        errors.print(f"[yellow]--profile auto takes {chosen.profile.name}[/]: {escape(words)}")
    return chosen.profile


def keys_or_trusted(files: list[Path] | None) -> list[PublicKey]:
    """Return the keys in these files, or those that this machine trusts."""
    from edge_sft.bundle import keys

    return [keys.load_public(path) for path in files] if files else keys.trusted(keys_directory())


def _reached(to: str, **only_ssh: object) -> bool:
    """Tell whether another machine is meant; refuses options that mean nothing on this one."""
    if to.startswith("ssh:"):
        return True
    if to != "local":
        raise UserError(f"--to {to}", "is no device that can be reached", "Give local, or ssh://user@host[:port].")
    for name, value in only_ssh.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}", "means something only with --to ssh://…", "Leave it out.")
    return False


def _generation(store: SlotStore) -> int:
    try:
        return store.generation()
    except EdgeSftError:
        return -1  # a damaged pointer: a deploy mends it


def _described(store: SlotStore, slot: Slot) -> str:
    from edge_sft.slots import proof as proofs

    try:
        manifest = store.verify(slot)
        proof = proofs.load(slot.path)
    except BundleRefused as error:
        return f"slot {slot.name}: [red]damaged[/] ({error})"
    measured = proof.of(proof.chosen)
    speed = f"p95 {measured.p95_ms:.3g} ms" if measured is not None and measured.p95_ms is not None else ""
    return (
        f"slot {slot.name}: {manifest.name} {manifest.version} {proof.chosen} {speed}, "
        f"{proof.policy_origin} policy {proof.policy_version}, proved {proof.proved_at}, digest {slot.digest[:12]}"
    )


def _print_proof(proof: Proof) -> None:
    from rich.table import Table

    table = Table(
        title=f"{proof.name} {proof.version} on {proof.provider}, {proof.threads} thread(s)", title_justify="left"
    )
    table.add_column("variant")
    built = any(item.plan for item in proof.variants)
    if built:
        table.add_column("engine")
    on_gpu = any(item.gpu_memory_mb is not None for item in proof.variants)
    for name in ("p50 ms", "p95 ms", "memory MB", *(["GPU MB"] if on_gpu else []), "golden diff."):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for item in proof.variants:
        verdict = "[green]chosen[/]" if item.variant == proof.chosen else "passed" if item.passed else item.reason
        gpu = [item.gpu_memory_mb] if on_gpu else []
        numbers = (item.p50_ms, item.p95_ms, item.memory_mb, *gpu, item.golden_difference)
        cells = ["–" if value is None else f"{value:.3g}" for value in numbers]
        table.add_row(item.variant, *([_came(item)] if built else []), *cells, verdict)
    console.print(table)


def _came(item: VariantProof) -> str:
    """Say how a variant's engine came about."""
    if item.plan == "built" and item.build_s is not None:
        return f"built in {item.build_s:.3g} s"
    return {"built": "built", "cached": "from cache", "": "none"}[item.plan]


def _again(verb: str, pipeline: str, root: Path | None, to: str = "local") -> str:
    where = "" if pipeline == "main" else f" --pipeline {pipeline}"
    where += "" if to == "local" else f" --to {to}"
    return f"edge-sft {verb}{where}{f' --root {root}' if root else ''}"
