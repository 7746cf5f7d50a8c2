from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edge_sft.bundle.reading import open_verified
from edge_sft.errors import BundleRefused, DeviceError, UserError
from edge_sft.slots.store import Slot, SlotStore

Install = Callable[..., Slot]


@pytest.fixture
def store(tmp_path: Path) -> SlotStore:
    return SlotStore(tmp_path / "root")


@pytest.fixture
def install(tmp_path: Path, small: ModuleType, store: SlotStore) -> Install:
    signer = small.Signer.make(tmp_path / "keys")

    def do(seed: int) -> Slot:
        bundle = small.plan(seed).write(tmp_path / "out", signer)
        with store.lock(), store.staging() as folder:
            open_verified(bundle, [signer.public]).extract_to(folder)
            (folder / "proof.json").write_text("{}")
            return store.commit(folder)

    return do


def test_before_the_first_deploy_there_is_nothing(store: SlotStore) -> None:
    assert store.current() is None
    assert store.previous() is None
    assert store.generation() == 0
    with pytest.raises(UserError, match="no model yet"):
        store.verified()
    with pytest.raises(UserError, match="nothing to roll back"):
        store.rollback()
    with pytest.raises(UserError):
        _ = store.policy_path


def test_deploys_alternate_between_two_slots(store: SlotStore, install: Install) -> None:
    slots = [install(seed) for seed in range(3)]
    assert [slot.name for slot in slots] == ["a", "b", "a"]
    assert [slot.generation for slot in slots] == [1, 2, 3]
    assert store.current() == slots[-1]
    previous = store.previous()
    assert previous is not None
    assert previous.digest == slots[1].digest
    assert store.spare() == slots[1].path
    assert sorted(path.name for path in store.directory.iterdir()) == ["a", "b", "current.json", "deploy.lock"]


def test_a_pipeline_keeps_its_own_slots(tmp_path: Path, install: Install) -> None:
    install(0)
    assert SlotStore(tmp_path / "root", "other").current() is None


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "a" * 65, "a b", "C:"])
def test_a_pipeline_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        SlotStore(tmp_path, name)


def test_rollback_goes_back_and_forth(store: SlotStore, install: Install) -> None:
    first, second = install(0), install(1)
    assert store.rollback().digest == first.digest
    assert store.generation() == 3
    assert store.rollback().digest == second.digest
    assert store.generation() == 4
    assert store.verified().digest == second.digest


def test_rollback_to_a_damaged_slot_is_refused(store: SlotStore, install: Install) -> None:
    first, second = install(0), install(1)
    (first.path / "fp32.onnx").write_bytes(b"rot")
    with pytest.raises(BundleRefused):
        store.rollback()
    assert store.verified().digest == second.digest


@pytest.mark.parametrize("name", ["fp32.onnx", "manifest.json", "policy.json", "golden.npz", "proof.json"])
@pytest.mark.parametrize("how", ["flip a bit", "remove", "cut"])
def test_bit_rot_falls_back_to_the_previous_slot(store: SlotStore, install: Install, name: str, how: str) -> None:
    first, second = install(0), install(1)
    path = second.path / name
    content = path.read_bytes()
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if how == "cut" else bytes([content[0] ^ 1]) + content[1:])
    slot = store.verified()
    assert slot.digest == first.digest
    assert slot.note is not None
    assert name in slot.note
    assert "serving the previous slot" in slot.note


def test_rot_in_both_slots_is_refused(store: SlotStore, install: Install) -> None:
    for slot in (install(0), install(1)):
        (slot.path / "fp32.onnx").write_bytes(b"rot")
    with pytest.raises(BundleRefused, match="does not match"):
        store.verified()


def test_a_deploy_over_a_damaged_slot_keeps_the_one_that_has_to_serve(store: SlotStore, install: Install) -> None:
    first, second = install(0), install(1)
    (second.path / "fp32.onnx").write_bytes(b"rot")
    with store.lock():
        repaired = store.repair()
    assert repaired is not None
    assert repaired.digest == first.digest
    assert store.spare() == second.path
    third = install(2)
    assert third.name == second.name
    assert store.rollback().digest == first.digest


def test_a_damaged_pointer_is_named_and_the_next_deploy_mends_it(store: SlotStore, install: Install) -> None:
    install(0)
    (store.directory / "current.json").write_text('{"slot": "c"}')
    for ask in (store.current, store.generation, store.verified, store.rollback):
        with pytest.raises(DeviceError, match="damaged"):
            ask()
    assert install(1).digest == store.verified().digest


def test_leftovers_of_killed_deploys_are_cleared(store: SlotStore, install: Install) -> None:
    install(0)
    (store.directory / ".staging-dead").mkdir()
    (store.directory / ".staging-dead" / "fp32.onnx").write_bytes(b"half")
    (store.directory / ".current.json.x.part").write_bytes(b"half")
    install(1)
    assert not [path for path in store.directory.iterdir() if path.name.startswith(".")]


def test_staging_is_removed_when_the_deploy_fails(store: SlotStore, install: Install) -> None:
    first = install(0)
    with pytest.raises(ZeroDivisionError), store.lock(), store.staging() as folder:
        (folder / "half").write_bytes(b"x")
        raise ZeroDivisionError
    assert not list(store.directory.glob(".staging*"))
    assert store.verified() == first


def test_the_spare_folder_itself_may_be_committed(
    tmp_path: Path, store: SlotStore, small: ModuleType, install: Install
) -> None:
    install(0)
    signer = small.Signer.make(tmp_path / "keys2")
    bundle = open_verified(small.plan(5).write(tmp_path / "out", signer), [signer.public])
    bundle.extract_to(store.spare())
    slot = store.commit(store.spare())
    assert slot.digest == bundle.digest
    assert store.verified() == slot


def test_a_failed_flip_leaves_the_old_slot_serving(
    store: SlotStore, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = install(0)

    def refuses(*_: object) -> None:
        raise DeviceError("current.json", "the disk is full", "")

    with monkeypatch.context() as patch:
        patch.setattr("edge_sft.durable.write_text", refuses)
        with pytest.raises(DeviceError):
            install(1)
    assert store.verified() == first
    assert install(1).digest == store.verified().digest


def test_the_site_policy_goes_first_and_is_guarded(tmp_path: Path, store: SlotStore, small: ModuleType) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    bundle = open_verified(small.plan().write(tmp_path / "out", signer), [signer.public])
    with store.lock(), store.staging() as folder:
        bundle.extract_to(folder)
        (folder / "site-policy.json").write_text("{}")
        slot = store.commit(folder)
    assert store.policy_path == slot.path / "site-policy.json"
    (slot.path / "site-policy.json").write_text("{ }")
    with pytest.raises(BundleRefused, match=r"site-policy\.json"):
        store.verified()


def test_polling_the_generation_is_cheap(store: SlotStore, install: Install) -> None:
    import time

    install(0)
    begin = time.perf_counter()
    for _ in range(200):
        store.generation()
    assert (time.perf_counter() - begin) / 200 < 0.002


def test_a_slot_asked_for_after_it_was_replaced_is_refused(store: SlotStore, install: Install) -> None:
    first = install(0)
    install(1)
    install(2)
    with pytest.raises(BundleRefused, match="newer deploy"):
        store.verify(first)


def test_current_json_is_readable_for_people(store: SlotStore, install: Install) -> None:
    slot = install(0)
    content = json.loads((store.directory / "current.json").read_text())
    assert (content["slot"], content["digest"], content["generation"]) == ("a", slot.digest, 1)
    assert content["flipped_at"].endswith("Z")


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_another_user_may_read_a_slot(install: Install) -> None:
    slot = install(0)
    assert slot.path.stat().st_mode & 0o055 == 0o055


def test_a_root_that_is_moved_still_serves(tmp_path: Path, store: SlotStore, install: Install) -> None:
    slot = install(0)
    shutil.move(tmp_path / "root", tmp_path / "moved")
    assert SlotStore(tmp_path / "moved").verified().digest == slot.digest


def test_a_deploy_under_a_reader_s_feet_is_no_damage(
    store: SlotStore, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(0)
    real, deployed = SlotStore.verify, []

    def verify(self: SlotStore, entry: object) -> object:
        if not deployed:
            deployed.append(True)
            install(1)
            deployed.append(install(2).digest)
        return real(self, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(SlotStore, "verify", verify)
    slot = store.verified()
    assert slot.note is None
    assert slot.digest == deployed[1]
