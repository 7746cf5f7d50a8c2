from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from edge_sft.data.looking import measure
from edge_sft.data.similar import near_pairs


def thumbnails(images):
    return [measure(image).thumbnail for image in images]


def found(images):
    return {(pair.first, pair.second) for pair in near_pairs(thumbnails(images))}


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
    assert near_pairs([]) == []
    assert near_pairs([b"", b""]) == []


def test_order_does_not_matter(different):
    images = [*different[:40], *(changed(image, "noise") for image in different[:5])]
    order = np.random.default_rng(1).permutation(len(images))
    moved = {tuple(sorted((order[i], order[j]))) for i, j in found([images[k] for k in order])}
    assert moved == found(images)


def test_20_000_pictures_take_seconds():
    rng = np.random.default_rng(0)
    many = list(rng.integers(0, 256, (20_000, 1024), dtype=np.uint8))
    many[19_999] = many[3]
    begun = time.monotonic()
    pairs = near_pairs([one.tobytes() for one in many])
    assert [(pair.first, pair.second) for pair in pairs] == [(3, 19_999)]
    assert time.monotonic() - begun < 60  # 3 s on two free cores
