"""What is cached is sealed, bound to all it depends on, and bounded; anything odd is built anew, in words."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from edge_sft.engines.plans import Facts, PlanCache
from edge_sft.errors import DeviceError

FACTS = Facts(
    library="tensorrt",
    library_version="10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    driver="540.4.0",
    building='{"batch_max":1}',
    model_sha256="a" * 64,
)
PLAN = b"machine code" * 1000


@pytest.fixture
def cache(tmp_path: Path, seal: Any) -> PlanCache:
    made = PlanCache(tmp_path / "engines", seal)
    made.write(FACTS, PLAN, 93.0)
    return made


def test_what_was_kept_comes_back(cache: PlanCache) -> None:
    found = cache.read(FACTS)
    assert (found.content, found.why) == (PLAN, "")
    assert cache.last_seconds(FACTS.model_sha256) == 93.0
    assert cache.last_seconds("b" * 64) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"library_version": "10.13.0"}, "was built for tensorrt version 10.3.0, this is 10.13.0"),
        ({"gpu": "Thor"}, "was built for GPU Orin, this is Thor"),
        ({"compute_capability": "11.0"}, "was built for compute capability 8.7, this is 11.0"),
        ({"driver": "550.1"}, "was built for driver 540.4.0, this is 550.1"),
        ({"building": '{"batch_max":8}'}, "[building] of the profile, which has changed"),
        ({"model_sha256": "b" * 64}, "no engine of this model was built here yet"),
    ],
)
def test_a_change_of_anything_is_a_miss_and_is_named(cache: PlanCache, change: dict[str, str], words: str) -> None:
    found = cache.read(FACTS.model_copy(update=change))
    assert found.content is None
    assert words in found.why
    assert "\n" not in found.why


def test_a_plan_for_another_gpu_under_this_name_is_refused(cache: PlanCache) -> None:
    other = FACTS.model_copy(update={"gpu": "Thor"})
    (cache.directory / FACTS.file).rename(cache.directory / other.file)
    found = cache.read(other)
    assert found.content is None
    assert "was built for GPU Orin, this is Thor" in found.why


def test_a_plan_that_another_device_sealed_is_refused(cache: PlanCache, other_seal: Any) -> None:
    PlanCache(cache.directory, other_seal).write(FACTS, b"evil" * 99, 1.0)
    found = cache.read(FACTS)
    assert found.content is None
    assert "not sealed by this device" in found.why


def test_every_flipped_byte_is_found(cache: PlanCache) -> None:
    path = cache.directory / FACTS.file
    whole = path.read_bytes()
    head = whole.index(PLAN)
    for at in (*range(0, head, 7), head - 1, head, head + 5000, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = cache.read(FACTS)
        assert found.content is None, at
        assert found.why
    path.write_bytes(whole)
    assert cache.read(FACTS).content == PLAN


@pytest.mark.parametrize("size", [0, 10, 200, 600, 2000])
def test_half_a_file_is_no_engine(cache: PlanCache, size: int) -> None:
    path = cache.directory / FACTS.file
    path.write_bytes(path.read_bytes()[:size])
    assert cache.read(FACTS).content is None


def test_more_than_was_sealed_is_refused(cache: PlanCache) -> None:
    path = cache.directory / FACTS.file
    path.write_bytes(path.read_bytes() + b"more")
    assert "is damaged" in cache.read(FACTS).why


def test_a_file_of_another_format_is_refused(cache: PlanCache) -> None:
    path = cache.directory / FACTS.file
    path.write_bytes(path.read_bytes().replace(b"edge-sft engine 1", b"edge-sft engine 2", 1))
    assert "another version of edge-sft" in cache.read(FACTS).why


def test_an_empty_folder_and_none_are_misses(tmp_path: Path, seal: Any) -> None:
    assert "yet" in PlanCache(tmp_path / "none", seal).read(FACTS).why


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, seal: Any) -> None:
    cache = PlanCache(tmp_path, seal)
    (tmp_path / FACTS.file).mkdir()
    assert "cannot be read" in cache.read(FACTS).why


def test_a_disk_that_refuses_is_said(tmp_path: Path, seal: Any) -> None:
    (tmp_path / "engines").write_text("no folder")
    with pytest.raises((DeviceError, OSError)):
        PlanCache(tmp_path / "engines", seal).write(FACTS, PLAN, 1.0)


def test_what_a_power_cut_left_is_swept_and_a_build_at_work_is_not(cache: PlanCache) -> None:
    old, young = cache.directory / ".x.plan.1.part", cache.directory / ".y.plan.2.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.write(FACTS, PLAN, 1.0)
    assert not old.exists()
    assert young.exists()


def test_the_oldest_go_first_and_what_slots_hold_never(tmp_path: Path, seal: Any) -> None:
    models = [letter * 64 for letter in "abcd"]
    kinds = [FACTS.model_copy(update={"model_sha256": model}) for model in models]
    cache = PlanCache(tmp_path / "e", seal, in_use=lambda: frozenset(models[:1]), max_bytes=3 * len(PLAN) + 4000)
    for age, facts in zip((400, 300, 200), kinds, strict=False):
        cache.write(facts, PLAN, 1.0)
        os.utime(cache.directory / facts.file, (time.time() - age,) * 2)
    cache.write(kinds[3], PLAN, 1.0)
    assert [cache.read(facts).content is not None for facts in kinds] == [True, False, True, True]


def test_using_an_engine_makes_it_young(cache: PlanCache) -> None:
    path = cache.directory / FACTS.file
    os.utime(path, (1, 1))
    cache.read(FACTS)
    assert path.stat().st_mtime > 1e9
