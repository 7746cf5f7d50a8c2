from __future__ import annotations

import numpy as np
import pytest

from edge_sft import recipe as recipes
from edge_sft.data.drafting import COMMENTS, compose
from edge_sft.data.reader import open_dataset
from edge_sft.data.recognise import draft_recipe, group_pattern, model_name
from edge_sft.data.words import means_good
from edge_sft.errors import DataError


@pytest.fixture
def drafted(tmp_path):
    """Draft, write and load: what a user gets without editing."""

    def make(folder):
        path = tmp_path / "recipe.toml"
        text = draft_recipe(folder)
        path.write_text(text, encoding="utf-8")
        return recipes.load(path), text

    return make


def test_a_folder_becomes_a_recipe_that_reads_it(pool, drafted):
    recipe, text = drafted(pool(Kratzer=20, OK=30, dent=20))
    assert recipe.task.labels == ("OK", "Kratzer", "dent")
    assert recipe.task.ok == ("OK",)
    assert recipe.name == "parts"
    assert recipe.image.size == 64
    assert recipe.image.grey
    assert len(open_dataset(recipe).items) == 70
    assert "median 48" in text


def test_every_key_of_the_model_is_shown_in_its_order_with_a_comment(pool, drafted):
    _, text = drafted(pool(ok=3, bad=3))
    keys = [line for line in text.splitlines() if " = " in line]
    assert all("  # " in line for line in keys)
    named = [line.removeprefix("# ").split(" = ")[0] for line in keys]
    wanted = [key.rpartition(".")[2] for key in COMMENTS]
    assert [name for name in named if name in wanted] == named
    sections = [line for line in text.splitlines() if line.startswith("[")]
    assert sections == [
        "[task]", "[data]", "[data.split]", "[image]", "[model]", "[augment]", "[train]", "[policy]", "[export]",
    ]  # fmt: skip


def test_examples_that_are_commented_out_are_valid_too(pool, tmp_path):
    text = compose({"name": "x", "task.labels": ["ok", "bad"], "task.ok": ["ok"], "data.path": "p"}, {}, [])
    active = "\n".join(line.removeprefix("# ") for line in text.splitlines())
    (tmp_path / "r.toml").write_text(active, encoding="utf-8")
    assert recipes.load(tmp_path / "r.toml").policy.max_escape_rate == 0.001


@pytest.mark.parametrize(
    "label",
    ["ok", "OK", "Good", "No-Anomaly", "no_defect", "No Defect", "PASS", "none", "gut", "i.O.", "bon", "bueno", "良品"],
)
def test_words_for_good(label):
    assert means_good(label)


@pytest.mark.parametrize("label", ["nok", "NG", "not ok", "n.i.O.", "scratch", "goodyear", "unclean", "bad", "0", ""])
def test_words_for_anything_else(label):
    assert not means_good(label)


def test_odd_labels_and_folders_make_valid_toml(tmp_path, picture, save, drafted):
    root = tmp_path / "Größe \"A\" 'x' #1 = \\ [z] 部品"
    for index, label in enumerate(['we"ird', "back\\slash", "line\nbreak", "tab\there", "x" * 200, "🏭", "#[no]"]):
        save(root / label / "a.png", picture(index))
    recipe, _ = drafted(root)
    assert set(recipe.task.labels) == {'we"ird', "back\\slash", "line\nbreak", "tab\there", "x" * 200, "🏭", "#[no]"}
    assert recipe.task.ok == ()
    assert recipe.name == "groe-a-x-1-z"


@pytest.mark.parametrize(("side", "size"), [(16, 64), (100, 96), (128, 128), (200, 192), (480, 224)])
def test_input_size_follows_the_pictures(tmp_path, picture, save, drafted, side, size):
    for label in ("a", "b"):
        save(tmp_path / "p" / label / "x.png", picture(1, side, side + 30))
    assert drafted(tmp_path / "p")[0].image.size == size


def test_16_bit_pictures_get_a_depth_range(tmp_path, picture, save, drafted):
    for label in ("a", "b"):
        save(tmp_path / "p" / label / "x.png", picture(1).astype(np.uint16) * 16)
    assert drafted(tmp_path / "p")[0].image.depth_range == (0, 4095)


def test_a_manifest_in_the_folder_is_taken(pool, drafted, tmp_path):
    root = pool(tmp_path / "set" / "images", ok=6, bad=6)
    rows = [f"images/{label}/{label}{i:03d}.png,{label},train" for label in ("ok", "bad") for i in range(6)]
    (root.parent / "prices.csv").write_text("article,price\n1,2\n")
    (root.parent / "splits.csv").write_text("path,label,split\n" + "\n".join(rows))
    for given in (root.parent, root.parent / "splits.csv"):
        recipe, text = drafted(given)
        assert recipe.data.manifest == str(root.parent / "splits.csv")
        assert recipe.name == "set"
        assert "The manifest has a split column" in text
        assert len(open_dataset(recipe).items) == 12


def test_an_only_folder_is_entered(pool, drafted, tmp_path):
    root = pool(tmp_path / "set" / "images", ok=6, bad=6)
    recipe, _ = drafted(root.parent)
    assert recipe.data.path == root.as_posix()
    assert recipe.name == "set"


def test_serials_in_file_names_are_suggested_not_imposed(tmp_path, picture, save, drafted):
    for serial in range(10):
        for shot in range(4):
            save(tmp_path / "p" / "ab"[serial % 2] / f"part{serial}_{shot}.png", picture(serial * 4 + shot))
    recipe, text = drafted(tmp_path / "p")
    assert recipe.data.split.group is None
    assert "# group = " in text
    assert "taken several times" in text


def test_group_pattern_ignores_running_numbers():
    assert group_pattern([f"crazing/crazing_{i}.jpg" for i in range(300)]) is None
    assert group_pattern([f"a/{i}.jpg" for i in range(300)]) is None
    assert group_pattern([]) is None


@pytest.mark.parametrize(("name", "made"), [("Ölpumpe 3", "olpumpe-3"), ("部品", "model"), ("a" * 99, "a" * 64)])
def test_model_name(tmp_path, name, made):
    (tmp_path / name).mkdir()
    assert model_name(tmp_path / name) == made


def test_relative_paths_where_the_recipe_lies_above(pool, tmp_path):
    assert '\npath = "parts"' in draft_recipe(pool(ok=2, bad=2), here=tmp_path)


def test_nothing_to_learn_from(pool, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no picture in class folders"):
        draft_recipe(tmp_path / "empty")
    with pytest.raises(DataError, match=r"only one class \('ok'\)"):
        draft_recipe(pool(ok=3))
    with pytest.raises(DataError, match="does not exist"):
        draft_recipe(tmp_path / "nowhere")
    (tmp_path / "parts" / "bad").mkdir()
    for path in (tmp_path / "parts").rglob("*.png"):
        path.write_text("no")
    (tmp_path / "parts" / "bad" / "x.png").write_text("no")
    with pytest.raises(DataError, match="no readable picture"):
        draft_recipe(tmp_path / "parts")


def test_labels_that_differ_by_case_only_are_pointed_out(pool, drafted):
    assert "differ by case or blanks only: OK, ok" in drafted(pool(OK=3, ok=3, bad=3))[1]
