from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from edge_sft.cli.main import GROUPS, VERBS


def edge_sft(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_sft.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_verb() -> None:
    done = edge_sft("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert verb.split(" ", maxsplit=1)[0] in done.stdout


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_exists_and_explains_itself(verb: str) -> None:
    module, _, function = VERBS[verb].target.partition(":")
    assert getattr(import_module(module), function).__doc__


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_groups_list_their_verbs(group: str) -> None:
    done = edge_sft(group, "--help")
    assert done.returncode == 0
    for verb in VERBS:
        if verb.startswith(f"{group} "):
            assert verb.split(" ")[1] in done.stdout


def test_errors_are_one_clear_line_without_a_traceback(tmp_path: Path) -> None:
    done = edge_sft("check", str(tmp_path / "nowhere.toml"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nowhere.toml" in done.stderr


def test_version() -> None:
    assert edge_sft("--version").stdout.startswith("edge-sft ")


def test_unknown_verb() -> None:
    done = edge_sft("deplyo")
    assert done.returncode == 2
    assert "deplyo" in done.stderr
