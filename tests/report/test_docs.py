"""What the documents say is recomputed here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edge_sft import prediction
from edge_sft.checkpoint import Scores
from edge_sft.metrics.plant import choose, claim, required_defects
from edge_sft.recipe import PolicySection
from edge_sft.strict_toml import tomllib
from edge_sft.task import image_classification

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def economics() -> str:
    return (DOCS / "economics.md").read_text(encoding="utf-8")


def numbers(text: str, name: str) -> list[float]:
    line = re.search(rf"^    {name}: (.*)$", text, re.MULTILINE)
    assert line is not None
    return [float(number) for number in line.group(1).split()]


def section(text: str, **more: float) -> PolicySection:
    block = re.search(r"```toml\n(\[policy\].*?)```", text, re.DOTALL)
    assert block is not None
    return PolicySection(**{**tomllib.loads(block.group(1))["policy"], **more})


def scores(text: str) -> Scores:
    defects, goods = numbers(text, "defects"), numbers(text, "good parts")
    evidence = np.array([*defects, *goods])
    labels = np.array([0] * len(defects) + [1] * len(goods))
    probabilities = np.stack([evidence, 1 - evidence], axis=1).astype(np.float32)
    return Scores([str(i) for i in labels], labels, probabilities, np.ones(len(labels), np.float32))


TASK = image_classification(("nok", "ok"), ("ok",), 32, 32)


def test_the_published_schema_is_the_packages() -> None:
    assert (DOCS / "prediction-schema.json").read_text(encoding="utf-8") == prediction.schema_text()


def test_each_row_of_the_worked_example(economics: str) -> None:
    wish, curve = section(economics), choose(scores(economics), TASK, section(economics)).curve
    assert curve is not None
    assert wish.prevalence is not None
    defects, goods = numbers(economics, "defects"), numbers(economics, "good parts")
    rows = re.findall(
        r"^\| (0\.\d+) \| (\d+) of 10 \| (\d+) of 20 \| ([\d,]+) \| ([\d,]+) \|$", economics, re.MULTILINE
    )
    assert len(rows) >= 5
    for threshold, missed, scrapped, counted, smoothed in rows:
        at = float(threshold)
        assert int(missed) == sum(value < at for value in defects)
        assert int(scrapped) == sum(value >= at for value in goods)
        escape, overkill = int(missed) / len(defects), int(scrapped) / len(goods)
        per_part = wish.prevalence * wish.escape_cost * escape + (1 - wish.prevalence) * wish.overkill_cost * overkill
        assert int(counted.replace(",", "")) == round(1000 * per_part)
        assert int(smoothed.replace(",", "")) == round(1000 * float(np.interp(at, curve.thresholds, curve.cost)))


def test_the_threshold_of_the_worked_example(economics: str) -> None:
    told = re.search(r"\*\*The threshold is (0\.\d+)\.\*\*", economics)
    assert told is not None
    policy = choose(scores(economics), TASK, section(economics)).policy
    assert f"{policy.threshold:.3f}" == told.group(1)


def test_the_limit_of_the_worked_example(economics: str) -> None:
    choice = choose(scores(economics), TASK, section(economics, max_escape_rate=0.02))
    assert f"gives {choice.policy.threshold:.3f}" in economics
    words = " ".join(economics.replace("> ", "").split())
    assert "about 25 % of the good parts instead of 7.3 %" in words
    assert "25 % of the good parts instead of 7.3 %" in choice.notes[0]
    assert claim(10, 0, 0.02) in words
    assert claim(10, 0, 0.02) in choice.notes[1]


def test_the_table_of_claims(economics: str) -> None:
    rows = re.findall(r"^\| ([\d.]+) % \| ([\d,]+) \|$", economics, re.MULTILINE)
    assert len(rows) == 4
    for rate, needed in rows:
        assert required_defects(float(rate) / 100) == int(needed.replace(",", ""))
    assert required_defects(0.01, misses=1) == 473


def test_the_python_block_of_embedding_is_the_examples() -> None:
    block = re.search(r"```python\n(.*?)```", (DOCS / "embedding.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    compile(block.group(1), "embedding.md", "exec")
    example = (DOCS.parent / "examples" / "python" / "embed.py").read_text(encoding="utf-8")
    for name in ("from edge_sft import Predictor", "Predictor.from_bundle(", "predictor.predict_image("):
        assert name in block.group(1)
        assert name in example
