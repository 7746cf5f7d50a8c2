"""The two brokers we can start: a Mosquitto that is installed, or amqtt in an environment of its own.

amqtt pins other libraries exactly, so it never shares an environment with edge-sft.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_sft import durable
from edge_sft.errors import DeviceError, UserError

AMQTT = "amqtt==0.12.1"
PBKDF2_ROUNDS = 10_000
_ELSEWHERE = (  # where installers put it without touching the PATH of an ordinary user
    "/usr/sbin/mosquitto",
    "/usr/local/sbin/mosquitto",
    "/opt/homebrew/sbin/mosquitto",
    r"C:\Program Files\mosquitto\mosquitto.exe",
)
_HASH = "import sys; from argon2 import PasswordHasher; print(PasswordHasher().hash(sys.stdin.read()))"


@dataclass(frozen=True)
class Listener:
    """Where a broker listens, and with what certificate."""

    host: str
    port: int
    cert_file: Path | None = None
    key_file: Path | None = None


def find_mosquitto() -> str | None:
    """Return the path of an installed Mosquitto, or None."""
    return shutil.which("mosquitto") or next((p for p in _ELSEWHERE if Path(p).is_file()), None)


def choose(engine: str) -> Literal["mosquitto", "amqtt"]:
    """Resolve ``auto``. Raises UserError when Mosquitto is asked for and not installed."""
    if engine == "amqtt" or (engine == "auto" and find_mosquitto() is None):
        return "amqtt"
    if engine not in ("auto", "mosquitto"):
        raise UserError(f"engine '{engine}'", "is not known", "Choose auto, mosquitto or amqtt.")
    if find_mosquitto() is None:
        raise UserError("mosquitto", "is not installed here", "Install it, or choose --engine amqtt.")
    return "mosquitto"


def mosquitto(directory: Path, listener: Listener, username: str, password: str) -> list[str]:
    """Write Mosquitto's configuration and return the command that runs it."""
    users = directory / "mosquitto.users"
    durable.write_text(users, f"{username}:{mosquitto_hash(password)}\n")
    users.chmod(0o600)
    data = directory / "data"
    data.mkdir(exist_ok=True)
    lines = [
        f"listener {listener.port} {listener.host}",
        "allow_anonymous false",
        f"password_file {users}",
        "persistence true",
        f"persistence_location {data}/",
        "autosave_interval 30",
        "max_inflight_messages 200",
        "max_queued_messages 100000",
        "set_tcp_nodelay true",
        "connection_messages false",
    ]
    if listener.cert_file is not None and listener.key_file is not None:
        lines += [f"certfile {listener.cert_file.resolve()}", f"keyfile {listener.key_file.resolve()}"]
    if hasattr(os, "getuid") and os.getuid() == 0:
        lines.append("user root")  # else it drops to a user who may not read these files
    config = directory / "mosquitto.conf"
    durable.write_text(config, "\n".join(lines) + "\n")
    return [find_mosquitto() or "mosquitto", "-c", str(config)]


def mosquitto_hash(password: str) -> str:
    """Hash a password as ``mosquitto_passwd`` does (PBKDF2-SHA512)."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PBKDF2_ROUNDS)
    return f"$7${PBKDF2_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def amqtt(directory: Path, listener: Listener, username: str, password: str, python: Path) -> list[str]:
    """Write amqtt's configuration and return the command that runs it."""
    users = directory / "amqtt.users"
    hashed = _run([str(python), "-c", _HASH], given=password).strip()
    durable.write_text(users, f"{username}:{hashed}\n")
    users.chmod(0o600)
    host = f"[{listener.host}]" if ":" in listener.host else listener.host
    where: dict[str, object] = {"type": "tcp", "bind": f"{host}:{listener.port}"}
    if listener.cert_file is not None and listener.key_file is not None:
        files = {"certfile": str(listener.cert_file.resolve()), "keyfile": str(listener.key_file.resolve())}
        where |= {"ssl": True, **files}
    plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(users)}}
    config = directory / "amqtt.yaml"  # JSON is YAML
    durable.write_text(config, json.dumps({"listeners": {"default": where}, "plugins": plugins}, indent=2) + "\n")
    return [str(python), "-W", "ignore", "-m", "amqtt.scripts.broker_script", "-c", str(config)]


def amqtt_python(environment: Path, report: Callable[[str], None]) -> Path:
    """Return the Python of amqtt's environment, made on first use (about 15 s and a package index).

    Raises:
        DeviceError: It cannot be made, mostly for want of a package index.
    """
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    complete = environment / "complete"
    if complete.exists() and complete.read_text() == AMQTT and python.exists():
        return python
    report(f"making an environment for {AMQTT} in {environment} (once, about 15 s)")
    shutil.rmtree(environment, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(environment)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", AMQTT])
    except DeviceError as error:
        shutil.rmtree(environment, ignore_errors=True)
        remedy = "Without a package index, install Mosquitto and choose --engine mosquitto."
        raise DeviceError("embedded broker", f"{AMQTT} cannot be installed ({error.fact})", remedy) from error
    durable.write_text(complete, AMQTT)
    return python


def _run(command: list[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DeviceError(command[0], said[-1] if said else f"failed with status {done.returncode}")
    return done.stdout
