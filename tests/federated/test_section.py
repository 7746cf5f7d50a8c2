"""``[federated]`` in both kinds of recipe: strict, and nothing to central training."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edge_sft.errors import UserError
from edge_sft.federated.keys import digest, others, picked, shared_names
from edge_sft.federated.settings import read_recipe, section_of
from edge_sft.federated_section import FederatedSection

PICTURES = 'name = "parts"\n[task]\nlabels = ["good", "bad"]\n[data]\npath = "p"\n'
ROWS = (
    'modality = "window"\nname = "rows"\n[task]\nkind = "regression"\n[data]\npath = "p"\nchannels = [{name = "a"}]\n'
)


@pytest.mark.parametrize("text", [PICTURES, ROWS])
def test_both_recipes_have_it_and_need_not(text: str) -> None:
    assert section_of(text) == FederatedSection(rounds=section_of(text).rounds)
    assert section_of(text + '[federated]\nrounds = 7\nshare = "head"\n').rounds == 7
    with pytest.raises(UserError, match=r"unknown key 'federated\.round'; did you mean 'rounds'"):
        section_of(text + "[federated]\nround = 7\n")


def test_central_trainings_key_does_not_know_it() -> None:
    pytest.importorskip("torch", reason="no torch: the key of a training is not made")
    from types import SimpleNamespace

    from edge_sft.training.sensors.fit import training_key as rows_key
    from edge_sft.training.state import training_key

    data: Any = SimpleNamespace(fingerprint="f" * 64, items=(), test_fingerprint=None)
    for text, key in ((PICTURES, training_key), (ROWS, rows_key)):
        plain, with_it = read_recipe(text), read_recipe(text + "[federated]\nrounds = 9\n")
        assert plain != with_it
        assert key(plain, data) == key(with_it, data)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proximal": 0.1}, "proximal means nothing"),
        ({"server_rate": 0.1}, "server_rate means nothing"),
        ({"strategy": "trimmed"}, "leaves nobody out"),
        ({"strategy": "krum", "quorum": 3, "malicious": 1}, "only among 5 or more"),
        ({"malicious": 1}, "malicious means nothing"),
        ({"privacy": {"kind": "dp", "clip": 1, "noise": 1}}, "past the clip"),
        ({"quorum": 0}, "greater than or equal to 1"),
        ({"outlier": 1.0}, "greater than 1"),
        ({"outlier": 3.0, "compression": "none", "quorum": 3, "privacy": {"kind": "secagg"}}, "cannot be seen"),
        ({"outlier": 3.0, "compression": "none", "privacy": {"kind": "dp", "clip": 1, "noise": 1}}, "the clip bounds"),
    ],
)
def test_what_would_do_nothing_or_break_a_promise_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        FederatedSection(**options)


def test_which_weights_travel() -> None:
    parts: Any = {"c.w": "body", "n.w": "norm", "c.b": "bias", "h.w": "head"}
    assert shared_names(parts, "all") == ["c.b", "c.w", "h.w", "n.w"]
    assert shared_names(parts, "no-norm") == ["c.b", "c.w", "h.w"]
    assert shared_names(parts, "head") == ["h.w"]
    assert shared_names(parts, "bias") == ["c.b", "h.w"]
    with pytest.raises(UserError, match="has no such weights"):
        shared_names({"c.w": "body"}, "head")


def test_the_digest_is_of_names_shapes_and_bits() -> None:
    import numpy as np

    one = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    assert digest(one) == digest(dict(reversed(one.items())))
    assert digest(one) != digest({**one, "a": np.zeros((3, 2), np.float32)})
    assert digest(one) != digest({"c": one["a"], "b": one["b"]})
    assert digest(one) != digest({**one, "a": -one["a"]})
    assert set(picked(one, ["a"])) == {"a"}
    assert set(others(one, ["a"])) == {"b"}
