"""Secure aggregation in whole runs: the mean is FedAvg's, no single update reaches the coordinator, sites may die."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: runs with secure aggregation are not proved")

from edge_sft.errors import NetworkError
from edge_sft.federated import chain, secure
from edge_sft.federated.client import Place, answer
from edge_sft.federated.codec import decode
from edge_sft.federated.messages import ROUND, SECURE, Opened, opened
from edge_sft.federated.report import of_run
from edge_sft.federated.report_verify import verify

from . import plants

FIVE = ("plant-a", "plant-b", "plant-c", "plant-d", "plant-e")
FOUR, LAST = FIVE[:4], 15
STEP = 2 / 2**22  # what a weight is rounded to with range = 1, up or down by chance
TABLE = '[federated.privacy]\nkind = "secagg"\n'

Weights = dict[str, np.ndarray]


def recipe(rounds: int = 1, **more: Any) -> str:
    return plants.recipe(rounds=rounds, quorum=3, compression="none", **more)


def secret(root: Path, rounds: int = 1, names: tuple[str, ...] = plants.NAMES, **more: Any) -> plants.Plants:
    return plants.Plants(root, recipe(rounds, **more) + TABLE, names=names)


def plain(root: Path, rounds: int = 1, names: tuple[str, ...] = plants.NAMES) -> Weights:
    return plants.Plants(root, recipe(rounds), names=names).run().weights


def near(found: Weights, wanted: Weights, rounds: int = 1) -> None:
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=rounds * (STEP + 2e-7))


def before(node: int, stage: str, act: Callable[[Any], None], grid_of: plants.Plants, *, often: bool = False) -> Any:
    """A grid on which something happens, once or each time, before a node is asked for a step."""
    grid = grid_of.grid()
    deliver, done = grid._deliver, []

    def delivering(message: Any) -> str:
        if not done and message.metadata.dst_node_id == node and secure.stage_of(message.content) == stage:
            done.extend([] if often else [stage])
            act(grid)
        return str(deliver(message))

    grid._deliver = delivering
    return grid


def test_the_mean_is_that_of_fedavg(tmp_path: Path) -> None:
    run = secret(tmp_path / "secret")
    state = run.run()
    near(state.weights, plain(tmp_path / "plain"))
    (line,) = run.rounds()
    assert {row["status"] for row in line["sites"].values()} == {"ok"}
    assert all("length" not in row and row["metrics"]["cut"] == 0 for row in line["sites"].values())
    assert any("experimental" in said and "still sent as they are" in said for said in run.said)
    assert "val/rmse" in line["evaluation"]
    assert {one["site"] for one in run.store().lines("final")} == set(plants.NAMES)


def test_several_rounds_with_weights_that_stay(tmp_path: Path) -> None:
    run = secret(tmp_path, rounds=3, share="no-norm", strategy="fedprox")
    run.run()
    errors = [line["evaluation"]["val/rmse"] for line in run.rounds()]
    assert errors[-1] < errors[0]
    assert len(list((tmp_path / "sites/plant-a/runs/first").glob("private-*"))) >= 2
    assert not list((tmp_path / "sites/plant-a/runs/first").glob("residual-*"))


def test_the_coordinator_never_holds_one_update(tmp_path: Path) -> None:
    truth: dict[int, np.ndarray] = {}

    def learns(asked: Any, reply: Any) -> list[Any]:
        content = opened(reply.content)
        if asked.metadata.message_type == ROUND and content.encoded is not None:
            arrays = decode(content.encoded)
            truth[asked.metadata.dst_node_id] = np.concatenate([arrays[name].ravel() for name in sorted(arrays)])
        return [reply]

    spied = plants.Plants(tmp_path / "plain", recipe())
    spied.run(spied.grid(interfere=learns))
    came: list[Any] = []
    run = secret(tmp_path / "secret")
    run.run(run.grid(interfere=lambda asked, reply: [came.append(deepcopy(reply)) or reply]))
    masked = [reply for reply in came if secure.masked_row(reply.content) is not None]
    assert len(masked) == 3
    for reply in masked:
        row = secure.masked_row(reply.content)[1:].astype(float)
        own = truth[reply.metadata.src_node_id]
        assert row.shape == own.shape
        assert abs(np.corrcoef(row, own)[0, 1]) < 0.3  # of 172 numbers
        assert row.std() == pytest.approx(2**32 / np.sqrt(12), rel=0.15)  # uniform over the modulus
        assert [key for record in reply.content.array_records.values() for key in record] == ["masked"]
    kinds = {reply.metadata.message_type for reply in came}
    assert ROUND not in kinds
    for reply in came:
        own = truth[reply.metadata.src_node_id]
        assert own.astype("<f4").tobytes()[:32] not in everything(reply)
        assert own.astype(np.float64).tobytes()[:32] not in everything(reply)


def everything(message: Any) -> bytes:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return b"".join(one.deflate() for one in get_all_nested_objects(message).values())


@pytest.mark.parametrize("stage", secure.STEPS)
def test_a_site_that_drops_between_steps_is_borne(stage: str, tmp_path: Path) -> None:
    run = secret(tmp_path / "secret", names=FIVE)
    grid = before(11, stage, lambda grid: grid.disconnect(LAST), run)
    state = run.run(grid)
    opening = stage == secure.OPENING
    near(state.weights, plain(tmp_path / "plain", names=FIVE if opening else FOUR))
    (line,) = run.rounds()
    assert {line["sites"][name]["status"] for name in FOUR} == {"ok"}
    row = line["sites"]["plant-e"]
    assert row["status"] == ("ok" if opening else "error")
    said = row["remarks"][0] if opening else row["why"]
    assert f"step {secure.STEPS.index(stage) + 1} of 4" in said


def test_of_three_sites_one_that_drops_is_waited_for_in_the_round_again(tmp_path: Path) -> None:
    run = secret(tmp_path / "secret")
    grid = before(11, secure.MASKED, lambda grid: grid.disconnect(13), run)
    said = run.said.append

    def comes_back(words: str) -> None:
        said(words)
        if "it is repeated" in words:
            grid.connect(13)

    run.said = Heard(comes_back)
    state = run.run(grid)
    near(state.weights, plain(tmp_path / "plain"))
    (again,) = run.store().lines("repeat")
    assert again["sites"]["plant-a"]["status"] == "unused"
    assert "the sum was not opened" in again["sites"]["plant-a"]["why"]
    assert again["sites"]["plant-c"]["status"] == "error"
    assert run.rounds()[0]["attempt"] == 2


class Heard(list[str]):
    """A list that hands on what is put into it."""

    def __init__(self, on: Callable[[str], None]) -> None:
        super().__init__()
        self._on = on

    def append(self, words: str) -> None:
        self._on(words)


def test_two_sites_are_too_few_and_the_run_stops_in_words(tmp_path: Path) -> None:
    run = secret(tmp_path / "secret")
    grid = before(11, secure.MASKED, lambda grid: grid.disconnect(13), run)
    with pytest.raises(NetworkError, match=r"round 1: \d of 3 needed sites .*plant-c"):
        run.run(grid)
    assert len(run.store().lines("repeat")) == 3
    near(run.run().weights, plain(tmp_path / "plain"))


@pytest.mark.parametrize("stage", secure.STEPS)
def test_a_killed_round_is_begun_anew(stage: str, tmp_path: Path) -> None:
    class Gone(Exception):
        pass

    def die(grid: Any) -> None:
        if len(run.rounds()) == 1:
            raise Gone

    run = secret(tmp_path / "secret", rounds=2)
    grid = before(12, stage, die, run, often=True)
    with pytest.raises(Gone):
        run.run(grid)
    assert len(run.rounds()) == 1
    del grid._deliver  # the sites stay as they were: in the middle of a round
    state = run.run(grid)
    near(state.weights, plain(tmp_path / "plain", rounds=2), rounds=8)  # what is rounded by chance is learnt from
    assert [line["round"] for line in run.rounds()] == [1, 2]


def test_a_sum_is_opened_over_the_same_sites_or_not_at_all(tmp_path: Path) -> None:
    """The coordinator was killed when it had the sum, and one of four sites is gone: the difference would be its."""
    run = secret(tmp_path, names=FOUR)
    first = run.run().weights
    for name in ("state.safetensors", "rounds.jsonl"):
        (tmp_path / "runs/first" / name).unlink()
    grid = run.grid()
    grid.disconnect(14)
    with pytest.raises(NetworkError, match="was opened before over other sites"):
        run.run(grid)
    near(run.run().weights, first)


def test_a_plain_question_in_a_secret_run_is_refused_by_the_site(tmp_path: Path) -> None:
    run = secret(tmp_path / "secret")
    state = run.run()
    place = Place(run.root / "sites/plant-a", "plant-a", run.root / "sites/plant-a/data")
    from edge_sft.federated.settings import recipe_digest

    config = {"run": "first", "recipe_sha256": recipe_digest(run.recipe), "round": 1, "base": state.previous}
    said = opened(answer(ROUND, Opened(config, {}, None), place, plants.make))
    assert said.text("status") == "refused"
    assert "its recipe asks for secure aggregation" in said.text("why")
    assert said.encoded is None


def test_a_secret_question_in_a_plain_run_is_refused_by_the_site(tmp_path: Path) -> None:
    from flwr.app import Message

    from edge_sft.federated.messages import packed
    from edge_sft.federated.settings import recipe_digest

    run = plants.Plants(tmp_path, recipe())
    run.run()
    asked = packed({"run": "first", "recipe_sha256": recipe_digest(run.recipe), "round": 1})
    (reply,) = run.grid().send_and_receive([Message(asked, 11, SECURE)])
    assert "its recipe does not ask for it" in opened(reply.content).text("why")


def test_a_masked_update_of_another_size_is_left_out(tmp_path: Path) -> None:
    run = secret(tmp_path / "secret", names=FIVE)

    def shortens(asked: Any, reply: Any) -> list[Any]:
        from flwr.app import Array, ArrayRecord

        row = secure.masked_row(reply.content)
        if row is not None and asked.metadata.dst_node_id == LAST:
            reply.content["masked"] = ArrayRecord({"masked": Array(row[:-1])})
        return [reply]

    state = run.run(run.grid(interfere=shortens))
    assert "another size than the model" in run.rounds()[0]["sites"]["plant-e"]["why"]
    near(state.weights, plain(tmp_path / "plain", names=FOUR))


def test_numbers_beyond_the_range_are_cut_and_that_is_said(tmp_path: Path) -> None:
    run = plants.Plants(tmp_path, recipe() + TABLE + "range = 0.001\n")
    run.run()
    assert any("larger than privacy.range" in row["remarks"][0] for row in run.rounds()[0]["sites"].values())


def test_the_ledgers_name_every_step_and_the_record_witnesses_them(tmp_path: Path) -> None:
    run = secret(tmp_path, rounds=2)
    run.run()
    line = run.rounds()[-1]
    for name in plants.NAMES:
        ledger = chain.check(tmp_path / "sites" / name / "ledger.jsonl")
        assert ledger.holds
        steps = [one for one in ledger.records if one["kind"].startswith(f"{SECURE}.") and one["kind"] != "train.final"]
        assert [one["kind"] for one in steps] == [f"{SECURE}.{stage}" for stage in secure.STEPS] * 2
        masked = steps[2]
        assert (masked["tensors"], len(masked["sha256"])) == (4, 64)
        assert 4 * 172 < masked["bytes"] < 4 * 172 + 2500, "four bytes a weight, and words"
        assert "chain" in masked["words"]
        assert "before/val/rmse" in masked["metrics"]
        sent = sum(one["bytes"] for one in ledger.records)
        final = next(one["bytes_up"] for one in run.store().lines("final") if one["site"] == name)
        assert sent == final + sum(one["sites"][name]["bytes_up"] for one in run.rounds())
        assert line["sites"][name]["chain"] in {one["prev"] for one in ledger.records}
    verdicts = verify(tmp_path / "runs/first", tuple(sorted((tmp_path / "sites").glob("*/ledger.jsonl"))))
    assert all(one.holds for one in verdicts), verdicts
    assert "Secure aggregation (SecAgg+, experimental)" in of_run(tmp_path / "runs/first")


def test_a_site_that_comes_later_is_in_the_next_sum(tmp_path: Path) -> None:
    run = secret(tmp_path, rounds=2, names=FOUR)
    grid = before(11, secure.OPENING, lambda grid: grid.connect(14), run)
    grid.disconnect(14)
    run.run(grid)
    first, second = run.rounds()
    assert "plant-d" not in first["sites"]
    assert second["sites"]["plant-d"]["status"] == "ok"
