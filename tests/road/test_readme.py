"""The README's commands are run as they stand; its links lead somewhere; its Python runs."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import README, Factory, commands


def test_the_road_is_what_built_the_factory() -> None:
    verbs = [shlex.split(line)[1] for line in commands("road")]
    assert verbs == ["init", "check", "keys", "build", "deploy", "predict"]


def test_check_and_predict_as_written(factory: Factory) -> None:
    for line in commands("road"):
        if shlex.split(line)[1] in ("check", "predict"):
            assert factory.must(*shlex.split(line, comments=True)[1:])


def test_agent_as_written(factory: Factory) -> None:
    (factory.home / "line").mkdir(exist_ok=True)
    init, run = (shlex.split(line, comments=True)[1:] for line in commands("agent"))
    factory.must(*init)
    agent = subprocess.Popen(
        [sys.executable, "-m", "edge_sft.cli.main", *run],
        cwd=factory.home, env=factory.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(4)
    assert agent.poll() is None
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(timeout=30) == 0


def test_the_plants_commands_are_those_of_their_page() -> None:
    """That page is typed, command by command, by tests/federated/test_docs_afternoon.py."""
    page = (Path(__file__).parents[2] / "docs" / "three-plants-in-an-afternoon.md").read_text(encoding="utf-8")
    typed = {" ".join(shlex.split(line, comments=True)) for line in page.splitlines() if line.startswith("edge-sft ")}
    lines = [" ".join(shlex.split(line, comments=True)) for line in commands("plants")]
    assert lines
    assert set(lines) <= typed


def test_python_as_written(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    text = code.group(1).replace("/var/lib/edge-sft", str(factory.home / "device"))
    text = text.replace("part-17.png", str(factory.home / "caps" / "good" / "good_000.png"))
    exec(compile(text, "README.md", "exec"), {})
    assert capsys.readouterr().out.split()[0] in ("ok", "nok", "uncertain")


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parents[2]
    for page in [root / "README.md", *(root / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
