"""What docs/devices.md and docs/doctor.md show holds."""

from __future__ import annotations

import re
from pathlib import Path

from edge_sft import profile as profiles
from edge_sft import strict_toml
from edge_sft.machine.asking import LIMIT_S
from edge_sft.machine.checks.nvidia import DRIVERS
from edge_sft.machine.jetson import RELEASES
from edge_sft.machine.libraries import LIMIT_S as LIBRARY_LIMIT_S
from edge_sft.machine.reading import GPU_LIMIT_S
from edge_sft.profile import DeviceProfile

DOCS = Path(__file__).parents[2] / "docs"
DEVICES = (DOCS / "devices.md").read_text(encoding="utf-8")
DOCTOR = (DOCS / "doctor.md").read_text(encoding="utf-8")


def test_every_shipped_profile_is_in_the_table() -> None:
    table = re.findall(r"(?m)^\| ([a-z0-9, -]+) \|", DEVICES)
    named = [name for row in table for name in row.split(", ") if name != "profile"]
    assert sorted(named) == sorted(profiles.shipped())


def test_the_profile_shown_is_one_and_names_every_key() -> None:
    block = re.search(r'(?ms)^    name = "press-7".*?(?=^To ship)', DEVICES)
    assert block is not None
    text = block[0].replace("\n    ", "\n").strip()
    profile = strict_toml.loads(text, DeviceProfile, source="docs/devices.md")
    assert profile.match.gpu == ("RTX A2000",)
    assert set(DeviceProfile.model_fields) - {"schema_version"} <= profile.model_fields_set


def test_numbers_are_the_code_s() -> None:
    assert f"({LIMIT_S:g} s; {GPU_LIMIT_S:g} s for a GPU's driver, {LIBRARY_LIMIT_S:g} s for loading" in DOCTOR
    assert f"driver {', '.join(map(str, DRIVERS.values()))} or newer" in DOCTOR
    for release, words in (("36.4.3", "CUDA 12.6, cuDNN 9.3, TensorRT 10.3"), ("39.2", "cuDNN 9.20, TensorRT 10.16")):
        known = RELEASES[release]
        assert f"cuDNN {known.cudnn}, TensorRT {known.tensorrt}" in words
        assert words in DOCTOR
