from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from edge_sft.data.looking import measure
from edge_sft.data.resembling import Resemblance
from edge_sft.data.similar import near_pairs


def found(images):
    facts = [measure(image) for image in images]
    return {(pair.first, pair.second) for pair in near_pairs([f.thumbnail for f in facts], [f.detail for f in facts])}


@pytest.fixture(scope="module")
def different(picture):
    return [picture(seed, 120, 160) for seed in range(80)]


def changed(image, how):
    rng = np.random.default_rng(0)
    if how == "jpeg":
        return cv2.imdecode(cv2.imencode(".jpg", image, [1, 60])[1], 0)
    if how == "smaller":
        return cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    if how == "darker":
        return (image * 0.6 + 10).astype(np.uint8)
    if how == "16 bits":
        return image.astype(np.uint16) * 16
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["jpeg", "smaller", "darker", "16 bits", "noise"])
def test_the_same_picture_saved_otherwise_is_found(different, how):
    assert found([*different, changed(different[7], how)]) == {(7, 80)}


def test_different_pictures_are_not_joined(different):
    assert found(different) == set()


def part(rng, jitter):
    """One of a thousand alike parts under a fixed camera."""
    image = np.full((120, 160), 90, np.uint8)
    cv2.circle(image, (80, 60), 40, 170, -1)
    cv2.rectangle(image, (60, 45), (100, 75), 60, -1)
    move = np.float32([[1, 0, rng.normal(0, jitter)], [0, 1, rng.normal(0, jitter)]])
    image = cv2.warpAffine(image, move, (160, 120), borderMode=1).astype(np.float32)
    image += cv2.GaussianBlur(rng.normal(0, 1, image.shape), (0, 0), 3) * 10 + rng.normal(0, 4, image.shape)
    return np.clip(image * (1 + rng.normal(0, 0.05)), 0, 255).astype(np.uint8)


def test_alike_parts_of_a_fixed_camera_are_kept_apart_and_true_copies_found():
    rng = np.random.default_rng(0)
    images = [part(rng, 0.0) for _ in range(200)]
    copies = [cv2.imdecode(cv2.imencode(".jpg", image, [1, 90])[1], 0) for image in images[:10]]
    assert found(images) == set()
    assert found([*images, *copies]) == {(i, 200 + i) for i in range(10)}


def cells(count, module):
    """Solar cells of modules: alike to the pixel within one, with its pose and shading; little else but noise."""
    rng = np.random.default_rng(1)
    images = []
    for index in range(count):
        if index % module == 0:
            down, right = rng.normal(0, 1.0, 2)
            shade = cv2.resize(rng.uniform(0.8, 1.2, (3, 3)).astype(np.float32), (300, 300))
        cell = np.full((300, 300), 40, np.float32)
        cell[6:294, 6:294] = 150
        for bar in (60, 150, 240):
            cell[bar : bar + 4, 10:290] = 70
        move = np.float32([[1, 0, right], [0, 1, down]])
        cell = cv2.warpAffine(cell, move, (300, 300), flags=cv2.INTER_LINEAR, borderMode=1) * shade
        images.append(
            np.clip(cv2.GaussianBlur(cell, (0, 0), 2) + rng.normal(0, 2, cell.shape), 0, 255).astype(np.uint8)
        )
    return images


def test_alike_parts_that_a_coarse_look_takes_for_one_are_kept_apart(monkeypatch):
    images = cells(120, 8)
    copies = [changed(image, how) for image, how in zip(images[:2], ("smaller", "darker"), strict=True)]
    copies.append(cv2.imdecode(cv2.imencode(".jpg", images[2], [1, 90])[1], 0))
    assert found([*images, *copies]) == {(i, 120 + i) for i in range(3)}
    monkeypatch.setattr(Resemblance, "same", True)
    assert len(found(images)) > 50


def test_few_pictures_need_plain_agreement():
    images = cells(3, 3)
    assert found([*images, changed(images[0], "darker")]) == {(0, 3)}


def test_no_cluster_swallows_the_data_even_where_position_alone_differs():
    rng = np.random.default_rng(0)
    pairs = found([part(rng, 1.5) for _ in range(300)])
    parent = list(range(300))

    def top(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for i, j in pairs:
        parent[top(i)] = top(j)
    assert max(np.bincount([top(i) for i in range(300)])) <= 24


def test_plain_pictures_are_never_near(different):
    flat = [np.full((50, 50), level, np.uint8) for level in (0, 0, 127, 255)]
    assert found([*different, *flat]) == set()
    assert near_pairs([], []) == []
    assert near_pairs([b"", b""], [b"", b""]) == []


def test_order_does_not_matter(different):
    images = [*different[:40], *(changed(image, "noise") for image in different[:5])]
    order = np.random.default_rng(1).permutation(len(images))
    moved = {tuple(sorted((order[i], order[j]))) for i, j in found([images[k] for k in order])}
    assert moved == found(images)


def test_20_000_pictures_take_seconds():
    rng = np.random.default_rng(0)
    many = list(rng.integers(0, 256, (20_000, 1024), dtype=np.uint8))
    many[19_999] = many[3]
    details = [np.resize(one, 96 * 96).tobytes() for one in many]
    begun = time.monotonic()
    pairs = near_pairs([one.tobytes() for one in many], details)
    assert [(pair.first, pair.second) for pair in pairs] == [(3, 19_999)]
    assert time.monotonic() - begun < 60  # 3 s on two free cores
