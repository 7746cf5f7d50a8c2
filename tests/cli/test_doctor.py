from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sft.cli import doctor as verb
from edge_sft.errors import UserError


def run(*arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    script = "import sys; from edge_sft.cli.main import main; main()"
    env = {**os.environ, **({"PATH": path} if path is not None else {})}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_doctor_on_this_machine(tmp_path: Path) -> None:
    done = run("doctor", "--root", tmp_path / "a" / "b")
    assert done.returncode in (0, 5), done.stderr
    assert "edge-sft" in done.stdout
    assert "MB free" in done.stdout
    assert not done.stderr


def test_json_says_the_same_without_any_program_on_the_path(tmp_path: Path) -> None:
    done = run("doctor", "--root", tmp_path, "--json", path=str(tmp_path))
    found = json.loads(done.stdout)
    assert {"health", "thing", "fact", "remedy"} == set(found[0])
    assert "could not be looked at" not in done.stdout
    assert (done.returncode == 5) == any(item["health"] == "bad" for item in found)


def test_bad_findings_set_the_exit_status(tmp_path: Path) -> None:
    done = run("doctor", "--root", tmp_path, "--broker", "127.0.0.1:1")
    assert done.returncode == 5
    assert "cannot be reached" in done.stdout


def test_what_a_configuration_names_is_looked_at(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        '[agent]\nroot = "state"\n[mqtt]\nhost = "10.1.2.3"\nport = 8883\nca_file = "ca.pem"\n'
        'cert_file = "own.pem"\nkey_file = "own.key"\n[[pipeline]]\n[pipeline.source]\nkind = "camera"\ndevice = 2\n'
    )
    place = verb._place(None, None, config)
    assert place.broker == "10.1.2.3:8883"
    assert place.ca_file == tmp_path / "ca.pem"
    assert place.key_file == tmp_path / "own.key"
    assert place.cameras == (2,)
    assert place.root == tmp_path / "state"
    assert verb._place("other:1", tmp_path, config).broker == "other:1"


def test_a_configuration_with_mistakes_is_said(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text("[mqtt]\nprot = 1\n")
    with pytest.raises(UserError, match="did you mean 'port'"):
        verb._place(None, None, tmp_path / "agent.toml")
