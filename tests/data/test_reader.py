from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections import Counter

import cv2
import numpy as np
import pytest

from edge_sft.data.reader import open_dataset, owner_groups
from edge_sft.errors import DataError, UserError


class Counting:
    """A Progress that adds up."""

    def __init__(self):
        self.phases, self.done = [], 0

    def start(self, title, total):
        self.phases.append((title, total))

    def advance(self, units=1, note=""):
        self.done += units


def sides(dataset):
    return Counter((item.label, item.split) for item in dataset.items)


def test_a_pool_is_read_hashed_and_cut(pool, recipe):
    progress = Counting()
    dataset = open_dataset(recipe(pool(ok=40, bad=20), "ok", "bad"), progress)
    assert sides(dataset) == {
        ("ok", "train"): 28, ("ok", "val"): 6, ("ok", "test"): 6, ("bad", "train"): 14, ("bad", "val"): 3,
        ("bad", "test"): 3,
    }  # fmt: skip
    assert [item.id for item in dataset.items] == sorted(item.id for item in dataset.items)
    assert progress.phases[0] == ("Reading pictures", 60)
    assert progress.done >= 60
    facts = dataset.facts[0]
    assert len(dataset.facts) == 60
    assert (facts.height, facts.width, facts.channels, facts.bits) == (48, 64, 1, 8)


def test_where_the_folder_lies_does_not_matter(pool, recipe, tmp_path):
    first = open_dataset(recipe(pool(ok=30, bad=20), "ok", "bad"))
    shutil.copytree(tmp_path / "parts", tmp_path / "else where" / "Teile")
    second = open_dataset(recipe(tmp_path / "else where" / "Teile", "ok", "bad"))
    assert first.fingerprint == second.fingerprint
    assert [(i.id, i.split) for i in first.items] == [(i.id, i.split) for i in second.items]


def test_broken_files_are_named_with_their_reason_and_the_rest_goes_on(pool, recipe, picture, save):
    root = pool(ok=10, bad=10)
    jpeg = save(root / "ok" / "cut.jpg", picture(77, channels=3))
    jpeg.write_bytes(jpeg.read_bytes()[:-40])
    png = save(root / "ok" / "cut.png", picture(78))
    png.write_bytes(png.read_bytes()[:-4])
    (root / "ok" / "empty.png").touch()
    (root / "bad" / "text.jpg").write_text("this is no picture")
    (root / "bad" / "zero.bmp").write_bytes(bytes(9000))
    cv2.imwrite(str(root / "bad" / "float.tiff"), np.ones((20, 20), np.float32))
    dataset = open_dataset(recipe(root, "ok", "bad"))
    assert len(dataset.items) == 20
    reasons = {left.id: left.reason for left in dataset.quarantined}
    assert set(reasons) == {
        "ok/cut.jpg",
        "ok/cut.png",
        "ok/empty.png",
        "bad/text.jpg",
        "bad/zero.bmp",
        "bad/float.tiff",
    }
    assert "end-of-image marker" in reasons["ok/cut.jpg"]
    assert "IEND" in reasons["ok/cut.png"]
    assert reasons["ok/empty.png"] == "is an empty file"
    assert "not a readable picture" in reasons["bad/text.jpg"]
    assert "zero bytes" in reasons["bad/zero.bmp"]
    assert "float32 pixels" in reasons["bad/float.tiff"]


def test_pictures_that_say_they_are_huge_are_quarantined_undecoded(pool, recipe, bombs):
    root = pool(ok=5, bad=5)
    for suffix, content in bombs.items():
        (root / "ok" / f"bomb{suffix}").write_bytes(content)
    dataset = open_dataset(recipe(root, "ok", "bad"))
    assert len(dataset.items) == 10
    assert {left.id for left in dataset.quarantined} == {f"ok/bomb{suffix}" for suffix in bombs}
    reasons = {left.id: left.reason for left in dataset.quarantined}
    for suffix in (".jpg", ".png", ".webp", ".ppm"):  # the others are also truncated, which is found first
        assert "MiB decoded" in reasons[f"ok/bomb{suffix}"]
        assert "scale it down" in reasons[f"ok/bomb{suffix}"]


@pytest.mark.skipif(os.name == "nt", reason="no such things on Windows")
def test_links_to_nothing_and_pipes_do_not_hang(pool, recipe):
    root = pool(ok=5, bad=5)
    (root / "ok" / "gone.png").symlink_to(root / "nothing")
    os.mkfifo(root / "ok" / "pipe.png")
    dataset = open_dataset(recipe(root, "ok", "bad"))
    assert {left.id: left.reason for left in dataset.quarantined} == {
        "ok/gone.png": "is a link that leads nowhere",
        "ok/pipe.png": "is not a regular file",
    }


def test_every_kind_of_picture_is_read(pool, recipe, picture, save):
    root = pool(ok=5, bad=5)
    grey = picture(50)
    save(root / "ok" / "deep.png", grey.astype(np.uint16) * 256 + 3)
    save(root / "ok" / "deep.tif", picture(51).astype(np.uint16) * 16)
    save(root / "ok" / "dot.png", np.array([[7]], np.uint8))
    save(root / "ok" / "alpha.png", np.dstack([picture(52, channels=3), grey]))
    save(root / "ok" / "UPPER.JPG", picture(53, channels=3))
    for suffix in ("bmp", "webp", "pgm", "jp2"):
        save(root / "ok" / f"x.{suffix}", picture(hash(suffix) % 999))
    dataset = open_dataset(recipe(root, "ok", "bad"))
    assert not dataset.quarantined
    facts = {item.id: fact for item, fact in zip(dataset.items, dataset.facts, strict=True)}
    assert facts["ok/deep.png"].bits == 16
    assert facts["ok/deep.png"].high > 30_000
    assert facts["ok/deep.tif"].high <= 4095
    assert (facts["ok/dot.png"].height, facts["ok/dot.png"].thumbnail) == (1, b"")
    assert facts["ok/alpha.png"].channels == 3


def test_cmyk_palette_and_gif_pictures(pool, recipe, picture):
    image = pytest.importorskip("PIL.Image", reason="Pillow writes what OpenCV cannot: CMYK, palettes")
    root = pool(ok=5, bad=5)
    colour = image.fromarray(picture(60, channels=3))
    colour.convert("CMYK").save(root / "ok" / "cmyk.jpg")
    colour.convert("P").save(root / "ok" / "palette.png")
    colour.save(root / "ok" / "x.gif")
    colour.convert("1").save(root / "ok" / "bits.png")
    dataset = open_dataset(recipe(root, "ok", "bad"))
    read = {item.id for item in dataset.items}
    assert {"ok/cmyk.jpg", "ok/palette.png", "ok/bits.png"} <= read
    assert "ok/x.gif" in read | {left.id for left in dataset.quarantined}  # older OpenCV has no GIF


def test_copies_and_near_copies_never_straddle(pool, recipe, picture, save):
    root = pool(ok=60, bad=30)
    for index in range(20):
        shutil.copy(root / "ok" / f"ok{index:03d}.png", root / "ok" / f"zz{index}.png")
        save(root / "bad" / f"again{index}.jpg", picture(1000 + index), cv2.IMWRITE_JPEG_QUALITY, 80)
    dataset = open_dataset(recipe(root, "ok", "bad"))
    side = {item.id: item for item in dataset.items}
    for index in range(20):
        assert side[f"ok/ok{index:03d}.png"].split == side[f"ok/zz{index}.png"].split
        first, second = side[f"bad/bad{index:03d}.png"], side[f"bad/again{index}.jpg"]
        assert first.split == second.split
        assert first.group == second.group is not None
        assert first.given_group is None


def test_groups_by_regex_stay_together(tmp_path, picture, save, recipe):
    for serial in range(40):
        for shot in range(3):
            save(tmp_path / "p" / ("ok", "bad")[serial % 2] / f"S{serial:03d}_{shot}.png", picture(serial * 3 + shot))
    dataset = open_dataset(recipe(tmp_path / "p", "ok", "bad", group=r"(S\d+)_"))
    where = {}
    for item in dataset.items:
        where.setdefault(item.given_group, set()).add(item.split)
    assert len(where) == 40
    assert all(len(found) == 1 for found in where.values())


def test_owner_groups():
    assert owner_groups(["a/S1_2.png", "a/x.png"], r"(S\d+)") == ["S1", None]
    assert owner_groups(["a/S1_2.png"], r"S\d") == ["S1"]
    assert owner_groups(["x"], None) == [None]
    assert owner_groups(["b"], r"(a)|b") == [None]
    with pytest.raises(UserError, match="no regular expression"):
        owner_groups(["x"], "(")


def test_split_folders_are_respected_and_val_is_cut_where_missing(pool, recipe, tmp_path):
    root = tmp_path / "parts"
    pool(root / "train", ok=40, bad=40)
    pool(root / "test", gut=0)
    for label in ("ok", "bad"):
        (root / "test" / label).mkdir(parents=True)
        for index in range(5):
            shutil.move(root / "train" / label / f"{label}{index:03d}.png", root / "test" / label)
    found = sides(open_dataset(recipe(root, "ok", "bad")))
    assert found["ok", "test"] == found["bad", "test"] == 5
    assert found["ok", "val"] == found["bad", "val"] == 5
    assert found["ok", "train"] == 30


def test_a_manifest_with_lost_files(pool, recipe, tmp_path):
    root = pool(ok=12, bad=12)
    lines = [f"{label}\\{label}{i:03d}.png;{label};serial{i // 2}" for label in ("ok", "bad") for i in range(14)]
    manifest = tmp_path / "list.csv"
    manifest.write_text("\ufeffpath;label;group\n" + "\n".join(lines), encoding="utf-8")
    dataset = open_dataset(recipe(root, "ok", "bad", manifest=manifest))
    assert len(dataset.items) == 24
    assert {left.reason for left in dataset.quarantined} == {"does not exist"}
    assert len(dataset.quarantined) == 4
    assert {item.given_group for item in dataset.items} == {f"serial{i}" for i in range(6)}


def refusal(recipe_):
    with pytest.raises(DataError) as caught:
        open_dataset(recipe_)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return str(caught.value)


def test_hopeless_folders_are_refused_in_one_line(pool, recipe, tmp_path):
    empty = tmp_path / "empty"
    assert "does not exist" in refusal(recipe(empty, "ok", "bad"))
    empty.mkdir()
    assert "no picture in class folders" in refusal(recipe(empty, "ok", "bad"))
    one = pool(tmp_path / "one", ok=5)
    assert "no readable picture of 'bad'" in refusal(recipe(one, "ok", "bad"))
    (one / "bad").mkdir()
    (one / "bad" / "x.png").write_text("no")
    assert "no readable picture of 'bad'" in refusal(recipe(one, "ok", "bad"))
    for file in (one / "ok").iterdir():
        file.write_bytes(b"")
    assert "no readable picture (5 x is an empty file" in refusal(recipe(one, "ok", "bad"))


def test_labels_the_recipe_does_not_know_are_all_named(pool, recipe):
    text = refusal(recipe(pool(ok=3, bad=3, dent=1, rust=1), "ok", "bad"))
    assert "'dent', 'rust'" in text
    assert "task.labels" in text


def test_a_label_only_in_the_test_folder_cannot_be_trained(pool, recipe, tmp_path):
    pool(tmp_path / "parts" / "train", ok=5)
    pool(tmp_path / "parts" / "test", bad=5)
    assert "no picture of 'bad' to train on" in refusal(recipe(tmp_path / "parts", "ok", "bad"))


def test_a_frozen_test_split_is_insisted_on(pool, recipe, picture, save):
    root = pool(ok=30, bad=30)
    dataset = open_dataset(recipe(root, "ok", "bad"))
    frozen = dataset.test_fingerprint
    assert open_dataset(recipe(root, "ok", "bad", frozen_test=frozen)).test_fingerprint == frozen
    save(dataset.split("test")[0].path, picture(4321))
    assert "frozen_test" in refusal(recipe(root, "ok", "bad", frozen_test=frozen))


def test_a_picture_that_would_not_fit_in_memory_is_quarantined(pool, recipe):
    root = pool(ok=5, bad=5)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(60_000)), b"IEND"]
    packed = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    (root / "ok" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
    dataset = open_dataset(recipe(root, "ok", "bad"))
    assert [left.id for left in dataset.quarantined] == ["ok/bomb.png"]
