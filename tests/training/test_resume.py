"""Killed with SIGKILL at points found by watching what it says and writes; the bytes must not know."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sft import checkpoint as files
from edge_sft.errors import DataError
from edge_sft.training.state import FOLDER

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")

# says on stdout what a progress bar would show; saves at every validation, as the loop's caller may choose
PROGRAM = """
import sys, torch
from pathlib import Path
from edge_sft import recipe as recipes
from edge_sft.data.reader import open_dataset
from edge_sft.training.fit import run

class Spoken:
    def start(self, title, total):
        self.title, self.done = title, 0
        print(f"start {title} {total}", flush=True)
    def advance(self, units=1, note=""):
        self.done += units
        print(f"{self.title} {self.done} {note}", flush=True)

torch.set_num_threads(1)
path, out = Path(sys.argv[1]), Path(sys.argv[2])
recipe = recipes.load(path)
run(recipe, open_dataset(recipe), out, recipe_text="", progress=Spoken(), save_every_s=0.0)
"""


def _start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(recipe), str(out)], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def _finish(recipe: Path, out: Path) -> None:
    with _start(recipe, out) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0


def _kill_when(recipe: Path, out: Path, ready: Callable[[str], bool]) -> None:
    """Kill −9 as soon as ``ready`` says so of a line of progress."""
    with _start(recipe, out) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if ready(line):
                process.kill()
                break
        process.stdout.read()
        process.wait(timeout=60)
    assert process.returncode == -signal.SIGKILL


def _mid_batch(line: str) -> bool:
    if not line.startswith("Fine-tuning 10 "):  # between two validations; the next step has begun
        return False
    time.sleep(0.02)
    return True


def _mid_validation(line: str) -> bool:
    if not line.startswith("Fine-tuning 11 "):  # step 12 ends in a validation, which takes longer than the step
        return False
    time.sleep(0.15)
    return True


def _in_warm_up(line: str) -> bool:
    return line.startswith("start Fine-tuning")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        from conftest import RECIPE, draw
    finally:
        sys.path.pop(0)
    folder = tmp_path_factory.mktemp("resume")
    draw(folder / "pictures")
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(steps=20))
    return path


@pytest.fixture(scope="module")
def whole(recipe: Path) -> tuple[str, str]:
    """The digests of the uninterrupted run's kept weights, and of its last step's."""
    out = recipe.parent / "whole"
    _finish(recipe, out)
    digests = _digests(out)
    assert digests[0] == files.sha256_of(out / files.WEIGHTS)
    assert files.read_meta(out).training["steps"] == 20
    return digests


def _digests(out: Path) -> tuple[str, str]:
    meta = files.read_meta(out)
    return meta.weights_sha256, meta.training["last_weights_sha256"]


@pytest.mark.parametrize("ready", [_in_warm_up, _mid_batch, _mid_validation])
def test_killed_and_resumed_gives_the_same_bytes(
    recipe: Path, whole: tuple[str, str], tmp_path: Path, ready: Callable[[str], bool]
) -> None:
    out = tmp_path / "out"
    _kill_when(recipe, out, ready)
    assert not (out / files.META).exists()
    _finish(recipe, out)
    assert _digests(out) == whole
    assert files.read_meta(out).training["resumed"] == (0 if ready is _in_warm_up else 1)


def test_killed_while_the_state_is_being_written(recipe: Path, whole: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    hits = 0
    for attempt in range(12):
        with _start(recipe, out) as process:
            while process.poll() is None:
                halves = list((out / FOLDER).glob("*.part")) if (out / FOLDER).is_dir() else []
                if halves:
                    process.kill()
                time.sleep(0.001)
            assert process.stdout is not None
            process.stdout.read()
        hits += bool(list((out / FOLDER).glob("*.part"))) if (out / FOLDER).is_dir() else 0
        if hits >= 2 or process.returncode == 0 or attempt == 11:
            break
    assert hits, "no kill fell into a write"
    _finish(recipe, out)
    assert _digests(out) == whole
    assert not (out / FOLDER).exists()
    assert not list(out.glob(".*"))


# dies in the moment before the named file of the checkpoint would take its place
DYING = """
import os, pathlib, signal
replace = pathlib.Path.replace
def dying(self, target):
    if pathlib.Path(target).name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = dying
"""


@pytest.mark.parametrize("name", [files.WEIGHTS, files.SCORES, files.META])
def test_killed_while_the_checkpoint_is_being_written(
    recipe: Path, whole: tuple[str, str], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    program = PROGRAM.replace("class Spoken", DYING + "\nclass Spoken")
    arguments = [sys.executable, "-c", program, str(recipe), str(out), name]
    died = subprocess.run(arguments, stdout=subprocess.DEVNULL, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (out / name).exists()
    assert list(out.glob(f".{name}.*.part"))
    with pytest.raises(DataError, match=r"is no checkpoint"):
        files.read_meta(out)
    _finish(recipe, out)
    assert _digests(out) == whole
    assert files.sha256_of(out / files.WEIGHTS) == whole[0]
    assert not list(out.glob(".*"))


def test_a_state_of_another_recipe_is_not_continued(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _kill_when(recipe, out, _mid_batch)
    other = recipe.parent / "other.toml"
    other.write_text(recipe.read_text().replace("steps = 20", "steps = 2"))
    _finish(other, out)
    assert files.read_meta(out).training["resumed"] == 0
