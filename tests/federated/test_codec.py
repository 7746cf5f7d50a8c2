"""How updates are written: what arrives, what is lost, what damage is noticed."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.federated.codec import decode, encode, round_trip
from edge_sft.federated.learner import Arrays


def update() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.normal(0, 1e-3, (8, 4, 3, 3)).astype(np.float32),
        "matrix": rng.normal(0, 1e-2, (5, 40)).astype(np.float32),
        "thin": rng.normal(0, 1, (6, 2)).astype(np.float32),
        "vector": rng.normal(0, 1, 11).astype(np.float32),
        "scalar": np.array(2.5, dtype=np.float32),
        "nothing": np.zeros((3, 9), dtype=np.float32),
    }


def test_plain_is_exact() -> None:
    delta = update()
    back = decode(encode(delta, "none"))
    assert set(back) == set(delta)
    for name, array in delta.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == array.shape


def test_bf16_is_torchs_rounding() -> None:
    torch = pytest.importorskip("torch", reason="no torch: bfloat16 is not compared with its rounding")
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, 1e-30, 0.0, 65504.7], dtype=np.float32)
    ours = decode(encode({"x": values}, "bf16"))["x"]
    np.testing.assert_array_equal(ours, torch.from_numpy(values).to(torch.bfloat16).float().numpy())


def test_int8_is_within_half_a_level_of_each_row() -> None:
    delta = update()
    back = decode(encode(delta, "int8"))
    for name in ("kernel", "matrix"):
        rows = delta[name].reshape(len(delta[name]), -1)
        error = np.abs(back[name].reshape(rows.shape) - rows)
        assert (error <= np.abs(rows).max(1, keepdims=True) / 254 * 1.0001).all()
    for name in ("thin", "vector", "scalar"):  # a relative error: a variance cannot be pushed below zero
        assert (np.abs(back[name] - delta[name]) <= np.abs(delta[name]) / 256).all()
    np.testing.assert_array_equal(back["nothing"], 0)


def test_int8_is_a_quarter_of_float32() -> None:
    delta = {"matrix": np.ones((64, 256), dtype=np.float32)}
    assert encode(delta, "int8").codes.size < 0.27 * encode(delta, "none").codes.size


def test_what_is_lost_and_what_arrives_is_the_update() -> None:
    delta = update()
    _, arrives, lost = round_trip(delta, "int8")
    for name, array in delta.items():
        np.testing.assert_allclose(arrives[name] + lost[name], array, rtol=0, atol=1e-7)


def test_the_order_of_names_does_not_matter() -> None:
    delta = update()
    turned = dict(reversed(delta.items()))
    assert encode(delta, "int8").codes.tobytes() == encode(turned, "int8").codes.tobytes()


@pytest.mark.parametrize("encoding", ["none", "bf16", "int8"])
def test_nan_is_not_hidden(encoding: str) -> None:
    delta = update()
    delta["matrix"][2, 3] = np.nan
    delta["vector"][1] = np.inf
    with np.errstate(invalid="ignore"):
        back = decode(encode(delta, encoding))  # type: ignore[arg-type]
    assert not np.isfinite(back["matrix"]).all()
    assert not np.isfinite(back["vector"]).all()


def test_damage_is_refused() -> None:
    whole = encode(update(), "int8")
    twice = zlib.compress(json.dumps([["a", [1]], ["a", [1]]]).encode())
    for broken in (
        replace(whole, codes=whole.codes[:-1]),
        replace(whole, codes=np.append(whole.codes, np.uint8(0))),
        replace(whole, codes=whole.codes.astype(np.float32)),
        replace(whole, layout=b"nonsense"),
        replace(whole, layout=zlib.compress(b"[[1]]")),
        replace(whole, layout=twice),
        replace(whole, layout=zlib.compress(json.dumps([["a", [-4]]]).encode())),
        replace(whole, layout=zlib.compress(b"[" + b" " * (40 << 20) + b"]")),
    ):
        with pytest.raises(DataError):
            decode(broken)
