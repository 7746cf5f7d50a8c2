"""Deploying to a real sshd in a network namespace without internet: first contact, cuts, hostile devices."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.deploy import collecting, wheelhouse
from edge_sft.deploy.remote.sending import Parcel


@pytest.fixture(scope="module")
def lab(ssh_lab: ModuleType) -> Iterator[Any]:
    if why := ssh_lab.lacking():
        pytest.skip(why)
    made = ssh_lab.Lab()
    made.root = made.home / "line 1" / "edge-sft"
    try:
        made.full = made.mount("full", "size=4m")
        made.read_only = made.mount("read only", "size=4m,ro")
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def signer(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small.Signer.make(tmp_path_factory.mktemp("maker"))


@pytest.fixture(scope="module")
def bundles(small: ModuleType, signer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    weight = {"weight.bin": os.urandom(8 << 20)}
    return [small.plan(seed, extra=weight).write(folder, signer) for seed in range(2)]


@pytest.fixture(scope="module")
def met(lab: Any) -> Any:
    """Return the lab once its host key was confirmed."""
    done = lab.cli("slots", "--to", lab.to, "--accept-host-key", lab.fingerprint)
    assert "is known from now on by SHA256:" in done.stdout
    assert "holds no edge-sft yet" in done.stderr
    return lab


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheelhouse for the Python of this machine's system."""
    told = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True, check=True).stdout
    python = ".".join(told.split()[1].split(".")[:2])
    target = collecting.Target(python, "x86_64", collecting.manylinux("x86_64", 35))
    out = tmp_path_factory.mktemp("house") / "wheelhouse"
    collecting.collect(out, target, profile="x86-cpu", extras=("cpu", "vision"))
    return out


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """What a person is told: one line, with these words."""
    assert done.returncode in (2, 5, 6)
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_a_host_key_is_never_accepted_in_silence(lab: Any) -> None:
    known = lab.config.parent / "known_hosts"
    kept = known.read_text() if known.exists() else ""
    known.unlink(missing_ok=True)
    refused(lab.cli("slots", "--to", lab.to), "its ED25519 host key is SHA256:", "--accept-host-key", lab.fingerprint)
    refused(lab.cli("slots", "--to", lab.to, "--accept-host-key", "SHA256:x"), "not the one you gave")
    assert not known.exists()
    known.write_text(kept)


def test_a_wrong_user_is_said(met: Any) -> None:
    refused(
        met.cli("slots", "--to", met.to.replace("edge@", "eve@")), "does not let user 'eve' in (it takes publickey)"
    )


def test_nobody_listens(met: Any) -> None:
    refused(met.cli("slots", "--to", met.to.replace("2222", "2223")), "refuses the connection")


def test_a_banner_in_bashrc_does_not_matter(met: Any) -> None:
    banner = met.home / ".bashrc"
    banner.write_text("echo Welcome to line 1; printf 'no newline'\n")
    refused(met.cli("slots", "--to", met.to), "holds no edge-sft yet")
    banner.unlink()


def test_a_folder_of_somebody_else_and_a_read_only_disk(met: Any, bundles: list[Path]) -> None:
    for root, words in (("/etc/edge-sft", "'/etc' belongs to 'root'"), (met.read_only / "x", "read-only")):
        refused(met.cli("deploy", bundles[0], "--to", met.to, "--root", root), words, "--root")


def test_wheels_for_the_processor_are_refused_for_a_device_that_says_it_has_a_gpu(
    met: Any, bundles: list[Path], tmp_path: Path
) -> None:
    """The device's nvidia-smi is a script that prints what a real one was seen to print; all else is real."""
    smi, banner = met.home / "nvidia-smi", met.home / ".bashrc"
    smi.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4070, 8.9, 12282, 580.65.06'\n")
    smi.chmod(0o755)
    banner.write_text(f"PATH={met.home}:$PATH\n")
    wheel = tmp_path / "onnxruntime-1.0-py3-none-any.whl"
    wheel.write_bytes(b"x")
    entry = wheelhouse.WheelEntry(name=wheel.name, sha256=Parcel.of(wheel).sha256, size_bytes=1)
    made = wheelhouse.Wheelhouse(
        version="9.9", made_of="x", profile="x86-cpu", python="3.11", machine="x86_64", extras=("cpu",), files=(entry,)
    )
    (tmp_path / wheelhouse.MANIFEST).write_text(made.model_dump_json())
    done = met.cli("deploy", bundles[0], "--to", met.to, "--wheelhouse", tmp_path, "--root", met.root)
    smi.unlink()
    banner.unlink()
    refused(done, "brings no tensorrt_rtx, which the device's profile x86-rtx-ada", "edge-sft wheelhouse --profile")
    assert "RTX 4070 (compute capability 8.9): profile x86-rtx-ada" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_first_contact_cuts_new_version_and_rollback(
    met: Any, house: Path, bundles: list[Path], signer: Any, ssh_cuts: ModuleType
) -> None:
    given = ["--to", met.to, "--wheelhouse", house, "--root", met.root, "--trust", signer.public_path]
    elsewhere = ["--to", met.to, "--wheelhouse", house, "--root", met.full / "x"]
    refused(met.cli("deploy", bundles[0], *elsewhere), "the disk is full")

    def cut(number: int, phase: str, kind: str, at: int = 0) -> None:
        digest = Parcel.of(bundles[number]).sha256
        done = ssh_cuts.run_and_cut(met, ["deploy", bundles[number], *given], digest, phase, kind, at)
        assert done.happened, done
        assert f"cut during the {'transfer of the wheelhouse' if phase == 'wheelhouse' else phase}" in done.said

    cut(0, "wheelhouse", "client")
    cut(0, "wheelhouse", "server")
    assert ssh_cuts.serving(met) == ""
    ours = met.start_cli("deploy", bundles[0], *given, "--ssh-config", met.config)
    while not (met.root / "software").is_dir() and ours.poll() is None:  # it has the lock, and a minute to go
        time.sleep(0.1)
    refused(met.cli("deploy", bundles[1], *given), "is being deployed to by", "Wait for it to end")
    out, err = ours.communicate(timeout=600)
    first = subprocess.CompletedProcess("deploy", ours.returncode, out, err)
    assert first.returncode == 0, first.stderr
    assert "serving: small 1.0.0 (fp32) on pipeline 'main'" in first.stdout
    assert ssh_cuts.serving(met) == "small 1.0.0"
    assert (met.root / "software" / wheelhouse.load(house).id / "complete.json").is_file()
    cut(1, "proof", "server")
    assert ssh_cuts.serving(met).startswith("small 1.0.")
    again = met.cli("deploy", bundles[1], *given)
    assert again.returncode == 0, again.stderr
    assert "edge-sft 0.1.0 is installed there: nothing to do" in again.stdout
    assert ssh_cuts.serving(met) == "small 1.0.1"
    back = met.cli("rollback", "--to", met.to, "--root", met.root)
    assert "serving: small 1.0.0 from slot a" in back.stdout
    assert "serves  slot a: small 1.0.0" in met.cli("slots", "--to", met.to, "--root", met.root).stdout


def test_a_changed_host_key_is_refused_whatever_is_said(met: Any) -> None:  # last: it changes the device
    met.stop_serving()
    met.new_host_key()
    met.serve()
    done = met.cli("slots", "--to", met.to, "--accept-host-key", met.fingerprint)
    refused(done, "shows another host key than the one known here", "ssh-keygen -R '[127.0.0.1]:2222'")
