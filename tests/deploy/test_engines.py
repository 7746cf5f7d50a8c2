"""Engines are built on the device, in the proof's own process; NVIDIA's library and driver are pretended here."""

from __future__ import annotations

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
from edge_sft.errors import DeviceError
from edge_sft.profile import Budgets, Building
from edge_sft.slots import proof as proofs
from edge_sft.slots.store import SlotStore

Jetson = Any


def test_engines_are_built_proved_and_kept_and_the_proof_says_it(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "measure", jetson.measure)
    proof = jetson.deploy(jetson.bundle())
    assert (proof.engine, proof.provider, proof.threads) == ("tensorrt", "TensorRT", 1)
    assert (proof.gpu, proof.compute_capability) == ("Pretended GPU", "8.7")
    assert proof.driver
    assert [(item.variant, item.passed, item.plan) for item in proof.variants] == [
        ("fp16", True, "built"),
        ("fp32", True, "built"),
    ]
    assert all(item.build_s is not None and item.golden_difference is not None for item in proof.variants)
    assert all(item.gpu_memory_mb is not None and 0 < item.gpu_memory_mb < 1 for item in proof.variants)
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
        assert predictor.engine.notes[0].endswith("fp16's engine was built anew and answers all 8 golden samples right")
    assert "building it now" in caplog.text


def test_an_engine_built_anew_that_is_wrong_from_the_second_golden_sample_on_is_not_used(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    jetson.deploy(jetson.bundle())
    monkeypatch.setenv("FAKE_CUDA_NAME", "Exchanged GPU")
    monkeypatch.setenv("FAKE_TRT", "wrong:square")
    for how in ("was built anew and is not used", "is not used"):  # the second time it comes from the cache
        with pytest.raises(DeviceError, match=how) as caught:
            Predictor.from_device(jetson.root)
        assert "golden outputs differ by 0.25 on this machine, 0.001 is allowed" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("how", "words"), [("wrong", "golden outputs differ by 0.25"), ("memory", "out of memory")])
def test_where_the_profile_says_so_the_next_proved_variant_serves_and_says_why(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    jetson.deploy(jetson.bundle(), profile=jetson.profile(fall_back=True))
    monkeypatch.setenv("FAKE_CUDA_NAME", "Exchanged GPU")
    monkeypatch.setenv("FAKE_TRT", f"{how}:square")
    with Predictor.from_device(jetson.root) as predictor:
        assert predictor.model.variant == "fp32"
        assert "; fp16 passed over (" in predictor.engine.notes[-1]
        assert words in predictor.engine.notes[-1]
        assert predictor.engine.notes[-1].endswith(
            "fp32's engine was built anew and answers all 8 golden samples right"
        )


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


def test_the_table_says_how_each_engine_came_and_what_it_takes_of_the_gpu(
    jetson: Jetson, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sft.cli.console import console
    from edge_sft.cli.deploy import _print_proof

    monkeypatch.setattr(console, "_width", 200)
    monkeypatch.setattr(proving, "measure", jetson.measure)
    monkeypatch.setenv("FAKE_TRT", "memory:square")
    proof = jetson.deploy(jetson.bundle(), profile=jetson.profile(fall_back=True))
    again = jetson.deploy(jetson.bundle(seed=1), profile=jetson.profile(variants=("fp32",)))
    cached = jetson.deploy(jetson.bundle(seed=1), profile=jetson.profile(variants=("fp32",), title="Another"))
    with console.capture() as shown:
        for one in (proof, again, cached):
            _print_proof(one)
    text = shown.get()
    assert "GPU MB" in text
    assert "built in " in text
    assert "from cache" in text
    assert "out of memory" in text


def test_a_gpu_with_too_little_memory_for_the_budget_is_said(jetson: Jetson) -> None:
    from edge_sft.deploy.judging import judge

    item = proving.Measured(variant="fp32", golden_difference=0, p50_ms=1, p95_ms=1, memory_mb=5, gpu_memory_mb=900)
    [found] = judge([item], Budgets(latency_p95_ms=9, memory_mb=800), None)
    assert found.reason == "needs 900 MB of the GPU's memory, the profile allows 800 MB"
