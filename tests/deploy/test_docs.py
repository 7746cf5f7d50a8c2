"""What docs/deploy.md shows holds."""

from __future__ import annotations

import re
from pathlib import Path

from edge_sft import strict_toml
from edge_sft.deploy import candidates, prove
from edge_sft.profile import DeviceProfile

TEXT = (Path(__file__).parent.parent.parent / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_profile_shown_is_a_profile() -> None:
    block = re.search(r"(?ms)^    name = .*?(?=^## )", TEXT)
    assert block is not None
    profile = strict_toml.loads(block[0].replace("\n    ", "\n").strip(), DeviceProfile, source="docs/deploy.md")
    assert profile.name == "press-7"


def test_the_numbers_of_the_proof_are_the_code_s() -> None:
    words = " ".join(TEXT.split())
    assert f"{prove.MIN_RUNS} to {prove.MAX_RUNS} pictures" in words
    assert f"{candidates.FRAME[1]}x{candidates.FRAME[0]} frame" in words
