"""Differential privacy in whole runs over Flower's Grid, and the pages that such runs leave."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: private rounds over its Grid are not proved")

from edge_sft.federated.accounting import epsilon
from edge_sft.federated.codec import decode, encode
from edge_sft.federated.keys import digest
from edge_sft.federated.messages import ROUND, opened, packed
from edge_sft.federated.privacy import length
from edge_sft.federated.report import of_run
from edge_sft.federated.report_verify import verify

from . import plants

CLIP = 0.05  # an undisturbed update here is about 1 long


def recipe(noise: float, at: str = "coordinator", **more: Any) -> str:
    text = plants.recipe(**{"compression": "none", "rounds": 2, **more})
    return f'{text}[federated.privacy]\nkind = "dp"\nclip = {CLIP}\nnoise = {noise}\nat = "{at}"\n'


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.split("<body>")[1])).replace("\u00a0", " ").split())


def moved(run: plants.Plants) -> dict[str, np.ndarray]:
    weights, began = run.run().weights, plants.start()
    return {name: weights[name] - began[name] for name in weights}


def test_no_round_moves_further_than_the_clip(tmp_path: Path) -> None:
    step = moved(plants.Plants(tmp_path, recipe(1e-9)))
    assert 0.5 * CLIP < length(step) <= 2 * CLIP * 1.0001  # two rounds, the noise next to nothing
    sent = [
        site["length"] for line in plants.Plants(tmp_path, recipe(1e-9)).rounds() for site in line["sites"].values()
    ]
    assert max(sent) <= CLIP * 1.0001


def test_a_site_that_does_not_clip_is_clipped(tmp_path: Path) -> None:
    run = plants.Plants(tmp_path, recipe(1e-9))

    def greedy(asked: Any, reply: Any) -> list[Any]:
        from flwr.app import Message

        content = opened(reply.content)
        if asked.metadata.message_type != ROUND or asked.metadata.dst_node_id != 13 or content.encoded is None:
            return [reply]
        config = {name: value for name, value in content.config.items() if name not in {"encoding", "layout"}}
        arrays = {name: array * np.float32(1e4) for name, array in decode(content.encoded).items()}
        return [Message(packed(config, content.metrics, encode(arrays, "none")), reply_to=asked)]

    weights = run.run(run.grid(interfere=greedy)).weights
    assert length({name: weights[name] - plants.start()[name] for name in weights}) <= 2 * CLIP * 1.0001
    # not left out either: that would let one site's length decide about others
    assert all(line["sites"]["plant-c"]["status"] == "ok" for line in run.rounds())


@pytest.mark.parametrize("at", ["coordinator", "site"])
def test_the_noise_is_as_large_as_promised(tmp_path: Path, at: str) -> None:
    noisy = moved(plants.Plants(tmp_path / "a", recipe(4.0, at, rounds=1)))
    calm = moved(plants.Plants(tmp_path / "b", recipe(1e-9, at, rounds=1)))
    numbers = np.concatenate([(noisy[name] - calm[name]).ravel() for name in noisy])
    of_mean = 4.0 * CLIP / (3 if at == "coordinator" else np.sqrt(3))
    assert numbers.std() == pytest.approx(of_mean, rel=0.25)  # of 172 numbers


@pytest.mark.parametrize("at", ["coordinator", "site"])
def test_again_it_is_another_noise_and_resumed_the_same(tmp_path: Path, at: str) -> None:
    whole = plants.Plants(tmp_path / "a", recipe(1.0, at))
    assert digest(whole.run().weights) != digest(plants.Plants(tmp_path / "b", recipe(1.0, at)).run().weights)
    last = whole.rounds()[-1]["global"]
    folder = tmp_path / "a" / "runs" / "first"
    secret = (folder / "noise.secret") if at == "coordinator" else tmp_path / "a" / "sites" / "plant-a" / "noise.secret"
    assert secret.stat().st_mode & 0o077 == 0
    for name in ("state.safetensors", "rounds.jsonl"):
        (folder / name).unlink()  # as if the coordinator had been killed before its first round was stored
    assert plants.Plants(tmp_path / "a", recipe(1.0, at)).run().base == last


@pytest.mark.parametrize("at", ["coordinator", "site"])
def test_a_run_cut_in_a_round_ends_in_the_bits_of_one_that_was_not(tmp_path: Path, at: str) -> None:
    """The secrets are the same, so that the noise of the same update must be."""

    class Gone(Exception):
        pass

    def cut(asked: Any, reply: Any) -> list[Any]:
        if asked.metadata.message_type == ROUND and opened(asked.content).number("round") == 2:
            if asked.metadata.dst_node_id == 12:
                raise Gone
        return [reply]

    whole = plants.Plants(tmp_path / "whole", recipe(1.0, at, rounds=3))
    whole.run()
    other = plants.Plants(tmp_path / "cut", recipe(1.0, at, rounds=3))
    other.grid()
    for secret in whole.root.rglob("noise.secret"):
        there = other.root / secret.relative_to(whole.root)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(secret.read_bytes())
    with pytest.raises(Gone):
        other.run(other.grid(interfere=cut))
    assert [line["global"] for line in other.rounds()] == [whole.rounds()[0]["global"]]
    other.run()
    assert [line["global"] for line in other.rounds()] == [line["global"] for line in whole.rounds()]


def test_the_page_of_a_real_run(tmp_path: Path) -> None:
    run = plants.Plants(tmp_path, recipe(1.0))
    run.run()
    folder = tmp_path / "runs" / "first"
    page = words(of_run(folder))
    assert f"ε = {epsilon(2, 1.0, 1e-5):.3g} at δ = 1e-05" in page
    assert "Only 3 sites" in page
    assert "2 of 2 rounds by FedAvg" in page
    assert "Every site was in every round" in page
    assert "root mean square error" in page
    assert "of plain FedAvg" in page
    assert re.search(r"(beats learning alone at \d of 3 sites)", page)
    ledgers = tuple(sorted((tmp_path / "sites").glob("*/ledger.jsonl")))
    verdicts = verify(folder, ledgers)
    assert len(verdicts) == 2 + 4 * 3
    assert all(one.holds for one in verdicts), verdicts
