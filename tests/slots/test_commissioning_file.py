from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_sft.bundle.keys import private_path
from edge_sft.errors import DeviceError, UserError
from edge_sft.slots.commissioning import Commissioning
from edge_sft.slots.commissioning_file import CommissioningStore, device_key, from_bytes, to_bytes

DIGEST, OTHER = "ab" * 32, "cd" * 32


def made(asset: str = "pump 1", threshold: float = 1.25, digest: str = DIGEST) -> Commissioning:
    rng = np.random.default_rng(0)
    shapes = {"mean": (3,), "std": (3,), "bank": (40, 9)}
    return Commissioning(
        model_digest=digest,
        asset=asset,
        inputs={name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()},
        threshold=threshold,
        windows=300,
        first=10.0,
        last=309.0,
        created_at="2026-01-31T12:00:00.000Z",
        source="healthy.csv",
        facts=("flow was missing in most of the run and is not watched",),
    )


def store(root: Path, digest: str = DIGEST) -> CommissioningStore:
    return CommissioningStore(root, "main", digest)


def same(one: Commissioning | None, two: Commissioning) -> bool:
    if one is None or one.inputs.keys() != two.inputs.keys():
        return False
    arrays = all(one.inputs[name].tobytes() == two.inputs[name].tobytes() for name in two.inputs)
    return arrays and replace(one, inputs={}) == replace(two, inputs={})


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    store(tmp_path).write(made())
    assert same(store(tmp_path).read("pump 1"), made())
    assert store(tmp_path).read("pump 2") is None


def test_the_device_key_is_made_once_and_is_secret(tmp_path: Path) -> None:
    first, second = device_key(tmp_path), device_key(tmp_path)
    assert first.public.raw == second.public.raw
    if os.name != "nt":
        assert (tmp_path / "device-key" / "device.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("place", ["magic", "signature", "middle", "end", "short", "empty"])
def test_a_damaged_file_is_refused_and_the_machine_counts_as_not_commissioned(tmp_path: Path, place: str) -> None:
    path = store(tmp_path).write(made())
    content = bytearray(path.read_bytes())
    if place in ("short", "empty"):
        content = content[: 40 if place == "short" else 0]
    else:
        content[{"magic": 3, "signature": 30, "middle": len(content) // 2, "end": -1}[place]] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DeviceError, match="commission"):
        store(tmp_path).read("pump 1")
    assert store(tmp_path).of("pump 1") is None
    assert "Run: edge-sft commission" in store(tmp_path).why_not("pump 1")
    assert store(tmp_path).why_not("pump 2") == ""  # was never commissioned: nothing is wrong with it
    assert store(tmp_path).all() == []


def test_a_damaged_device_key_is_a_reason_too(tmp_path: Path) -> None:
    store(tmp_path).write(made())
    private_path(tmp_path / "device-key", "device").write_bytes(b"no key")
    assert store(tmp_path).of("pump 1") is None
    assert str(tmp_path / "device-key") in store(tmp_path).why_not("pump 1")


def test_a_file_of_another_device_is_refused(tmp_path: Path) -> None:
    here, there = store(tmp_path / "here"), store(tmp_path / "there")
    path = here.write(made())
    copy = there.path("pump 1")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    with pytest.raises(DeviceError, match="another device"):
        there.read("pump 1")


def test_a_file_of_another_model_or_machine_is_refused(tmp_path: Path) -> None:
    content = store(tmp_path).write(made()).read_bytes()
    for wrong, asset in ((store(tmp_path, OTHER), "pump 1"), (store(tmp_path), "pump 2")):
        wrong.path(asset).parent.mkdir(parents=True, exist_ok=True)
        wrong.path(asset).write_bytes(content)
        with pytest.raises(DeviceError, match="belongs to"):
            wrong.read(asset)
        assert wrong.of(asset) is None
    with pytest.raises(UserError, match="another model"):
        store(tmp_path, OTHER).write(made())


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    """Not even from a file that this device signed."""
    import io

    key = device_key(tmp_path)
    honest = to_bytes(made(), key)
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array([{"a": 1}], dtype=object))
    magic = honest[: honest.index(b"\n") + 1]
    forged = magic + key.sign(magic + buffer.getvalue()) + buffer.getvalue()
    with pytest.raises(DeviceError, match="damaged"):
        from_bytes(forged, key, source="forged")


@pytest.mark.parametrize("asset", ["../../etc/passwd", "a/b", "a-b", "", ".", "Pumpe Ü 7", "x" * 500, "CON", "a\nb"])
def test_any_name_is_a_file_in_the_folder(tmp_path: Path, asset: str) -> None:
    path = store(tmp_path).write(made(asset))
    assert path.resolve().parent == store(tmp_path).directory.resolve()
    assert same(store(tmp_path).read(asset), made(asset))


def test_names_that_a_file_system_may_confuse_are_apart(tmp_path: Path) -> None:
    names = ["pump", "Pump", "a/b", "a%2Fb"]
    paths = {str(store(tmp_path).path(name)).lower() for name in names}
    assert len(paths) == len(names)


def test_the_same_object_until_the_file_changes(tmp_path: Path) -> None:
    known = store(tmp_path)
    assert known.of("pump 1") is None
    store(tmp_path).write(made())
    assert known.of("pump 1") is None  # the disk is asked once
    assert known.refresh() == ("pump 1",)
    first = known.of("pump 1")
    assert first is not None
    assert known.of("pump 1") is first
    assert known.refresh() == ()
    store(tmp_path).write(made(threshold=2.0))
    assert known.refresh() == ("pump 1",)
    again = known.of("pump 1")
    assert again is not None
    assert again.threshold == 2.0


def test_all_machines_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        store(tmp_path).write(made(name))
    assert [one.asset for one in store(tmp_path).all()] == ["a", "b"]
    assert store(tmp_path, OTHER).all() == []


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).write(made())

    def refuse(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(DeviceError, match="full"):
            store(tmp_path).write(made(threshold=9.0))
    assert same(store(tmp_path).read("pump 1"), made())
