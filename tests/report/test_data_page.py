from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edge_sft.data.dataset import Quarantined
from edge_sft.data.findings import Finding, Findings, LabelCount, Lookalikes, Spread
from edge_sft.report.data_page import render


def findings(**parts: object) -> Findings:
    return Findings(name="screws", root=Path("/data/screws"), count=12, **{"findings": (), **parts})  # type: ignore[arg-type]


def test_nothing_to_say() -> None:
    page = render(findings())
    assert "12 pictures, ready to train" in page
    assert "Nothing to mend" in page


def test_errors_make_the_headline() -> None:
    error = Finding("error", "conflicting-labels", "Two labels for one picture", "Decide.", ("a.png", "b.png"))
    page = render(findings(findings=(error, Finding("warning", "balance", "Few"))))
    assert "1 thing to mend before training" in page
    assert "a.png and b.png" in page
    warned = render(findings(findings=(Finding("warning", "balance", "Few"),)))
    assert "ready to train; 1 thing to look at" in warned


def test_an_empty_folder() -> None:
    empty = Findings(name="x", root=Path("/none"), count=0, findings=())
    assert "0 pictures" in render(empty)


def test_pictures_are_shown_and_missing_ones_are_not_fatal(tmp_path: Path) -> None:
    here, broken = tmp_path / "a.png", tmp_path / "b.png"
    cv2.imwrite(str(here), np.full((20, 30), 99, np.uint8))
    broken.write_bytes(b"no picture")
    twins = Lookalikes(False, ("a.png", "b.png", "c.png"), ("ok", "nok", "ok"), ("train", "test", "train"))
    page = render(findings(lookalikes=(twins,), paths={"a.png": here, "b.png": broken}))
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("picture not available") == 2
    assert "different labels" in page
    assert "on both sides of a split" in page


def test_long_lists_are_cut_and_counted() -> None:
    files = tuple(Quarantined(f"{index}.png", "is an empty file") for index in range(1000))
    page = render(findings(quarantined=files))
    assert "and 800 files more" in page
    assert "1,000 files set aside" in page


def test_sorting_labels_are_not_called_good() -> None:
    rows = (LabelCount("a", True, {"train": 3}), LabelCount("b", True, {"train": 3, "val": 1}))
    page = render(findings(balance=rows))
    assert 'class="chip good"' not in page
    mixed = render(findings(balance=(*rows, LabelCount("c", False, {}))))
    assert 'class="chip good"' in mixed


def test_a_statistic_that_does_not_vary() -> None:
    page = render(findings(spreads=(Spread("width", "pixels", 640, 640, 640, 640, 640, (12,)),)))
    assert "640 pixels in every picture" in page
