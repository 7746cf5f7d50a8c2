from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sft.bundle import keys, manifest, reading, writing
from edge_sft.errors import BugError, DataError


def test_same_contents_same_bytes(make: Callable[..., Path], tmp_path: Path) -> None:
    first, second = make(), make(out=tmp_path / "again")
    assert first.name == "screws-1.2.3.edge"
    assert first.read_bytes() == second.read_bytes()


def test_the_zip_is_ordinary_and_stored(make: Callable[..., Path]) -> None:
    with zipfile.ZipFile(make()) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[:2] == ["manifest.json", "manifest.sig"]
        assert names[2:] == sorted(names[2:])
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert stat.S_ISREG(info.external_attr >> 16)


@pytest.mark.parametrize("name", ["../x", "a/b", "manifest.json", "manifest.sig", "", "x" * 101])
def test_names_that_could_not_be_read_are_not_written(
    make: Callable[..., Path], files: dict[str, bytes | Path], name: str
) -> None:
    with pytest.raises(BugError):
        make(files=files | {name: b""})


def test_a_draft_whose_files_are_not_given_is_a_bug(make: Callable[..., Path], files: dict[str, bytes | Path]) -> None:
    files.pop("fp32.onnx")
    with pytest.raises(BugError, match="needed but not listed"):
        make(files=files)


def test_a_missing_source_file_leaves_the_old_bundle(
    make: Callable[..., Path], files: dict[str, bytes | Path], tmp_path: Path, private_key: keys.PrivateKey
) -> None:
    path = make()
    with pytest.raises(DataError, match="cannot be read"):
        make(files=files | {"report.html": tmp_path / "gone.html"})
    assert reading.open_verified(path, [private_key.public]).manifest.name == "screws"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_source_that_changes_while_it_is_copied_is_noticed(
    draft: manifest.Draft,
    files: dict[str, bytes | Path],
    private_key: keys.PrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / "report.html"
    source.write_bytes(b"before")
    measure = writing._measure

    def exchanging(content: bytes | Path, name: str) -> tuple[int, str, int]:
        found = measure(content, name)
        if content == source:
            source.write_bytes(b"after!")
        return found

    monkeypatch.setattr(writing, "_measure", exchanging)
    with pytest.raises(DataError, match="changed while"):
        writing.write_bundle(tmp_path / "out", draft, files | {"report.html": source}, private_key)
    assert not list((tmp_path / "out").glob("*"))
