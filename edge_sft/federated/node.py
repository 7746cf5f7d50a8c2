"""A site's Flower node, `python -m edge_sft.federated.node`: Flower's own SuperNode, with the app pinned by SHA-256.

Flower's open-source node runs whatever its coordinator sends. It can be told to run apps of trusted makers only, but
no open-source coordinator can pass their signatures on. So the node here vouches itself: an app whose SHA-256 stands
in the invite is signed on arrival with a key made for this process, and Flower's own check takes it; any other stays
unsigned, and Flower's own check answers the coordinator INVALID_FAB. Nothing of an app is unpacked before that.

The names of Flower used here are private, so only versions that the tests ran are accepted.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_sft import durable
from edge_sft.errors import DeviceError, EdgeSftError
from edge_sft.federated import outward, site_files
from edge_sft.federated.environment import flower_environment
from edge_sft.federated.site_files import SiteFile, State
from edge_sft.prediction import rfc3339

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KNOWN: Final = ("1.41.0",)
NOT_ADMITTED: Final = 75  # sysexits' EX_TEMPFAIL: waiting and trying again is right
_VOUCHER: Final = "edge-sft-pin"
_SEND, _GET_FAB, _PUSH = 2, 4, 6  # their places in what Flower's connection yields

_ABSENT_S: Final = 7.0  # a coordinator's run looks every three seconds who is there
_NODE_ID: Final = "node-id"

Tell = Callable[[str, str], None]  # state, why


@dataclass(frozen=True)
class Voucher:
    """Signs apps that stand in the invite, with a key that lives as long as the process."""

    apps: frozenset[str]
    key: Ed25519PrivateKey

    @property
    def trusted(self) -> dict[str, str]:
        """What Flower takes for ``trusted_entities``."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return {_VOUCHER: self.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()}

    def verifications(self, content: bytes, named: str) -> dict[str, str]:
        """Return Flower's proofs for an app's bytes; empty when they may not run here.

        Args:
            content: The app, as it arrived.
            named: The digest that the coordinator calls it by; Flower unpacks it under that name.
        """
        digest = hashlib.sha256(content)
        if digest.hexdigest() not in self.apps or named != digest.hexdigest():
            return {}
        now = int(time.time())
        signature = self.key.sign(now.to_bytes(8, "big") + digest.digest())
        proof = {"signed_at": now, "signature": base64.urlsafe_b64encode(signature).decode().rstrip("=")}
        return {"valid_license": "pinned", _VOUCHER: json.dumps(proof)}


def new_voucher(apps: Sequence[str]) -> Voucher:
    """Return a voucher for these apps, with a key of its own."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Voucher(frozenset(apps), Ed25519PrivateKey.generate())


def check_version() -> str:
    """Return Flower's version.

    Raises:
        DeviceError: It is missing, or one that this program was not tried with.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("flwr")
    except PackageNotFoundError:
        remedy = "Federated fine-tuning needs Python 3.11 or 3.12 and: pip install 'edge-sft[federated]'"
        raise DeviceError("Flower", "is not installed here", remedy) from None
    if found not in KNOWN:
        fact = f"is version {found}; the pin of the apps was tried with {', '.join(KNOWN)} only"
        raise DeviceError("Flower", fact, f"Install that one: pip install flwr=={KNOWN[-1]}")
    return found


def pinned(connect: Any, voucher: Voucher, tell: Tell, site: Path) -> Any:
    """Wrap Flower's connection: its node is told when it is admitted, every app it fetches is judged, and an answer
    that Flower itself makes of a failure leaves without what it quotes, with a line in the ledger.

    Args:
        connect: Flower's.
        voucher: Judges apps.
        tell: Told what becomes of the node.
        site: The site's folder.
    """
    from flwr.supercore.fab import Fab

    @contextlib.contextmanager
    def connection(*args: Any, **named: Any) -> Iterator[Any]:
        with connect(*args, **named) as parts:
            fetch = parts[_GET_FAB]

            def judged(fab_hash: str, run_id: int) -> Fab:
                fab = fetch(fab_hash, run_id)
                proofs = voucher.verifications(fab.content, fab.hash_str)
                if not proofs:
                    digest = hashlib.sha256(fab.content).hexdigest()
                    tell("refused", f"the coordinator sent app {digest}, which is not on this site's invite")
                return Fab(fab.hash_str, fab.content, proofs)

            tell("serving", str(parts[0]))
            kept = list(parts)
            kept[_SEND] = worded(parts[_SEND], parts[_PUSH], site)
            kept[_GET_FAB] = judged
            yield tuple(kept)

    return connection


def worded(send: Any, push: Any, site: Path) -> Any:
    """Wrap Flower's sending: of a failure's answer its number leaves, and our words for it.

    Flower's own reason is the exception as text, which names paths and may quote data. The answer's digest covers its
    reason, so that it is made anew and its parts are sent here.
    """
    from flwr.app import Error, Message
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

    def sending(message: Any, tree: Any, seconds: float) -> tuple[set[str], str]:
        if not message.has_error():
            sent: tuple[set[str], str] = send(message, tree, seconds)
            return sent
        code = message.error.code
        said = outward.flowers(code)
        sys.stderr.write(f"Flower answers with its error {code}: {message.error.reason}\n")
        of: Any = Message  # its signature does not show `metadata`
        made = of(error=Error(code, said), metadata=copy(message.metadata))
        made.metadata.__dict__["_message_id"] = made.object_id
        parts = {name: one.deflate() for name, one in get_all_nested_objects(made).items()}
        with contextlib.suppress(DeviceError):  # of a full disk the coordinator hears all the same
            outward.note(site, message.metadata.message_type, said, sum(map(len, parts.values())))
        wanted, session = send(made, get_object_tree(made), seconds)
        for name in wanted:
            push(message.metadata.run_id, session, name, parts[name])
        return set(), session

    return sending


def release(site: SiteFile, directory: Path, node_id: int) -> None:
    """Tell the coordinator that the process before this one is gone.

    Flower keeps a killed node online for another minute, lets nobody take its place until then, and waits for its
    answer; but it never notices a node that leaves and is back between two looks, and waits for ever.
    """
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key: Any = load_ssh_private_key((directory / site_files.KEY).read_bytes(), None)
    signing = NodeAuthHttpInterceptor(key, key.public_key())
    with (
        FleetHttpClient.from_server_address(
            site.address,
            False,
            str(directory / site_files.CA),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperNode"), signing],
        ) as client,
        contextlib.suppress(httpx.HTTPError, RuntimeError),
    ):  # offline already, revoked, or no coordinator
        client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    time.sleep(_ABSENT_S)


def serve(directory: Path, site: SiteFile, *, warm: bool = True) -> None:
    """Run Flower's node in this process until it is stopped. Never returns normally.

    Args:
        directory: The site's folder.
        site: Its ``site.toml``.
        warm: Start tasks from a process that has everything imported; else Flower's way, a new Python a message.

    Raises:
        DeviceError: Flower is missing or an unknown version.
        SystemExit: The node ended; with `NOT_ADMITTED` when the coordinator did not let it in.
    """
    check_version()
    home = site_files.make_private(directory / site_files.FLOWER)
    shutil.rmtree(home / "apps", ignore_errors=True)  # Flower runs what lies there without looking at it again
    environment = flower_environment(os.environ, home)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(0o077)
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli.flower_supernode import flower_supernode

    def tell(state: str, why: str) -> None:
        now = rfc3339(datetime.now(timezone.utc))
        if state == "serving":
            durable.write_text(home / _NODE_ID, why)
            why = f"node {why}"
        site_files.write_state(directory, State(state, now, why, os.getpid()))

    if (home / _NODE_ID).is_file():
        release(site, directory, int((home / _NODE_ID).read_text()))
    voucher, reasons = new_voucher(site.apps), _keeping_reasons(fleet_http_connection)
    worker: Any = start_client_internal
    worker.http_request_response = pinned(worker.http_request_response, voucher, tell, directory)
    sys.argv = _arguments(directory, site, voucher, home, warm=warm)
    try:
        flower_supernode()
    except SystemExit as ended:
        if not reasons:
            raise
        tell("waiting", _not_admitted(reasons[-1]))
        raise SystemExit(NOT_ADMITTED) from ended


def _keeping_reasons(connecting: Any) -> list[str]:
    """Have Flower's connection leave its reason for ending the process, which its exit status does not tell."""
    reasons: list[str] = []
    leave = connecting.flwr_exit

    def saying(code: int, message: str | None = None, *args: Any, **named: Any) -> None:
        reasons.append(message or "")
        leave(code, message, *args, **named)

    connecting.flwr_exit = saying
    return reasons


def _not_admitted(message: str) -> str:
    """Return in words why the coordinator did not let the node in."""
    said = " ".join(message.removeprefix("Failed to initialize the connection to the SuperLink.").split())
    return f"the coordinator does not admit this site's key (not approved yet, or revoked): {said}"


def _arguments(directory: Path, site: SiteFile, voucher: Voucher, home: Path, *, warm: bool) -> list[str]:
    """Return the command line that Flower's node reads; starts the warm process when asked."""
    trusted = home / "trusted.json"  # JSON is YAML
    site_files.write_secret(trusted, json.dumps(voucher.trusted).encode())
    config = home / "node.toml"
    site_files.write_secret(config, f"site-dir = {json.dumps(str(directory), ensure_ascii=False)}\n".encode())
    port = _free_port()
    words = ["flower-supernode", "--superlink", site.address, "--host", "127.0.0.1", "--port", str(port)]
    words += ["--root-certificates", str(directory / site_files.CA), "--trusted-entities", str(trusted)]
    words += ["--auth-supernode-private-key", str(directory / site_files.KEY), "--node-config", str(config)]
    if not warm:
        return [*words, "--isolation", "subprocess"]
    secret = home / "secret"
    site_files.write_secret(secret, secrets.token_bytes(32))
    command = [
        sys.executable,
        "-P",
        "-m",
        "edge_sft.federated.warm",
        f"127.0.0.1:{port}",
        str(secret),
        str(os.getpid()),
    ]
    threading.Thread(target=_end_with, args=(subprocess.Popen(command),), daemon=True).start()
    return [*words, "--isolation", "process", "--superexec-auth-secret-file", str(secret)]


def _end_with(child: subprocess.Popen[bytes]) -> None:
    """Without the process that runs tasks the node would wait for ever."""
    child.wait()
    sys.stderr.write(f"the process that runs tasks ended ({child.returncode})\n")
    os.kill(os.getpid(), signal.SIGTERM)


def _end_with_parent() -> None:
    """End when whoever holds the other end of standard input is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port


def main() -> None:
    """Serve the site of a folder: ``python -m edge_sft.federated.node DIRECTORY [--cold]``."""
    given = argparse.ArgumentParser(prog="python -m edge_sft.federated.node", description=main.__doc__)
    given.add_argument("directory", type=Path)
    given.add_argument("--cold", action="store_true", help="start a new Python for each message")
    given.add_argument("--child", action="store_true", help="end when standard input closes")
    asked = given.parse_args()
    try:
        site = site_files.read_site(asked.directory)
        if asked.child:
            _end_with_parent()
        serve(asked.directory.absolute(), site, warm=not asked.cold)
    except EdgeSftError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
