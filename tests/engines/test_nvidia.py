"""Our side of TensorRT, around a pretended library: cache, seal, fallbacks, memory. NVIDIA's own is elsewhere."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft.engines.nvidia import building
from edge_sft.engines.nvidia.cuda import Driver
from edge_sft.engines.plans import PlanCache
from edge_sft.engines.protocol import EngineNotBuilt, Workplace, open_engine
from edge_sft.errors import BugError, DeviceError
from edge_sft.profile import Building, DeviceProfile


class Bench:
    """A model, a cache and what was told."""

    def __init__(self, folder: Path, small: ModuleType, seal: Any) -> None:
        self.small, self.told = small, list[str]()
        self.model = folder / "fp32.onnx"
        self.model.write_bytes(small.graph())
        self.cache = PlanCache(folder / "engines", seal)

    def open(self, **building: Any) -> Any:
        profile: DeviceProfile = self.small.profile(engine="tensorrt", building=Building(**building))
        return open_engine(self.model, profile, Workplace(self.cache, lambda text, share: self.told.append(text)))

    def only(self, suffix: str) -> Path:
        return next(self.cache.directory.glob(f"*.{suffix}"))


@pytest.fixture
def bench(tmp_path: Path, small: ModuleType, seal: Any, nvidia: ModuleType) -> Bench:
    return Bench(tmp_path, small, seal)


def test_says_what_really_runs(bench: Bench) -> None:
    with bench.open() as engine:
        info = engine.info
    assert (info.engine, info.provider, info.library_version) == ("tensorrt", "TensorRT", "10.3.0")
    assert (info.gpu, info.compute_capability) == ("Pretended GPU", "8.7")
    assert info.driver
    assert info.plan == "built"


def test_built_once_then_cached(bench: Bench) -> None:
    with bench.open() as first:
        assert first.info.notes == ("no engine of this model was built here yet",)
    bench.told.clear()
    with bench.open() as second:
        assert (second.info.plan, second.info.build_s, second.info.notes) == ("cached", None, ())
        images = bench.small.pictures(3, 16)
        got = second.infer({"image": images})["probabilities"]
    np.testing.assert_allclose(got, bench.small.run(bench.model.read_bytes(), images), atol=1e-6)
    assert bench.told == []


def test_another_model_gpu_driver_or_setting_is_built_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.open().close()
    monkeypatch.setenv("FAKE_CUDA_NAME", "Another GPU")
    with bench.open() as engine:
        assert engine.info.plan == "built"
        assert engine.info.notes == ("the cached engine was built for GPU Pretended GPU, this is Another GPU",)
    with bench.open(batch_max=2) as engine:
        assert "[building]" in engine.info.notes[0]
    bench.model.write_bytes(bench.small.graph(seed=1))
    with bench.open() as engine:
        assert engine.info.plan == "built"


def test_a_forged_plan_never_reaches_the_library(bench: Bench, other_seal: Any, nvidia: ModuleType) -> None:
    bench.open().close()
    path = bench.only("plan")
    evil = path.read_bytes()[:-10] + b"evil code!"
    path.write_bytes(evil)
    nvidia.deserialized.clear()
    with bench.open() as engine:
        assert engine.info.plan == "built"
        assert "is damaged" in engine.info.notes[0]
    assert all(b"evil" not in plan for plan in nvidia.deserialized)
    with bench.open() as engine:
        assert engine.info.plan == "cached"


def test_a_sealed_plan_that_the_library_refuses_is_built_anew(bench: Bench, nvidia: ModuleType) -> None:
    bench.open().close()
    [facts] = [head.facts for path, head in bench.cache._heads() if path.suffix == ".plan"]
    bench.cache.write(facts, b"a plan that the library no longer knows", 1.0)
    with bench.open() as engine:
        assert engine.info.plan == "built"
        assert "does not load" in engine.info.notes[0]
        assert "magicTag" in engine.info.notes[0]
    with bench.open() as engine:
        assert engine.info.plan == "cached"


def test_the_timing_cache_is_kept_for_the_next_build(bench: Bench) -> None:
    bench.open().close()
    bench.open(batch_max=2).close()
    assert bench.only("timing").read_bytes().endswith(b"timed;timed;")
    assert len(list(bench.cache.directory.glob("*.timing"))) == 1


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_run(bench: Bench) -> None:
    bench.cache.directory.write_text("a file where the folder should be")
    with bench.open() as engine:
        assert "could not be kept" in engine.info.notes[-1]


def test_a_key_that_may_not_be_read_is_no_reason_not_to_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Locked:
        def sign(self, message: bytes) -> bytes:
            raise DeviceError("device.pem", "cannot be read (Permission denied)", "Check its rights.")

        def verifies(self, signature: bytes, message: bytes) -> bool:
            raise DeviceError("device.pem", "cannot be read (Permission denied)", "Check its rights.")

    bench.open().close()
    monkeypatch.setattr(bench.cache, "_seal", Locked())
    with bench.open() as engine:
        assert engine.info.plan == "built"
        assert "cannot be verified" in engine.info.notes[0]
        assert "could not be kept" in engine.info.notes[0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("refuse", "NonZero 'node_1': no importer registered"),
        ("memory", "out of memory"),
        ("slow", "not built within 0.5 s"),
    ],
)
def test_a_build_that_fails_is_said_in_one_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_TRT", how)
    with pytest.raises(EngineNotBuilt, match=words) as caught:
        bench.open(timeout_s=0.5)
    assert "\n" not in str(caught.value)
    assert not list(bench.cache.directory.glob("*.plan"))


def test_progress_tells_how_far_and_how_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TRT", "slow")
    monkeypatch.setattr(building, "_TELL_EVERY_S", 0.2)
    bench.open().close()
    assert any("%" in text and "s so far" in text for text in bench.told)
    bench.told.clear()
    bench.open(batch_max=2).close()
    assert any("s left" in text for text in bench.told)  # the last build tells


def test_no_gpu_and_no_driver_are_told_apart_from_a_variant_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_NONE", "1")
    with pytest.raises(DeviceError, match="no CUDA-capable device") as caught:
        bench.open()
    assert not isinstance(caught.value, EngineNotBuilt)


def test_too_little_gpu_memory_gives_everything_back(bench: Bench, nvidia: ModuleType) -> None:
    ctypes.c_size_t.in_dll(nvidia._CUDA, "fake_room").value = 100
    with pytest.raises(EngineNotBuilt, match="out of memory"):
        bench.open()
    assert ctypes.c_int.in_dll(nvidia._CUDA, "fake_alive").value == 0


@pytest.mark.parametrize("graphs", [False, True])
def test_closing_gives_everything_back(bench: Bench, nvidia: ModuleType, graphs: bool) -> None:
    with bench.open(batch_max=4, cuda_graphs=graphs) as engine:
        for batch in (1, 4, 1):
            engine.infer({"image": bench.small.pictures(batch, 16)})
    assert ctypes.c_int.in_dll(nvidia._CUDA, "fake_alive").value == 0


def test_a_launch_that_cannot_be_recorded_is_said_and_works_without(bench: Bench, nvidia: ModuleType) -> None:
    ctypes.c_int.in_dll(nvidia._CUDA, "fake_fail_capture").value = 1
    images = bench.small.pictures(2, 16)
    with bench.open(cuda_graphs=True) as engine:
        for _ in range(3):
            got = engine.infer({"image": images})["probabilities"]
        notes = engine.info.notes
    np.testing.assert_allclose(got, bench.small.run(bench.model.read_bytes(), images), atol=1e-6)
    assert sum("CUDA graphs do not work" in note for note in notes) == 1


def test_opened_in_one_thread_infers_in_another(bench: Bench) -> None:
    got: list[Any] = []
    with bench.open() as engine:
        work = threading.Thread(target=lambda: got.append(engine.infer({"image": bench.small.pictures(1, 16)})))
        work.start()
        work.join()
    assert got


def test_a_bank_comes_whole_with_every_batch(tmp_path: Path, nvidia: ModuleType, small: ModuleType) -> None:
    from onnx import parser

    text = """<ir_version: 9, opset_import: ["" : 18]>
        g (float[N,4] window, float[6,4] bank) => (float[N,6] score) {
            turned = Transpose<perm=[1,0]>(bank)  score = MatMul(window, turned) }"""
    model = tmp_path / "fp32.onnx"
    model.write_bytes(parser.parse_model(text).SerializeToString())
    rng = np.random.default_rng(0)
    window, bank = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    profile = small.profile(engine="tensorrt", building=Building(batch_max=3))
    with open_engine(model, profile) as engine:
        np.testing.assert_allclose(engine.infer({"window": window, "bank": bank})["score"], window @ bank.T, atol=1e-5)
        with pytest.raises(BugError):
            engine.infer({"window": window, "bank": bank[:5]})


def test_an_old_tensorrt_is_refused(bench: Bench, nvidia: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "__version__", "8.6.1")
    with pytest.raises(DeviceError, match="too old"):
        bench.open()


def test_a_missing_library_is_said_with_its_remedy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceError, match="JetPack"):
        bench.open()


def test_this_machine_without_a_driver_says_so() -> None:
    if Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists():
        pytest.skip("has one")
    with pytest.raises(DeviceError, match=r"NVIDIA GPU.*cpu profile"):
        Driver()
