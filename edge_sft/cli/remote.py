"""Reaching another machine from the command line: who it is, what it is asked, what a person is shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from edge_sft.cli.console import console, progress
from edge_sft.errors import UserError

if TYPE_CHECKING:
    from edge_sft.deploy.remote.link import Link
    from edge_sft.profile import DeviceProfile
    from edge_sft.slots.proof import Proof


@dataclass(frozen=True)
class Target:
    """A device as the user named it."""

    to: str
    root: Path | None = None
    ssh_config: Path | None = None
    accept_host_key: str | None = None
    prefer: tuple[str, ...] = ()


class Deployed(NamedTuple):
    """What a device came to serve, and whether that is new."""

    proof: Proof
    changed: bool


def deploy(
    target: Target,
    bundle: Path,
    *,
    arguments: Sequence[str],
    files: Sequence[tuple[str, Path]],
    profile: str,
    trust: Path | None,
    wheelhouse: Path | None,
) -> Deployed:
    """Deploy to another machine. Raises EdgeSftError; the model that served there then goes on."""
    from edge_sft import profile as profiles
    from edge_sft.deploy.remote import deploying

    if not bundle.is_file():
        raise UserError(str(bundle), "is no file", "Give the .edge file that was built.")
    named = [("--profile", Path(profile))] if profile.endswith(".toml") else []
    order = deploying.Order(
        bundle=bundle,
        arguments=(*arguments, *([] if named else ["--profile", profile])),
        files=(*files, *named),
        trust=trust,
        wheelhouse=wheelhouse,
    )
    stated = "" if profile == "auto" else profiles.load(profile).install.python
    with open_link(replace(target, prefer=(stated,) if stated else ())) as link, progress() as bar:
        wants = _wanted(link, profile)
        done = deploying.deploy(
            link, order, wants, collect=lambda facts: _collect(facts, wants), watch=bar, tell=_plainly
        )
    return Deployed(_proof(done.proof), done.changed)


def verb(target: Target, arguments: Sequence[str], *, rooted: bool = True) -> None:
    """Run a verb of edge-sft on another machine and print what it prints. Raises EdgeSftError."""
    from edge_sft.deploy.remote.deploying import run_verb

    root = ["--root", target.root.as_posix()] if target.root and rooted else []
    with open_link(target) as link:
        link.doing = f"edge-sft {arguments[0]}"
        status = run_verb(link, [*arguments, *root], _plainly)
    if status:
        raise typer.Exit(status)  # it has said why in its own output


def _plainly(line: str) -> None:
    console.print(line, markup=False)


def look(words: Sequence[str]) -> bool:
    """Run a verb that only looks (doctor, bench, devices) on another machine when ``--to ssh://…`` is among its words.

    Returns:
        Whether it was run there.

    Raises:
        EdgeSftError: The device cannot be reached, or the verb refuses.
    """
    asked, told = list(words), {}
    for option in ("--to", "--ssh-config", "--accept-host-key", "--root"):
        if option in asked[:-1]:
            at = asked.index(option)
            told[option] = asked[at + 1]
            del asked[at : at + 2]
    if told.get("--to", "local") == "local":
        return False
    root, config = told.get("--root"), told.get("--ssh-config")
    target = Target(told["--to"], Path(root) if root else None, Path(config) if config else None)
    verb(replace(target, accept_host_key=told.get("--accept-host-key")), asked, rooted=asked[0] != "devices")
    return True


def open_link(target: Target) -> Link:
    """Return a link that is about to be opened; a device met for the first time is made known first.

    Raises:
        EdgeSftError: It cannot be reached, or nobody vouched for its host key.
    """
    from edge_sft.deploy.remote import address, contact
    from edge_sft.deploy.remote.link import Link
    from edge_sft.deploy.remote.openssh import OpenSsh, UnknownHostKey

    here = sys.stdin.isatty()
    ssh = OpenSsh(address.parse(target.to), config=target.ssh_config, ask=here)
    root = target.root.as_posix() if target.root else None
    link = Link(ssh, root, prefer=target.prefer)
    try:
        link.open()
    except UnknownHostKey:
        shown = contact.meet(ssh, accepted=target.accept_host_key, confirm=typer.confirm if here else None)
        console.print(f"{ssh.address} is known from now on by {shown}")
        link = Link(ssh, root, prefer=target.prefer)
        link.open()
    facts = link.facts
    console.print(
        f"{ssh.address}: {facts['system']}, {facts['machine']}, Python {facts['python']}, user {facts['user']}, "
        f"{facts['free_bytes'] / 1e9:.0f} GB free under {facts['root']}"
    )
    return link


def _wanted(link: Link, profile: str) -> DeviceProfile:
    """Return a profile by name or file; ``auto`` is the one that fits what the device says of itself.

    Raises:
        UserError: It is not known, or none fits.
    """
    from edge_sft import profile as profiles
    from edge_sft.machine import telling

    if profile != "auto":
        return profiles.load(profile)
    link.doing = "the first contact"
    facts = telling.facts_of(str(link.facts["machine"]), link.call("hardware"))
    chosen = telling.expected(facts, [profiles.load(name) for name in profiles.shipped()]).profile
    _plainly(f"{facts.title}: profile {chosen.name}")
    return chosen


def _collect(facts: dict[str, Any], chosen: DeviceProfile) -> Path:
    """Make a wheelhouse for a device's own Python and glibc, once."""
    from edge_sft.cli.paths import wheelhouses_directory
    from edge_sft.deploy import collecting, own_wheel, wheelhouse

    if chosen.install.tensorrt == "pip":  # two gigabytes of NVIDIA's, and only its user knows for which CUDA
        raise wheelhouse.lacking(chosen, facts)
    python = ".".join(str(facts["python"]).split(".")[:2])
    minor = str(facts.get("libc", "")).rpartition("glibc 2.")[2].split(".")[0]
    target = collecting.target_of(chosen, python=python, glibc_minor=int(minor) if minor.isdigit() else None)
    extras = collecting.extras_of(chosen)
    made = own_wheel.made_of()[:12]
    folder = wheelhouses_directory() / f"{made}-{chosen.name}-py{python}-glibc{minor}"
    if not (folder / "wheelhouse.json").is_file():
        console.print(f"making a wheelhouse for it in {folder}")
        system = collecting.sees_system(chosen)
        collecting.collect(folder, target, profile=chosen.name, extras=extras, system_packages=system)
    return folder


def _proof(told: dict[str, Any]) -> Proof:
    from edge_sft.errors import DeviceError
    from edge_sft.slots.proof import Proof

    try:
        return Proof.model_validate(told)
    except ValueError as error:
        what = f"{told.get('name')} {told.get('version')} ({told.get('chosen')})"
        raise DeviceError(
            "the device", f"serves {what} now, but its proof is of another version of edge-sft", "Look there: slots."
        ) from error
