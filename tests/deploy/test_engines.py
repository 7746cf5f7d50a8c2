"""Engines are built on the device, in the proof's own process; NVIDIA's library and driver are pretended here."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft import Predictor
from edge_sft.deploy import proving
from edge_sft.deploy.local import deploy
from edge_sft.errors import BundleRefused, DeviceError
from edge_sft.profile import Budgets, Building, DeviceProfile
from edge_sft.slots import proof as proofs
from edge_sft.slots.store import SlotStore

MEASURE = proving.measure
BUDGETS = Budgets(latency_p95_ms=5000, memory_mb=4000)  # of other tests


class Watch:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, title: str, total: int) -> None:
        self.lines.append(title)

    def advance(self, units: int = 1, note: str = "") -> None:
        self.lines.append(note)


class Jetson:
    """A device whose NVIDIA parts are pretended, for this process and for those it starts."""

    def __init__(self, small: ModuleType, folder: Path) -> None:
        self.small, self.root, self.out = small, folder / "root", folder / "out"
        self.signer = small.Signer.make(folder / "keys")
        self.watch = Watch()

    def profile(self, **changes: Any) -> DeviceProfile:
        given = {"engine": "tensorrt", "variants": ("fp16", "fp32"), "budgets": BUDGETS, **changes}
        return self.small.profile(**given)  # type: ignore[no-any-return]

    def bundle(self, seed: int = 0) -> Path:
        """Hold an `fp16` whose graph has a weight named "square", and an fp32 that has not."""
        graphs = {"fp16": self.small.graph(seed=seed, work=1), "fp32": self.small.graph(seed=seed)}
        return Path(self.small.plan(seed, graphs=graphs, version=f"1.0.{seed}").write(self.out, self.signer))

    def deploy(self, bundle: Path, **changes: Any) -> proofs.Proof:
        given = {"profile": self.profile(), "trusted_keys": [self.signer.public], "progress": self.watch, **changes}
        return deploy(bundle, self.root, **given)

    def serves(self) -> str:
        """Let a model serve that needs no engine; returns its digest."""
        return self.deploy(self.bundle(), profile=self.small.profile(variants=("fp32",))).digest

    def refuses(self, bundle: Path, **changes: Any) -> str:
        """Deploy what must be refused; what served before still does. Returns why, in one line."""
        before = SlotStore(self.root).current()
        with pytest.raises(BundleRefused) as caught:
            self.deploy(bundle, **changes)
        assert SlotStore(self.root).current() == before
        text = str(caught.value)
        assert "\n" not in text
        return text

    def engines(self, kind: str = "plan") -> list[Path]:
        return sorted((self.root / "engines").glob(f"*.{kind}"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pretended = sys.modules["edge_sft_tests_pretended"]
    return Path(pretended.compiled(tmp_path_factory.mktemp("driver")))


@pytest.fixture
def jetson(tmp_path: Path, small: ModuleType, driver: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    from edge_sft.engines.nvidia import cuda

    pretended = sys.modules["edge_sft_tests_pretended"]
    for name, value in pretended.environment(driver).items():
        monkeypatch.setenv(name, value)
    module, library = pretended.loaded(driver)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(cuda, "_load", lambda: ctypes.CDLL(library._name))
    monkeypatch.setattr(proving, "measure", passed)
    return Jetson(small, tmp_path)


def passed(request: Any, *, timeout_s: float) -> proving.Measurements:
    """Pass every variant unmeasured: what is built, and what not, is the matter here."""
    items = [
        proving.Measured(variant=name, golden_difference=0.0, golden_tolerance=1.0, p50_ms=1, p95_ms=2, runs=30)
        for name in request.variants
    ]
    return proving.Measurements(items, proving.EngineInfo("tensorrt", "TensorRT", "10.3.0", 1))


def test_engines_are_built_proved_and_kept_and_the_proof_says_it(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "measure", MEASURE)
    proof = jetson.deploy(jetson.bundle())
    assert (proof.engine, proof.provider, proof.threads) == ("tensorrt", "TensorRT", 1)
    assert (proof.gpu, proof.compute_capability) == ("Pretended GPU", "8.7")
    assert proof.driver
    assert [(item.variant, item.passed, item.plan) for item in proof.variants] == [
        ("fp16", True, "built"),
        ("fp32", True, "built"),
    ]
    assert all(item.build_s is not None and item.golden_difference is not None for item in proof.variants)
    assert proof.notes == tuple(f"{each}: no engine of this model was built here yet" for each in ("fp16", "fp32"))
    assert "Building the engine of fp16 for this machine" in jetson.watch.lines
    assert proofs.load(SlotStore(jetson.root).current().path) == proof  # type: ignore[union-attr]
    assert len(jetson.engines()) == 2


def test_a_slot_opens_with_the_engine_that_was_proved(jetson: Jetson) -> None:
    jetson.deploy(jetson.bundle())
    with Predictor.from_device(jetson.root) as predictor:
        assert (predictor.engine.plan, predictor.engine.notes) == ("cached", ())
        assert predictor.predict_image(np.zeros((20, 20, 3), np.uint8)).verdict != "no_decision"


def test_deployed_again_nothing_is_built(jetson: Jetson) -> None:
    jetson.deploy(jetson.bundle())
    again = jetson.deploy(jetson.bundle(), profile=jetson.profile(title="Another"))
    assert {item.plan for item in again.variants} == {"cached"}
    assert again.notes == ()


def test_the_same_again_changes_nothing_unless_the_machine_has_changed(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = jetson.deploy(jetson.bundle())
    assert jetson.deploy(jetson.bundle()) == first
    monkeypatch.setenv("FAKE_CUDA_NAME", "Exchanged GPU")
    again = jetson.deploy(jetson.bundle())
    assert SlotStore(jetson.root).generation() == 2
    assert again.proved_at != first.proved_at


def test_after_a_new_driver_the_slot_opens_with_an_engine_built_anew_and_says_so(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jetson.deploy(jetson.bundle())
    monkeypatch.setenv("FAKE_CUDA_NAME", "Exchanged GPU")
    with Predictor.from_device(jetson.root) as predictor:
        assert predictor.engine.plan == "built"
        assert "was built for GPU Pretended GPU, this is Exchanged GPU" in predictor.engine.notes[0]
    assert "building it now" in caplog.text


def test_the_agent_tells_that_an_engine_was_built_anew(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_sft.runtime.config import PipelineSection
    from edge_sft.runtime.swap import SlotLoader

    jetson.deploy(jetson.bundle())
    monkeypatch.setenv("FAKE_CUDA_NAME", "Exchanged GPU")
    told: list[tuple[str, str]] = []
    section = PipelineSection.model_construct(name="main", profile=None, threads=None, workers=1, deadline_ms=None)
    monkeypatch.setattr(PipelineSection, "of_rows", property(lambda self: False), raising=False)
    crew = SlotLoader(jetson.root, section, lambda event, text: told.append((event, text))).load(1, None)
    crew.close()
    assert [event for event, _ in told] == ["engine"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("refuse", "NonZero 'node_1': no importer registered"),
        ("memory", "out of memory"),
        ("crash", "crashed (killed by SIGSEGV) while building its engine"),
        ("killed", "the machine ran out of memory, most likely) while building its engine"),
    ],
)
def test_a_build_that_fails_refuses_the_deploy_and_the_old_model_serves(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    jetson.serves()
    monkeypatch.setenv("FAKE_TRT", f"{how}:square")
    text = jetson.refuses(jetson.bundle(seed=1))
    assert "has no engine of fp16 on this machine: " in text
    assert words in text
    assert "fall_back = true" in text


def test_only_where_the_profile_says_so_the_next_variant_takes_its_place(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRT", "crash:square")
    proof = jetson.deploy(jetson.bundle(), profile=jetson.profile(fall_back=True))
    assert proof.chosen == "fp32"
    fp16 = proof.of("fp16")
    assert fp16 is not None
    assert "SIGSEGV" in fp16.reason
    assert any("fp16: passed over" in note for note in proof.notes)


def test_where_no_variant_has_an_engine_the_deploy_is_refused(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRT", "refuse")
    assert "failed its proof" in jetson.refuses(jetson.bundle(), profile=jetson.profile(fall_back=True))


def test_a_build_that_hangs_is_ended(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "_SPARE_S", 3.0)
    monkeypatch.setattr(proving, "_TELL_EVERY_S", 0.5)
    monkeypatch.setenv("FAKE_TRT", "hang")
    text = jetson.refuses(jetson.bundle(), profile=jetson.profile(building=Building(timeout_s=1)))
    assert "did not end within 4 s while building its engine" in text
    assert any("s so far" in line for line in jetson.watch.lines)  # and meanwhile nobody was left in the dark


def test_without_a_gpu_it_is_the_device_that_must_be_mended(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_NONE", "1")
    with pytest.raises(DeviceError, match="no CUDA-capable device"):
        jetson.deploy(jetson.bundle())


def test_a_forged_engine_in_the_cache_is_refused_and_built_anew(jetson: Jetson) -> None:
    jetson.deploy(jetson.bundle())
    for path in jetson.engines():
        path.write_bytes(path.read_bytes()[:-9] + b"evil code")
    again = jetson.deploy(jetson.bundle(), profile=jetson.profile(title="Another"))
    assert {item.plan for item in again.variants} == {"built"}
    assert all("is damaged" in note for note in again.notes)
    assert all(b"evil" not in path.read_bytes() for path in jetson.engines())


def test_a_device_that_loses_power_in_mid_build_builds_again(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = jetson.serves()
    profile = tmp_path / "jetson.toml"
    profile.write_text(
        'name = "test-pc"\ntitle = "Test"\nengine = "tensorrt"\nvariants = ["fp16", "fp32"]\n'
        "[budgets]\nlatency_p95_ms = 5000\nmemory_mb = 4000\n"
    )
    monkeypatch.setenv("FAKE_TRT", "hang:square")
    bundle = jetson.bundle(seed=1)
    command = [sys.executable, "-m", "edge_sft.cli.main", "deploy", bundle, "--root", jetson.root, "--profile", profile]
    events = ["--to", "local", "--events", "--key", jetson.signer.public_path]
    doing = subprocess.Popen([*command, *events], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert doing.stdout is not None
    for line in doing.stdout:
        if "Building the engine of fp16" in line:
            break
    time.sleep(1)  # into the build
    os.killpg(doing.pid, signal.SIGKILL)
    doing.wait()
    doing.stdout.close()
    (jetson.root / "engines").mkdir(exist_ok=True)
    (jetson.root / "engines" / ".half.plan.x.part").write_bytes(b"half of an engine")
    monkeypatch.delenv("FAKE_TRT")
    with Predictor.from_device(jetson.root) as predictor:
        assert predictor.model.digest == first
    again = jetson.deploy(bundle)
    assert again.digest != first
    assert {item.plan for item in again.variants} == {"built"}


def test_a_proof_of_before_engines_were_built_still_loads(tmp_path: Path, windows: ModuleType) -> None:
    old = windows._proof("a" * 64, "1.0.0").model_dump(mode="json")
    for name in ("gpu", "compute_capability", "driver", "notes"):
        del old[name]
    for item in old["variants"]:
        del item["plan"], item["build_s"]
    for name in ("accelerator", "building", "fall_back"):
        del old["profile"][name]
    import json

    (tmp_path / "proof.json").write_text(json.dumps(old))
    proof = proofs.load(tmp_path)
    assert (proof.gpu, proof.notes, proof.variants[0].plan) == ("", (), "")
