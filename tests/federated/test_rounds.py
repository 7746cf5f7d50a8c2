"""The coordinator's rounds against sites that are late, dead, twice, stale, poisoned, of another version."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: rounds over its Grid are not proved")

from edge_sft.errors import NetworkError, UserError
from edge_sft.federated import chain
from edge_sft.federated.codec import decode, encode
from edge_sft.federated.exchange import WallClock
from edge_sft.federated.messages import FINAL, HELLO, ROUND, opened, packed
from edge_sft.federated.phase import Waiting
from edge_sft.federated.run_store import RunStore
from edge_sft.federated.settings import ROUNDS, section_of
from edge_sft.federated_section import FederatedSection

from . import plants

Change = Callable[[dict[str, Any], dict[str, float], dict[str, Any]], None]
BAD = 13  # plant-c


def spoilt(asked: Any, reply: Any, change: Change) -> Any:
    """Return plant-c's answer as ``change`` leaves its config, metrics and arrays."""
    from flwr.app import Message

    content = opened(reply.content)
    if content.encoded is None:
        return reply
    arrays = decode(content.encoded)
    config = {name: value for name, value in content.config.items() if name not in {"encoding", "layout"}}
    change(config, content.metrics, arrays)
    return Message(packed(config, content.metrics, encode(arrays, "none")), reply_to=asked)


def in_rounds(change: Change) -> Callable[[Any, Any], list[Any]]:
    def interfere(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.dst_node_id != BAD or asked.metadata.message_type != ROUND:
            return [reply]
        return [spoilt(asked, reply, change)]

    return interfere


def nan(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    arrays["head.weight"][0, 0] = np.nan


def hundredfold(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    arrays.update({name: array * 100 for name, array in arrays.items()})


def wrong_shape(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    arrays["body.weight"] = arrays["body.weight"].T


def missing(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    del arrays["body.bias"]


def unknown(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    arrays["backdoor"] = np.ones(3, np.float32)


def stale(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    config["round"] -= 1


def other_base(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    config["base"] = "0" * 64


def many_samples(config: dict[str, Any], metrics: dict[str, float], arrays: dict[str, Any]) -> None:
    metrics["num-examples"] = 1e6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nan, "NaN or infinite numbers in head.weight"),
        (hundredfold, "times the median"),
        (wrong_shape, "another shape: body.weight"),
        (missing, "missing: body.bias"),
        (unknown, "has not: backdoor"),
        (stale, "stale: it is of round"),
        (other_base, "stale: it starts from other weights"),
        (many_samples, "claims 1e+06 training samples"),
    ],
)
def test_a_bad_update_is_named_and_changes_nothing(change: Change, words: str, tmp_path: Path) -> None:
    bad = plants.Plants(tmp_path / "bad", plants.recipe(rounds=2))
    state = bad.run(bad.grid(interfere=in_rounds(change)))
    for line in bad.rounds():
        assert line["sites"]["plant-c"]["status"] == "bad"
        assert words in line["sites"]["plant-c"]["why"]
        assert {line["sites"][name]["status"] for name in ("plant-a", "plant-b")} == {"ok"}
    assert any(words in said for said in bad.said)
    without = plants.Plants(tmp_path / "without", plants.recipe(rounds=2), names=("plant-a", "plant-b"))
    assert without.run().base == state.base


def of_two(tmp_path: Path, change: Change, rounds: set[int], **options: Any) -> tuple[plants.Plants, Any]:
    """Run plant-b and plant-c for three rounds; plant-c is spoilt in some of them."""
    pair = plants.Plants(tmp_path, plants.recipe(rounds=3, **options), names=("plant-b", "plant-c"))

    def interfere(asked: Any, reply: Any) -> list[Any]:
        number, kind = opened(asked.content).number("round"), asked.metadata.message_type
        bad = kind == ROUND and number in rounds and asked.metadata.dst_node_id == 12
        return [spoilt(asked, reply, change) if bad else reply]

    return pair, pair.grid(interfere=interfere)


def test_of_two_sites_one_that_differs_does_not_stop_the_run(tmp_path: Path) -> None:
    pair, grid = of_two(tmp_path, hundredfold, {1, 2, 3})
    state = pair.run(grid)
    for line in pair.rounds():
        assert {row["status"] for row in line["sites"].values()} == {"ok"}
        assert "counts as 5 times" in line["sites"]["plant-c"]["remarks"][0]
    began = plants.start()
    lengths = [line["sites"]["plant-b"]["length"] for line in pair.rounds()]
    moved = np.sqrt(sum(float(np.sum((state.weights[name] - began[name]) ** 2)) for name in began))
    assert moved < 3 * sum(lengths) * 1.01, "the mean of one and five is three"


def test_of_two_sites_a_hundredfold_update_is_told_by_its_own_past(tmp_path: Path) -> None:
    pair, grid = of_two(tmp_path / "bad", hundredfold, {2}, quorum=1)
    pair.run(grid)
    first, second, third = (line["sites"]["plant-c"] for line in pair.rounds())
    assert (first["status"], second["status"], third["status"]) == ("ok", "bad", "ok")
    assert "times the longest that it sent in earlier rounds" in second["why"]
    stops, grid = of_two(tmp_path / "stops", hundredfold, {2})
    with pytest.raises(NetworkError, match=r"round 2: 1 of 2 needed .* times the longest that it sent"):
        stops.run(grid)
    nans, grid = of_two(tmp_path / "nan", nan, {1})
    with pytest.raises(NetworkError, match=r"round 1: 1 of 2 needed .* NaN or infinite"):
        nans.run(grid)


def test_an_answer_that_comes_twice_counts_once(tmp_path: Path) -> None:
    double = plants.Plants(tmp_path / "double", plants.recipe(rounds=2))
    state = double.run(double.grid(interfere=lambda asked, reply: [reply, deepcopy(reply)]))
    assert "answered twice to train.round" in double.rounds()[0]["sites"]["plant-a"]["remarks"][0]
    single = plants.Plants(tmp_path / "single", plants.recipe(rounds=2))
    assert single.run().base == state.base


def test_a_dead_site_is_named_and_the_round_completes(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path, plants.recipe(rounds=3))
    grid: Any = None

    def dies(asked: Any, reply: Any) -> list[Any]:
        from flwr.app import Error, Message

        if asked.metadata.dst_node_id == BAD and opened(asked.content).number("round") == 2:
            grid.disconnect(BAD)
            return [Message(Error(5, "the node is gone"), reply_to=asked)]
        return [reply]

    grid = many.grid(interfere=dies)
    clock = plants.QuickClock()
    many.run(grid, clock)
    assert clock.now() < 20, "a dead site is not waited for where the others are enough, nor at the end"
    first, second, third = (line["sites"]["plant-c"] for line in many.rounds())
    assert (first["status"], second["status"], third["status"]) == ("ok", "error", "offline")
    assert second["why"] == "the node is gone"
    facts = many.store().lines("final")
    assert {line["site"] for line in facts} == {"plant-a", "plant-b"}
    assert any("plant-c has no model of its own yet" in said for said in many.said)


def test_a_site_comes_back_and_gets_the_whole_model(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path, plants.recipe(rounds=4))
    grid: Any = None
    got: dict[int, bool] = {}

    def away_for_two_rounds(asked: Any, reply: Any) -> list[Any]:
        content = opened(asked.content)
        number = content.number("round")
        if asked.metadata.message_type == ROUND:
            if asked.metadata.dst_node_id == 11 and number in {1, 3}:
                (grid.disconnect if number == 1 else grid.connect)(BAD)
            if asked.metadata.dst_node_id == BAD:
                got[number] = bool(content.config["full"])
        return [reply]

    grid = many.grid(interfere=away_for_two_rounds)
    many.run(grid)
    assert got == {3: True, 4: False}
    assert [line["sites"]["plant-c"]["status"] for line in many.rounds()] == ["error", "offline", "ok", "ok"]


def test_a_site_that_lost_its_weights_asks_for_the_whole_model(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path / "many", plants.recipe(rounds=3, share="no-norm"))

    def forgets(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.dst_node_id == BAD and opened(asked.content).number("round") == 1:
            for path in (many.root / "sites/plant-c/runs/first").glob("global-*.safetensors"):
                path.unlink()
        return [reply]

    state = many.run(many.grid(interfere=forgets))
    assert all(line["sites"]["plant-c"]["status"] == "ok" for line in many.rounds())
    quiet = plants.Plants(tmp_path / "quiet", plants.recipe(rounds=3, share="no-norm"))
    assert quiet.run().base == state.base


def test_a_site_whose_folder_was_lost_is_greeted_anew(tmp_path: Path) -> None:
    import shutil

    many = plants.Plants(tmp_path, plants.recipe(rounds=3))

    def burns(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.dst_node_id == BAD and opened(asked.content).number("round") == 1:
            shutil.rmtree(many.root / "sites/plant-c/runs")
        return [reply]

    many.run(many.grid(interfere=burns))
    assert [line["sites"]["plant-c"]["status"] for line in many.rounds()] == ["ok", "ok", "ok"]


def test_a_late_site_is_named_skipped_and_takes_part_again(tmp_path: Path) -> None:
    """In threads and real time: plant-c answers round 1 when the others are in round 2."""
    many = plants.Plants(tmp_path, plants.recipe(rounds=3, deadline_s=1.5))
    free, second = threading.Event(), threading.Event()

    def slow(asked: Any, reply: Any) -> list[Any]:
        number, node = opened(asked.content).number("round"), asked.metadata.dst_node_id
        if asked.metadata.message_type == ROUND:
            if node == BAD and number == 1:
                second.wait(30)
                free.set()
            elif number == 2 and node != BAD:
                second.set()
                free.wait(30)
                threading.Event().wait(0.3)
        return [reply]

    many.run(many.grid(threads=True, interfere=slow), clock=WallClock(), waiting=Waiting(poll_s=0.02, join_s=0.1))
    first, then, last = (line["sites"]["plant-c"] for line in many.rounds())
    assert first["status"] == "late"
    assert "no answer to this round within" in first["why"]
    assert any("late: its answer to round 1 came after" in remark for remark in then["remarks"])
    assert last["status"] == "ok"


def test_without_a_quorum_the_run_stops_in_words_and_goes_on_when_started_again(tmp_path: Path) -> None:
    few = plants.Plants(tmp_path / "few", plants.recipe(rounds=2, quorum=3))
    with pytest.raises(
        NetworkError, match=r"round 1: 2 of 3 needed sites \(plant-a, plant-b\); plant-c: its update has"
    ):
        few.run(few.grid(interfere=in_rounds(nan)))
    assert len(few.store().lines("repeat")) == 3
    assert "plant-c" in (few.root / "runs/first/stopped.txt").read_text()
    state = few.run()
    assert not (few.root / "runs/first/stopped.txt").exists()
    quiet = plants.Plants(tmp_path / "quiet", plants.recipe(rounds=2, quorum=3))
    assert quiet.run().base == state.base


def test_too_few_sites_at_the_start(tmp_path: Path) -> None:
    lonely = plants.Plants(tmp_path, plants.recipe(), names=("plant-a",))
    with pytest.raises(NetworkError, match=r"greeting: 1 of 2 needed sites \(plant-a\)"):
        lonely.run()


def test_a_site_with_another_version_is_turned_away(tmp_path: Path) -> None:
    mixed = plants.Plants(tmp_path, plants.recipe(rounds=1))

    def old(asked: Any, reply: Any) -> list[Any]:
        from flwr.app import Message

        if asked.metadata.dst_node_id != BAD or asked.metadata.message_type != HELLO:
            return [reply]
        content = opened(reply.content)
        return [Message(packed({**content.config, "edge_sft": "0.0.9"}, content.metrics), reply_to=asked)]

    mixed.run(mixed.grid(interfere=old))
    row = mixed.rounds()[0]["sites"].get("plant-c", {})
    said = [one for one in mixed.said if "install the same version on both" in one]
    assert said
    assert "runs edge-sft 0.0.9" in said[0]
    assert row.get("status", "refused") == "refused"


def test_a_site_refuses_another_version_itself(tmp_path: Path) -> None:
    from edge_sft.federated.client import Place, answer
    from edge_sft.federated.messages import Opened

    plants.write_site(tmp_path / "a", "a", 1)
    place = Place(tmp_path / "a", "a", tmp_path / "a" / "data")
    asked = Opened({"run": "first", "edge_sft": "9.9.9", "protocol": 1, "recipe": plants.recipe()}, {}, None)
    said = opened(answer(HELLO, asked, place, plants.make))
    assert said.text("status") == "refused"
    assert "the coordinator runs edge-sft 9.9.9" in said.text("why")
    asked = Opened({"run": "../../etc"}, {}, None)
    assert "no folder's" in opened(answer(HELLO, asked, place, plants.make)).text("why")
    asked = Opened({"run": "other", "round": 1}, {}, None)
    assert opened(answer(ROUND, asked, place, plants.make)).text("status") == "unknown"


def test_the_site_that_differs_from_most_is_turned_away(tmp_path: Path) -> None:
    def other(recipe: str, data: Path, work: Path, progress: Any) -> plants.Toy:
        return plants.Toy(data, hidden=9 if "plant-a" in str(data) else plants.HIDDEN)

    mixed = plants.Plants(tmp_path, plants.recipe(rounds=1), make=other)
    mixed.run()
    assert any("plant-a is turned away: does not fit the others (hidden: 10, 9" in one for one in mixed.said)
    assert set(mixed.store().lines("final")[0]["metrics"]) >= {"alone/test/rmse", "global/test/rmse"}
    assert {line["site"] for line in mixed.store().lines("final")} == {"plant-b", "plant-c"}


def test_names_are_the_coordinators_where_it_approved_them(tmp_path: Path) -> None:
    posing = plants.Plants(tmp_path, plants.recipe(rounds=1))
    rows = [("plant-a", 11), ("plant-b", 12), ("plant-x", 13)]
    text = "".join(
        f'[[site]]\nname = "{name}"\nfingerprint = "SHA256:{name}"\nnode_id = "{node}"\nstate = "approved"\n'
        f'since = "2026-01-01"\n'
        for name, node in rows
    )
    (tmp_path / "sites.toml").write_text(text)
    posing.run()
    assert any("it calls itself 'plant-c'; its key belongs to 'plant-x'" in one for one in posing.said)
    assert posing.rounds()[0]["sites"]["plant-x"]["status"] == "refused"


def test_the_record_and_the_ledgers_hold_and_name_each_other(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path, plants.recipe(rounds=2))
    state = many.run()
    assert chain.check(many.root / "runs/first/rounds.jsonl").holds
    line = many.rounds()[-1]
    assert line["global"] == state.base
    assert line["app_sha256"] == "f" * 64
    for name in plants.NAMES:
        ledger = chain.check(many.root / "sites" / name / "ledger.jsonl")
        assert ledger.holds
        assert [record["kind"] for record in ledger.records if record["kind"] in {HELLO, ROUND, FINAL}] == [
            HELLO, ROUND, ROUND, FINAL,
        ]  # fmt: skip
        said = {record["prev"] for record in ledger.records} | {ledger.head}
        assert line["sites"][name]["chain"] in said
        sent = sum(record["bytes"] for record in ledger.records)
        facts = RunStore(many.root / "runs", "first").lines("final")
        final = next(one["bytes_up"] for one in facts if one["site"] == name)
        assert sent == final + sum(one["sites"][name]["bytes_up"] for one in many.rounds())


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam", "fedmedian", "trimmed", "krum"])
def test_each_strategy_learns(strategy: str, tmp_path: Path) -> None:
    options = {"trimmed": {"trim": 0.34}}.get(strategy, {})
    many = plants.Plants(tmp_path, plants.recipe(rounds=3, quorum=3, strategy=strategy, **options))
    many.run()
    before = [line["evaluation"]["val/rmse"] for line in many.rounds()]
    assert before[-1] < before[0]


def test_evaluation_every_other_round(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path, plants.recipe(rounds=3, evaluate_every=2))
    many.run()
    assert [bool(line["evaluation"]) for line in many.rounds()] == [True, False, True]


@pytest.mark.parametrize("at", ["site", "coordinator"])
def test_differential_privacy_changes_the_weights(at: str, tmp_path: Path) -> None:
    """How much, and that a resumed run adds the same noise, is proved in test_private_runs."""
    table = f'[federated.privacy]\nkind = "dp"\nclip = 0.5\nnoise = 0.1\nat = "{at}"\n'
    many = plants.Plants(tmp_path / "noisy", plants.recipe(rounds=2, compression="none") + table)
    quiet = plants.Plants(tmp_path / "plain", plants.recipe(rounds=2, compression="none"))
    assert quiet.run().base != many.run().base


def approve(root: Path, *names: str) -> None:
    """Write who is approved: plant-a is node 11, and so on."""
    rows = [(name, 11 + plants.NAMES.index(name)) for name in names]
    text = "".join(
        f'[[site]]\nname = "{name}"\nfingerprint = "SHA256:{name}"\nnode_id = "{node}"\nstate = "approved"\n'
        f'since = "2026-01-01"\n'
        for name, node in rows
    )
    (root / "sites.toml").write_text(text)


def test_a_site_that_is_approved_during_a_run_is_in_at_once(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path / "many", plants.recipe(rounds=3))
    many.root.mkdir()
    approve(many.root, "plant-a", "plant-b")
    grid: Any = None

    def approves(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.message_type == ROUND and opened(asked.content).number("round") == 1:
            approve(many.root, *plants.NAMES)
            grid.connect(BAD)
        return [reply]

    grid = many.grid(interfere=approves)
    grid.disconnect(BAD)
    many.run(grid)
    statuses = [line["sites"].get("plant-c", {}).get("status") for line in many.rounds()]
    assert statuses[1:] == ["ok", "ok"]
    assert statuses[0] in {None, "ok"}
    assert "plant-c takes part" in many.said
    assert {line["site"] for line in many.store().lines("final")} == set(plants.NAMES)


def test_a_site_that_is_revoked_during_a_run_is_out_at_once(tmp_path: Path) -> None:
    many = plants.Plants(tmp_path / "many", plants.recipe(rounds=3))
    many.root.mkdir()
    approve(many.root, *plants.NAMES)

    def revokes(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.message_type == ROUND and opened(asked.content).number("round") == 2:
            approve(many.root, "plant-a", "plant-b")
        return [reply]

    many.run(many.grid(interfere=revokes))
    rows = [line["sites"].get("plant-c", {}) for line in many.rounds()]
    assert [row.get("status") for row in rows] == ["ok", "refused", None]
    assert rows[1]["why"] == "it was revoked"
    assert many.rounds()[2]["sites"]["node 13"]["status"] == "refused"
    assert "plant-c takes part no more: it was revoked" in many.said
    without = plants.Plants(tmp_path / "without", plants.recipe(rounds=3), names=("plant-a", "plant-b"))
    assert without.run().base != many.store().load().base, "it was in round 1"
    assert {line["site"] for line in many.store().lines("final")} == {"plant-a", "plant-b"}


def test_a_site_that_was_mended_is_greeted_again(tmp_path: Path) -> None:
    """It runs another version, is turned away, gets the right one, and its node comes back."""
    many = plants.Plants(tmp_path, plants.recipe(rounds=4))
    grid: Any = None
    greeted = 0

    def old(asked: Any, reply: Any) -> list[Any]:
        from flwr.app import Message

        nonlocal greeted
        number = opened(asked.content).number("round")
        if asked.metadata.message_type == ROUND and asked.metadata.dst_node_id == 11 and number in {1, 2}:
            (grid.disconnect if number == 1 else grid.connect)(BAD)
        if asked.metadata.dst_node_id != BAD or asked.metadata.message_type != HELLO:
            return [reply]
        greeted += 1
        content = opened(reply.content)
        version = "0.0.9" if greeted == 1 else content.config["edge_sft"]
        return [Message(packed({**content.config, "edge_sft": version}, content.metrics), reply_to=asked)]

    grid = many.grid(interfere=old)
    many.run(grid)
    assert greeted == 2
    assert many.rounds()[-1]["sites"]["plant-c"]["status"] == "ok"


def test_a_run_keeps_its_recipe(tmp_path: Path) -> None:
    RunStore.create(tmp_path, "first", "a")
    with pytest.raises(UserError, match="another recipe"):
        RunStore.create(tmp_path, "first", "b")
    with pytest.raises(UserError, match="no folder's"):
        RunStore.create(tmp_path, "../first", "b")
    with pytest.raises(UserError, match="is not known"):
        RunStore(tmp_path, "second").recipe()


def test_defaults_are_the_contracts() -> None:
    section = FederatedSection()
    assert (section.rounds, section.strategy, section.compression, section.quorum) == (0, "fedavg", "int8", 2)
    assert section_of(plants.recipe()).rounds == ROUNDS
