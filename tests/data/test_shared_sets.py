"""The public sets: what the reader, the near-duplicate search and the draft make of real pictures."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from edge_sft import recipe as recipes
from edge_sft import strict_toml
from edge_sft.data.checking import check
from edge_sft.data.looking import look_all
from edge_sft.data.reader import lookalikes, open_dataset
from edge_sft.data.recognise import draft_recipe


def drafted(folder):
    return strict_toml.loads(draft_recipe(folder), recipes.Recipe, source=str(folder))


@pytest.mark.parametrize(
    ("name", "count", "sides", "ok"),
    [
        ("bsd_pitting", 1099, (693, 252, 154), ("clean",)),
        ("infrared_solar", 2380, (1680, 350, 350), ("No-Anomaly",)),
        ("magnetic_tile", 1344, (937, 205, 202), ("free",)),
        ("neu_det", 1800, (1260, 270, 270), ()),
    ],
)
def test_published_splits_are_kept_to_the_picture(shared, name, count, sides, ok):
    folder = shared(name)
    recipe = drafted(folder)
    dataset = open_dataset(recipe)
    assert recipe.task.ok == ok
    assert len(dataset.items) == count
    assert not dataset.quarantined
    assert tuple(len(dataset.split(side)) for side in ("train", "val", "test")) == sides
    with (folder / "splits.csv").open(newline="") as file:
        wanted = {row["path"]: (row["label"], row["split"]) for row in csv.DictReader(file)}
    assert {item.id: (item.label, item.split) for item in dataset.items} == wanted


def test_magnetic_tiles_near_duplicates_are_the_same_tile(shared):
    """The published groups say which pictures show one tile: joins must agree with them."""
    dataset = open_dataset(drafted(shared("magnetic_tile")))
    pairs = dataset.alike
    same = sum(dataset.items[i].given_group == dataset.items[j].given_group for i, j in pairs)
    assert len(pairs) > 900
    assert same / len(pairs) > 0.99


def test_a_pool_of_magnetic_tiles_is_cut_without_tearing_lookalikes(shared):
    recipe = drafted(shared("magnetic_tile") / "images")
    dataset = open_dataset(recipe)
    repeated = next(f for f in check(recipe, dataset).findings if f.kind == "near-duplicates")
    assert repeated.severity == "warning"  # joins find half of what the published groups know: groups are needed
    assert "group" in repeated.remedy
    sides = defaultdict(set)
    for item in dataset.items:
        if item.group is not None:
            sides[item.group].add(item.split)
    assert len(sides) > 200
    assert all(len(found) == 1 for found in sides.values())
    assert max(Counter(item.group for item in dataset.items if item.group).values()) <= 24
    for label in dataset.labels:
        found = Counter(item.split for item in dataset.items if item.label == label)
        assert 0.10 < found["test"] / sum(found.values()) < 0.20
        assert 0.10 < found["val"] / sum(found.values()) < 0.20


def test_steel_surfaces_that_look_alike_are_not_joined(shared):
    dataset = open_dataset(drafted(shared("neu_det") / "images"))
    assert [item.id for item in dataset.items if item.group is not None] == [
        "patches/patches_101.jpg",
        "patches/patches_105.jpg",
    ]  # truly one picture under two names


def test_the_known_copies_are_found_and_nothing_is_called_an_error(shared):
    recipe = drafted(shared("infrared_solar"))
    findings = check(recipe, open_dataset(recipe))
    assert sum(cluster.exact for cluster in findings.lookalikes) == 1
    assert not findings.has_errors
    assert any("1,870 defects" in finding.text for finding in findings.findings)


def test_solar_cells_in_one_pose_are_not_taken_for_one_another():
    """2,624 cells; what is still joined are wafers from one block, whose crystals make the same pattern."""
    package = Path(pytest.importorskip("elpv_dataset", reason="elpv-dataset is not installed").__file__).parent
    rows = [line.split() for line in (package / "data" / "labels.csv").read_text().splitlines()]
    paths = [package / "data" / row[0] for row in rows]
    seen = list(look_all(paths))
    pairs = lookalikes([one.sha256 for one in seen], [one.facts for one in seen])
    plain = [pair for pair in pairs if rows[pair[0]][-1] == "mono"]
    assert len(plain) < 30  # of 1,074 cells; a coarse comparison finds more than 2,500
    assert len(pairs) < 400
    cell1143, cell1144 = (next(i for i, row in enumerate(rows) if name in row[0]) for name in ("cell1143", "cell1144"))
    assert not {(cell1143, cell1144), (cell1144, cell1143)} & set(pairs)
