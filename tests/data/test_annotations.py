"""What is marked in pictures: boxes of VOC, masks beside pictures, both as arrays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_sft import recipe
from edge_sft.data.annotations import voc
from edge_sft.data.annotations.drawing import boxes_of, label_mask
from edge_sft.data.reader import open_dataset
from edge_sft.data.truth import Annotation, Truth
from edge_sft.errors import DataError

BOX = """<annotation><size><width>40</width><height>30</height></size><object><name>{name}</name>
<bndbox><xmin>{left}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>15</ymax></bndbox></object></annotation>"""
RECIPE = """
name = "toy"
[task]
kind = "{kind}"
labels = {labels}
{ok}
[data]
path = "pictures"
{where}
[image]
size = 64
[data.split]
near_duplicates = false
"""


def pictures(folder: Path, label: str, count: int = 8) -> None:
    rng = np.random.default_rng(len(label))
    (folder / label).mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / label / f"{label}{index}.png"), rng.integers(0, 255, (30, 40), dtype=np.uint8))


def dataset(folder: Path, kind: str, labels: list[str], where: str, ok: str = ""):
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(kind=kind, labels=str(labels).replace("'", '"'), where=where, ok=ok))
    return open_dataset(recipe.load(path))


def test_boxes_of_voc_count_from_one(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(BOX.format(name="dent", left=11))
    assert voc.read(tmp_path / "a.xml").annotations == (Annotation("dent", (10.0, 4.0, 20.0, 15.0)),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOX[:60], "is no XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "no plain annotation file"),
        (BOX.format(name="", left=11), "without a name or a box"),
        (BOX.format(name="dent", left=25), "without an area"),
        (BOX.format(name="dent", left="nan"), "without an area"),
        (BOX.format(name="dent", left="many"), "no number"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DataError, match=words):
        voc.read(tmp_path / "a.xml")


def test_a_folder_of_xml_beside_class_folders(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", "dent")
    pictures(tmp_path / "pictures", "good")
    (tmp_path / "xml").mkdir()
    for index in range(8):
        broken = index == 3
        (tmp_path / "xml" / f"dent{index}.xml").write_text("<" if broken else BOX.format(name="dent", left=11))
    found = dataset(tmp_path, "detection", ["dent"], 'annotations = "xml"')
    assert len(found.items) == 15
    assert [left.id for left in found.quarantined] == ["dent/dent3.png"]
    assert "is no XML" in found.quarantined[0].reason
    marked = {item.id: len(item.truth.annotations) for item in found.items if item.truth is not None}
    assert marked["dent/dent0.png"] == 1
    assert marked["good/good0.png"] == 0


def test_masks_mirror_the_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", "dent")
    pictures(tmp_path / "pictures", "good")
    (tmp_path / "masks" / "dent").mkdir(parents=True)
    drawn = np.zeros((30, 40), np.uint8)
    drawn[5:15, 10:20] = 255
    for index in range(8):
        cv2.imwrite(str(tmp_path / "masks" / "dent" / f"dent{index}_mask.png"), drawn)
    found = dataset(tmp_path, "segmentation", ["dent"], 'masks = "masks"')
    truth = next(item.truth for item in found.items if item.label == "dent")
    assert truth is not None
    np.testing.assert_array_equal(label_mask(truth, 30, 40, ["dent"], "dent"), drawn // 255)
    assert boxes_of(truth, 30, 40, ["dent"], "dent") == [Annotation("dent", (10.0, 5.0, 20.0, 15.0))]
    with pytest.raises(DataError, match="its picture 80 x 60"):
        label_mask(truth, 60, 80, ["dent"], "dent")
    before = found.fingerprint
    cv2.imwrite(str(tmp_path / "masks" / "dent" / "dent0_mask.png"), drawn * 0)
    assert dataset(tmp_path, "segmentation", ["dent"], 'masks = "masks"').fingerprint != before


def test_nothing_marked_is_said_in_words(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", "dent")
    with pytest.raises(DataError, match="has nothing marked that detection could learn from"):
        dataset(tmp_path, "detection", ["dent"], "")
    (tmp_path / "xml").mkdir()
    with pytest.raises(DataError, match="holds no XML file"):
        dataset(tmp_path, "detection", ["dent"], 'annotations = "xml"')


def test_good_parts_alone_are_enough_for_anomalies(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", "good")
    assert len(dataset(tmp_path, "anomaly", ["good", "dent"], "", 'ok = ["good"]').items) == 8
    with pytest.raises(DataError, match="has no picture of 'fine' to learn from"):
        dataset(tmp_path, "anomaly", ["good", "fine"], "", 'ok = ["fine"]')


def test_outlines_are_filled_and_boxes_only_when_asked() -> None:
    square = ((2.0, 2.0), (6.0, 2.0), (6.0, 6.0), (2.0, 6.0))
    truth = Truth((Annotation("a", (2, 2, 6, 6), (square,)), Annotation("b", (8, 0, 10, 4))))
    mask = label_mask(truth, 10, 10, ["a", "b"], "a")
    assert mask[3, 3] == 1
    assert (mask == 2).sum() == 0
    assert (label_mask(truth, 10, 10, ["a", "b"], "a", fill_boxes=True) == 2).sum() == 8
