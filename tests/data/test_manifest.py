from __future__ import annotations

import json

import pytest

from edge_sft.data.looking import look
from edge_sft.data.manifest import read_manifest
from edge_sft.data.reader import open_dataset
from edge_sft.errors import DataError


@pytest.fixture
def write(tmp_path):
    def make(text, name="list.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return make


def rows(listing):
    return [(e.id, e.label, e.split, e.group, e.part_id, e.weight) for e in listing.entries]


FULL = "path,label,split,group,part_id,weight\na/1.png,ok,train,g1,P-1,2.5\na/2.png,bad,Validation,,,\n"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_of_any_export(write, tmp_path, separator, encoding, newline):
    text = FULL.replace(",", separator).replace("\n", newline)
    listing = read_manifest(write(text, encoding=encoding), tmp_path)
    assert rows(listing) == [
        ("a/1.png", "ok", "train", "g1", "P-1", 2.5),
        ("a/2.png", "bad", "val", None, None, 1.0),
    ]
    assert not listing.quarantined


def test_json_lines(write, tmp_path):
    data = [
        {"path": "1.png", "label": "ok", "weight": 2, "part_id": 17},
        {"Path": "2.png", "LABEL": "bad", "split": None},
    ]
    listing = read_manifest(write("\n\n".join(map(json.dumps, data)), "list.jsonl"), tmp_path)
    assert rows(listing) == [("1.png", "ok", None, None, "17", 2.0), ("2.png", "bad", None, None, None, 1.0)]


def test_unknown_columns_are_noted(write, tmp_path):
    listing = read_manifest(write("path,label,camera,operator\n1.png,ok,2,x\n"), tmp_path)
    assert listing.notes == ("Columns of list.csv that are not used: camera, operator.",)


def test_backslashes_quotes_and_blanks(write, tmp_path):
    listing = read_manifest(write('path,label\n"a, b\\c d.png" , "ok"\n.\\x\\..\\y.png,ok\n\n'), tmp_path)
    assert [e.id for e in listing.entries] == ["a, b/c d.png", "y.png"]


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "..\\x.png", "/etc/passwd", ".."])
def test_paths_out_of_the_data_folder_are_quarantined(write, tmp_path, path):
    root = tmp_path / "data"
    root.mkdir()
    listing = read_manifest(write(f"path,label\n{path},ok\nin.png,ok\n"), root)
    assert [e.id for e in listing.entries] == ["in.png"]
    assert [(q.id, "outside" in q.reason) for q in listing.quarantined] == [(path, True)]


def test_absolute_paths_inside_are_taken(write, tmp_path):
    listing = read_manifest(write(f"path,label\n{tmp_path / 'x' / '1.png'},ok\n"), tmp_path)
    assert [e.id for e in listing.entries] == ["x/1.png"]


def test_rows_without_path_or_label_and_double_rows(write, tmp_path):
    listing = read_manifest(write("path,label\n,ok\n1.png,\n2.png,ok\n2.png,ok\n3.png,ok\n./3.png,bad\n"), tmp_path)
    assert [e.id for e in listing.entries] == ["2.png"]
    assert {q.id: q.reason for q in listing.quarantined} == {
        "line 2": "has no path (manifest line 2)",
        "1.png": "has no label (manifest line 3)",
        "3.png": "is listed with two labels: ok (line 6), bad (line 7)",
    }


def test_what_means_nothing_is_refused_in_one_line(write, tmp_path):
    with pytest.raises(DataError, match="no column path and no column label; its columns are file, class"):
        read_manifest(write("file,class\n1.png,ok\n"), tmp_path)
    with pytest.raises(DataError, match="split 'prod' is none of train, val, test"):
        read_manifest(write("path,label,split\n1.png,ok,prod\n"), tmp_path)
    with pytest.raises(DataError, match=r"line 2: weight '-1'.*and 3 more"):
        read_manifest(write("path,label,weight\n" + "1.png,ok,-1\n" * 8), tmp_path)
    with pytest.raises(DataError, match=r"is not UTF-8 \(line 2\)"):
        read_manifest(write("path,label\n1.png,größe\n", encoding="latin-1"), tmp_path)
    with pytest.raises(DataError, match="line 2 is no JSON"):
        read_manifest(write('{"path": "1.png", "label": "ok"}\n{oops\n', "x.jsonl"), tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(tmp_path / "none.csv", tmp_path)
    with pytest.raises(DataError, match="is no CSV at line 2"):
        read_manifest(write("path,label\n" + "x" * 200_000 + ",ok\n"), tmp_path)


def test_hostile_paths_are_quarantined_by_the_reader(write, tmp_path, pool, recipe):
    root = pool(ok=6, bad=6)
    rows = [f"{label}/{label}{i:03d}.png,{label}" for label in ("ok", "bad") for i in range(6)]
    rows += ["x" * 300 + ".png,ok", "y\\" + "x" * 300 + ".png,bad", "ok,ok", "/dev/zero,ok", "NUL,bad"]
    dataset = open_dataset(recipe(root, "ok", "bad", manifest=write("path,label\n" + "\n".join(rows))))
    assert len(dataset.items) == 12
    assert len(dataset.quarantined) == 5
    assert "null byte" in look(tmp_path / "a\0b.png")
