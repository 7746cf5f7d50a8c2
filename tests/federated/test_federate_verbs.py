"""`edge-sft federate` and `edge-sft site approve` as they are typed, without Flower running."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_sft.cli import main as command_line
from edge_sft.federated import pki
from edge_sft.federated.invite import read_invite

# of flwr 1.41, where it packs an app
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture
def edge_sft(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def call(*words: str, expect: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["edge-sft", *words])
        try:
            command_line.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capsys.readouterr()
        assert code == expect, told
        return told.out + told.err

    return call


def test_from_init_to_an_invite(edge_sft, tmp_path):
    pytest.importorskip("flwr", reason="without flwr the app's SHA-256 in an invite is not proved")
    told = edge_sft("federate", "init", "--address", "h.example", "--also", "10.0.0.9", "--dir", "f")
    digest = pki.facts((tmp_path / "f" / "ca.pem").read_bytes()).fingerprint
    assert pki.spoken(digest) in told
    assert "h.example, 10.0.0.9, localhost, 127.0.0.1" in told

    told = edge_sft("federate", "invite", "plant-1", "--dir", "f")
    invite = read_invite(tmp_path / "plant-1.invite")
    assert (invite.site, invite.address, invite.ca_sha256) == ("plant-1", "h.example:8443", digest)
    assert len(invite.apps) == 1
    assert pki.spoken(digest) in told

    assert "Renewed until" in edge_sft("federate", "init", "--renew", "--also", "new.example", "--dir", "f")
    assert "[Service]" in edge_sft("federate", "up", "--unit", "--dir", "f")


def test_mistakes_are_said(edge_sft, tmp_path):
    assert "--address: is missing" in edge_sft("federate", "init", "--dir", "f", expect=2)
    assert "HOST:PORT" in edge_sft("federate", "init", "--address", "h:99999", "--dir", "f", expect=2)
    assert "neither a host name" in edge_sft("federate", "init", "--address", "h h:1", "--dir", "f", expect=2)
    assert "holds no federation" in edge_sft("federate", "up", "--dir", "f", expect=2)
    assert not (tmp_path / "f").exists()
    edge_sft("federate", "init", "--address", "h.example:8443", "--dir", "f")
    assert "exists already" in edge_sft("federate", "init", "--address", "h.example:8443", "--dir", "f", expect=2)
    assert "needs a recipe or a --name" in edge_sft("federate", "run", "--dir", "f", expect=2)
    assert "is not known" in edge_sft("federate", "run", "--name", "a1", "--dir", "f", expect=2)
    assert "is not approved (approved: none yet)" in edge_sft("site", "revoke", "a", "--dir", "f", expect=2)
    (tmp_path / "a.join").write_text("nonsense")
    assert "not valid TOML" in edge_sft("site", "approve", "a.join", "--dir", "f", expect=2)
    assert "No site is approved yet" in edge_sft("site", "list", "--dir", "f")


def test_a_name_that_no_site_may_have_is_said(edge_sft):
    pytest.importorskip("flwr", reason="without flwr no invite is written")
    edge_sft("federate", "init", "--address", "h.example:8443", "--dir", "f")
    assert "1 to 32 of a-z" in edge_sft("federate", "invite", "Plant 1", "--dir", "f", expect=2)


def test_status_while_nothing_runs_says_what_to_mend(edge_sft):
    pytest.importorskip("flwr", reason="without flwr nobody asks the SuperLink")
    edge_sft("federate", "init", "--address", "h.example:8443", "--superlink-port", "1", "--dir", "f")

    told = json.loads(edge_sft("federate", "status", "--json", "--dir", "f"))
    assert told["superlink"] == "does not answer"
    assert "edge-sft federate up" in told["problems"][0]
    assert (told["sites"], told["runs"]) == ([], [])
