"""kill -9 of the coordinator in the middle of a round: the run that goes on ends with the undisturbed one's bits."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="no Flower: going on after a kill is not proved")

from edge_sft.federated import chain
from edge_sft.federated.messages import ROUND, opened

from . import plants

FILES = ("result/global.safetensors",)

# a process that runs three plants and kills itself: before, within or after a site's answer of round 2, or as the
# state of round 2 has been replaced and its line not yet written
SCRIPT = """
import os, signal, sys, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("plants", sys.argv[1])
plants = importlib.util.module_from_spec(spec)
sys.modules["plants"] = plants
spec.loader.exec_module(plants)
from edge_sft.federated import chain
from edge_sft.federated.messages import opened
from edge_sft.federated.site_store import SiteStore

root, recipe, when = Path(sys.argv[2]), sys.argv[3], sys.argv[4]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def interfere(asked, reply):
    number, kind = opened(asked.content).number("round"), asked.metadata.message_type
    if when == "answer" and (number, kind, asked.metadata.dst_node_id) == (2, "train.round", 12):
        die()
    if when == "final" and (kind, asked.metadata.dst_node_id) == ("train.final", 12):
        die()
    return [reply]

save = SiteStore.save
def saving(self, kind, number, arrays):
    save(self, kind, number, arrays)
    if when == "site" and (kind, number, self.site.name) == ("residual", 2, "plant-b"):
        die()
SiteStore.save = saving

append = chain.append
def appending(path, record):
    if when == "state" and record.get("kind") == "round" and record["round"] == 2:
        die()
    return append(path, record)
chain.append = appending

all_plants = plants.Plants(root, recipe)
all_plants.run(all_plants.grid(interfere=interfere))
"""


def killed(root: Path, recipe: str, when: str) -> None:
    own = Path(__file__).parent / "plants.py"
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, own, root, recipe, when],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def digests(root: Path) -> dict[str, str]:
    """The result, and what the sites keep and made of it."""
    found = [root / "runs/first" / name for name in FILES]
    found += sorted(root.glob("sites/*/runs/first/*.safetensors")) + sorted(
        root.glob("sites/*/runs/first/checkpoint/*")
    )
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def recipe(**options: Any) -> str:
    return plants.recipe(rounds=3, share="no-norm", compression="int8", **options)


@pytest.mark.parametrize("when", ["answer", "site", "state", "final"])
def test_a_killed_run_goes_on_to_the_same_bits(when: str, tmp_path: Path) -> None:
    """Private parts, residuals at the sites and what the broadcast owes are all in play."""
    undisturbed = plants.Plants(tmp_path / "undisturbed", recipe())
    undisturbed.run()
    whole = digests(undisturbed.root)
    assert sum("private-" in name for name in whole) >= 3
    assert sum("residual-" in name for name in whole) >= 3

    killed(tmp_path / "killed", recipe(), when)
    again = plants.Plants(tmp_path / "killed", recipe())
    if when != "final":
        assert not (again.root / "runs/first/result").exists()
    again.run()
    assert any("goes on after round" in said for said in again.said)
    assert digests(again.root) == whole
    record = chain.check(again.root / "runs/first/rounds.jsonl")
    assert record.holds
    assert [line["round"] for line in record.records if line["kind"] == "round"] == [1, 2, 3]
    assert len([line for line in record.records if line["kind"] == "final"]) == 3


@pytest.mark.parametrize("strategy", ["fedadam", "fedmedian"])
def test_a_strategys_memory_survives(strategy: str, tmp_path: Path) -> None:
    text = recipe(strategy=strategy)
    undisturbed = plants.Plants(tmp_path / "undisturbed", text)
    wanted = undisturbed.run()

    class Gone(Exception):
        pass

    def leaves(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.message_type == ROUND and opened(asked.content).number("round") == 3:
            raise Gone
        return [reply]

    cut = plants.Plants(tmp_path / "cut", text)
    with pytest.raises(Gone):
        cut.run(cut.grid(interfere=leaves))
    assert cut.run().base == wanted.base


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path) -> None:
    once = plants.Plants(tmp_path, recipe())
    once.run()
    before = digests(tmp_path)
    once.run()
    assert digests(tmp_path) == before
    assert len(once.rounds()) == 3


def test_a_damaged_state_is_refused_in_words(tmp_path: Path) -> None:
    from edge_sft.errors import DataError

    once = plants.Plants(tmp_path, recipe())
    once.run()
    (tmp_path / "runs/first/state.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="cannot be read"):
        once.run()


def test_a_changed_record_is_refused_in_words(tmp_path: Path) -> None:
    from edge_sft.errors import DataError

    once = plants.Plants(tmp_path, recipe())
    once.run()
    path = tmp_path / "runs/first/rounds.jsonl"
    path.write_text(path.read_text().replace('"plant-a"', '"plant-x"', 1))
    with pytest.raises(DataError, match="was changed"):
        once.run()
