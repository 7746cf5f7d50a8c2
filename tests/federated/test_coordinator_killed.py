"""The coordinator's processes killed while a run goes on, and the run all the same at its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.federated import pki
from edge_sft.federated.environment import flower_environment
from edge_sft.federated.invite import Join, write_join

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def _join(lab: Any, name: str) -> None:
    path = lab.root / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", name, "-f", path], check=True)
    public = path.with_suffix(".pub").read_text().strip()
    join = Join(site=name, public_key=public, fingerprint=pki.key_fingerprint(public), edge_sft="0")
    write_join(path.with_suffix(".join"), join)
    lab.edge_sft("site", "approve", path.with_suffix(".join"))
    words = [
        Path(sys.executable).parent / "flower-supernode",
        *("--superlink", f"{lab.address}:{lab.port}", "--root-certificates", lab.directory / "ca.pem"),
        *("--auth-supernode-private-key", path),
    ]
    environment = flower_environment(os.environ, lab.root / f"home-{name}")
    lab.start(lab.add_site(name), words, lab.root / f"{name}.log", environment)


def _pid(lab: Any, name: str) -> int:
    return int((lab.directory / f"{name}.pid").read_text())


def _superlink(lab: Any, up: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    os.kill(_pid(lab, "superlink"), signal.SIGKILL)
    return up


def _everything(lab: Any, up: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    up.kill()
    up.wait()
    again: subprocess.Popen[bytes] = lab.up()  # what the killed one left is swept, nginx's port is free again
    return again


def _nginx(lab: Any, up: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    os.kill(_pid(lab, "nginx"), signal.SIGKILL)
    return up


def test_a_run_outlives_its_coordinator(federation_lab: ModuleType, tmp_path: Path) -> None:
    if why := federation_lab.lacking():
        pytest.skip(why)
    with federation_lab.lab(tmp_path) as lab:
        lab.make()
        up = lab.up()
        for name in "ab":
            _join(lab, name)

        def online() -> bool:
            return [row["state"] for row in json.loads(lab.edge_sft("site", "list", "--json"))] == ["online"] * 2

        app = federation_lab.tiny_app(lab.root)
        (lab.root / "recipe.toml").write_text(federation_lab.RECIPE)
        kills: tuple[Callable[..., subprocess.Popen[bytes]], ...] = (_superlink, _everything, _nginx)
        for kill in kills:
            federation_lab.eventually(online, what="two sites online")
            name = kill.__name__.strip("_")
            place = lab.directory / "runs" / name
            place.mkdir(parents=True)
            (place / "hold").touch()
            words = [sys.executable, "-c", federation_lab.RUN, lab.directory, app, name, lab.root / "recipe.toml"]
            runner = lab.start(lab.coordinator, words, lab.root / f"{name}.log")
            federation_lab.eventually((place / "rounds.jsonl").exists, what=f"a round before the kill ({name})")
            up = kill(lab, up)
            (place / "hold").unlink()
            assert runner.wait(300) == 0, name
            said = (lab.root / f"{name}.log").read_text()
            assert said.rstrip().endswith("finished"), (name, said, (lab.root / "up.log").read_text())
            rows = [json.loads(row) for row in (place / "rounds.jsonl").read_text().splitlines()]
            assert [row["round"] for row in rows] == [1, 2]
            assert len(rows[0]["sites"]) == 2
        told = (lab.root / "up.log").read_text()
        assert re.search(r"superlink ended \(signal SIGKILL\); it starts again", told)
        assert re.search(r"nginx ended \(signal SIGKILL\); it starts again", told)
        assert told.count("is back") == 2
