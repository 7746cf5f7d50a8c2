"""`edge-sft bench` as people call it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.deploy.bench_result import BenchReport

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--seconds", "0.05", "--energy-seconds", "0.2")


def _small() -> ModuleType:
    key = "edge_sft_tests_small_bundle"
    if key not in sys.modules:
        place = Path(__file__).parent.parent / "contracts" / "small_bundle.py"
        spec = importlib.util.spec_from_file_location(key, place)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small, folder = _small(), tmp_path_factory.mktemp("bench")
    small.plan().write(folder, small.Signer.make(folder / "keys"))
    (folder / "one.toml").write_text(
        'name = "one"\ntitle = "One thread"\nvariants = ["fp32"]\nthreads = 1\n'
        "[budgets]\nlatency_p95_ms = 5000\nmemory_mb = 2000\n"
    )
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge_sft.cli.main", *map(str, arguments)]


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "EDGE_SFT_ROOT": str(place / "root"), "EDGE_SFT_KEYS": str(place / "keys"), "COLUMNS": "100"}


@pytest.fixture(scope="module")
def run(place: Path, environment: dict[str, str]) -> Run:
    def do(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), capture_output=True, text=True, check=False, env=environment, cwd=place
        )

    return do


def test_a_bundle_is_measured_without_being_deployed(run: Run, place: Path) -> None:
    done = run("bench", "small-1.0.0.edge", "--profile", "one.toml", "--batch", "1,2", "--json", "out.json", *QUICK)
    assert done.returncode == 0, done.stderr
    for word in ("jpeg", "frame", "engine", "bare", "p99", "of bare", "onnxruntime", "profile one"):
        assert word in done.stdout
    assert "energy" in done.stdout
    report = BenchReport.model_validate_json((place / "out.json").read_bytes())
    assert report.profile.name == "one"
    assert {row.batch for row in report.timings} == {1, 2}
    assert json.loads((place / "out.json").read_text())["schema_version"] == 1
    assert not (place / "root").exists()


def test_what_is_deployed_is_measured_with_what_it_was_proved_with(run: Run, place: Path) -> None:
    missing = run("bench", "--root", "nowhere")
    assert (missing.returncode, "has no model yet" in missing.stderr) == (2, True)
    assert run("deploy", "small-1.0.0.edge", "--profile", "one.toml").returncode == 0
    done = run("bench", "--json", "deployed.json", *QUICK)
    assert done.returncode == 0, done.stderr
    report: Any = json.loads((place / "deployed.json").read_text())
    assert report["profile"]["name"] == "one"
    assert report["name"] == "small"


def test_wrong_words_are_told_in_one_line(run: Run) -> None:
    for arguments, said in (
        (("--batch", "0"), "is no list of sizes"),
        (("--batch", "1,x"), "is no list of sizes"),
        (("--variant", "fp16"), "holds no fp16"),
        (("--picture", "nothing.jpg"), "cannot be read"),
    ):
        done = run("bench", "small-1.0.0.edge", "--profile", "one.toml", *arguments, *QUICK)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another signal there: not proved")
def test_ctrl_c_leaves_no_process_and_no_file(place: Path, environment: dict[str, str]) -> None:
    asked = command("bench", "small-1.0.0.edge", "--profile", "one.toml", "--seconds", "60", "--json", "never.json")
    # tests that a shell runs in its background inherit a Ctrl-C that is ignored
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    started = subprocess.Popen(
        [sys.executable, "-c", heard, *asked],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    children: list[str] = []
    tasks = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    end = time.monotonic() + 30
    while not children and time.monotonic() < end and tasks.exists():
        children = tasks.read_text().split()
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, said = started.communicate(timeout=30)
    assert started.returncode not in (0, None)
    assert b"Traceback" not in said
    assert not (place / "never.json").exists()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_the_page_names_what_there_is() -> None:
    import re

    from edge_sft.deploy.bench_result import Energy, Loaded, Timing
    from edge_sft.deploy.bench_turns import MIN_RUNS

    text = (Path(__file__).parent.parent.parent / "docs" / "bench.md").read_text(encoding="utf-8")
    asked = subprocess.run(command("bench", "--help"), capture_output=True, text=True, check=True)
    for option in set(re.findall(r"--[a-z]+[a-z-]*", text.split("## Tables")[0])):
        assert option in asked.stdout, option
    fields = {*BenchReport.model_fields, *Timing.model_fields, *Loaded.model_fields, *Energy.model_fields}
    json_section = text.split("## The JSON file")[1].split("## Tables")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", json_section))
    assert named <= fields, named - fields
    assert f"at least {MIN_RUNS} times" in " ".join(text.split())
