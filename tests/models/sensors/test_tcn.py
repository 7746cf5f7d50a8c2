from __future__ import annotations

import pytest
import torch

from edge_sft.models.sensors.tcn import PATCHES, Patches, Tcn


def windows(length: int = 100, channels: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    valid = (torch.rand(6, length, channels, generator=draw) < 0.8).float()
    valid[:3, : length // 2] = 0  # machines that began in the middle of the window
    return torch.randn(6, length, channels, generator=draw) * valid, valid


@pytest.mark.parametrize("length", [7, 32, 100, 168, 1000])
def test_patches_are_means_of_what_is_valid_newest_last(length: int):
    z, valid = windows(length)
    body = Patches(length, 4, (3,))
    found = body(z, valid)
    assert found.shape == (6, body.features) == (6, len(body.channel_of))
    assert body.patches <= PATCHES
    step = -(-length // body.patches)
    newest = (z[:, -step:, :3].sum(1) / valid[:, -step:, :3].sum(1).clamp(min=1)).numpy()
    assert found[:, (body.patches - 1) * 3 : body.patches * 3].numpy() == pytest.approx(newest, abs=1e-5)
    assert found[:, -1].numpy() == pytest.approx((z * valid)[:, -1, 3].numpy())


def test_a_window_without_anything_valid_says_the_same_everywhere():
    nothing = torch.zeros(3, 100, 4)
    net = Tcn(25, 3, 1, 64).eval()
    with torch.no_grad():
        said = net(Patches(100, 4, (3,))(nothing, nothing)).numpy()
    assert said.ravel() == pytest.approx(said[0, 0], abs=1e-6)


def test_the_newest_place_sees_the_oldest_and_none_sees_what_comes_later():
    net = Tcn(25, 2, 0, 64).eval()
    seen = torch.zeros(1, 25 * 2 + 25)
    seen[:, 50:] = 1
    seen.requires_grad_()
    x = net.mix(torch.cat([seen[:, :50].reshape(1, 25, 2).transpose(1, 2).unsqueeze(2), seen[:, None, None, 50:]], 1))
    for depth, layer in enumerate(net.layers):
        x = x + layer(torch.nn.functional.pad(x, (2 * 2**depth, 0)))
    oldest = torch.autograd.grad(x[..., -1].sum(), seen, retain_graph=True)[0]
    assert oldest[0, :2].abs().sum() > 0
    first = torch.autograd.grad(x[..., 3].sum(), seen)[0]
    assert first[0, 8:50].abs().sum() == 0
