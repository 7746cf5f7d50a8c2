"""What connects the machine with the plant: cameras, certificates, the broker."""

from __future__ import annotations

import os
import socket
import ssl
from datetime import datetime, timezone
from pathlib import Path

from edge_sft.machine.asking import LIMIT_S, names, read, run
from edge_sft.machine.checks import cameras, certificates, system
from edge_sft.machine.finding import Finding
from edge_sft.machine.gathering.place import Place, user


def of_cameras(place: Place) -> list[Finding]:
    """Cameras of Linux."""
    folder = place.files / "sys/class/video4linux"
    found = []
    for name in names(folder):
        number, kind = name.removeprefix("video"), (read(folder / name / "name") or "").strip()
        if number.isdigit() and (read(folder / name / "index") or "0").strip() == "0":  # others are its metadata
            node = place.files / "dev" / name
            found.append(cameras.Video(int(number), kind, node.exists() and os.access(node, os.R_OK | os.W_OK)))
    active = run("systemctl", "is-active", "nvargus-daemon") if any(video.csi for video in found) else None
    runs = active is None or active.out.strip() in ("active", "")
    return cameras.cameras(found, place.cameras, user(), _groups(), argus=runs)


def of_certificates(place: Place) -> list[Finding]:
    """The files that agent.toml names."""
    now = datetime.now(timezone.utc)
    found: list[Finding] = []
    content: dict[Path, bytes] = {}
    for path in (place.ca_file, place.cert_file, place.key_file):
        if path is not None:
            try:
                content[path] = path.read_bytes()
            except OSError as error:
                remedy = "Check the path in agent.toml, and who may read it."
                found.append(Finding("bad", "certificate", f"{path}: {error.strerror or error}", remedy))
    ca = content.get(place.ca_file) if place.ca_file else None
    if ca is not None:
        found.append(certificates.authority(str(place.ca_file), ca, now))
    own = content.get(place.cert_file) if place.cert_file else None
    if own is not None:
        key = content.get(place.key_file) if place.key_file else None
        found += certificates.client(str(place.cert_file), own, key, ca, now)
    if place.key_file in content and os.name == "posix" and place.key_file and place.key_file.stat().st_mode & 0o077:
        fact = f"{place.key_file} may be read by other users"
        found.append(Finding("note", "certificate", fact, f"chmod 600 {place.key_file}"))
    return found


def of_broker(place: Place) -> list[Finding]:
    """Open a connection to the broker; with an authority in agent.toml, an encrypted one."""
    if not place.broker:
        return []
    host, _, port = place.broker.partition(":")
    try:
        with socket.create_connection((host, int(port or 1883)), timeout=LIMIT_S) as plain:
            if place.ca_file is None or not place.ca_file.is_file():
                return [system.broker(place.broker, "")]
            return [system.broker(place.broker, _handshake(plain, host, place), encrypted=True)]
    except (ValueError, OverflowError):
        return [system.broker(place.broker, "address")]
    except socket.gaierror:
        return [system.broker(place.broker, "name")]
    except OSError as error:
        return [system.broker(place.broker, str(error.strerror or error))]


def _handshake(plain: socket.socket, host: str, place: Place) -> str:
    """Return what the broker and we have against each other's certificates; empty = nothing."""
    try:
        context = ssl.create_default_context(cafile=place.ca_file)
        if place.cert_file and place.key_file:
            context.load_cert_chain(place.cert_file, place.key_file, password="")
    except (OSError, ValueError):
        return ""  # the lines on certificates say what is wrong with the files
    try:
        with context.wrap_socket(plain, server_hostname=host) as encrypted:
            encrypted.settimeout(0.5)
            encrypted.recv(1)  # TLS 1.3 refuses our certificate only after the handshake
            return "it ends the connection"
    except TimeoutError:
        return ""
    except ssl.SSLCertVerificationError as error:
        return f"its certificate: {error.verify_message}"
    except ssl.SSLError as error:
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    except OSError as error:
        return f"TLS: {error.strerror or error}"


def _groups() -> list[str]:
    if os.name != "posix":
        return []
    import grp

    try:
        return [entry.gr_name for entry in grp.getgrall() if user() in entry.gr_mem or entry.gr_gid in os.getgroups()]
    except (KeyError, OSError):
        return []
