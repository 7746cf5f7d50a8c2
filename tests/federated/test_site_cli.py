"""`edge-sft site …` as somebody types it, against a coordinator that only answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sft.errors import DataError
from edge_sft.federated import chain, outward, site_files, site_unit

from .sites import Coordinator

pytest.importorskip("flwr", reason="Flower is not installed: joining looks for it")

REPOSITORY = Path(__file__).parents[2]


def edge_sft(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(cwd / "state"), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "edge_sft.cli.main", "site", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=120)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    (tmp_path / "data").mkdir()
    return Coordinator(tmp_path)


def test_join_status_ledger_leave(coordinator: Coordinator, tmp_path: Path) -> None:
    with coordinator.answering() as port:
        coordinator.invite(address=f"127.0.0.1:{port}")
        joined = edge_sft("join", "berlin.invite", "--data", "data", cwd=tmp_path)
        assert joined.returncode == 0, joined.stdout + joined.stderr
        assert "SHA256:" in joined.stdout
        assert "edge-sft site approve berlin.join" in joined.stdout
        told = json.loads(edge_sft("status", "--json", cwd=tmp_path).stdout)
    assert (told["site"], told["running"], told["sent"]["messages"]) == ("berlin", False, 0)
    assert {finding["level"] for finding in told["findings"]} == {"ok"}
    ledger = tmp_path / "state" / "edge-sft" / "site" / site_files.LEDGER
    names = ["alone/test/rmse", "alone/test/runs", "loss"]
    for number in (1, 2):
        record = {"time": "t", "run": "first", "round": number, "kind": "train.round", "tensors": 40, "bytes": 39592}
        chain.append(ledger, {**record, "metrics": names})
    outward.note(ledger.parent, "train.round", "its data [cannot] be used", 16)
    outward.words(DataError("data/labels.csv", "is none"), ledger.parent)
    listed = edge_sft("ledger", cwd=tmp_path)
    assert listed.returncode == 0
    assert "3 messages, 79200 bytes" in listed.stdout
    assert "its data [cannot] be used" in " ".join(listed.stdout.split())
    assert "alone/test: rmse, runs; loss" in " ".join(listed.stdout.split())
    ledger.write_text(ledger.read_text().replace("39592", "1", 1))
    changed = edge_sft("ledger", cwd=tmp_path)
    assert changed.returncode == 3
    assert "was changed" in changed.stderr
    kept = edge_sft("leave", cwd=tmp_path)
    assert kept.returncode != 0  # nobody said yes
    left = edge_sft("leave", "--yes", cwd=tmp_path)
    assert "edge-sft site revoke berlin" in left.stdout
    assert [path.name for path in ledger.parent.iterdir()] == [site_files.LEDGER]


def test_what_is_wrong_keeps_a_site_from_joining_unless_it_is_meant(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.invite()  # nobody listens on port 9
    refused = edge_sft("join", "berlin.invite", "--data", "data", cwd=tmp_path)
    assert refused.returncode == 3
    assert "nobody listens there" in refused.stdout
    assert "--anyway" in refused.stderr
    assert not (tmp_path / "state").exists()
    assert edge_sft("join", "berlin.invite", "--data", "data", "--anyway", cwd=tmp_path).returncode == 0


def test_a_folder_that_is_no_site_is_told_in_a_line(tmp_path: Path) -> None:
    for verb in ("run", "status", "leave", "export"):
        done = edge_sft(verb, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "edge-sft site join" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_unit_of_a_site(tmp_path: Path) -> None:
    python = Path("/opt/edge-sft/bin/python")
    text = site_unit.render(Path("/var/lib/edge-sft-site"), Path("/data/rows"), python=python, user="edge-sft")
    assert "StateDirectory=edge-sft-site\n" in text
    assert "ReadOnlyPaths=/data/rows\n" in text
    assert "ProtectHome=yes" in text
    assert "@" not in text.replace("@system-service", "").replace("@privileged @resources", "")
    with pytest.raises(Exception, match="cannot serve a site"):
        site_unit.render(tmp_path, tmp_path, python=python, user="root")
