from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pytest

from edge_sft.checkpoint import Scores
from edge_sft.errors import DataError
from edge_sft.metrics.plant import plant_rates
from edge_sft.recipe import PolicySection
from edge_sft.report.accuracy_section import operating_point
from edge_sft.report.basis import choose_basis
from edge_sft.report.model_page import render


def words(page: str) -> str:
    """The page's text."""
    body = page[page.index("<main>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\u00a0", " ").split())


def nothing(_: str) -> None:
    return None


def test_the_headline_is_in_parts(made: Any) -> None:
    meta, scores = made.both(prevalence=0.03)
    page = words(render(meta, scores, (), nothing))
    rates = plant_rates(scores["test"], meta.task, meta.policy.threshold, split="test")
    assert rates is not None
    assert rates.escape_rate is not None
    escapes = f"{1000 * 0.03 * rates.escape_rate:.1f}".removesuffix(".0")
    assert f"Of 1,000 parts, {escapes} defect" in page
    assert f"{rates.escaped} of {rates.defects} test defects missed" in page
    assert "3 % of them defective, as" in page
    assert "You have 50 defects; a claim of ≤ 0.1 % escapes needs about 3,000" in page
    assert "200 test pictures that neither trained the model nor chose its threshold" in page


def test_without_the_lines_share_of_defects_the_headline_speaks_of_rates(made: Any) -> None:
    meta, scores = made.both()
    page = words(render(meta, scores, (), nothing))
    assert "Of 100 defects" in page[: page.index("Measured on")]
    assert "25 % of them defective, as among your validation pictures. If the line has fewer" in page


def test_the_dot_on_the_curves_is_the_threshold(made: Any) -> None:
    meta, scores = made.both(escape_cost=300.0)  # a low threshold: much overkill
    basis = choose_basis(meta, scores)
    rates = basis.rates
    assert rates is not None
    found, precise, alarms = operating_point(basis) or (0, 0, 0)
    caught = rates.defects - rates.escaped
    assert found == pytest.approx(caught / rates.defects)
    assert precise == pytest.approx(caught / (caught + rates.scrapped))
    assert alarms == pytest.approx(rates.scrapped / rates.goods)
    assert rates.scrapped > 5


def test_the_dots_are_a_thousand(made: Any) -> None:
    meta, scores = made.both(prevalence=0.03)
    page = render(meta, scores, (), nothing)
    dots = page[page.index('class="parts"') :]
    assert dots[: dots.index("</svg>")].count("h0") == 1000


def test_without_a_test_split_nothing_is_promised(made: Any) -> None:
    meta, scores = made.both()
    page = words(render(meta, {"val": scores["val"]}, (), nothing))
    assert "describe and promise nothing" in page
    assert "You have" not in page
    empty = Scores([], np.zeros(0, np.int64), np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    assert words(render(meta, {"val": scores["val"], "test": empty}, (), nothing)) == page


def test_a_test_split_without_defects_gives_way_to_validation(made: Any) -> None:
    meta, scores = made.both()
    page = words(render(meta, {"val": scores["val"], "test": made.scores((30, 0, 0))}, (), nothing))
    assert "validation defects missed" in page


def test_only_good_parts_anywhere(made: Any) -> None:
    scores = {"val": made.scores((30, 0, 0)), "test": made.scores((30, 0, 0), seed=1)}
    page = words(render(made.meta(scores), scores, (), nothing))
    assert "not enough pictures to judge" in page
    assert "need both defects and good parts" in page
    assert "Nothing is known about scratch and dent" in page


def test_no_pictures_at_all_is_said_in_words(made: Any) -> None:
    meta, _ = made.both()
    with pytest.raises(DataError, match="no scored pictures"):
        render(meta, {}, (), nothing)


def test_one_picture_of_each(made: Any) -> None:
    scores = {"val": made.scores((1, 1, 0)), "test": made.scores((1, 1, 0), seed=1)}
    assert "Of 1,000 parts" in words(render(made.meta(scores), scores, (), nothing))


def test_sorting_speaks_of_sorting(made: Any) -> None:
    scores = {"val": made.scores((40, 30, 30)), "test": made.scores((40, 30, 30), seed=1, apart=1.0)}
    page = words(render(made.meta(scores, ok=("good", "scratch", "dent")), scores, (), nothing))
    assert "are sorted wrongly" in page
    assert "Escapes" not in page
    assert "Why this threshold" not in page


def test_escapes_come_first_and_the_surest_lead(made: Any) -> None:
    meta, scores = made.both(prevalence=0.03)
    test = scores["test"]
    test.probabilities[150] = [0.999, 0.0005, 0.0005]  # a scratch that the model is sure is good
    test.probabilities[3] = [0.001, 0.998, 0.001]  # a good part that it is sure is scratched
    asked: list[str] = []

    def picture(name: str) -> np.ndarray:
        asked.append(name)
        return np.zeros((16, 16), np.uint16)

    page = render(meta, scores, (), picture)
    assert asked[0] == test.ids[150]
    gallery = page[page.index('id="mistakes"') :]
    assert gallery.index("Escapes") < gallery.index("Overkill")
    assert gallery.count("data:image/jpeg;base64,") >= len(asked)


def test_at_most_a_dozen_of_a_kind(made: Any) -> None:
    scores = {"val": made.scores((200, 200, 0), apart=0.0), "test": made.scores((200, 200, 0), seed=1, apart=0.0)}
    asked: list[str] = []
    page = words(render(made.meta(scores, escape_cost=1.0), scores, (), asked.append))
    assert 12 < len(asked) <= 36
    assert "the 12 worst of" in page


def test_no_mistakes_are_good_news(made: Any) -> None:
    scores = {"val": made.scores((50, 20, 20), apart=20.0), "test": made.scores((50, 20, 20), seed=1, apart=20.0)}
    page = words(render(made.meta(scores), scores, (), nothing))
    assert "Mistakes None among 90 pictures" in page
    assert "Of 100 defects 0 slip through, of 100 good parts 0 are scrapped" in page
    assert "With 95 % confidence: at most 7.3 % of the defects and 5.9 % of the good parts" in page


def test_the_gates_table(made: Any) -> None:
    meta, scores = made.both()
    page = words(render(meta, scores, made.gates(), nothing))
    assert "int8-trt for NVIDIA's TensorRT not shipped 5" in page
    assert "+2.00 points" in page
    assert "The files that run on the line" not in words(render(meta, scores, (), nothing))


def test_a_wish_that_validation_cannot_support_is_said(made: Any) -> None:
    meta, scores = made.both(max_escape_rate=0.01)
    section = PolicySection(max_escape_rate=0.01)
    page = words(render(meta, scores, (), nothing, section=section))
    assert "Validation cannot support it" in page
    assert "a claim of ≤ 1 % escapes needs about 300" in page


def test_hostile_names_stay_text(made: Any) -> None:
    meta, scores = made.both()
    evil = "<img src=x onerror=alert(1)>"
    scores["test"].ids[:] = [evil] * len(scores["test"].ids)
    labels = (evil, "<b>", "'\"")
    meta = meta.model_copy(
        update={
            "name": evil,
            "task": meta.task.model_copy(update={"labels": labels, "ok_labels": labels[:1]}),
            "training": {evil: evil},
        }
    )
    page = render(meta, scores, (), nothing)
    assert "<img" not in page
    assert "<b>&" not in page


def test_the_page_is_one_file_of_modest_size(made: Any) -> None:
    meta, scores = made.both()
    page = render(meta, scores, made.gates(), made.picture)
    assert len(page) < 500_000
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page.replace("http-equiv", "")


def test_broken_pictures_leave_a_grey_field(made: Any) -> None:
    meta, scores = made.both()
    for broken in (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros(3, np.uint8)):
        page = render(meta, scores, (), lambda _, broken=broken: broken)
        assert "picture not available" in page


def test_weighted_pictures_are_called_approximate(made: Any) -> None:
    meta, scores = made.both()
    scores["test"].weights[:10] = 3
    assert "the bounds are approximate" in words(render(meta, scores, (), nothing))
