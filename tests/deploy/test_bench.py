"""Measuring variants: every way through, beside the bare library, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft import policy as policies
from edge_sft.bundle.manifest import POLICY, Manifest
from edge_sft.bundle.reading import open_verified
from edge_sft.deploy import bench as benches
from edge_sft.deploy import bench_bare, bench_turns
from edge_sft.deploy.bench import chosen_variants
from edge_sft.deploy.bench_energy import Ina, Rapl, meters
from edge_sft.deploy.bench_paths import PictureWays, RowStream, inputs_of, open_subject
from edge_sft.deploy.bench_result import BenchReport
from edge_sft.deploy.bench_run import BenchRequest
from edge_sft.deploy.bench_turns import Job
from edge_sft.engines.protocol import open_engine
from edge_sft.errors import BundleRefused, DataError, DeviceError, UserError
from edge_sft.prediction import Encoded
from edge_sft.preprocess import Channel, Windowing
from edge_sft.slots import golden


class Extracted:
    """A bundle's files in a folder, and a request about them."""

    def __init__(self, path: Path, signer: Any, folder: Path, small: ModuleType) -> None:
        verified = open_verified(path, [signer.public])
        verified.extract_to(folder)
        self.small, self.folder, self.manifest, self.digest = small, folder, verified.manifest, verified.digest
        self.policy = policies.load(folder / POLICY)
        self.samples = golden.load(folder)

    def request(self, **changes: Any) -> BenchRequest:
        held = tuple(entry.variant for entry in self.manifest.variants)
        base = {"slot": self.folder, "profile": self.small.profile(), "policy": self.policy, "variants": held}
        return BenchRequest.model_validate({**base, "seconds": 0.05, "energy_s": 0.1, **changes})

    def report(self, **changes: Any) -> BenchReport:
        return benches.bench(self.request(**changes), self.manifest, self.digest)


Extract = Callable[..., Extracted]


@pytest.fixture
def extract(small: ModuleType, tmp_path: Path) -> Extract:
    def made(**changes: Any) -> Extracted:
        signer = small.Signer.make(tmp_path / "keys")
        graphs = {"fp32": small.graph(), "int8-cpu": small.graph()}
        path = small.plan(**{"graphs": graphs, **changes}).write(tmp_path, signer)
        return Extracted(path, signer, tmp_path / "slot", small)

    return made


def test_every_way_through_every_variant_is_timed_beside_the_bare_library(extract: Extract) -> None:
    bundle = extract()
    report = bundle.report(batches=(1, 3))
    ways = [(row.variant, row.path, row.batch) for row in report.timings]
    paths = ("jpeg", "frame", "engine", "bare")
    wanted = [(v, path, batch) for v in ("fp32", "int8-cpu") for batch in (1, 3) for path in paths]
    assert ways == wanted
    assert all(row.runs >= bench_turns.MIN_RUNS // 3 for row in report.timings)
    assert all(0 < row.p50_ms <= row.p95_ms <= row.p99_ms <= row.max_ms for row in report.timings)
    assert all((row.of_bare is None) == (row.path == "bare") for row in report.timings)
    assert [(item.variant, item.engine, item.threads) for item in report.variants] == [
        ("fp32", "onnxruntime", 1),
        ("int8-cpu", "onnxruntime", 1),
    ]
    assert report.input == "1280x1024"
    assert len(report.energy.meters) + len(report.energy.not_readable) == 3
    assert BenchReport.model_validate_json(report.model_dump_json()) == report
    assert report.timing("fp32", "engine", 3) is not None
    assert report.timing("fp16", "engine") is None


def test_a_picture_of_the_line_is_decoded_as_it_is(extract: Extract, tmp_path: Path, small: ModuleType) -> None:
    import cv2

    file = tmp_path / "part.png"
    cv2.imwrite(str(file), small.pictures(1, 40)[0])
    bundle = extract()
    subject = open_subject(bundle.folder, "fp32", small.profile(), bundle.policy, bundle.manifest, bundle.samples, file)
    assert isinstance(subject.ways, PictureWays)
    data = subject.ways._data
    assert data["jpeg"] == Encoded(file.read_bytes())
    assert np.array_equal(data["frame"], small.pictures(1, 40)[0][..., ::-1])  # type: ignore[arg-type]
    subject.ways.end_to_end("jpeg", 2)()
    with pytest.raises(UserError, match="is no picture"):
        open_subject(
            bundle.folder, "fp32", small.profile(), bundle.policy, bundle.manifest, bundle.samples, Path(__file__)
        )


def test_the_bare_session_has_the_engine_s_options(extract: Extract, small: ModuleType) -> None:
    bundle = extract()
    with open_engine(bundle.folder / "fp32.onnx", small.profile()) as engine:
        ours = engine._session.get_session_options()  # type: ignore[attr-defined]
        bare = bench_bare.session(bundle.folder / "fp32.onnx", engine.info).get_session_options()
    for name in ("intra_op_num_threads", "inter_op_num_threads", "graph_optimization_level", "execution_mode"):
        assert getattr(ours, name) == getattr(bare, name), name
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        assert ours.get_session_config_entry(key) == bare.get_session_config_entry(key) == "0"


def test_an_engine_without_a_bare_loop_says_so(extract: Extract, small: ModuleType) -> None:
    bundle = extract()
    with open_engine(bundle.folder / "fp32.onnx", small.profile()) as engine:
        engine._info = engine.info.__class__(**{**vars(engine.info), "engine": "abacus"})  # type: ignore[attr-defined]
        with pytest.raises(DeviceError, match="has no bare loop"):
            bench_bare.open_bare(bundle.folder / "fp32.onnx", engine)


def test_a_variant_that_does_not_load_does_not_end_the_others(extract: Extract) -> None:
    bundle = extract()
    (bundle.folder / "int8-cpu.onnx").write_bytes(b"no graph")
    report = bundle.report()
    assert {row.variant for row in report.timings} == {"fp32"}
    assert "refused" in report.variants[1].trouble


def test_where_nothing_loads_it_says_why(extract: Extract) -> None:
    bundle = extract()
    for name in ("fp32", "int8-cpu"):
        (bundle.folder / f"{name}.onnx").write_bytes(b"no graph")
    with pytest.raises(DeviceError, match="fp32: is refused by ONNX Runtime"):
        bundle.report()


def test_a_nan_is_named_and_the_engine_is_timed_all_the_same(extract: Extract, small: ModuleType) -> None:
    bundle = extract(graphs={"fp32": small.graph(), "int8-cpu": small.graph(nan=True)})
    report = bundle.report()
    assert [row.path for row in report.timings if row.variant == "int8-cpu"] == ["engine", "bare"]
    assert any(note.startswith("int8-cpu, jpeg, batch 1: ") for note in report.notes)


def test_unusable_golden_samples_are_told_in_words(extract: Extract) -> None:
    bundle = extract()
    (bundle.folder / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleRefused, match="cannot be read"):
        bundle.report()


def test_a_process_that_dies_is_named_with_what_it_did(extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fatal:
        def start(self, title: str, total: int) -> None:
            del total
            if title.startswith("Timing"):
                os.kill(children[0], signal.SIGKILL)

        def advance(self, units: int = 1, note: str = "") -> None:
            """Nothing to show."""

    children: list[int] = []
    original = benches._Follower.follow

    def follow(self: Any, child: Any, request: BenchRequest, silence_s: float) -> None:
        children.append(child.pid)
        original(self, child, request, silence_s)

    monkeypatch.setattr(benches._Follower, "follow", follow)
    bundle = extract()
    with pytest.raises(DeviceError, match=r"ended while timing \(killed by SIGKILL"):
        benches.bench(bundle.request(seconds=30), bundle.manifest, bundle.digest, Fatal())


def test_an_interrupt_ends_the_process_too(extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient:
        def start(self, title: str, total: int) -> None:
            del total
            if title.startswith("Timing"):
                raise KeyboardInterrupt

        def advance(self, units: int = 1, note: str = "") -> None:
            """Nothing to show."""

    started: list[Any] = []
    popen = benches.subprocess.Popen

    def remember(*arguments: Any, **keywords: Any) -> Any:
        started.append(popen(*arguments, **keywords))
        return started[-1]

    monkeypatch.setattr(benches.subprocess, "Popen", remember)
    bundle = extract()
    with pytest.raises(KeyboardInterrupt):
        benches.bench(bundle.request(seconds=30), bundle.manifest, bundle.digest, Impatient())
    assert started[0].returncode is not None


def test_a_process_that_says_nothing_is_given_up(extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = extract()
    profile = bundle.small.profile()
    silent = profile.model_copy(update={"building": profile.building.model_copy(update={"timeout_s": 0.01})})
    monkeypatch.setattr(benches, "_SILENCE_S", -0.05)
    with pytest.raises(DeviceError, match="said nothing for"):
        bundle.report(profile=silent)


def test_variants_are_those_permitted_or_those_asked_for(extract: Extract, small: ModuleType) -> None:
    manifest: Manifest = extract().manifest
    assert chosen_variants(manifest, small.profile(), []) == ("fp32", "int8-cpu")
    assert chosen_variants(manifest, small.profile(variants=("int8-cpu", "fp16")), []) == ("int8-cpu",)
    assert chosen_variants(manifest, small.profile(variants=("int8-cpu",)), ["fp32"]) == ("fp32",)
    with pytest.raises(UserError, match="holds no fp16"):
        chosen_variants(manifest, small.profile(), ["fp16"])
    with pytest.raises(UserError, match="holds no fp16"):
        chosen_variants(manifest, small.profile(variants=("fp16",)), [])


def test_all_take_turns_equally_often() -> None:
    order: list[str] = []
    jobs = [Job("fp32", name, 1, lambda name=name: order.append(name)) for name in ("a", "b", "c")]  # type: ignore[misc]
    bench_turns.take_turns(jobs, 0.001)
    assert len({len(job.times_ms) for job in jobs}) == 1
    turns = [tuple(order[at : at + 3]) for at in range(3 * bench_turns.WARM_UP, len(order), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    assert len(set(turns)) > 1


# --- sensors ---------------------------------------------------------------------------------------------------


def _sensors() -> ModuleType:
    place = Path(__file__).parent / "test_sensors.py"
    spec = importlib.util.spec_from_file_location("edge_sft_tests_bench_sensors", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["LIFE", "ANOMALY"])
def test_sensors_begin_with_rows(kind: str, small: ModuleType, tmp_path: Path) -> None:
    sensors = _sensors()
    device = sensors.Device(small, small.Signer.make(tmp_path / "keys"), tmp_path)
    task = getattr(sensors, kind)
    path = device.bundle(task, {"fp32": sensors.graph(task)})
    report = Extracted(path, device.signer, tmp_path / "slot", small).report(batches=(1, 2))
    assert [(row.path, row.batch) for row in report.timings] == [
        (path, batch) for batch in (1, 2) for path in ("rows", "engine", "bare")
    ]
    assert report.notes == ()
    assert report.input == f"{sensors.STEPS}x{sensors.CHANNELS}"


def test_golden_windows_become_the_rows_that_they_were_made_of() -> None:
    windowing = Windowing(
        channels=(Channel(name="a", scale=2.0, offset=1.0, low=0.0, high=100.0), Channel(name="b")),
        period_s=0.5,
        length=4,
        hop=2,
    )
    window = np.random.default_rng(0).uniform(10, 90, (3, 4, 2)).astype(np.float32)
    valid = np.ones_like(window)
    valid[1, 2, 0], window[1, 2, 0] = 0, 0
    stream = RowStream(windowing, golden.Golden({"window": window, "valid": valid}, {}), "m")
    values = window.reshape(-1, 2)
    seen = [stream.window().values for _ in range(6)]
    rows = {tuple(np.round(row, 3)) for one in seen for row in one}
    assert rows <= {tuple(np.round(row, 3)) for row in values}
    assert len(rows) == len(values)


def test_windows_that_give_none_as_rows_are_told() -> None:
    windowing = Windowing(channels=(Channel(name="a"),), period_s=1.0, length=4, min_valid=1.0)
    window = np.zeros((1, 4, 1), np.float32)
    with pytest.raises(DataError, match="give none when they are fed again"):
        RowStream(windowing, golden.Golden({"window": window, "valid": window}, {}), "m")


def test_inputs_repeat_where_there_are_fewer_samples() -> None:
    samples = golden.Golden({"x": np.arange(3)[:, None]}, {}, {"mean": np.ones(2)})
    assert inputs_of(samples, 5)["x"].ravel().tolist() == [0, 1, 2, 0, 1]
    assert inputs_of(samples, 2)["mean"].shape == (2,)


# --- energy ----------------------------------------------------------------------------------------------------


def _zone(sys: Path, name: str, energy: int, wraps: int = 1_000_000) -> Path:
    zone = sys / "class" / "powercap" / name
    zone.mkdir(parents=True)
    (zone / "max_energy_range_uj").write_text(f"{wraps}\n")
    (zone / "energy_uj").write_text(f"{energy}\n")
    return zone


def test_sockets_are_summed_and_wraps_are_followed(tmp_path: Path) -> None:
    first, second = _zone(tmp_path, "intel-rapl:0", 900_000), _zone(tmp_path, "intel-rapl:1", 0)
    _zone(tmp_path, "intel-rapl:0:0", 0)  # a part of the first: counted already
    meter = Rapl(tmp_path)
    (first / "energy_uj").write_text("100000\n")
    (second / "energy_uj").write_text("300000\n")
    assert meter.joules() == pytest.approx(0.2 + 0.3)
    assert meter.joules() == pytest.approx(0.5)


def test_a_counter_that_only_root_may_read_says_so(tmp_path: Path) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", 0)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # unreadable to root as well, who runs this test in a container
    with pytest.raises(DeviceError, match=r"cannot be read .*: root may"):
        Rapl(tmp_path)


def test_a_board_s_power_is_summed_over_time(tmp_path: Path) -> None:
    rails = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rails.mkdir(parents=True)
    for number, (name, millivolts, milliamperes) in enumerate((("VDD_IN", 5000, 2000), ("VDD_SOC", 5000, 500)), 1):
        (rails / f"in{number}_label").write_text(f"{name}\n")
        (rails / f"in{number}_input").write_text(f"{millivolts}\n")
        (rails / f"curr{number}_input").write_text(f"{milliamperes}\n")
    meter = Ina(tmp_path)
    try:
        assert meter._watts() == pytest.approx(10.0)
        begin = meter.joules()
        for _ in range(600):
            if meter.joules() > begin:
                break
            meter._end.wait(0.05)
        assert meter.joules() > begin
    finally:
        meter.close()


def test_what_cannot_be_read_is_said_of_each_meter(tmp_path: Path) -> None:
    with meters(tmp_path, "libnothing-ml.so.1") as (found, missing):
        assert found == []
    assert [line.split(":")[0] for line in missing] == ["processor", "gpu", "board"]
    assert "RAPL" in missing[0]
    assert "no NVIDIA driver" in missing[1]


def test_nvml_is_asked_by_the_names_it_has(tmp_path: Path) -> None:
    """Against the C declarations: a stand-in library with NVML's functions, compiled here."""
    import shutil
    import subprocess

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: reading NVML's counters is not proved")
    source = tmp_path / "nvml.c"
    source.write_text(
        "static unsigned long long energy = 1000;\n"
        "int nvmlInit_v2(void) { return 0; }\nint nvmlShutdown(void) { return 0; }\n"
        "int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **card) { *card = &energy; return i; }\n"
        "int nvmlDeviceGetTotalEnergyConsumption(void *card, unsigned long long *mj) "
        "{ *mj = (energy += 500); return card != &energy; }\n"
        "int nvmlDeviceGetMemoryInfo(void *card, unsigned long long *m) "
        "{ m[0] = 8 << 20; m[1] = 5 << 20; m[2] = 3 << 20; return card != &energy; }\n"
    )
    library = tmp_path / "libstand-in.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    with meters(tmp_path, str(library)) as (found, missing):
        assert [meter.name for meter in found] == ["gpu"]
        assert found[0].joules() == pytest.approx(0.5)
        assert found[0].memory_mb() == pytest.approx(3.0)  # type: ignore[attr-defined]
    assert len(missing) == 2


def test_joules_are_counted_for_one_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clockwork:
        name = "board"
        total = 0.0

        def joules(self) -> float:
            return self.total

        def close(self) -> None:
            """Nothing is open."""

    meter = Clockwork()

    def work() -> None:
        meter.total += 6.0

    job = Job("fp32", "engine", 3, work)
    bench_turns._meter(job, [meter], 0.01)
    assert job.joules == {"board": pytest.approx(2.0)}
