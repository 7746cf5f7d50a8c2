"""What a hostile site tries, from inside its network namespace, with its own credentials.

    python federation_probe.py '{"host": …, "port": …, "ca": …, "key": …, "own": …, "other": …, …}'

Prints one JSON object: what was tried → what came back (an HTTP status, or words).
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.error_pb2 import Error
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

ASKED: dict[str, Any] = json.loads(sys.argv[1])
SUPERLINK = f"127.0.0.1:{ASKED['superlink_port']}"
PROTOBUF = PROTOBUF_MEDIA_TYPE
FLEET = "/v1/fleet/"
ALLOWED = {
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab",
    "push-object", "pull-object", "confirm-message-received",
}  # fmt: skip


def connect(**limits: Any) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ASKED["ca"])
    for name, value in limits.items():
        setattr(context, name, value)
    if limits:
        context.set_ciphers("ALL:@SECLEVEL=0")
    plain = socket.create_connection((ASKED["host"], ASKED["port"]), timeout=20)
    return context.wrap_socket(plain, server_hostname=ASKED["host"])


def send(request: bytes) -> list[tuple[int, bytes]]:
    """Send bytes as they are; return status and body of every answer."""
    got = b""
    with connect() as wire:
        try:
            wire.sendall(request)
            wire.settimeout(6)
            while piece := wire.recv(65536):
                got += piece
        except OSError:
            pass
    answers = []
    while got.startswith(b"HTTP/"):
        head, _, got = got.partition(b"\r\n\r\n")
        length = next((int(row[15:]) for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:")), 0)
        answers.append((int(head.split()[1]), got[:length]))
        got = got[length:]
    return answers


def request(
    method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None, end: bool = True
) -> bytes:
    rows = {"Host": ASKED["host"], "Content-Type": PROTOBUF, "Accept": PROTOBUF, "Content-Length": str(len(body))}
    rows |= {"Connection": "close"} if end else {}
    rows |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in rows.items() if value)
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def status(raw: bytes) -> Any:
    answers = send(raw)
    return answers[0][0] if answers else "no answer"


def signed(key: ec.EllipticCurvePrivateKey, ahead_s: float = 0.0) -> dict[str, str]:
    """Return a site's headers, as flower-supernode makes them."""
    moment = (datetime.now(timezone.utc) + timedelta(seconds=ahead_s)).isoformat()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(moment.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(public).decode(),
        "flwr-timestamp": moment,
        "flwr-signature": b64encode(signature).decode(),
    }


def load(path: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_ssh_private_key(Path(path).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


OWN, UNKNOWN, REVOKED = load(ASKED["key"]), ec.generate_private_key(ec.SECP384R1()), load(ASKED["revoked_key"])


def fleet(path: str, message: Any, key: ec.EllipticCurvePrivateKey = OWN, ahead_s: float = 0.0) -> tuple[Any, bytes]:
    raw = request("POST", FLEET + path, message.SerializeToString(), signed(key, ahead_s))
    answers = send(raw)
    return answers[0] if answers else ("no answer", b"")


def activate(key: ec.EllipticCurvePrivateKey, ahead_s: float = 0.0) -> Any:
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return fleet("activate-node", ActivateNodeRequest(public_key=public, heartbeat_interval=30), key, ahead_s)[0]


def doors() -> dict[str, Any]:
    """Every path that Flower knows and sites need not, each asked with a site's signature."""
    paths = {path for _, path in PROTOBUF_REQUEST_TYPES} | {
        "/v1/control/stream-logs", "/v1/runtime/responses", "/docs", "/openapi.json", "/redoc", "/health", "/",
        "/metrics",
        "/v1/fleet", "/v1/fleet/", "/v1/fleet/create-node", "/v1/control", "/v1/control/start-run",
    }  # fmt: skip
    closed = sorted(path for path in paths if path.removeprefix(FLEET) not in ALLOWED)
    tried = {f"POST {path}": status(request("POST", path, b"", signed(OWN))) for path in closed}
    for path in ("/docs", "/openapi.json", "/health", "/", "/v1/control/list-nodes", "/nginx_status"):
        tried[f"GET {path}"] = status(request("GET", path))
    return tried


def tricks() -> dict[str, Any]:
    """Methods, paths, headers and framings that might slip past a proxy."""
    methods = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "post", "POST\t", "CONNECT")
    tried = {f"{name!r} {FLEET}pull-messages": status(request(name, f"{FLEET}pull-messages")) for name in methods}
    control = "/v1/control/list-nodes"
    targets = (
        f"/{control}", f"{FLEET}..{'/control/list-nodes'}", f"{FLEET}../control/list-nodes", "/v1//control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/..%2fcontrol/list-nodes", "/v1/fleet/.%2e/control/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes", "/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2flist-nodes",
        "/v1/fleet/pull-messages/..;/..;/control/list-nodes", "/v1/fleet\\..\\control\\list-nodes",
        "/v1/control/../fleet/pull-messages", "/v1/./fleet/pull-messages", "/v1/fleet//pull-messages",
        "//v1/fleet/pull-messages", "/v1/fleet/pull-messages/", "/v1/fleet/pull-messages?x=1",
        "/v1/fleet/pull-messages?",
        "/v1/fleet/pull-messages#/v1/control", "/v1/fleet/PULL-MESSAGES", "/V1/fleet/pull-messages",
        "/v1/fleet/pull%2dmessages", "/%76%31/fleet/pull-messages", "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages%0a",
        "/v1/fleet/pull-messages%20HTTP/1.1", "*", "v1/fleet/pull-messages", "/v1/control%2flist-nodes",
        f"https://{SUPERLINK}{control}", f"http://localhost{control}", f"//{SUPERLINK}{control}",
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/pull-messages/v1/control/list-nodes",
    )  # fmt: skip
    tried |= {f"POST {target}": status(request("POST", target, b"", signed(OWN))) for target in targets}
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-Forwarded-Uri"):
        tried[f"{name}: {control}"] = status(request("POST", "/", b"", {name: control}))
    tried[f"Host: {SUPERLINK}"] = status(request("POST", control, b"", {"Host": SUPERLINK}))
    tried["h2c"] = status(request("GET", "/", b"", {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings"}))
    tried["HTTP/2 with prior knowledge"] = status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    tried["HTTP/0.9"] = status(f"GET {control}\r\n".encode())
    return tried


def framings() -> dict[str, Any]:
    """One request hidden in another: what the second is answered, if it is answered at all."""
    hidden = request("POST", "/v1/control/list-nodes")
    pull = f"{FLEET}pull-messages"
    both = {"Transfer-Encoding": "chunked", "Content-Length": str(5 + len(hidden))}
    cases = {
        "pipelined": request("POST", pull, end=False) + hidden,
        "TE beside CL": request("POST", pull, b"0\r\n\r\n" + hidden, both, end=False),
        "TE after CL, spaced": request(
            "POST", pull, b"0\r\n\r\n" + hidden, {"Transfer-Encoding ": "chunked"}, end=False
        ),
        "TE doubled": request(
            "POST", pull, b"0\r\n\r\n" + hidden, {"Transfer-Encoding": "chunked, chunked"}, end=False
        ),
        "CL of nothing": request("POST", pull, b"", {"Content-Length": "0"}, end=False) + hidden,
        "CL signed": request("POST", pull, b"", {"Content-Length": "+0"}, end=False) + hidden,
        "header with a line feed": request("POST", pull, b"", {"Accept": "x\nContent-Length: 0\n\nPOST /v1/control/a"}),
    }
    return {name: [code for code, _ in send(raw)] or "no answer" for name, raw in cases.items()}


def others() -> dict[str, Any]:
    """Another site's messages and life, by its node id; Flower must refuse what the proxy lets through."""
    other, own = Node(node_id=ASKED["other"]), Node(node_id=ASKED["own"])
    run = ASKED["run"]
    known = ASKED["other_object"]
    asked: dict[str, tuple[str, Any]] = {
        "pull-messages": ("pull-messages", PullMessagesRequest(node=other)),
        "push-messages": ("push-messages", PushMessagesRequest(node=other)),
        "deactivate-node": ("deactivate-node", DeactivateNodeRequest(node_id=ASKED["other"])),
        "send-node-heartbeat": ("send-node-heartbeat", SendNodeHeartbeatRequest(node=other, heartbeat_interval=30)),
        "get-run": ("get-run", GetRunRequest(node=other, run_id=run)),
        "get-fab": ("get-fab", GetFabRequest(node=other, run_id=run, hash_str=ASKED["fab"])),
        "pull-object": ("pull-object", PullObjectRequest(node=other, run_id=run, object_id=known)),
        "push-object": ("push-object", PushObjectRequest(node=other, run_id=run, object_id=known, object_content=b"x")),
        "confirm": (
            "confirm-message-received",
            ConfirmMessageReceivedRequest(node=other, run_id=run, message_object_id=known),
        ),
    }
    tried = {f"as the other: {name}": fleet(path, message)[0] for name, (path, message) in asked.items()}
    tried["own: a run that is none"] = fleet("get-run", GetRunRequest(node=own, run_id=12345))[0]
    tried["own: an app of another hash"] = fleet("get-fab", GetFabRequest(node=own, run_id=run, hash_str="0" * 64))[0]
    code, body = fleet("pull-object", PullObjectRequest(node=own, run_id=run, object_id="ab" * 32))
    found = PullObjectResponse.FromString(body).object_found if code == 200 else None
    tried["own: an object by a guessed id"] = f"{code} found={found}"
    code, body = fleet("pull-object", PullObjectRequest(node=own, run_id=run, object_id=known))
    found = PullObjectResponse.FromString(body).object_found if code == 200 else None
    tried["own: the other's object by its known id"] = f"{code} found={found}"
    tried["own: a reply in the other's name to a guessed message"] = forged(own, "cd" * 32, "ef" * 32)
    tried["own: a reply in the other's name to its known message"] = forged(own, "ce" * 32, ASKED["other_message"])
    return tried


def forged(own: Node, message_id: str, reply_to: str) -> Any:
    """Push a reply in the other's name; whether Flower keeps it, its database tells."""
    metadata = Metadata(
        run_id=ASKED["run"],
        message_id=message_id,
        src_node_id=ASKED["other"],
        dst_node_id=1,
        reply_to_message_id=reply_to,
        created_at=datetime.now(timezone.utc).timestamp(),
        ttl=3600.0,
        message_type="query",
    )
    pushed = PushMessagesRequest(
        node=own,
        messages_list=[Message(metadata=metadata, error=Error(code=1, reason="forged"))],
        message_object_trees=[ObjectTree(object_id=message_id)],
        clientapp_runtime_list=[1.0],
    )
    return fleet("push-messages", pushed)[0]


def strangers() -> dict[str, Any]:
    """Keys that are not, or no longer, let in; clocks that are wrong; no signature at all."""
    own = Node(node_id=ASKED["own"])
    pull = PullMessagesRequest(node=own)
    tried = {
        "an unregistered key activates": activate(UNKNOWN),
        "an unregistered key pulls": fleet("pull-messages", pull, UNKNOWN)[0],
        "a revoked key activates": activate(REVOKED),
        "a revoked key pulls": fleet(
            "pull-messages", PullMessagesRequest(node=Node(node_id=ASKED["revoked"])), REVOKED
        )[0],
        "no signature": status(request("POST", f"{FLEET}pull-messages", pull.SerializeToString())),
        "a clock 10 s fast": activate(OWN, 10.0),
        "a clock 310 s slow": activate(OWN, -310.0),
        "another's public key in the body": fleet(
            "activate-node", ActivateNodeRequest(public_key=b"x", heartbeat_interval=30)
        )[0],
        "no protobuf": status(request("POST", f"{FLEET}pull-messages", b"\xff\xff\xff", signed(OWN))),
    }
    mixed = signed(OWN) | {"flwr-signature": signed(UNKNOWN)["flwr-signature"]}
    tried["another's signature"] = status(request("POST", f"{FLEET}pull-messages", pull.SerializeToString(), mixed))
    return tried


def sizes() -> dict[str, Any]:
    too_big = {"pull-messages": 70_000, "push-messages": 4_300_000, "push-object": 8_500_000, "activate-node": 70_000}
    return {
        f"{size} bytes to {path}": status(request("POST", FLEET + path, b"\0" * size, signed(OWN)))
        for path, size in too_big.items()
    }


def wires() -> dict[str, Any]:
    """What can be reached at all, and with which TLS."""

    def tls(version: ssl.TLSVersion) -> str:
        try:
            with connect(minimum_version=version, maximum_version=version) as wire:
                return str(wire.version())
        except OSError as error:
            return f"refused ({type(error).__name__})"

    def reach(host: str, port: int) -> str:
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError as error:
            return f"refused ({type(error).__name__})"
        return "reached"

    def plain() -> Any:
        with socket.create_connection((ASKED["host"], ASKED["port"]), timeout=10) as wire:
            wire.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            return int(wire.recv(100).split()[1])

    return {
        "TLS 1.0": tls(ssl.TLSVersion.TLSv1),
        "TLS 1.1": tls(ssl.TLSVersion.TLSv1_1),
        "TLS 1.2": tls(ssl.TLSVersion.TLSv1_2),
        "TLS 1.3": tls(ssl.TLSVersion.TLSv1_3),
        "no TLS": plain(),
        "the SuperLink itself": reach(ASKED["host"], ASKED["superlink_port"]),
        "the other site": reach(ASKED["other_host"], 9094),
        "the internet": reach("1.1.1.1", 443),
    }


def itself() -> dict[str, Any]:
    """What it may do, so that the refusals are not those of a broken probe."""
    own = Node(node_id=ASKED["own"])
    return {
        "activate-node": activate(OWN),
        "send-node-heartbeat": fleet("send-node-heartbeat", SendNodeHeartbeatRequest(node=own, heartbeat_interval=30))[
            0
        ],
        "get-run": fleet("get-run", GetRunRequest(node=own, run_id=ASKED["run"]))[0],
        "get-fab": fleet("get-fab", GetFabRequest(node=own, run_id=ASKED["run"], hash_str=ASKED["fab"]))[0],
    }


if __name__ == "__main__":
    tables: tuple[Callable[[], dict[str, Any]], ...] = (
        itself, doors, tricks, framings, others, strangers, sizes, wires,
    )  # fmt: skip
    print(json.dumps({table.__name__: table() for table in tables}))  # noqa: T201
