"""What the pages about sensors say is held against the code: recipes load, every key exists, defaults are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from edge_sft import strict_toml
from edge_sft.policy import CommissioningRule
from edge_sft.runtime.config import AgentConfig
from edge_sft.sensor_recipe import ChannelSection, EventsSection, SensorRecipe

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("sensors.md", "sensors-rul.md", "sensors-faults.md", "sensors-anomaly.md", "sensors-streaming.md")


def blocks(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def keys(page: str) -> list[tuple[str, str]]:
    """Rows of the tables of keys: (dotted key, default as written)."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \| ([^|]+?) \|", text, re.MULTILINE)


def field(key: str) -> Any:
    """The pydantic field behind a dotted key of the recipe."""
    model: Any = SensorRecipe
    *parents, last = key.split(".")
    for name in parents:
        model = model.model_fields[name].annotation
        assert issubclass(model, BaseModel)
    return model.model_fields[last]


@pytest.mark.parametrize("page", PAGES[1:4])
def test_recipes_load_as_printed(page: str) -> None:
    found = [strict_toml.loads(block, SensorRecipe, source=page) for block in blocks(page)]
    assert found
    assert all(recipe.windowing().names for recipe in found)


def test_agent_files_load_as_printed() -> None:
    found = blocks("sensors-streaming.md")
    assert len(found) == 2
    assert all(strict_toml.loads(block, AgentConfig, source="sensors-streaming.md") for block in found)


@pytest.mark.parametrize("page", PAGES)
def test_keys_exist_and_defaults_are_true(page: str) -> None:
    for key, told in keys(page):
        known = field(key)
        if told in ("–", "all four"):
            assert known.is_required() or known.default is None or key in ("export.variants", "policy.commissioning")
            continue
        default = known.default
        written = json.loads(told.strip("`"))
        assert list(default) == written if isinstance(default, tuple) else default == written, key


def test_every_key_is_explained() -> None:
    told = {key for key, _ in keys("sensors.md")} | {key for key, _ in keys("sensors-anomaly.md")}
    for section in ("data", "window", "normalise", "model", "train", "export", "policy"):
        for name in field(section).annotation.model_fields:
            known = f"{section}.{name}"
            assert any(key == known or key.startswith(known + ".") for key in told), f"{known} is not explained"
    for name in CommissioningRule.model_fields:
        assert f"policy.commissioning.{name}" in told
    text = (DOCS / "sensors.md").read_text(encoding="utf-8")
    for name in (*ChannelSection.model_fields, *EventsSection.model_fields):
        assert re.search(rf"^\|[^|]*`{name}`", text, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES[1:4])
def test_the_cards_of_a_report_are_the_pages_own(page: str, sensors: Any) -> None:
    from edge_sft.report.sensor_model_page import render

    made = {
        "sensors-rul.md": lambda: render(sensors.rul_meta(), sensors.lives(), ()),
        "sensors-faults.md": lambda: render(sensors.faults_meta(), sensors.recordings(), ()),
        "sensors-anomaly.md": lambda: render(sensors.anomaly_meta(), sensors.watched(), ()),
    }
    titles = re.findall(r"<h2>([^<]+)</h2>", made[page]())
    text = (DOCS / page).read_text(encoding="utf-8").split("| card | what it answers |")[1]
    told = re.findall(r"^\| ([A-Z][^|]+?) \|", text.split("\n\n")[0], re.MULTILINE)
    assert told == titles[: len(told)]
    assert titles[len(told) :] == ["What these numbers do not prove", "Where it comes from"]
