from __future__ import annotations

import numpy as np
import torch

from edge_sft.recipe import AugmentSection
from edge_sft.training.augment import augment

NOTHING = AugmentSection(
    flip_horizontal=False, flip_vertical=False, rotate_deg=0, shift=0, scale=0, brightness=0, contrast=0, noise=0
)


def _batch(count: int = 6, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_allowed_changes_nothing() -> None:
    batch = _batch()
    assert torch.equal(augment(batch, NOTHING, _seeded()), batch.float())


def test_only_flips_gives_the_picture_or_its_mirror() -> None:
    batch = _batch(32)
    out = augment(batch, NOTHING.model_copy(update={"flip_horizontal": True}), _seeded())
    mirrored = 0
    for before, after in zip(batch.float(), out, strict=True):
        same = torch.allclose(after, before, atol=0.1)
        mirror = torch.allclose(after, before.flip(1), atol=0.1)
        assert same or mirror
        mirrored += mirror
    assert 6 < mirrored < 26


def test_shift_stays_within_its_bound() -> None:
    batch = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
    batch[:, 15:17, 15:17] = 255
    out = augment(batch, NOTHING.model_copy(update={"shift": 0.1}), _seeded())[..., 0].numpy()
    for picture in out:
        row, column = (np.average(np.arange(32), weights=picture.sum(axis)) for axis in (1, 0))
        assert abs(row - 15.5) <= 3.3
        assert abs(column - 15.5) <= 3.3


def test_rotation_keeps_shapes_on_oblong_pictures() -> None:
    batch = torch.zeros(16, 32, 64, 3, dtype=torch.uint8)
    yy, xx = np.mgrid[:32, :64]
    batch[:, ((yy - 15.5) ** 2 + (xx - 31.5) ** 2) < 80] = 255
    out = augment(batch, NOTHING.model_copy(update={"rotate_deg": 25}), _seeded())
    assert (out - batch).abs().mean() < 4  # a disc in the middle stays a disc


def test_values_stay_in_range_and_seeds_decide() -> None:
    how = AugmentSection(flip_vertical=True, noise=0.1, brightness=0.5, contrast=0.5)
    first, again, other = (augment(_batch(), how, _seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= float(first.min()) <= float(first.max()) <= 255


def test_two_processes_draw_what_one_would() -> None:
    batch, how = _batch(6), AugmentSection()
    whole = augment(batch, how, _seeded())
    for rank in range(2):
        part = augment(batch[rank::2], how, _seeded(), rank=rank, size=2)
        torch.testing.assert_close(part, whole[rank::2])
