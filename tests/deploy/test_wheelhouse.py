from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_sft.deploy import collecting, own_wheel, wheelhouse
from edge_sft.deploy.wheelhouse import WheelEntry, Wheelhouse
from edge_sft.errors import DataError, NetworkError, UserError
from edge_sft.profile import load

FACTS = {"python": "3.10.12", "machine": "aarch64", "libc": "glibc 2.35"}


def wheel(folder: Path, name: str, requires: tuple[str, ...] = (), tag: str = "py3-none-any") -> Path:
    path = folder / f"{name.replace('-', '_')}-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as made:
        lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
        made.writestr(f"{name.replace('-', '_')}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


def house_of(*names: str, **changes: object) -> Wheelhouse:
    files = tuple(WheelEntry(name=name, sha256="0" * 64, size_bytes=1) for name in names)
    told = {"version": "1.0", "made_of": "x", "profile": "jetson", "python": "3.10", "machine": "aarch64"}
    return Wheelhouse.model_validate({**told, "extras": ("cpu",), "files": files, **changes})


def test_what_the_target_needs_and_pip_left_out_is_found(tmp_path: Path) -> None:
    needs = (
        "a",
        "tomli; python_version < '3.11'",
        "win; sys_platform == 'win32'",
        "b; extra == 'cpu'",
        "c; extra == 'gpu'",
    )
    wheel(tmp_path, "edge-sft", needs)
    wheel(tmp_path, "a", ("deep>=2; platform_machine == 'aarch64'",))
    target = collecting.Target("3.10", "aarch64", ())
    missing = collecting._missing(tmp_path.glob("*.whl"), target, ["cpu"])
    assert missing == {"tomli": "tomli", "b": "b", "deep": "deep>=2"}
    newer = collecting.Target("3.12", "x86_64", ())
    wheel(tmp_path, "b")
    assert collecting._missing(tmp_path.glob("*.whl"), newer, ["cpu"]) == {}


def test_platforms_are_spelt_out_for_pip() -> None:
    tags = collecting.manylinux("x86_64", 35)
    assert tags[0] == "manylinux_2_35_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"} <= set(tags)
    target = collecting.target_of(load("arm64-cpu"), python="3.10", glibc_minor=35)
    assert (target.python, target.machine, target.platforms[0]) == ("3.10", "aarch64", "manylinux_2_35_aarch64")


def test_a_device_that_it_does_not_fit_is_refused_in_words() -> None:
    house = house_of("numpy-2.2-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
                     "onnxruntime-1.2-cp310-cp310-manylinux_2_34_aarch64.whl", "rich-1-py3-none-any.whl")  # fmt: skip
    assert house.glibc == (2, 34)
    house.check_fits(FACTS)
    for changed, words in (
        ({"python": "3.11.2"}, "is for Python 3.10, the device has 3.11"),
        ({"machine": "x86_64"}, "is for aarch64, the device is x86_64"),
        ({"libc": "glibc 2.31"}, "needs glibc 2.34, the device has 2.31"),
    ):
        with pytest.raises(UserError, match=words):
            house.check_fits({**FACTS, **changed})


def test_damage_and_gaps_are_refused_and_packing_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "house"
    folder.mkdir()
    made = collecting._entry(wheel(folder, "edge-sft"))
    listed = house_of("x-1-py3-none-any.whl").model_copy(update={"files": (made,)})
    (folder / "wheelhouse.json").write_text(listed.model_dump_json())
    expected = wheelhouse.load(folder).id
    for name in ("house.tar", "house.zip"):
        wheelhouse.pack(folder, tmp_path / name)
        with wheelhouse.opened(tmp_path / name) as unpacked:
            assert wheelhouse.load(unpacked).id == expected
    (folder / made.name).write_bytes(b"damaged")
    with pytest.raises(DataError, match="not what the wheelhouse lists"):
        wheelhouse.load(folder)
    with pytest.raises(UserError, match="is no wheelhouse"):
        wheelhouse.load(tmp_path)


def test_what_cannot_be_completed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_wheel, "make", lambda out: wheel(out, "edge-sft", ("no-such-package-at-all",)))
    target = collecting.Target("3.11", "x86_64", collecting.manylinux("x86_64"))
    out = tmp_path / "house"
    with pytest.raises(NetworkError, match="cannot be completed"):
        collecting.collect(out, target, profile="x86-cpu", extras=("cpu",), pip_arguments=("--no-index",))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="is no wheelhouse"):
        collecting.collect(tmp_path, target, profile="x86-cpu", extras=("cpu",))


def test_the_own_wheel_from_installed_files_is_the_wheel_from_the_checkout(tmp_path: Path) -> None:
    for name in ("built", "again"):
        (tmp_path / name).mkdir()
    built = own_wheel.make(tmp_path / "built")
    place = tmp_path / "installed"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(place)
    script = (
        f"import sys; sys.path.insert(0, {str(place)!r})\n"
        "from pathlib import Path; from edge_sft.deploy import own_wheel\n"
        f"print(own_wheel.make(Path({str(tmp_path / 'again')!r})), own_wheel.made_of())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    again, made_of = done.stdout.rsplit(maxsplit=1)
    assert made_of == own_wheel.made_of()
    with zipfile.ZipFile(built) as first, zipfile.ZipFile(again) as second:
        skip = ("RECORD", "WHEEL")
        names = [sorted(n for n in one.namelist() if not n.endswith(skip)) for one in (first, second)]
        assert names[0] == names[1]
        assert all(first.read(name) == second.read(name) for name in names[0])


def test_wheels_without_the_engine_of_the_device_s_profile_are_refused_with_the_command_that_makes_them() -> None:
    house = house_of("onnxruntime-1.2-cp310-cp310-manylinux_2_28_x86_64.whl")
    told = {"python": "3.12.3"}
    house.check_serves(load("x86-cpu"), told)
    for name, engine, package in (
        ("x86-rtx-ada", "tensorrt_rtx", ""),
        ("x86-cuda", "onnxruntime-cuda", ""),
        ("dc-l4", "tensorrt", " --package tensorrt-cu13"),
        ("jetson-orin-nano-jp6", "tensorrt", ""),
    ):
        with pytest.raises(UserError) as caught:
            house.check_serves(load(name), told)
        assert f"brings no {engine}, which the device's profile {name}" in str(caught.value)
        assert f"edge-sft wheelhouse --profile {name} --python 3.12{package};" in str(caught.value)
    house_of("onnxruntime_gpu-1.2-cp310-cp310-manylinux_2_28_x86_64.whl").check_serves(load("x86-cuda"), told)
    house_of("tensorrt_rtx_cu13-1-py3-none-any.whl").check_serves(load("x86-rtx-ada"), told)
    house_of("tensorrt_cu13-1-py3-none-any.whl").check_serves(load("dc-l4"), told)
    house_of("numpy-1-py3-none-any.whl", system_packages=True).check_serves(load("jetson-orin-nano-jp6"), told)


def test_a_package_beside_edge_sft_must_be_there_too(tmp_path: Path) -> None:
    wheel(tmp_path, "edge-sft")
    target = collecting.Target("3.10", "x86_64", ())
    assert collecting._missing(tmp_path.glob("*.whl"), target, ["cpu"], ["tensorrt-cu13"]) == {
        "tensorrt-cu13": "tensorrt-cu13"
    }
