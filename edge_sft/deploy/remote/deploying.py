"""A deploy over a link, step by step. Each step looks first at what is done already, so all may be repeated."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_sft import __version__
from edge_sft.deploy import own_wheel, wheelhouse
from edge_sft.deploy.remote.link import Event, Link, spoken
from edge_sft.deploy.remote.sending import Parcel, send
from edge_sft.deploy.wheelhouse import Wheelhouse
from edge_sft.errors import DeviceError, NetworkError
from edge_sft.profile import DeviceProfile
from edge_sft.progress import Progress

_RELEASED_S = 1_767_225_600  # 2026-01-01: a clock before this is wrong
_UNPACKED = 4  # installed, wheels take three to four times their size
Collect = Callable[[dict[str, Any]], Path]  # makes a wheelhouse for a device's facts; returns its folder
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is to be deployed.

    Attributes:
        bundle: The .edge file.
        arguments: For the verb over there, without files.
        files: Further files for it, by option: ``--policy``, ``--profile``, ``--key``.
        trust: A maker's public key that the device is to trust, or None.
        wheelhouse: A folder, .tar or .zip to install from; None: made when it is needed.
    """

    bundle: Path
    arguments: tuple[str, ...] = ()
    files: tuple[tuple[str, Path], ...] = ()
    trust: Path | None = None
    wheelhouse: Path | None = None


@dataclass
class Outcome:
    """What came of it."""

    proof: dict[str, Any]
    changed: bool
    sent_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def deploy(link: Link, order: Order, wants: DeviceProfile, *, collect: Collect, watch: Progress, tell: Tell) -> Outcome:
    """Install edge-sft where it is not, bring the bundle, have the device prove it and switch.

    Args:
        link: To the device.
        order: What is to be deployed.
        wants: The device's profile, whose engine's library must be there.
        collect: Makes a wheelhouse for it when one is needed.
        watch: Watched by people.
        tell: Told what else there is to say.

    Raises:
        EdgeSftError: What the device or the link refuses; the model that served there goes on serving.
    """
    parcels = [Parcel.of(order.bundle), *(Parcel.of(path) for _, path in order.files)]
    _say_clock(link.facts, tell)
    link.doing = "the first contact"
    link.call("lock", _notes(tell), who=f"{getpass.getuser()}@{socket.gethostname()}")
    began = time.monotonic()
    sent = install(link, order.wheelhouse, wants, collect=collect, watch=watch, tell=tell)
    if order.trust is not None:
        _trust(link, order.trust, watch, tell)
    installed = time.monotonic()
    link.doing = "the transfer of the bundle"
    sent += send(link, parcels, f"Sending {order.bundle.name} (kB)", watch)
    paths = [link.call("place", sha256=one.sha256, name=one.path.name)["path"] for one in parcels]
    brought = time.monotonic()
    options = [word for (name, _), path in zip(order.files, paths[1:], strict=True) for word in (name, path)]
    outcome = _prove(link, [paths[0], *order.arguments, *options], watch, tell)
    link.doing = "tidying up after the switch"
    link.call("tidy", digests=[one.sha256 for one in parcels])
    ended = time.monotonic()
    outcome.sent_bytes = sent
    outcome.seconds = {"software": installed - began, "bundle": brought - installed, "proof": ended - brought}
    return outcome


def install(
    link: Link, given: Path | None, wants: DeviceProfile, *, collect: Collect, watch: Progress, tell: Tell
) -> int:
    """Bring the device to this version of edge-sft, with what its profile needs; returns how many bytes were sent.

    Raises:
        EdgeSftError: The device lacks something, or refuses; what was installed before goes on.
    """
    there = link.facts.get("software")
    if given is None and there and (there["made_of"] == own_wheel.made_of() or _newer(there["version"])):
        if wheelhouse.serves(there.get("brings"), wants):
            tell(f"edge-sft {there['version']} is installed there: nothing to do")
            return 0
        tell(f"edge-sft {there['version']} is installed there without what profile {wants.name} needs")
    with wheelhouse.opened(given or collect(link.facts)) as folder:
        house = wheelhouse.load(folder)
        house.check_serves(wants, link.facts)
        if there and there["id"] == house.id:
            tell(f"edge-sft {house.version} is installed there: nothing to do")
            return 0
        if lacks := link.facts.get("lacks"):
            raise DeviceError("the device", "cannot make a Python environment", f"On it: apt install {lacks}")
        house.check_fits(link.facts)
        parcels = [Parcel(folder / one.name, one.sha256, one.size_bytes) for one in house.files]
        link.doing = "the transfer of the wheelhouse"
        sent = send(link, parcels, "Sending edge-sft and what it needs (kB)", watch, room=house.size_bytes * _UNPACKED)
        return sent + _install(link, house, watch, tell)


def _install(link: Link, house: Wheelhouse, watch: Progress, tell: Tell) -> int:
    link.doing = "the installation"
    watch.start(f"Installing edge-sft {house.version} there", 1)
    manifest = {
        "id": house.id,
        "version": house.version,
        "made_of": house.made_of,
        "requirements": house.requirements,
        "system_packages": house.system_packages,
        "brings": house.brings,
        "files": [{"name": one.name, "sha256": one.sha256} for one in house.files],
    }
    link.call("install", _notes(lambda text: watch.advance(0, text)), manifest=manifest)
    watch.advance()
    tell(f"edge-sft {house.version} is installed there, beside what was")
    return 0


def _trust(link: Link, key: Path, watch: Progress, tell: Tell) -> None:
    link.doing = "handing over the key"
    parcel = Parcel.of(key)
    send(link, [parcel], f"Sending {key.name} (kB)", watch)
    path = link.call("place", sha256=parcel.sha256, name=key.name)["path"]
    run_verb(link, ["keys", "trust", path], tell)


def run_verb(link: Link, arguments: Sequence[str], tell: Tell) -> int:
    """Run a verb of edge-sft over there and hand on what it prints; returns its exit status.

    Raises:
        DeviceError: It ended with an error, which is then told in its words.
    """
    said: list[str] = []

    def take(line: Event) -> None:
        if "stdout" in line:
            tell(str(line["stdout"]).rstrip("\n"))
        elif "stderr" in line:
            said.append(str(line["stderr"]).strip())

    status = link.call("verb", take, arguments=list(arguments))["status"]
    if status == 0:
        for line in said:
            tell(line)
    elif said:
        fact = " ".join(said).removeprefix("error: ")
        error = DeviceError(f"edge-sft {' '.join(arguments[:2])} on the device", fact)
        error.exit_code = status if 0 < status < 128 else DeviceError.exit_code
        raise error
    return int(status)


def _prove(link: Link, arguments: Sequence[str], watch: Progress, tell: Tell) -> Outcome:
    link.doing = "the proof"
    link.fate = "it goes on there, and the device switches if all is well; if not, what served goes on serving"
    ended: list[Event] = []
    result: list[Event] = []

    def take(line: Event) -> None:
        if "ended" in line:
            ended.append(line)
        elif line.get("event") in ("result", "error"):
            result.append(line)
        else:
            show(line, watch, tell)

    link.call("deploy", take, arguments=list(arguments))
    if not result:
        said = str(ended[0]["ended"] if ended else "").strip().splitlines()
        fact = f"ended without an outcome ({said[-1] if said else 'it was killed, or the device ran out of memory'})"
        raise DeviceError("the proof on the device", fact, "Run the same command again.")
    if result[0]["event"] == "error":
        if result[0].get("thing") == "trusted keys":
            result[0]["remedy"] = "Add the maker's public key to this command: --trust MAKER.pub.pem"
        raise spoken(result[0], "on the device")
    return Outcome(proof=result[0]["proof"], changed=bool(result[0]["changed"]))


def show(line: Event, watch: Progress, tell: Tell) -> None:
    """Draw an event of ``--events`` as if it happened here."""
    kind = line.get("event")
    if kind == "start":
        watch.start(str(line.get("title", "")), int(line.get("total", 1)))
    elif kind == "advance":
        watch.advance(int(line.get("units", 1)), str(line.get("note", "")))
    elif kind == "note":
        tell(str(line.get("text", "")))


def _notes(tell: Tell) -> Callable[[Event], None]:
    told: set[str] = set()

    def take(line: Event) -> None:
        if line.get("event") == "note" and (text := str(line["text"])) not in told:
            told.add(text)
            tell(text)

    return take


def _say_clock(facts: dict[str, Any], tell: Tell) -> None:
    now = float(facts.get("clock_s", 0.0))
    if now < _RELEASED_S:
        stamp = time.strftime("%Y-%m-%d", time.gmtime(now))
        tell(f"the device's clock says {stamp}: set it (NTP); decisions would carry that time and TLS will fail")


def _newer(version: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version) > Version(__version__)
    except InvalidVersion as error:
        raise NetworkError("the device", f"says that its edge-sft is '{version}'", "Look at it by hand.") from error
