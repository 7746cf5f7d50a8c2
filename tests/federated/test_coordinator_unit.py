"""The coordinator's systemd unit and compose file: what they say, and what systemd and compose make of them."""

from __future__ import annotations

import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sft.errors import UserError
from edge_sft.federated.coordinator import Federation, Folder
from edge_sft.federated.unit import NAME, render

SETTINGS = Federation(name="test", address="h.example:8443", listen="0.0.0.0:8443")
ORDINARY = Folder(Path("/var/lib/edge-sft-federation"))
DOCKER = Path(__file__).parents[2] / "docker"


def test_the_unit_says_what_the_machine_needs() -> None:
    text = render(ORDINARY, SETTINGS, python=Path("/opt/edge-sft/bin/python"), user="edge-sft")

    for line in (
        "Type=notify", "Restart=always", "KillMode=control-group", "StateDirectory=edge-sft-federation",
        "StateDirectoryMode=0700", "CapabilityBoundingSet=", "User=edge-sft", "ProtectSystem=strict", "ProtectHome=yes",
        "ExecStart=/opt/edge-sft/bin/python -I -m edge_sft.cli.main federate up --dir /var/lib/edge-sft-federation",
    ):  # fmt: skip
        assert f"\n{line}\n" in text


def test_low_ports_get_the_one_capability_and_homes_are_readable() -> None:
    low = SETTINGS.model_copy(update={"listen": "0.0.0.0:443"})
    text = render(Folder(Path("/home/pi/a b")), low, python=Path("/usr/bin/python3"), user="pi")

    assert "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in text
    assert "\nProtectHome=read-only\n" in text
    assert '\nReadWritePaths="/home/pi/a b"\n' in text


@pytest.mark.parametrize("user", ["root", "a b", ""])
def test_root_and_nonsense_do_not_run_it(user: str) -> None:
    with pytest.raises(UserError, match="cannot run the coordinator"):
        render(ORDINARY, SETTINGS, python=Path("/usr/bin/python3"), user=user)


def test_systemd_understands_it_and_finds_it_little_exposed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: what systemd makes of the unit is not proved")
    path = tmp_path / NAME
    text = render(ORDINARY, SETTINGS, python=Path(sys.executable), user="edge-sft")
    path.write_text(text.replace("User=edge-sft", f"User={getpass.getuser()}"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert "Unknown" not in verified.stderr
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", path],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert score is not None
    assert float(score[1]) < 4.0, told


def test_the_compose_file_publishes_the_proxy_only() -> None:
    yaml = pytest.importorskip("yaml", reason="without PyYAML the compose file is not read")
    told = yaml.safe_load((DOCKER / "compose-federation.yml").read_text())
    service = told["services"]["coordinator"]

    assert service["ports"] == ["8443:8443"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["command"][:2] == ["federate", "up"]
    assert list(told["services"]) == ["coordinator"]
