"""A run from the coordinator's side: begun once, followed, submitted again when Flower lost it, its reasons told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edge_sft.errors import DeviceError, NetworkError, UserError
from edge_sft.federated import running
from edge_sft.federated.sites import Site, Sites
from edge_sft.federated.status import _run
from edge_sft.federated.superlink import RunState

RECIPE = """schema_version = 1
name = "tiny"
[task]
kind = "classification"
labels = ["good", "bad"]
ok = ["good"]
[data]
path = "pictures"
"""


class Bars:
    def __init__(self) -> None:
        self.total, self.at = 0, 0

    def start(self, title: str, total: int) -> None:
        self.total, self.at = total, 0

    def advance(self, units: int = 1, note: str = "") -> None:
        self.at += units


class Flower:
    """A run that does what it is told, one act a question."""

    def __init__(self, folder: Path, *acts: Callable[[Flower], str]) -> None:
        self.folder, self.acts, self.started = folder, list(acts), []
        self.configs: list[Mapping[str, str]] = []

    def start(self, app: Path, config: Mapping[str, str]) -> int:
        self.configs.append(config)
        self.started.append(100 + len(self.started))
        return self.started[-1]

    def run_state(self, run_id: int) -> RunState:
        assert run_id == (self.started or [7])[-1]
        status, _, details = self.acts.pop(0)(self).partition("|")
        return RunState(run_id, status, details)


def round_(number: int, kind: str = "round", **sites: str) -> Callable[[Flower], str]:
    def act(flower: Flower) -> str:
        rows = {name: {"status": status, "bytes_up": 500_000} for name, status in sites.items()}
        with (flower.folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps({"kind": kind, "round": number, "sites": rows}) + "\n")
        return "running"

    return act


def result(flower: Flower) -> str:
    (flower.folder / "result").mkdir()
    (flower.folder / "result" / "federated.json").write_text("{}")
    return "finished:completed"


def lost(flower: Flower) -> str:
    return "finished:failed|No heartbeat"


def away(flower: Flower) -> str:
    raise NetworkError("the SuperLink", "does not answer")


def begun(tmp_path: Path, text: str = RECIPE, rounds: int | None = 3) -> Path:
    (tmp_path / "recipe.toml").write_text(text)
    return running.prepare(tmp_path / "runs", "a1", tmp_path / "recipe.toml", rounds)


def follow(flower: Flower) -> tuple[list[str], Bars]:
    said: list[str] = []
    bars = Bars()
    running.follow(flower, flower.folder, Path("app"), progress=bars, say=said.append, sleep=lambda seconds: None)
    return said, bars


def test_every_round_is_told_once_and_the_bar_is_full(tmp_path):
    folder = begun(tmp_path)
    flower = Flower(folder, round_(1, a="ok", b="ok"), round_(2, a="ok", b="late"), round_(3, a="ok"), result)
    said, bars = follow(flower)

    assert said == [
        "round 1: 2 of 2 sites: a, b; 1.0 MB up",
        "round 2: 1 of 2 sites: a; b late; 1.0 MB up",
        "round 3: 1 of 1 sites: a; 0.5 MB up",
    ]
    assert (bars.at, bars.total) == (3, 3)
    assert flower.configs == [{"run-dir": str(tmp_path / "runs"), "run-name": "a1"}]
    told = _run(folder)
    assert (told.state, told.rounds, told.of) == ("finished", 3, 3)


def test_a_repeated_round_counts_once_and_says_so(tmp_path):
    flower = Flower(begun(tmp_path), round_(1, "repeat", a="ok", b="silent"), round_(1, a="ok", b="ok"), result)
    said, bars = follow(flower)

    assert said[0].startswith("round 1, to be repeated: 1 of 2 sites")
    assert bars.at == 1


def test_a_run_that_flower_lost_is_submitted_again_and_goes_on(tmp_path):
    flower = Flower(begun(tmp_path), round_(1, a="ok"), lost, round_(2, a="ok"), lost, round_(3, a="ok"), result)
    said, bars = follow(flower)

    assert flower.started == [100, 101, 102]
    assert "Flower lost the run (No heartbeat); it goes on after round 1" in said
    assert bars.at == 3


def test_three_times_without_a_round_is_enough(tmp_path):
    flower = Flower(begun(tmp_path), lost, lost, lost)

    with pytest.raises(DeviceError, match="ended 3 times without a whole round"):
        follow(flower)
    assert flower.started == [100, 101, 102]
    assert running.remembered(flower.folder) == 0  # the next call submits anew


def test_why_the_app_stopped_is_told_and_not_tried_again(tmp_path):
    def stopped(flower: Flower) -> str:
        (flower.folder / "stopped.txt").write_text("round 2: 1 of 2 sites answered three times\n")
        return "finished:failed|error"

    flower = Flower(begun(tmp_path), round_(1, a="ok"), stopped)
    with pytest.raises(UserError, match=r"1 of 2 sites answered three times. Go on with: .*--name a1"):
        follow(flower)
    assert len(flower.started) == 1
    told = _run(flower.folder)
    assert (told.state, told.last) == ("stopped", "round 2: 1 of 2 sites answered three times")

    flower.acts = [round_(2, a="ok", b="ok"), result]
    follow(flower)
    assert not (flower.folder / "stopped.txt").exists()


def test_what_a_person_stopped_is_not_submitted_again(tmp_path):
    flower = Flower(begun(tmp_path), round_(1, a="ok"), lambda flower: "finished:stopped")
    with pytest.raises(UserError, match="was stopped"):
        follow(flower)


def test_a_run_that_still_runs_is_only_watched(tmp_path):
    folder = begun(tmp_path)
    (folder / "flower.json").write_text('{"run_id": "7"}')
    flower = Flower(folder, round_(1, a="ok"), result)
    follow(flower)

    assert flower.started == []


def test_while_the_superlink_is_away_it_waits_and_says_so_once(tmp_path):
    said, _ = follow(Flower(begun(tmp_path), away, away, away, round_(1, a="ok"), result))
    assert said[0] == "waiting: the SuperLink does not answer"
    assert len(said) == 2

    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(NetworkError):
        follow(Flower(begun(other), *[away] * 100))


def test_a_superlink_with_a_new_database_knows_nothing_of_it(tmp_path):
    def unknown(flower: Flower) -> str:
        raise UserError("Flower (list here)", "refused: [code: 16] Run ID not found.")

    flower = Flower(begun(tmp_path), round_(1, a="ok"), unknown, round_(2, a="ok"), result)
    follow(flower)
    assert flower.started == [100, 101]


def test_too_few_sites_are_said_before_anything_starts(tmp_path):
    one = Site(name="a", fingerprint="x", node_id="1", state="approved", since="")
    folder = begun(tmp_path)

    with pytest.raises(UserError, match=r"needs 2 sites and 1 are approved \(a\)"):
        running.check_sites(folder, Sites(site=(one, one.model_copy(update={"name": "b", "state": "revoked"}))))
    running.check_sites(folder, Sites(site=(one, one.model_copy(update={"name": "b"}))))


@pytest.mark.parametrize(
    "text",
    [
        RECIPE,
        RECIPE + "[federated]\n",
        RECIPE + "[federated]\nquorum = 1\n",
        RECIPE + "[federated]\nrounds = 9\nseed = 1\n",
    ],
)
def test_rounds_may_be_given_on_the_command_line(tmp_path, text):
    assert running.rounds_of(begun(tmp_path, text, 5)) == 5


def test_the_recipe_stands_when_nothing_is_given(tmp_path):
    folder = begun(tmp_path, RECIPE + "[federated]\nrounds = 4\n", None)
    assert running.rounds_of(folder) == 4
    assert (folder / "recipe.toml").read_text() == (tmp_path / "recipe.toml").read_text()


def test_a_name_belongs_to_one_recipe(tmp_path):
    begun(tmp_path)
    with pytest.raises(UserError, match="another recipe"):
        begun(tmp_path, RECIPE.replace("bad", "cracked"))
    assert running.prepare(tmp_path / "runs", "a1", None, None) == tmp_path / "runs" / "a1"


def test_what_cannot_be_begun_is_said(tmp_path):
    with pytest.raises(UserError, match="not known"):
        running.prepare(tmp_path / "runs", "a2", None, None)
    with pytest.raises(UserError, match=r"unknown key 'federated\.round'"):
        begun(tmp_path, RECIPE + "[federated]\nround = 4\n", None)
    with pytest.raises(UserError, match="--rounds 0"):
        begun(tmp_path, RECIPE, 0)
    assert not (tmp_path / "runs" / "a1").exists()
