from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from edge_sft.bundle import keys
from edge_sft.errors import DeviceError, UserError


def test_a_new_key_signs_and_is_trusted(tmp_path: Path) -> None:
    pair = keys.generate(tmp_path, "line-3")
    private, public = keys.load_private(pair.private), keys.load_public(pair.public)
    signature = private.sign(b"manifest")
    assert len(signature) == 64
    assert public.verifies(signature, b"manifest")
    assert not public.verifies(signature, b"Manifest")
    assert not public.verifies(b"\0" * 64, b"manifest")
    assert pair.key_id == hashlib.sha256(public.raw).hexdigest()[:16]
    assert [key.raw for key in keys.trusted(tmp_path)] == [public.raw]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits: that only the owner reads is not proved")
def test_only_the_owner_reads_the_private_key(tmp_path: Path) -> None:
    assert stat.S_IMODE(keys.generate(tmp_path).private.stat().st_mode) == 0o600


def test_the_private_key_does_not_show_in_reprs(tmp_path: Path) -> None:
    private = keys.load_private(keys.generate(tmp_path).private)
    assert private.key.private_bytes_raw().hex()[:16] not in repr(private)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    before = keys.generate(tmp_path).private.read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        keys.generate(tmp_path)
    assert keys.private_path(tmp_path).read_bytes() == before


@pytest.mark.parametrize("name", ["../evil", "", "a b", "-" * 65])
def test_names_are_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        keys.generate(tmp_path, name)


def test_a_passphrase_locks(tmp_path: Path) -> None:
    pair = keys.generate(tmp_path, passphrase=b"open sesame")
    assert keys.load_private(pair.private, b"open sesame").public.key_id == pair.key_id
    with pytest.raises(UserError, match="locked"):
        keys.load_private(pair.private)
    with pytest.raises(UserError, match="passphrase is wrong"):
        keys.load_private(pair.private, b"open barley")
    with pytest.raises(UserError, match="not locked"):
        keys.load_private(keys.generate(tmp_path, "open").private, b"any")
    with pytest.raises(UserError, match="empty"):
        keys.generate(tmp_path, "none", passphrase=b"")


def test_trust_adds_once_and_takes_public_keys_only(tmp_path: Path) -> None:
    maker = keys.generate(tmp_path / "maker")
    keys.trust(tmp_path / "device", maker.public)
    keys.trust(tmp_path / "device", maker.public)
    assert [key.key_id for key in keys.trusted(tmp_path / "device")] == [maker.key_id]
    with pytest.raises(UserError, match="private key"):
        keys.trust(tmp_path / "device", maker.private)
    (tmp_path / "note.pem").write_text("hello")
    with pytest.raises(UserError, match="no public key"):
        keys.trust(tmp_path / "device", tmp_path / "note.pem")
    with pytest.raises(UserError, match="does not exist"):
        keys.trust(tmp_path / "device", tmp_path / "gone.pem")


def test_other_kinds_of_keys_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "ec.pem"
    path.write_bytes(other.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    with pytest.raises(UserError, match="not an Ed25519 key"):
        keys.load_private(path)
    path.write_bytes(other.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UserError, match="not an Ed25519 key"):
        keys.load_public(path)


def test_no_trusted_folder_means_no_trust(tmp_path: Path) -> None:
    assert keys.trusted(tmp_path / "nowhere") == []


def test_a_full_disk_leaves_no_half_key_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DeviceError, match="the disk is full"):
            keys.generate(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert keys.load_private(keys.generate(tmp_path).private).name == "default"


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    pair = keys.generate(tmp_path)
    assert keys.load_private(pair.private).public.key_id == pair.key_id
    assert stat.S_IMODE(pair.private.stat().st_mode) & 0o077 == 0 or os.name == "nt"
