"""Every bad update is named and left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_sft.errors import DataError
from edge_sft.federated.codec import encode
from edge_sft.federated.messages import Opened
from edge_sft.federated.vetting import Expected, Update, bounded, outliers, vet

SHAPES = {"body": (4, 6), "head": (3,)}
EXPECTED = Expected("friday", 2, "b" * 64, SHAPES, "linz", 100)


def reply(arrays: dict[str, Any] | None = None, **changes: Any) -> Opened:
    delta = arrays if arrays is not None else {name: np.full(shape, 0.01, np.float32) for name, shape in SHAPES.items()}
    config = {"run": "friday", "round": 2, "base": "b" * 64, **changes}
    return Opened(config, {"num-examples": 100.0, "loss": 0.5}, encode(delta, "none"))


def arrays(**changes: Any) -> dict[str, Any]:
    return {**{name: np.full(shape, 0.01, np.float32) for name, shape in SHAPES.items()}, **changes}


def test_a_good_update_is_let_in() -> None:
    update = vet(reply(), EXPECTED)
    assert (update.site, update.samples, update.loss) == ("linz", 100, 0.5)
    assert update.length == pytest.approx(0.01 * np.sqrt(27))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (reply(run="thursday"), "of the run 'thursday'"),
        (reply(round=1), "stale: it is of round 1"),
        (reply(base="c" * 64), "stale: it starts from other weights"),
        (reply(arrays(body=np.full((4, 6), np.nan, np.float32))), "NaN or infinite numbers in body"),
        (reply(arrays(head=np.full((3,), np.inf, np.float32))), "NaN or infinite numbers in head"),
        (reply(arrays(body=np.zeros((6, 4), np.float32))), r"another shape: body \[6, 4\] instead of \[4, 6\]"),
        (reply({"body": np.zeros((4, 6), np.float32)}), "weights are missing: head"),
        (reply(arrays(more=np.zeros(2, np.float32))), "this model has not: more"),
        (replace(reply(), encoded=None), "no update came"),
        (replace(reply(), metrics={"num-examples": 1e9, "loss": 0.5}), "claims 1e.09 training samples"),
        (replace(reply(), metrics={"num-examples": 100.0}), "training loss is nan"),
        (replace(reply(), encoded=replace(encode(arrays(), "none"), layout=b"?")), "layout cannot be read"),
    ],
    ids=["run", "round", "base", "nan", "inf", "shape", "missing", "unknown", "none", "samples", "loss", "damage"],
)
def test_a_bad_update_is_named(bad: Opened, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        vet(bad, EXPECTED)
    assert caught.value.thing == "linz's update"


def of(site: str, length: float) -> Update:
    return Update(site, 10, {}, 0.1, length)


def test_an_update_a_hundred_times_too_long_is_left_out() -> None:
    assert set(outliers([of("a", 1.0), of("b", 1.2), of("c", 100.0)], 5.0, {})) == {"c"}
    assert not outliers([of("a", 1.0), of("b", 3.0), of("c", 0.5)], 5.0, {})
    assert not outliers([of("a", 0.0), of("b", 0.0), of("c", 0.0)], 5.0, {})
    assert not outliers([], 5.0, {})


def test_of_two_only_a_sites_own_past_tells() -> None:
    past = {"a": [1.0, 0.5], "b": [0.8, 1.3]}
    told = outliers([of("a", 1.0), of("b", 100.0)], 5.0, past)
    assert set(told) == {"b"}
    assert "77 times the longest that it sent in earlier rounds, 1.3" in told["b"]
    assert not outliers([of("a", 1.0), of("b", 100.0)], 5.0, {})  # the first round: nobody can say
    assert not outliers([of("a", 1.0), of("b", 8.0)], 5.0, {"a": [1.1], "b": [7.0]})  # it always was longer
    assert not outliers([of("a", 10.0), of("b", 12.0)], 5.0, past)  # both learn faster now
    assert set(outliers([of("b", 100.0)], 5.0, past)) == {"b"}
    assert not outliers([of("b", 100.0)], 5.0, {})


def test_of_two_neither_drowns_the_other() -> None:
    long = replace(of("b", 100.0), delta={"w": np.full(4, 50.0, np.float32)})
    kept, said = bounded([of("a", 1.0), long], 5.0)
    assert [one.site for one in kept] == ["a", "b"]
    np.testing.assert_allclose(kept[1].delta["w"], np.full(4, 2.5))
    assert list(said) == ["b"]
    assert "100 times as long as the other site's and counts as 5 times" in said["b"]
    for fine in ([of("a", 1.0), of("b", 5.0)], [of("a", 0.0), long], [of("a", 1.0), of("c", 1.0), long], [long], []):
        assert bounded(fine, 5.0) == (fine, {})
