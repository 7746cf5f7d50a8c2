"""Devices whose disks went wrong: what is refused, what runs all the same, and that it is said in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_sft import Predictor
from edge_sft.errors import DeviceError
from edge_sft.slots.store import SlotStore


@pytest.fixture
def full(jetson: Any) -> Iterator[Path]:
    """The device's cache on a disk of its own, too small for an engine."""
    folder = Path(jetson.root) / "engines"
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None or sys.platform != "linux":
        pytest.skip("not root on Linux: a cache on a full disk is not proved")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("nothing can be mounted here: a cache on a full disk is not proved")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_an_engine_that_cannot_be_kept_refuses_the_deploy_and_the_old_model_serves(jetson: Any, full: Path) -> None:
    first = jetson.serves()
    with pytest.raises(DeviceError) as caught:
        jetson.deploy(jetson.bundle(seed=1))
    text = str(caught.value)
    assert "the disk is full: an engine cannot be kept there, and every start would build it anew" in text
    assert "\n" not in text
    assert list(full.glob(".*")) == []
    with Predictor.from_device(jetson.root) as predictor:
        assert predictor.model.digest == first


def test_a_cache_that_is_full_after_the_deploy_stops_no_start(
    jetson: Any,
) -> None:
    jetson.deploy(jetson.bundle(), profile=jetson.profile(variants=("fp32",)))
    shutil.rmtree(jetson.root / "engines")
    (jetson.root / "engines").write_text("where the folder should be")
    with Predictor.from_device(jetson.root) as predictor:
        assert "could not be kept for the next start" in predictor.engine.notes[0]
        assert predictor.engine.notes[0].endswith("answers all 8 golden samples right")


def test_a_deploy_needs_no_room_in_tmp(jetson: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> list[str]:
        return []

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", nowhere)
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    jetson.deploy(jetson.bundle(), profile=jetson.profile(variants=("fp32",)))
    assert SlotStore(jetson.root).current() is not None
