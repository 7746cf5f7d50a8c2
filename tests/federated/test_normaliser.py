from __future__ import annotations

import numpy as np
import pytest

from edge_sft.federated.learner import Arrays
from edge_sft.federated.normaliser import NAMES, merged, oddities, problem, standardisation, told, told_features
from edge_sft.models.sensors.normalise import Normaliser, summary

CONDITIONS = (0, 1)
POINTS = np.array([[0.0, 100.0], [10.0, 100.0], [25.0, 60.0], [42.0, 100.0]])


def rows(
    which: tuple[int, ...], count: int, seed: int, *, shift: float = 0.0, jitter: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    at = rng.choice(which, count)
    sensors = at[:, None] * (3.0, -5.0, 100.0) + shift + rng.normal(size=(count, 3)) * (1.0, 0.1, 7.0)
    age = np.arange(count, dtype=np.float64)[:, None]
    values = np.concatenate([POINTS[at] + rng.normal(size=(count, 2)) * jitter, sensors, age], axis=1)
    valid = (rng.random(values.shape) > 0.02).astype(np.float32)
    valid[:, :2] = 1
    return (values * valid).astype(np.float32), valid


def tell(values: np.ndarray, valid: np.ndarray, most: int = 6) -> Arrays:
    return told(*summary(values, valid, CONDITIONS, most, 0), most)


def buffers(found: Arrays) -> Normaliser:
    mean, scale, centres, weight = (found[name] for name in NAMES)
    return Normaliser.given(mean, scale, centres, weight, CONDITIONS)


def test_it_is_what_the_pooled_rows_give():
    """Sites with one, two and all conditions; against the central fit of all rows."""
    sites = [rows((0,), 900, 1), rows((0, 2), 700, 2, shift=1.0), rows((0, 1, 2, 3), 2500, 3)]
    pooled = Normaliser.fit(
        np.concatenate([values for values, _ in sites]), np.concatenate([valid for _, valid in sites]),
        conditions=CONDITIONS, clusters=4, lifelong=(5,),
    )  # fmt: skip
    common = buffers(merged([tell(*site, 4) for site in sites], conditions=CONDITIONS, lifelong=(5,)))
    assert common.mean.shape == pooled.mean.shape
    place = [int(np.argmin(np.abs(common.centres.numpy() - centre).sum(axis=1))) for centre in pooled.centres.numpy()]
    assert sorted(place) == [0, 1, 2, 3]
    for name in ("mean", "scale", "centres"):
        np.testing.assert_allclose(getattr(common, name).numpy()[place], getattr(pooled, name), rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(common.weight.numpy(), pooled.weight.numpy(), rtol=1e-3)


def test_one_condition_at_all_sites_is_one():
    sites = [tell(*rows((1,), 500, seed, jitter=0)) for seed in (1, 2)]
    found = buffers(merged(sites, conditions=CONDITIONS, lifelong=()))
    assert found.mean.shape[0] == 1
    assert found.conditions == ()


def test_without_conditions_moments_add_up():
    values, valid = rows((0, 1), 1000, 5)
    halves = [(values[:300], valid[:300]), (values[300:], valid[300:])]
    found = merged([told(*summary(*half, (), 1, 0), 1) for half in halves], conditions=(), lifelong=())
    whole = Normaliser.fit(values, valid)
    np.testing.assert_allclose(found["normalise.mean"], whole.mean.numpy(), rtol=1e-4)
    np.testing.assert_allclose(found["normalise.scale"], whole.scale.numpy(), rtol=1e-3)


def test_the_order_of_the_sites_counts_little_and_is_fixed_by_who_calls():
    sites = [tell(*rows((0, 1), 800, 1)), tell(*rows((1, 2), 800, 2))]
    one = merged(sites, conditions=CONDITIONS, lifelong=())
    again = merged(sites, conditions=CONDITIONS, lifelong=())
    other = merged(sites[::-1], conditions=CONDITIONS, lifelong=())
    assert all((one[name] == again[name]).all() for name in NAMES)
    np.testing.assert_allclose(one["normalise.mean"], other["normalise.mean"], rtol=1e-5)


def shapes(most: int = 6) -> dict[str, tuple[int, ...]]:
    return {"normalise.mean": (most, 6), "mean": (4,), "nets.0": (3, 3)}


def whole_story() -> Arrays:
    return tell(*rows((0, 1), 200, 1)) | told_features(200, np.zeros(4), np.ones(4))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: a.pop("normalise.std"), "tells"),
        (lambda a: a.update({"normalise.mean": a["normalise.mean"][:2]}), "shape"),
        (lambda a: a["normalise.mean"].fill(np.nan), "finite"),
        (lambda a: a["normalise.count"].fill(-1), "below 0"),
        (lambda a: a["normalise.count"].fill(0), "not one row"),
        (lambda a: a["standard.count"].fill(0), "not one row"),
        (lambda a: a.update({"standard.std": a["standard.std"][:2]}), "shape"),
    ],
)
def test_nonsense_is_named(spoil, words):  # type: ignore[no-untyped-def]
    arrays = whole_story()
    assert problem(arrays, shapes()) == ""
    spoil(arrays)
    assert words in problem(arrays, shapes())


def test_what_nobody_asked_for_is_refused():
    assert problem({}, {"nets.0": (3, 3)}) == ""
    assert "tells" in problem(tell(*rows((0,), 100, 1)), {"nets.0": (3, 3)})


def test_features_have_one_standardisation():
    rng = np.random.default_rng(0)
    parts = [rng.normal(2, 3, (300, 4)), rng.normal(5, 1, (100, 4))]
    for part in parts:
        part[:, 3] = 7.0
    parts[0][:, 2] = 1.5  # without life at one site only
    found = standardisation([told_features(len(part), part.mean(axis=0), part.std(axis=0)) for part in parts])
    whole = np.concatenate(parts)
    np.testing.assert_allclose(found["mean"], whole.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["scale"][:3], 1 / whole.std(axis=0)[:3], rtol=1e-5)
    assert found["scale"][3] == 0


CHANNELS = ("height", "throttle", "x", "y", "z", "age")


def test_another_unit_is_told():
    sites = {name: rows((0, 1), 500, seed) for seed, name in enumerate("abcd")}
    assert oddities({name: tell(*site) for name, site in sites.items()}, CHANNELS, CONDITIONS) == {}
    sites["c"][0][:, 4] *= 1000
    found = oddities({name: tell(*site) for name, site in sites.items()}, CHANNELS, CONDITIONS)
    assert found.keys() == {"c"}
    assert "its z is" in found["c"]


def test_other_conditions_are_no_other_units():
    sites = {"a": rows((0,), 500, 1), "b": rows((3,), 500, 2), "c": rows((0, 1, 2, 3), 500, 3)}
    assert oddities({name: tell(*site) for name, site in sites.items()}, CHANNELS, CONDITIONS) == {}


def test_another_level_is_told_where_there_are_no_conditions():
    told_by = {name: told(*summary(*rows((0,), 500, seed), (), 1, 0), 1) for seed, name in enumerate("abc")}
    told_by["b"]["normalise.mean"][0, 3] += 273.15
    assert oddities(told_by, CHANNELS, ()).keys() == {"b"}
