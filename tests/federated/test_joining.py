from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest

from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.federated import joining, leaving, pki, site_files
from edge_sft.federated.invite import read_join

from .sites import APP, NOW, Coordinator


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator(tmp_path, "plant.example")


def join(coordinator: Coordinator, root: Path, site: str = "berlin") -> joining.Joined:
    data = root.parent / "data"
    data.mkdir(exist_ok=True)
    invite, warning = joining.open_invite(coordinator.invite(site), NOW)
    assert not warning
    return joining.join(root, invite, data, root.parent / f"{site}.join", version="0.1.0")


def test_joining_leaves_a_site_with_a_key_of_its_own(coordinator: Coordinator, tmp_path: Path) -> None:
    root = tmp_path / "site"
    joined = join(coordinator, root)
    assert site_files.read_site(root) == joined.site
    assert joined.site.apps == (APP,)
    assert Path(joined.site.data) == (tmp_path / "data").resolve()
    assert stat.S_IMODE((root / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    answer = read_join(joined.join)
    assert answer.fingerprint == joined.fingerprint == pki.key_fingerprint((root / "key.pub").read_text())
    assert site_files.read_ca(root).strip() == coordinator.ca.strip()


def test_joining_again_keeps_the_key(coordinator: Coordinator, tmp_path: Path) -> None:
    first = join(coordinator, tmp_path / "site")
    assert join(coordinator, tmp_path / "site").fingerprint == first.fingerprint


def test_another_sites_folder_is_refused(coordinator: Coordinator, tmp_path: Path) -> None:
    join(coordinator, tmp_path / "site")
    with pytest.raises(UserError, match=r"belongs to the site 'berlin', not 'turin'.*site leave"):
        join(coordinator, tmp_path / "site", "turin")


def test_what_is_wrong_with_an_invite_is_said(coordinator: Coordinator, tmp_path: Path) -> None:
    path = coordinator.invite()
    text = path.read_text()
    path.write_text(text.replace("version = 1", "version = 2"))
    with pytest.raises(UserError, match="version"):
        joining.open_invite(path, NOW)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match="TOML"):
        joining.open_invite(path, NOW)
    other = Coordinator(tmp_path, "other.example")
    path.write_text(text.replace(coordinator.ca.strip(), other.ca.strip()))
    with pytest.raises(DataError, match="was changed"):
        joining.open_invite(path, NOW)
    path.write_text(text)
    with pytest.raises(DeviceError, match=r"expired.*new invite"):
        joining.open_invite(path, NOW + timedelta(days=pki.AUTHORITY_DAYS + 1))


def test_data_that_is_not_there_is_said_before_anything_is_written(coordinator: Coordinator, tmp_path: Path) -> None:
    invite, _ = joining.open_invite(coordinator.invite(), NOW)
    with pytest.raises(UserError, match="does not exist"):
        joining.join(tmp_path / "site", invite, tmp_path / "nowhere", tmp_path / "a.join", version="0.1.0")
    assert not (tmp_path / "site").exists()


def test_a_damaged_key_is_said(coordinator: Coordinator, tmp_path: Path) -> None:
    join(coordinator, tmp_path / "site")
    (tmp_path / "site" / "key").write_text("half a key")
    with pytest.raises(UserError, match="is damaged"):
        join(coordinator, tmp_path / "site")


def test_a_site_file_that_was_edited_wrong_names_its_line(coordinator: Coordinator, tmp_path: Path) -> None:
    root = tmp_path / "site"
    join(coordinator, root)
    path = root / "site.toml"
    path.write_text(path.read_text().replace("address", "adress"))
    with pytest.raises(UserError, match="did you mean 'address'"):
        site_files.read_site(root)
    with pytest.raises(UserError, match="is no site"):
        site_files.read_site(tmp_path / "nothing")


def test_leaving_takes_the_key_and_the_weights_and_keeps_the_ledger(coordinator: Coordinator, tmp_path: Path) -> None:
    root = tmp_path / "site"
    join(coordinator, root)
    (root / "ledger.jsonl").write_text("{}\n")
    (root / "runs" / "one").mkdir(parents=True)
    removed = leaving.leave(root)
    assert {"key", "site.toml", "runs"} <= set(removed)
    assert [path.name for path in root.iterdir()] == ["ledger.jsonl"]


def test_a_site_that_is_served_is_not_left(coordinator: Coordinator, tmp_path: Path) -> None:
    root = tmp_path / "site"
    join(coordinator, root)
    with site_files.locked(root), pytest.raises(UserError, match="is served"):
        leaving.leave(root)
    assert (root / "key").exists()
    assert not site_files.is_served(root)


def test_the_newest_personal_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no personalised checkpoint"):
        site_files.personal_checkpoint(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "runs" / name / "checkpoint").mkdir(parents=True)
        (tmp_path / "runs" / name / "checkpoint" / "checkpoint.json").write_text("{}")
    assert site_files.personal_checkpoint(tmp_path, "one").parent.name == "one"
    assert site_files.personal_checkpoint(tmp_path).parent.name in {"one", "two"}
    with pytest.raises(UserError, match="run 'three'"):
        site_files.personal_checkpoint(tmp_path, "three")
