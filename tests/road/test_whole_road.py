"""From a folder of pictures to a ledger, by the commands a plant engineer types, against a real Mosquitto."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import Factory, pictures


def agent_toml(home: Path, port: int, source: str, password: str = "right") -> Path:
    (home / "password").write_text(password)
    config = home / "agent.toml"
    config.write_text(
        f"""
[agent]
site = "plant"
line = "line1"
device = "pc1"
[mqtt]
port = {port}
username = "line"
password_file = "password"
ack = "ledger"
[[pipeline]]
name = "main"
source = {source}
trigger = {{ kind = "filename", pattern = '(?P<part_id>[a-z]+_\\d+)' }}
"""
    )
    return config


def test_build_leaves_what_a_person_looks_at(factory: Factory) -> None:
    run = factory.home / "runs" / "caps"
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    assert "<html" in (run / "check.html").read_text(encoding="utf-8")
    again = time.monotonic()
    said = factory.must("build", "recipe.toml")
    assert "already" in said
    assert time.monotonic() - again < 60


def test_predict_reads_pictures_with_the_bundle(factory: Factory) -> None:
    said = factory.must("predict", factory.bundle, "caps/good/good_000.png", "caps/scratch", "--json")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert len(lines) == 51
    assert {line["verdict"] for line in lines} <= {"ok", "nok", "uncertain"}


def test_every_part_reaches_the_ledger(factory: Factory, broker: int, tmp_path: Path) -> None:
    pictures(tmp_path / "new", 20, seed=7)
    line = tmp_path / "line"
    line.mkdir()
    for path in (tmp_path / "new").rglob("*.png"):
        path.rename(line / path.name)
    config = agent_toml(tmp_path, broker, f'{{ kind = "files", path = "{line.as_posix()}", rate = 50.0 }}')
    command = [sys.executable, "-m", "edge_sft.cli.main"]
    common = ["--port", str(broker), "--username", "line", "--password-file", str(tmp_path / "password")]
    ledger = subprocess.Popen(
        [*command, "ledger", str(tmp_path / "ledger.db"), *common, "--duration", "40"],
        env=factory.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        factory.must("run", "--config", config, "--until-done")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and "0 missing" not in status(factory, tmp_path):
            time.sleep(0.5)
    finally:
        ledger.terminate()
        ledger.wait(timeout=20)
    told = status(factory, tmp_path)
    assert "40" in told
    assert parts_in(tmp_path / "ledger.db") == {path.stem for path in line.iterdir()}


def status(factory: Factory, home: Path) -> str:
    done = factory.run("ledger", home / "ledger.db", "--status")
    return done.stdout + done.stderr


def parts_in(path: Path) -> set[str]:
    with sqlite3.connect(path) as book:
        tables = [row[0] for row in book.execute("select name from sqlite_master where type = 'table'")]
        found: set[str] = set()
        for table in tables:
            for row in book.execute(f'select * from "{table}"'):
                for cell in row:
                    text = cell.decode() if isinstance(cell, bytes) else str(cell)
                    if text.startswith("{") and '"part_id"' in text:
                        found.add(json.loads(text)["prediction"]["part_id"])
        return found


@pytest.mark.parametrize("verb", [("slots",), ("devices", "list"), ("schema",)])
def test_verbs_that_only_show(factory: Factory, verb: tuple[str, ...]) -> None:
    assert factory.must(*verb)
