from __future__ import annotations

import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sft.deploy.unit import NAME, Service, render
from edge_sft.errors import UserError

ORDINARY = Service(Path(sys.executable), Path("/var/lib/edge-sft"), Path("/etc/edge-sft/agent.toml"), groups=("video",))


def test_the_unit_says_what_the_machine_needs() -> None:
    text = render(ORDINARY)
    assert "@" not in re.sub(r"@[a-z]+-?[a-z]*", "", text.replace("@system-service", ""))
    for line in (
        "Type=notify", "WatchdogSec=60", "Restart=always", "StateDirectory=edge-sft", "ProtectSystem=strict",
        "NoNewPrivileges=yes", "PrivateTmp=yes", "User=edge-sft", "MemoryHigh=2048M", "StartLimitBurst=6",
        "DeviceAllow=char-video4linux rw", "SupplementaryGroups=video",
    ):  # fmt: skip
        assert f"\n{line}\n" in text


def test_folders_with_spaces_and_homes() -> None:
    text = render(Service(Path("/usr/bin/python3"), Path("/home/pi/a b%c"), Path("/home/pi/agent.toml")))
    assert 'ReadWritePaths="/home/pi/a b%%c"' in text
    assert '--root "/home/pi/a b%%c"' in text
    assert "ProtectHome=read-only" in text
    assert "StateDirectory" not in text


@pytest.mark.parametrize("user", ["root", "a b", "-x", ""])
def test_root_and_nonsense_do_not_run_it(user: str) -> None:
    with pytest.raises(UserError, match="cannot run the agent"):
        render(Service(Path("/usr/bin/python3"), Path("/var/lib/x"), Path("/etc/a.toml"), user=user))


def test_systemd_understands_it_and_finds_it_little_exposed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: what systemd makes of the unit is not proved")
    path = tmp_path / NAME
    path.write_text(render(ORDINARY).replace("User=edge-sft", f"User={getpass.getuser()}"))
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
    assert float(score[1]) <= 2.5, told
