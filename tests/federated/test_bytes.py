"""What compression costs in quality and saves on the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: bytes of its messages are not counted")

from edge_sft.federated.messages import opened, packed, payload_bytes

from . import plants


def wide(recipe: str, data: Path, work: Path, progress: Any) -> plants.Toy:
    """A model of 21,000 weights: as small as ours get (a sensor model of the examples has 40,000)."""
    return plants.Toy(data, hidden=160)


def run(root: Path, **options: Any) -> tuple[Any, plants.Plants]:
    made = plants.Plants(root, plants.recipe(**options), make=wide, options={"inputs": 128, "samples": 200})
    return made.run(), made


def test_all_bytes_are_at_most_a_quarter_of_flowers_plain_fedavg(tmp_path: Path) -> None:
    """All that is counted: greetings, starting weights, rounds, the final weights and every number with them."""
    import json

    state, made = run(tmp_path, rounds=3)
    facts = json.loads((made.root / "runs/first/result/federated.json").read_text())
    size = 4 * sum(array.size for array in state.weights.values())
    assert facts["bytes"]["plain"] == 3 * 3 * 3 * size  # sites × rounds × (down, down, up)
    total = facts["bytes"]["up"] + facts["bytes"]["down"]
    assert total == sum(row["bytes_up"] + row["bytes_down"] for row in facts["sites"].values())
    assert total <= 0.25 * facts["bytes"]["plain"]


def test_int8_with_error_feedback_learns_as_float32(tmp_path: Path) -> None:
    """Bound: the average's error is within 2 % of float32's at every round, and the weights within 1 % at the end."""
    options = {"rounds": 8, "steps": 30}
    exact, plain = run(tmp_path / "none", compression="none", **options)
    coarse, small = run(tmp_path / "int8", compression="int8", **options)
    for one, other in zip(plain.rounds(), small.rounds(), strict=True):
        assert other["evaluation"]["val/rmse"] == pytest.approx(one["evaluation"]["val/rmse"], rel=0.02)
    for name, array in exact.weights.items():
        assert np.linalg.norm(coarse.weights[name] - array) <= 0.01 * np.linalg.norm(array)


def test_error_feedback_is_what_keeps_it_so() -> None:
    """Many steps too small for int8 beside a large one: with feedback they arrive, without they never do."""
    from edge_sft.federated.codec import round_trip

    step = {"w": np.full((1, 64), 1e-3, np.float32)}
    step["w"][0, 0] = 1.0
    kept = np.zeros((1, 64), np.float32)
    fed, plain = np.zeros_like(kept), np.zeros_like(kept)
    for _ in range(100):
        _, arrives, lost = round_trip({"w": step["w"] + kept}, "int8")
        kept, fed = lost["w"], fed + arrives["w"]
        plain = plain + round_trip(step, "int8")[1]["w"]
    assert np.abs(fed - 100 * step["w"]).max() < 0.01
    assert np.abs(plain[0, 1:]).max() == 0


def test_the_payload_is_what_flower_writes() -> None:
    """Against Flower's own objects of the message, as they are pushed one by one."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    from edge_sft.federated.codec import encode

    rng = np.random.default_rng(0)
    encoded = encode({"w": rng.normal(0, 1, (64, 100)).astype(np.float32)}, "int8")
    content = packed({"run": "first", "round": 1}, {"loss": 0.5}, encoded)
    counted = payload_bytes(content)
    assert counted == sum(len(one.deflate()) for one in get_all_nested_objects(content).values())
    assert 6400 < counted < 8000
    assert opened(content).encoded is not None


@pytest.mark.parametrize("share", ["head", "bias", "no-norm"])
def test_only_shared_weights_travel_and_the_others_stay(share: str, tmp_path: Path) -> None:
    state, made = run(tmp_path, rounds=2, share=share)
    kept = {"head": {"head.weight"}, "bias": {"head.weight", "body.bias"}}.get(
        share, set(plants.PARTS) - {"norm.weight"}
    )
    assert set(state.weights) == kept
    from edge_sft.federated import weights_file

    private, _ = weights_file.read(made.root / "sites/plant-a/runs/first/private-2.safetensors")
    assert set(private) == set(plants.PARTS) - kept
