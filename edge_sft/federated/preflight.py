"""Before a site joins or serves: can it reach the coordinator, does it trust the right one, is its clock right, and
does its data fit the task. Whatever is wrong is said with what mends it."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

from edge_sft.errors import DeviceError, EdgeSftError, NetworkError
from edge_sft.federated import site_labels
from edge_sft.federated.at_site import open_pictures, open_rows, pictures_at, rows_at
from edge_sft.federated.invite import split_address
from edge_sft.progress import Progress

# Flower's SuperLink refuses signed times more than 5 s ahead of its clock or more than 305 s behind it.
FAST_S: Final = 5.0
SLOW_S: Final = 305.0
_ROUNDING_S: Final = 1.0  # the Date header counts whole seconds
_WORTH_A_WORD_S: Final = 2.0
_DISK_BYTES: Final = 2 * 2**30  # two rounds of weights, checkpoints, Flower's folder
_DISK_LEAST: Final = 256 * 2**20
_TIMEOUT_S: Final = 10.0
_SHOWN: Final = 8

# What OpenSSL calls them (X509_V_ERR_…).
_OTHER_AUTHORITY: Final = (18, 19, 20, 21)
_WRONG_NAME: Final = (62, 64)
_TOO_EARLY, _TOO_LATE = 9, 10


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its name, what was found, what to do about it."""

    level: Literal["ok", "warning", "error"]
    what: str
    fact: str
    remedy: str = ""


def of_error(what: str, error: EdgeSftError) -> Finding:
    """Return an error as a finding."""
    return Finding("error", what, f"{error.thing}: {error.fact}", error.remedy)


def clock_offset(address: str, ca: str, clock: Callable[[], float] = time.time) -> float | None:
    """Ask the coordinator for anything over TLS, and compare clocks.

    Args:
        address: ``host:port``.
        ca: The authority's certificate, PEM.
        clock: This machine's, seconds since 1970.

    Returns:
        Seconds by which this machine is ahead (negative: behind), to about a second; None: the answer had no time.

    Raises:
        NetworkError: No such name, nobody answers, another machine or authority answers; each with its remedy.
    """
    host, port = split_address(address)
    context = ssl.create_default_context(cadata=ca)
    connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
    try:
        asked = clock()
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
        heard = clock()
    except ssl.SSLCertVerificationError as error:
        raise NetworkError(address, *_distrusted(error, host)) from error
    except ssl.SSLError as error:
        fact = f"does not speak TLS as expected ({error.reason or error})"
        raise NetworkError(
            address, fact, "Is it the coordinator's port? Compare the address with the invite."
        ) from error
    except OSError as error:
        raise NetworkError(address, *_unreachable(error, host)) from error
    except http.client.HTTPException as error:
        raise NetworkError(address, "is no web server", "Compare the address with the invite.") from error
    finally:
        connection.close()
    if date is None:
        return None
    with contextlib.suppress(ValueError):
        return (asked + heard) / 2 - (parsedate_to_datetime(date).timestamp() + _ROUNDING_S / 2)
    return None


def _distrusted(error: ssl.SSLCertVerificationError, host: str) -> tuple[str, str]:
    """Return fact and remedy for a certificate that was refused."""
    if error.verify_code in _OTHER_AUTHORITY:
        fact = "shows a certificate of another authority than the invite's"
        return fact, "Another machine answers there, or the coordinator was made anew: ask for a new invite."
    if error.verify_code in _WRONG_NAME:
        fact = f"has a certificate that is not for '{host}'"
        return fact, f"At the coordinator: edge-sft federate init --renew --also {host}"
    if error.verify_code == _TOO_LATE:
        fact = "has a certificate that expired, or this machine's clock is ahead"
        return fact, "Look at the clock (timedatectl); if it is right, the coordinator must renew its certificate."
    if error.verify_code == _TOO_EARLY:
        return "has a certificate that is not valid yet by this machine's clock", "Set the clock (timedatectl)."
    return f"has a certificate that is refused ({error.verify_message})", "Ask the coordinator."


def _unreachable(error: OSError, host: str) -> tuple[str, str]:
    """Return fact and remedy for a machine that cannot be reached."""
    if isinstance(error, socket.gaierror):
        fact = f"the name '{host}' is not known here ({error.strerror})"
        return fact, "Ask the network's people for a DNS entry, or put it into /etc/hosts."
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there", "Is the coordinator up (edge-sft federate up), and the port right?"
    if isinstance(error, TimeoutError):
        fact = f"no answer within {_TIMEOUT_S:.0f} s"
        return fact, "A firewall drops it, or the address is wrong: outgoing TCP to it must be allowed."
    if isinstance(error, ConnectionResetError):
        return "the connection was cut", "A firewall or proxy between cuts it; ask the network's people."
    return f"cannot be reached ({error.strerror or error})", "Look at the network: ip route, ping."


def judge_clock(offset: float | None) -> Finding:
    """Judge how far this machine's clock is off the coordinator's, seconds; positive = ahead."""
    remedy = "Have both set by NTP: timedatectl set-ntp true"
    if offset is None:
        return Finding("warning", "clock", "the coordinator's answer told no time, so it was not compared", remedy)
    if offset > FAST_S - _ROUNDING_S:
        limit = f"Flower refuses sites more than {FAST_S:.0f} s ahead"
        return Finding("error", "clock", f"{offset:.0f} s ahead of the coordinator's; {limit}", remedy)
    if -offset > SLOW_S - _ROUNDING_S:
        limit = f"Flower refuses sites more than {SLOW_S:.0f} s behind"
        return Finding("error", "clock", f"{-offset:.0f} s behind the coordinator's; {limit}", remedy)
    if abs(offset) > _WORTH_A_WORD_S:
        side = "ahead of" if offset > 0 else "behind"
        return Finding("warning", "clock", f"{abs(offset):.0f} s {side} the coordinator's", remedy)
    return Finding("ok", "clock", "as the coordinator's, to a second or two")


def coordinator(address: str, ca: str, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Look whether the coordinator answers, is the one of the invite, and has the same time."""
    try:
        offset = clock_offset(address, ca, clock)
    except NetworkError as error:
        return [of_error("coordinator", error)]
    return [Finding("ok", "coordinator", f"{address} answers, with the invite's authority"), judge_clock(offset)]


def disk(directory: Path, free: Callable[[Path], int] | None = None) -> Finding:
    """Look whether the site's folder has room for weights and checkpoints."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    left = shutil.disk_usage(existing).free if free is None else free(existing)
    told = f"{left / 2**30:.1f} GB free at {directory}"
    remedy = f"Make room, or choose another folder: --dir DIR ({_DISK_BYTES / 2**30:.0f} GB are comfortable)."
    if left < _DISK_LEAST:
        return Finding("error", "disk", told, remedy)
    return Finding("warning", "disk", told, remedy) if left < _DISK_BYTES else Finding("ok", "disk", told)


def versions(theirs: str, ours: str) -> Finding:
    """Compare edge-sft's version with the coordinator's; they must be equal, or rounds are refused."""
    if theirs == ours:
        return Finding("ok", "version", f"edge-sft {ours}, as the coordinator's")
    fact = f"edge-sft {ours} here, {theirs} at the coordinator; rounds between versions are refused"
    return Finding("error", "version", fact, f"Install the same one: pip install 'edge-sft[federated]=={theirs}'")


def flower() -> Finding:
    """Look whether Flower is here in a version that the pin was tried with."""
    from edge_sft.federated.node import check_version

    try:
        return Finding("ok", "Flower", f"version {check_version()}")
    except DeviceError as error:
        return of_error("Flower", error)


def data(recipe: Path, folder: Path, progress: Progress) -> list[Finding]:
    """Read the site's data by a recipe: are its labels the task's, is there something to train, validate and test on.

    Args:
        recipe: The coordinator's recipe; its own ``data.path`` is replaced by ``folder``.
        folder: The site's pictures or rows.
        progress: Told about every file.
    """
    from edge_sft import sensor_recipe

    try:
        seen = (
            _rows(recipe, folder, progress)
            if sensor_recipe.is_sensor_recipe(recipe)
            else _pictures(recipe, folder, progress)
        )
    except EdgeSftError as error:
        return [of_error("data", error)]
    missing = [split for split in ("train", "val", "test") if not seen.counts[split]]
    told = ", ".join(f"{split} {seen.counts[split]}" for split in ("train", "val", "test"))
    found = [Finding("ok", "data", told)]
    if missing:
        remedy = "A site needs some of each; look at [data.split] and at edge-sft check."
        found = [Finding("error", "data", f"nothing to {' or '.join(missing)} on ({told})", remedy)]
    else:
        found += [Finding("warning", "data", fact, remedy) for fact, remedy in seen.remarks]
    if seen.left_out:
        fact = f"{len(seen.left_out)} files are left out: {'; '.join(seen.left_out[:_SHOWN])}"
        found.append(Finding("warning", "data", fact, "Mend or remove them."))
    return found


@dataclass(frozen=True)
class _Seen:
    """How many samples each split has, what is to be said of labels that lack, which files are left out and why."""

    counts: Counter[str]
    remarks: list[tuple[str, str]]
    left_out: list[str]


def _pictures(recipe: Path, folder: Path, progress: Progress) -> _Seen:
    from edge_sft import recipe as recipes

    here = pictures_at(recipes.load(recipe), folder)
    dataset = open_pictures(here, progress)
    counts = Counter(str(item.split) for item in dataset.items)
    remarks = site_labels.remarks(here, site_labels.lacks(here, dataset))
    return _Seen(counts, remarks, [f"{one.id} ({one.reason})" for one in dataset.quarantined])


def _rows(recipe: Path, folder: Path, progress: Progress) -> _Seen:
    from edge_sft import sensor_recipe

    here = rows_at(sensor_recipe.load(recipe), folder)
    dataset = open_rows(here, progress)
    counts = Counter(str(run.split) for run in dataset.runs)
    remarks = site_labels.remarks(here, site_labels.lacks(here, dataset))
    return _Seen(counts, remarks, [f"{one.id} ({one.reason})" for one in dataset.quarantined])
