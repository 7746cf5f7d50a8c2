"""Shared by the delivery tests: predictions, a real Mosquitto that can be killed, certificates of every sort."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edge_sft.prediction import Prediction

MOSQUITTO = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else None)


def _prediction(number: int = 0, stream: str = "cam") -> Prediction:
    return Prediction(
        stream=stream,
        name=str(number),
        part_id=f"part-{number}",
        captured_at="2026-01-01T00:00:00.000Z",
        decided_at="2026-01-01T00:00:00.010Z",
        latency_ms=10.0,
        verdict="ok",
        label="good",
        probabilities={"good": 0.9, "scratch": 0.1},
    )


def _eventually(condition, timeout_s: float = 30.0, what: str = "condition"):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"{what} did not come true in {timeout_s} s")


@pytest.fixture
def prediction():
    return _prediction


@pytest.fixture
def eventually():
    return _eventually


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def free_port():
    return _free_port


class Mosquitto:
    """A real broker on a port of its own; `kill` is kill -9, `start` starts it again."""

    def __init__(self, folder: Path, lines: tuple[str, ...], anonymous: bool = True) -> None:
        self.folder, self.port = folder, _free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(anonymous).lower()}"]
        config += ["set_tcp_nodelay true", *lines]
        if os.getuid() == 0:
            config.append("user root")
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        _eventually(self._accepts, what="broker accepting")

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


@pytest.fixture
def mosquitto(tmp_path):
    """Make brokers: ``mosquitto(*config_lines, anonymous=True)``."""
    if MOSQUITTO is None:
        pytest.skip("no mosquitto here: the behaviour at a real broker was not proved")
    made: list[Mosquitto] = []

    def make(*lines: str, anonymous: bool = True) -> Mosquitto:
        made.append(Mosquitto(tmp_path / f"broker{len(made)}", lines, anonymous))
        return made[-1]

    yield make
    for broker in made:
        broker.kill()


class Certificates:
    """A CA and what it issues, PEM files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.folder, self.name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._pem(self._build(name, self.key, None, -1, 3650)))

    def issue(self, name: str, *, first_day: float = -1, last_day: float = 365) -> tuple[Path, Path]:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(self._pem(self._build(name, key, self.name, first_day, last_day)))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_file, key_file

    def _build(self, name, key, issuer, first_day, last_day):
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import NameOID

        def named(text):
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        now = datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer or name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=first_day))
            .not_valid_after(now + timedelta(days=last_day))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    @staticmethod
    def _pem(certificate) -> bytes:
        from cryptography.hazmat.primitives import serialization

        return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def certificates(tmp_path):
    """Make a CA: ``certificates(name)``."""
    return lambda name: Certificates(tmp_path / name, name)
