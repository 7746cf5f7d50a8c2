"""What the page on privacy says is recomputed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_sft import strict_toml
from edge_sft.federated.accounting import epsilon
from edge_sft.federated_privacy_section import PrivacySection
from edge_sft.federated_section import FederatedSection

PAGE = (Path(__file__).parents[2] / "docs" / "federated-privacy.md").read_text(encoding="utf-8")


def test_the_recipes_are_some() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    sections = [FederatedSection.model_validate(strict_toml.tomllib.loads(block)["federated"]) for block in blocks]
    assert [one.privacy for one in sections] == [
        PrivacySection(kind="dp", clip=0.5, noise=1.0),
        PrivacySection(kind="secagg"),
    ]


def test_each_epsilon_of_the_table() -> None:
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for noise, *told in rows:
        for rounds, value in zip((1, 3, 10), told, strict=True):
            assert epsilon(rounds, float(noise), 1e-5) == pytest.approx(float(value), abs=0.051)
