"""Views find a bearing's rates whatever the shaft's speed, the housing and the gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_sft.errors import UserError
from edge_sft.models.sensors.views import NAMES, Eyes, Layout, line_groups, view
from edge_sft.preprocess import Channel, OrderTracking, Windowing

RATE, LENGTH, OUTER, INNER = 6000, 8192, 3.58, 5.41
ORDERS = (OUTER, INNER)


def windowing(length: int = LENGTH, **more: object) -> Windowing:
    channels = (Channel(name="a", unit="g"), Channel(name="n", unit="rpm"))
    return Windowing(channels=channels, period_s=1 / RATE, length=length, **more)


def knocks(order: float, rpm: float, tone: float = 1500.0, seed: int = 0) -> Tensor:
    """A resonance knocked ``order`` times a turn, in noise, with the speed beside it: [1,T,2]."""
    rng = np.random.default_rng(seed)
    t = np.arange(LENGTH) / RATE
    since = np.mod(t, 60 / (rpm * order))
    wave = np.exp(-since * 800) * np.sin(2 * np.pi * tone * since) + 0.1 * rng.normal(size=LENGTH)
    return torch.from_numpy(np.stack([wave, np.full(LENGTH, rpm)], axis=1)[None]).float()


@pytest.mark.parametrize("name", ["lines", "lines-white"])
@pytest.mark.parametrize("rpm", [900.0, 1750.0])
@pytest.mark.parametrize("order", ORDERS)
def test_the_lines_that_stand_out_are_the_faults(name: str, rpm: float, order: float) -> None:
    x = knocks(order, rpm)
    features = view(name, ORDERS)(Eyes(Layout.of(windowing()))(x, torch.ones_like(x)))[0]
    groups = line_groups(ORDERS)
    strength = {rate: sum(float(features[groups.index([h * rate])]) for h in (1, 2, 3)) for rate in ORDERS}
    other = next(rate for rate in ORDERS if rate != order)
    assert strength[order] > strength[other] + 1


def test_the_order_axis_stands_still_when_the_speed_changes() -> None:
    eyes, order = Eyes(Layout.of(windowing())), view("order", ())
    slow, fast = (order(eyes(x, torch.ones_like(x)))[0] for x in (knocks(OUTER, 1500), knocks(OUTER, 1800)))
    assert abs(int(slow.argmax()) - int(fast.argmax())) <= 1
    turns = (int(slow.argmax()) + 0.5) * 0.08
    assert abs(turns / OUTER - round(turns / OUTER)) < 0.03


def test_without_a_speed_the_usual_one_stands_in() -> None:
    eyes = Eyes(Layout.of(windowing()))
    x = knocks(OUTER, 1750)
    known = eyes(x, torch.ones_like(x))
    eyes.usual.fill_(1750 / 60 * eyes.spectrum.n / RATE)
    missing = torch.ones_like(x)
    missing[..., 1] = 0
    x[..., 1] = 0
    torch.testing.assert_close(eyes(x, missing).raw, known.raw, atol=1e-4, rtol=1e-3)


def test_a_grid_that_follows_the_shaft_needs_no_speed() -> None:
    tracked = windowing(order=OrderTracking(speed_channel="n", samples_per_revolution=256))
    layout = Layout.of(tracked)
    assert (layout.speed, layout.samples_per_turn, layout.signals) == (None, 256, (0,))
    x = torch.randn(2, LENGTH, 2)
    assert Eyes(layout).turns(x, torch.ones_like(x)).tolist() == [32.0, 32.0]


@pytest.mark.parametrize("length", [32, 33, 100, 4096])
def test_nothing_valid_is_finite_and_shapes_are_promised(length: int) -> None:
    layout = Layout.of(windowing(length))
    with torch.no_grad():
        look = Eyes(layout)(torch.zeros(2, length, 2), torch.zeros(2, length, 2))
        for name in NAMES:
            made = view(name, ORDERS)
            features = made(look)
            assert features.shape == (2, made.features), name
            assert torch.isfinite(features).all(), name


def test_what_is_not_valid_does_not_count() -> None:
    eyes = Eyes(Layout.of(windowing()))
    x, valid = knocks(OUTER, 1750), torch.ones(1, LENGTH, 2)
    valid[:, :1000, 0] = 0
    wild = x.clone()
    wild[:, :1000, 0] = 1e6
    quiet = x.clone()
    quiet[:, :1000, 0] = 0
    torch.testing.assert_close(eyes(wild, valid).white, eyes(quiet, valid).white)


def test_windows_that_spectra_cannot_be_made_of() -> None:
    with pytest.raises(UserError, match="32 to 32768"):
        Layout.of(windowing(31))
    with pytest.raises(UserError, match="nothing that vibrates"):
        Layout.of(Windowing(channels=(Channel(name="n", unit="rpm"),), period_s=1.0, length=64))
