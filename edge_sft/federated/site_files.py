"""What a site keeps on its own disk: who it is, whom it answers, which programs it runs, its key.

<site>/site.toml   name, coordinator's address, folder of the data, apps that may run (SHA-256)
<site>/ca.pem      the coordinator's authority
<site>/key         the site's private key (ECDSA P-384, OpenSSH), read by its owner only; key.pub beside it
<site>/recipe.toml the recipe that was given with the invite, if one was
<site>/errors.log  what failed here, in full: the coordinator is told less (edge_sft.federated.outward)
<site>/state.json  what the node last said; <site>/flower: Flower's own folder
<site>/runs, <site>/ledger.jsonl  the weights it holds, and what left it (edge_sft.federated writes them)
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_sft import durable, strict_toml
from edge_sft.errors import DeviceError, UserError
from edge_sft.federated.invite import Address, Sha256, SiteName

SITE: Final = "site.toml"
CA: Final = "ca.pem"
KEY: Final = "key"
PUBLIC: Final = "key.pub"
RECIPE: Final = "recipe.toml"
STATE: Final = "state.json"
LOCK: Final = "lock"
FLOWER: Final = "flower"
RUNS: Final = "runs"
PERSONAL: Final = "checkpoint"
LEDGER: Final = "ledger.jsonl"


class SiteFile(BaseModel):
    """The content of ``site.toml``.

    Attributes:
        version: Of this file's form.
        site: The site's name, as the coordinator calls it.
        address: ``host:port`` of the coordinator.
        data: Absolute path of the folder with the site's pictures or rows; it replaces a recipe's own.
        apps: SHA-256 of the Flower apps that may run here.
        ca_sha256: SHA-256 of the authority's certificate (DER).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    site: SiteName
    address: Address
    data: str
    apps: Annotated[tuple[Sha256, ...], Field(min_length=1)]
    ca_sha256: Sha256


@dataclass(frozen=True)
class State:
    """What the node last said: ``waiting``, ``serving``, ``refused``, ``stopped``; since when; and why, in words."""

    state: str
    since: str
    why: str = ""
    pid: int = 0


def read_site(directory: Path) -> SiteFile:
    """Read who a site is. Raises UserError: nothing was joined here, or the file was edited into something else."""
    path = directory / SITE
    if not path.is_file():
        raise UserError(str(directory), "is no site: nothing was joined here", "edge-sft site join INVITE --data DIR")
    return strict_toml.load(path, SiteFile)


def data_of(directory: Path) -> Path:
    """Return the folder of a site's data; also of a site of a simulation, which was joined to nothing.

    Raises:
        UserError: No site is here, or its file was edited into something else.
    """
    path = directory / SITE
    with contextlib.suppress(OSError, ValueError):
        facts = strict_toml.peek(path)
        if set(facts) == {"site", "data"}:  # as `edge-sft federate simulate` writes it
            return directory / str(facts["data"])
    return Path(read_site(directory).data)


def read_ca(directory: Path) -> str:
    """Return the authority's certificate, PEM. Raises UserError when it is gone."""
    try:
        return (directory / CA).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Join again with the invite: edge-sft site join INVITE --data DIR"
        raise UserError(str(directory / CA), "cannot be read", remedy) from error


def personal_checkpoint(directory: Path, run: str | None = None) -> Path:
    """Return the folder of the site's personalised checkpoint, of the newest run when none is named.

    Raises:
        UserError: No run has ended with one yet, or not that one.
    """
    runs = [directory / RUNS / run] if run else list((directory / RUNS).glob("*"))
    found = [one / PERSONAL for one in runs if (one / PERSONAL / "checkpoint.json").is_file()]
    if not found:
        which = f"run '{run}'" if run else "a run"
        remedy = "It is made at the end of a run; see what ran: edge-sft site status"
        raise UserError(str(directory), f"has no personalised checkpoint of {which}", remedy)
    return max(found, key=lambda one: (one / "checkpoint.json").stat().st_mtime)


def write_site(directory: Path, site: SiteFile) -> None:
    """Write who a site is, durably; the folder is made for its owner only. Raises DeviceError."""
    make_private(directory)
    listed = ", ".join(f'"{digest}"' for digest in site.apps)
    text = f"""# Written by edge-sft site join.
version = {site.version}
site = {json.dumps(site.site)}
address = {json.dumps(site.address)}
data = {json.dumps(site.data, ensure_ascii=False)}
# The Flower apps that may run here (SHA-256); any other is refused.
apps = [{listed}]
ca_sha256 = "{site.ca_sha256}"
"""
    durable.write_text(directory / SITE, text)


def make_private(directory: Path) -> Path:
    """Make a folder that only its owner enters. Raises DeviceError when the disk refuses."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise durable.disk_error(directory, error) from error
    return directory


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads; it is never readable by others, not for a moment. Raises DeviceError."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
        durable.sync_directory(path.parent)
    except OSError as error:
        raise durable.disk_error(path, error) from error


def read_state(directory: Path) -> State | None:
    """Return what the node last said, or None: it never ran, or the file is damaged."""
    try:
        return State(**json.loads((directory / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_state(directory: Path, state: State) -> None:
    """Keep what the node says. A full disk must not stop it: then nothing is kept."""
    with contextlib.suppress(DeviceError):
        durable.write_text(directory / STATE, json.dumps(state.__dict__, ensure_ascii=False) + "\n")


def is_served(directory: Path) -> bool:
    """Tell whether a process serves this site now."""
    if not (directory / LOCK).exists():
        return False
    try:
        with locked(directory):
            return False
    except UserError:
        return True


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a site for one process; the system gives it back when the process ends, however it ends.

    Raises:
        UserError: Another process serves this site.
        DeviceError: The folder is somebody else's.
    """
    import fcntl

    try:
        held = (directory / LOCK).open("a")
    except OSError as error:
        raise durable.disk_error(directory / LOCK, error) from error
    with held as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                str(directory), "is served by another process", "Stop it first: edge-sft site run"
            ) from None
        yield
