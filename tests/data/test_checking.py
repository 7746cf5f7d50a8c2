from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_sft.checkpoint import Scores
from edge_sft.data.checking import check
from edge_sft.data.judging import defects_needed
from edge_sft.data.reader import open_dataset
from edge_sft.errors import DataError
from edge_sft.metrics import plant


@pytest.fixture
def judged(recipe):
    """Open and check a folder; returns the findings."""

    def make(root, *labels, ok=("ok",), max_escape_rate=None, scores=None, **keys):
        made = recipe(root, *labels, ok=ok, **keys)
        made = made.model_copy(update={"policy": made.policy.model_copy(update={"max_escape_rate": max_escape_rate})})
        return check(made, open_dataset(made), scores=scores)

    return make


def kinds(findings, *severities):
    return {finding.kind for finding in findings.findings if not severities or finding.severity in severities}


def one(findings, kind):
    (finding,) = (finding for finding in findings.findings if finding.kind == kind)
    return finding


def test_good_pictures_raise_no_objection(pool, judged):
    findings = judged(pool(ok=80, bad=80), "ok", "bad")
    assert kinds(findings) == {"too-few-defects"}
    assert not findings.has_errors
    assert [(row.label, row.good, row.total) for row in findings.balance] == [("ok", True, 80), ("bad", False, 80)]
    assert findings.formats[0].count == 160
    assert {spread.name for spread in findings.spreads} == {"width", "height", "brightness", "contrast", "focus"}
    assert all(sum(spread.histogram) == 160 for spread in findings.spreads)


def test_too_few_defects_is_said_out_loud(pool, judged):
    findings = judged(pool(ok=60, bad=40), "ok", "bad", max_escape_rate=0.001)
    finding = one(findings, "too-few-defects")
    assert finding.severity == "warning"
    assert "You have 40 defects, 6 of them in the test split" in finding.text
    assert "a claim of ≤ 0.1 % escapes needs about 3,000" in finding.text
    assert "at best ≤ 39 %" in finding.text


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 0.001, 1e-6])
def test_the_number_needed_is_that_of_the_report(rate):
    assert defects_needed(rate) == plant.required_defects(rate)


def test_sorting_knows_no_defects(pool, judged):
    assert "too-few-defects" not in kinds(judged(pool(a=30, b=30), "a", "b", ok=()))


def test_one_picture_with_two_labels_is_an_error(pool, judged):
    root = pool(ok=30, bad=30)
    shutil.copy(root / "ok" / "ok003.png", root / "bad" / "same.png")
    findings = judged(root, "ok", "bad")
    finding = one(findings, "conflicting-labels")
    assert finding.severity == "error"
    assert set(finding.ids) == {"bad/same.png", "ok/ok003.png"}
    assert findings.has_errors
    assert findings.lookalikes[0].conflicting
    assert findings.paths["bad/same.png"].is_file()


def test_nearly_one_picture_with_two_labels_is_a_warning(pool, judged, picture, save):
    root = pool(ok=30, bad=30)
    save(root / "bad" / "near.jpg", picture(3), cv2.IMWRITE_JPEG_QUALITY, 80)  # ok/ok003.png
    finding = one(judged(root, "ok", "bad"), "conflicting-labels")
    assert finding.severity == "warning"
    assert set(finding.ids) == {"bad/near.jpg", "ok/ok003.png"}


def test_copies_across_given_splits_leak(pool, judged, tmp_path):
    root = tmp_path / "parts"
    pool(root / "train", ok=30, bad=30)
    pool(root / "val", ok=2, bad=2)
    for label in ("ok", "bad"):
        (root / "test" / label).mkdir(parents=True)
        for index in range(10, 20):
            shutil.move(root / "train" / label / f"{label}{index:03d}.png", root / "test" / label)
    shutil.rmtree(root / "val")
    shutil.copy(root / "test" / "ok" / "ok015.png", root / "train" / "ok" / "leak.png")
    findings = judged(root, "ok", "bad")
    finding = one(findings, "leak")
    assert finding.severity == "error"
    assert set(finding.ids) == {"test/ok/ok015.png", "train/ok/leak.png"}
    assert "5 % of the test pictures" in finding.text


def test_near_copies_across_given_splits_are_no_error(pool, judged, tmp_path, picture, save):
    root = tmp_path / "parts"
    pool(root / "train", ok=30, bad=30)
    for number, label in enumerate(("ok", "bad")):
        for side, first in (("val", 10), ("test", 20)):
            for index in range(first, first + 5):
                source = picture(1000 * number + index)
                save(root / side / label / f"{label}{index}.jpg", source, cv2.IMWRITE_JPEG_QUALITY, 90)
    findings = judged(root, "ok", "bad")
    finding = one(findings, "leak")
    assert finding.severity == "warning"
    assert "100 % of the test pictures" in finding.text
    assert not findings.has_errors


def test_groups_torn_by_given_splits(pool, judged, tmp_path):
    root = pool(ok=20, bad=20)
    rows = [
        f"{label}/{label}{i:03d}.png,{label},{('train', 'train', 'val', 'test')[i % 4]},lot{i // 8}"
        for label in ("ok", "bad")
        for i in range(20)
    ]
    (tmp_path / "m.csv").write_text("path,label,split,group\n" + "\n".join(rows))
    finding = one(judged(root, "ok", "bad", manifest=tmp_path / "m.csv"), "group")
    assert finding.severity == "error"
    assert "3 groups (lot0, lot1, lot2)" in finding.text


def test_broken_files_are_a_warning_and_many_an_error(pool, judged):
    root = pool(ok=30, bad=30)
    (root / "ok" / "x.png").touch()
    finding = one(judged(root, "ok", "bad"), "unreadable")
    assert (finding.severity, finding.ids) == ("warning", ("ok/x.png",))
    for index in range(20):
        (root / "ok" / f"x{index}.png").write_text("no")
    assert one(judged(root, "ok", "bad"), "unreadable").severity == "error"


def test_odd_pictures_stand_out(pool, judged, picture, save):
    root = pool(ok=60, bad=60)
    save(root / "ok" / "black.png", np.zeros((48, 64), np.uint8))
    save(root / "ok" / "large.png", picture(900, 480, 640))
    save(root / "bad" / "dot.png", np.full((3, 3), 9, np.uint8))
    save(root / "bad" / "colour.png", picture(901, channels=3))
    findings = judged(root, "ok", "bad")
    flat = next(f for f in findings.findings if f.kind == "contrast" and f.severity == "warning")
    assert set(flat.ids) == {"ok/black.png", "bad/dot.png"}
    assert "bad/dot.png" in next(f for f in findings.findings if f.kind == "size" and f.severity == "warning").ids
    assert one(findings, "format").ids == ("bad/colour.png",)
    spread = {spread.name: [name for name, _ in spread.outliers] for spread in findings.spreads}
    assert "ok/large.png" in spread["width"]
    assert "ok/black.png" in spread["brightness"]


def test_12_bit_pictures_without_a_depth_range(tmp_path, judged, picture, save):
    for index in range(20):
        save(tmp_path / "p" / ("ok", "bad")[index % 2] / f"{index}.png", picture(index).astype(np.uint16) * 16)
    finding = one(judged(tmp_path / "p", "ok", "bad"), "format")
    assert "depth_range = [0, 4095]" in finding.remedy


def test_labels_that_a_model_contradicts(pool, judged, recipe):
    root = pool(ok=30, bad=30)
    dataset = open_dataset(recipe(root, "ok", "bad"))
    ids = [item.id for item in dataset.split("val")]
    truth = np.array([dataset.labels.index(item.label) for item in dataset.split("val")])
    probabilities = np.full((len(ids), 2), 0.02, np.float32)
    probabilities[np.arange(len(ids)), truth] = 0.98
    probabilities[1] = probabilities[1][::-1]
    probabilities[2] = 0.5
    scores = Scores(ids, truth, probabilities, np.ones(len(ids), np.float32))
    findings = judged(root, "ok", "bad", scores={"val": scores})
    assert [doubt.id for doubt in findings.suspicious] == [ids[1]]
    assert one(findings, "suspicious").ids == (ids[1],)
    with pytest.raises(DataError, match="tells 3 labels apart"):
        judged(root, "ok", "bad", scores={"val": replace(scores, probabilities=np.ones((len(ids), 3), np.float32))})


def test_few_of_a_label_and_a_missing_split(pool, judged):
    findings = judged(pool(ok=300, bad=2), "ok", "bad", test=0.0)
    texts = " ".join(f.text for f in findings.findings if f.kind == "balance")
    assert "bad (1)" in texts
    assert "There is no test split" in texts
    assert "ok has 300 pictures, bad 2" in texts


def test_a_data_set_without_facts_is_read(pool, recipe):
    made = recipe(pool(ok=12, bad=12), "ok", "bad", ok=("ok",))
    dataset = replace(open_dataset(made), facts=())
    (dataset.items[0].path).write_bytes(b"")
    findings = check(made, dataset)
    assert findings.count == 23
    assert findings.quarantined[0].id == dataset.items[0].id
