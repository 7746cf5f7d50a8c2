"""The pages on federation: each command exists as it stands, each verb is run somewhere, each message is ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from edge_sft.cli.main import VERBS, _load

from . import page, runs

pytest.importorskip("flwr", reason="Flower is not installed: the pages on federation are not typed")

PAGES = [path.name for path in sorted(page.DOCS.glob("federated-*.md"))]
AFTERNOON = "three-plants-in-an-afternoon.md"
SOURCES = Path(__file__).parents[2] / "edge_sft"
# Verbs of these pages that the afternoon's page does not type: run below, or by the test that is named.
ELSEWHERE = {
    "federate simulate",  # test_simulate.py, test_pictures_exported.py
}


def typed(name: str) -> list[list[str]]:
    """Return the words of each command of ours on a page, blocks of either kind, without sudo, comment and pipe."""
    lines = (page.DOCS / name).read_text(encoding="utf-8").splitlines()
    found = [re.sub(r"^(    )?(sudo )?(?=edge-sft )", "", line) for line in lines]
    commands = [
        shlex.split(line.partition(" | ")[0], comments=True)[1:] for line in found if line.startswith("edge-sft ")
    ]
    return [words for words in commands if words[0] in {"federate", "site"}]


def verb(words: list[str]) -> str:
    return " ".join(words[:2])


def run(words: list[str]) -> None:
    """Run a command of the table in this process."""
    command: Any = _load(VERBS[verb(words)])
    command.main(args=words[2:], prog_name=f"edge-sft {verb(words)}", standalone_mode=False)


@pytest.mark.parametrize("name", [*PAGES, AFTERNOON])
def test_each_command_is_one(name: str) -> None:
    for words in typed(name):
        command: Any = _load(VERBS[verb(words)])
        command.make_context("edge-sft", words[2:])  # raises where there is no such option


def test_each_verb_is_run_somewhere() -> None:
    afternoon = {verb(words) for words in typed(AFTERNOON)}
    for name in PAGES:
        missing = {verb(words) for words in typed(name)} - afternoon - ELSEWHERE
        assert not missing, f"{name}: nothing types {sorted(missing)}"


def test_the_report_s_page_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge_sft.federated import chain

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    runs.finished(tmp_path / "state" / "edge-sft" / "federation" / "runs" / "friday")
    for site in ("kiel", "linz"):
        (tmp_path / site).mkdir()
        chain.append(tmp_path / site / "ledger.jsonl", {"run": "friday", "round": 1, "bytes": 1})
    commands = typed("federated-report.md")
    assert [verb(words) for words in commands] == ["federate report", "federate verify", "federate verify"]
    for words in commands:
        run(words)
    said = capsys.readouterr().out
    assert "report.html" in said
    assert said.count("holds") >= 4
    assert "BROKEN" not in said


def test_the_coordinator_s_certificates_and_unit_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = str(tmp_path / "service")
    for written in typed("federated-coordinator.md"):
        words = [place if word.startswith("/var/lib/") else word for word in written]
        if verb(words) in {"federate init", "federate invite"} or "--unit" in words:
            run(words)
    said = capsys.readouterr().out
    assert "Renewed until" in said
    assert "10.1.2.3" in said
    assert "[Service]" in said
    assert place in said
    assert (tmp_path / "plant-1.invite").is_file()


def literals() -> str:
    """Return the sources with adjacent pieces of a sentence joined."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.py")))
    return re.sub(r'"\s*\n?\s*f?"', "", text)


def test_each_message_of_the_afternoon_s_table_is_one_of_ours() -> None:
    text = (page.DOCS / AFTERNOON).read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (`.*?) \|", text.partition("## When something goes wrong")[2])
    messages = [
        piece.strip() for row in rows for message in re.findall(r"`([^`]+)`", row) for piece in message.split("…")
    ]
    assert len(messages) > 20
    ours = literals()
    assert [message for message in messages if message not in ours] == []
