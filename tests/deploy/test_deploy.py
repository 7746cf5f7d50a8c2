from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft import Policy, Predictor
from edge_sft.deploy import local, proving
from edge_sft.deploy.local import deploy
from edge_sft.errors import BundleRefused, DeviceError, UserError
from edge_sft.profile import Budgets
from edge_sft.slots import proof as proofs
from edge_sft.slots.store import SlotStore


@dataclass
class Device:
    small: ModuleType
    signer: Any
    root: Path
    out: Path

    def deploy(self, bundle: Path, **changes: Any) -> proofs.Proof:
        given = {"profile": self.small.profile(), "trusted_keys": [self.signer.public], **changes}
        return deploy(bundle, self.root, **given)

    def bundle(self, seed: int = 0, **changes: Any) -> Path:
        return Path(self.small.plan(seed, **changes).write(self.out, self.signer))

    @property
    def store(self) -> SlotStore:
        return SlotStore(self.root)

    def serves(self) -> str:
        with Predictor.from_device(self.root) as predictor:
            assert predictor.predict_image(np.zeros((20, 20, 3), np.uint8)).verdict != "no_decision"
            return predictor.model.digest


@pytest.fixture
def device(tmp_path: Path, small: ModuleType) -> Device:
    return Device(small, small.Signer.make(tmp_path / "keys"), tmp_path / "root", tmp_path / "out")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the measuring where a test is about something else."""

    def measured(request: Any, *, timeout_s: float) -> proving.Measurements:
        items = [
            proving.Measured(variant=name, golden_difference=0.0, golden_tolerance=1.0, p50_ms=1, p95_ms=2, runs=30)
            for name in request.variants
        ]
        return proving.Measurements(items, proving.EngineInfo("onnxruntime", "CPUExecutionProvider", "1", 1))

    monkeypatch.setattr(proving, "measure", measured)


def test_the_fastest_right_variant_is_chosen_and_everything_is_in_the_proof(device: Device) -> None:
    small = device.small
    graphs = {"fp32": small.graph(work=4), "int8-cpu": small.graph()}
    proof = device.deploy(device.bundle(graphs=graphs))
    assert proof.chosen == "int8-cpu"
    fp32, int8 = proof.of("fp32"), proof.of("int8-cpu")
    assert fp32 is not None
    assert int8 is not None
    for item in (fp32, int8):
        assert item.passed
        assert item.runs >= 30
        assert item.golden_samples == 8
        assert item.decisions_changed == 0
        assert item.p50_ms is not None
        assert item.p95_ms is not None
        assert 0 < item.p50_ms <= item.p95_ms
        assert item.memory_mb is not None or sys.platform != "linux"
    assert proof.provider == "CPUExecutionProvider"
    assert proof.frame == "1280x1024"
    slot = device.store.verified()
    assert proofs.load(slot.path) == proof
    with Predictor.from_device(device.root) as predictor:
        assert predictor.model.variant == "int8-cpu"


def test_int8_that_is_not_faster_is_refused_in_words(device: Device) -> None:
    graphs = {"fp32": device.small.graph(), "int8-cpu": device.small.graph(work=4)}
    proof = device.deploy(device.bundle(graphs=graphs))
    assert proof.chosen == "fp32"
    int8 = proof.of("int8-cpu")
    assert int8 is not None
    assert int8.reason.startswith("not faster than fp32 here: p50 ")


def test_a_bad_variant_does_not_stand_in_the_way_of_a_good_one(device: Device) -> None:
    graphs = {"fp32": device.small.graph(), "int8-cpu": device.small.graph(nan=True)}
    proof = device.deploy(device.bundle(graphs=graphs))
    assert proof.chosen == "fp32"
    assert [item.reason for item in proof.variants] == ["gives NaN or infinite outputs on a golden sample", ""]


def test_variants_outside_the_profile_are_not_measured(device: Device) -> None:
    graphs = {"fp32": device.small.graph(), "int8-trt": device.small.graph()}
    proof = device.deploy(device.bundle(graphs=graphs))
    assert [item.variant for item in proof.variants] == ["fp32"]


def test_the_same_bundle_again_changes_nothing(device: Device, quick: None) -> None:
    bundle = device.bundle()
    first = device.deploy(bundle)
    assert device.deploy(bundle) == first
    assert device.store.generation() == 1


def test_the_same_bundle_with_another_profile_is_proved_anew(device: Device, quick: None) -> None:
    bundle = device.bundle()
    device.deploy(bundle)
    device.deploy(bundle, profile=device.small.profile(threads=2))
    assert device.store.generation() == 2


def test_the_same_bundle_over_a_rotten_slot_mends_it(device: Device, quick: None) -> None:
    bundle = device.bundle()
    device.deploy(bundle)
    (device.store.verified().path / "fp32.onnx").write_bytes(b"rot")
    device.deploy(bundle)
    assert device.store.generation() == 2
    device.serves()


def test_a_site_policy_comes_with_the_slot_stays_and_goes(device: Device, tmp_path: Path, quick: None) -> None:
    rule = Policy(labels=device.small.LABELS, ok_labels=("good",), threshold=0.25)
    path = tmp_path / "site.json"
    path.write_text(rule.model_dump_json(indent=2))
    device.deploy(device.bundle(0))
    own = device.store.policy_path.read_bytes()
    for seed, given in ((0, {"policy": path}), (1, {})):  # the same bundle; then a new model, nothing said
        proof = device.deploy(device.bundle(seed), **given)
        assert (proof.policy_origin, proof.policy_version) == ("site", rule.version)
        assert device.store.policy_path.read_bytes() == path.read_bytes()
        with Predictor.from_device(device.root) as predictor:
            assert predictor.policy == rule
    assert device.store.generation() == 3
    proof = device.deploy(device.bundle(1), bundle_policy=True)
    assert proof.policy_origin == "bundle"
    assert device.store.policy_path.read_bytes() == own
    assert device.store.generation() == 4


def test_changed_labels_need_a_word(device: Device, tmp_path: Path, quick: None) -> None:
    small = device.small
    device.deploy(device.bundle(0))
    new = device.bundle(1, labels=("good", "crack"), graphs={"fp32": small.graph(labels=2)})
    with pytest.raises(BundleRefused, match="--bundle-policy"):
        device.deploy(new)
    path = tmp_path / "policy.json"
    path.write_text(Policy(labels=("good", "crack"), ok_labels=("good",), threshold=0.3).model_dump_json())
    assert device.deploy(new, policy=path).policy_origin == "site"
    with device.store.lock():
        device.store.rollback()
    with Predictor.from_device(device.root) as predictor:
        assert predictor.policy.labels == small.LABELS
    assert device.deploy(new, bundle_policy=True).policy_origin == "bundle"


@pytest.mark.parametrize("content", [None, b"{}", b"\xff\xfe", b"[]"])
def test_a_policy_file_that_is_none_is_refused(
    device: Device, tmp_path: Path, quick: None, content: bytes | None
) -> None:
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((UserError, BundleRefused), match=r"policy\.json"):
        device.deploy(device.bundle(), policy=path)
    assert device.store.current() is None


def test_a_profile_for_another_processor_is_refused(device: Device) -> None:
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
    with pytest.raises(UserError, match="this machine is"):
        device.deploy(device.bundle(), profile=device.small.profile(architecture=other))


def test_two_deploys_at_once(device: Device, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    inside, go_on = threading.Event(), threading.Event()
    real = local._prove

    def waits(*arguments: Any) -> Any:
        inside.set()
        assert go_on.wait(20)
        return real(*arguments)

    first, second = device.bundle(0), device.bundle(1)
    with monkeypatch.context() as patch:
        patch.setattr(local, "_prove", waits)
        worker = threading.Thread(target=device.deploy, args=(first,))
        worker.start()
        assert inside.wait(20)
        with pytest.raises(UserError, match="another deploy"):
            device.deploy(second)
        go_on.set()
        worker.join(20)
    assert device.store.generation() == 1
    device.deploy(second)


CRASHES = """
import json, os, sys
request = json.loads(sys.stdin.readline())
if "int8-cpu" in request["variants"]:
    print(json.dumps({{"event": "doing", "variant": "int8-cpu", "what": "loading"}}), flush=True)
    {how}
real = [{python!r}, "-m", "edge_sft.deploy.prove"]
import subprocess
sys.exit(subprocess.run(real, input=json.dumps(request).encode() + b"\\n").returncode)
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let the proof's process be a script of the test's."""
    (tmp_path / "child.py").write_text(code)
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'child.py'}\n")
    script.chmod(0o755)
    monkeypatch.setattr(proving.sys, "executable", str(script))


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script as interpreter")
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("os.abort()", "crashed the engine (killed by SIGABRT) while loading"),
        ("os._exit(9)", "crashed the engine (exit status 9) while loading"),
        ("import time; time.sleep(60)", "did not end within 2 s while loading"),
        ("hog = b'x' * (1 << 30); import time; time.sleep(600)", "MB of memory while loading"),
    ],
    ids=["aborts", "exits", "hangs", "grows"],
)
def test_a_variant_that_takes_its_process_down_is_named_and_the_rest_goes_on(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, reason: str
) -> None:
    measured: list[str] = []

    def real_child(request: Any, timeout_s: float) -> Any:
        measured.append(",".join(request.variants))
        if "int8-cpu" not in request.variants:
            monkeypatch.setattr(proving.sys, "executable", python)
            timeout_s = 60
        return attempt(request, timeout_s)

    attempt, python = proving._attempt, sys.executable
    stand_in(monkeypatch, tmp_path, CRASHES.format(how=how, python=python))
    monkeypatch.setattr(proving, "_attempt", real_child)
    monkeypatch.setattr(local, "_longest_s", lambda profile, variants: 0.0)
    small = device.small
    bundle = device.bundle(graphs={"fp32": small.graph(), "int8-cpu": small.graph()})
    tight = small.profile(budgets=Budgets(latency_p95_ms=1000, memory_mb=50))
    proof = device.deploy(bundle, profile=tight, timeout_s=2 if "did not end" in reason else 60)
    assert measured == ["int8-cpu,fp32", "fp32"]
    assert proof.chosen == "fp32"
    int8 = proof.of("int8-cpu")
    assert int8 is not None
    assert reason in int8.reason


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script as interpreter")
def test_a_proof_that_cannot_start_says_why(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "raise ImportError('libonnxruntime.so: cannot open shared object file')")
    with pytest.raises(DeviceError, match=r"could not start.*libonnxruntime"):
        device.deploy(device.bundle())
    assert device.store.current() is None


def test_the_proof_dies_with_the_deploy(device: Device) -> None:
    child = subprocess.Popen([sys.executable, "-m", "edge_sft.deploy.prove"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=20) == 3


def test_no_room_is_said_before_anything_is_written(
    device: Device, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    digest = device.deploy(device.bundle(0)).digest
    with monkeypatch.context() as patch:
        patch.setattr(local.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)) and _Usage())
        with pytest.raises(DeviceError, match="installing needs"):
            device.deploy(device.bundle(1))
    assert device.serves() == digest


class _Usage:
    free = 1000


def test_a_proof_that_is_no_proof_is_named(device: Device, quick: None) -> None:
    device.deploy(device.bundle())
    path = device.store.verified().path / "proof.json"
    content = json.loads(path.read_text()) | {"schema_version": 9}
    path.write_text(json.dumps(content))
    with pytest.raises(BundleRefused, match="schema_version"):
        proofs.load(path.parent)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A real file system of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"not proved here: a full disk; mounting a tmpfs is not permitted ({made.stderr.strip()})")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
@pytest.mark.parametrize("left_kib", [0, 8, 40, 200])
def test_a_full_disk_leaves_the_old_slot_serving(
    device: Device, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, quick: None, left_kib: int
) -> None:
    device.root = tiny_disk / "root"
    weights = bytes(np.random.default_rng(0).bytes(100_000))
    digest = device.deploy(device.bundle(0)).digest
    fill(tiny_disk / "others", left_kib * 1024)
    # the check beforehand cannot see what fills up meanwhile: leave it out
    monkeypatch.setattr(local, "_require_room", lambda *_: None)
    before = sorted(path.name for path in device.store.directory.iterdir())
    with pytest.raises(DeviceError, match="the disk is full"):
        device.deploy(device.bundle(1, extra={"report.html": weights * 4}))
    assert sorted(path.name for path in device.store.directory.iterdir()) == before
    assert device.serves() == digest
    (tiny_disk / "others").unlink()
    assert device.deploy(device.bundle(1)).digest == device.serves()


def fill(path: Path, left: int) -> None:
    with path.open("wb", buffering=0) as file:
        with pytest.raises(OSError, match="No space left"):
            while file.write(b"x" * 65536):
                pass
        size = file.tell()
        file.truncate(max(0, size - left))
