from __future__ import annotations

import os
import unicodedata

import pytest

from edge_sft.data.listing import list_folder
from edge_sft.errors import DataError


def ids(listing):
    return [entry.id for entry in listing.entries]


def test_one_folder_a_class(pool):
    listing = list_folder(pool(ok=2, bad=1))
    assert listing.layout == "pool"
    assert ids(listing) == ["bad/bad000.png", "ok/ok000.png", "ok/ok001.png"]
    assert listing.labels == ("bad", "ok")


@pytest.mark.parametrize(("given", "side"), [("Training", "train"), ("valid", "val"), ("TEST", "test")])
def test_split_folders_by_any_usual_name(pool, tmp_path, given, side):
    pool(tmp_path / "parts" / given, ok=1)
    listing = list_folder(tmp_path / "parts")
    assert listing.layout == "splits"
    assert [(e.label, e.split) for e in listing.entries] == [("ok", side)]


def test_a_class_called_test_is_a_class(pool):
    assert list_folder(pool(ok=1, test=1)).labels == ("ok", "test")


def test_split_folders_beside_others_are_refused(pool, tmp_path):
    pool(tmp_path / "parts" / "train", ok=1)
    pool(tmp_path / "parts", masks=1)
    with pytest.raises(DataError, match=r"split folders \(train\) beside others \(masks\)"):
        list_folder(tmp_path / "parts")


def test_odd_names_and_deep_folders(tmp_path, picture, save):
    root = tmp_path / "Teile Größe №7 🏭"
    for name in ("gut/Schicht A/très fin.PNG", "gut/b/c/d/x.Jpg", "部品 不良/a b.tiff", "x.jpg/inside.png"):
        save(root / name, picture(hash(name) % 1000))
    listing = list_folder(root)
    assert sorted(listing.labels) == ["gut", "x.jpg", "部品 不良"]
    assert len(listing.entries) == 4
    assert not listing.quarantined


def test_decomposed_folder_names_are_the_same_label(tmp_path, picture, save):
    save(tmp_path / "d" / unicodedata.normalize("NFD", "Größe") / "a.png", picture(1))
    assert list_folder(tmp_path / "d").labels == (unicodedata.normalize("NFC", "Größe"),)


def test_system_and_hidden_files_do_not_matter(pool):
    root = pool(ok=1, bad=1)
    for name in (".DS_Store", "Thumbs.db", "ok/desktop.ini", "ok/._ok000.png", "ok/.hidden.png"):
        (root / name).write_bytes(b"\0")
    (root / "_unsure").mkdir()
    (root / "_unsure" / "x.png").write_bytes(b"x")
    listing = list_folder(root)
    assert len(listing.entries) == 2
    assert not listing.quarantined
    assert listing.notes == ("1 hidden folder was left out, for example _unsure.",)


def test_sidecars_are_noted_and_strays_named(pool, picture, save):
    root = pool(ok=2, bad=1)
    (root / "ok" / "ok000.xml").write_text("<boxes/>")
    (root / "readme.txt").write_text("hello")
    save(root / "lost.png", picture(5))
    listing = list_folder(root)
    assert [(q.id, q.reason) for q in listing.quarantined] == [("lost.png", "lies in no class folder")]
    assert listing.notes == (
        "1 file that is no picture was left out (.txt).",
        "1 file that is no picture was left out (.xml).",
    )


def test_pictures_without_a_suffix_are_recognised(pool, picture, save):
    root = pool(ok=1, bad=1)
    (root / "ok" / "ok000.png").rename(root / "ok" / "frame 17")
    assert "ok/frame 17" in ids(list_folder(root))


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_are_followed_and_loops_end(pool, tmp_path):
    root = pool(ok=1)
    elsewhere = pool(tmp_path / "elsewhere", bad=2)
    (root / "bad").symlink_to(elsewhere / "bad")
    (root / "ok" / "loop").symlink_to(root / "ok")
    (root / "ok" / "gone.png").symlink_to(root / "nothing.png")
    listing = list_folder(root)
    assert "bad/bad001.png" in ids(listing)
    assert "ok/gone.png" in ids(listing)  # the reader says that it leads nowhere
    assert [q.id for q in listing.quarantined] == ["ok/loop"]


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode on Windows")
def test_a_name_that_is_no_unicode(pool):
    root = pool(ok=1, bad=1)
    source = os.fsencode(root / "ok" / "ok000.png")
    os.rename(source, os.path.join(os.path.dirname(source), b"gr\xf6sse.png"))  # noqa: PTH104, PTH118, PTH120
    name = ids(list_folder(root))[1]
    assert name == "ok/gr\ufffdsse.png"
    name.encode()


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        list_folder(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        list_folder(tmp_path / "file")
    assert list_folder(tmp_path).entries == ()
