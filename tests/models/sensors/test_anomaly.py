"""The anomaly methods: what they compute, what they do about missing channels, and through ONNX."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_sft.errors import UserError
from edge_sft.models.sensors.anomaly import WindowStatistics, build
from edge_sft.policy import CommissioningRule
from edge_sft.preprocess import Channel, Windowing
from edge_sft.slots.memories import remember, rows_for
from edge_sft.task import Task, window_anomaly

T, C, M = 12, 3, 40
E = 4  # numbers that the encoder sees in a channel
D = 3 * C
METHODS = {"bank": "neighbours", "t2q": "components", "encoder": "core-set"}
WIDTHS = {"bank": D, "t2q": D, "encoder": (3 + E) * C}


def windowing() -> Windowing:
    return Windowing(channels=tuple(Channel(name=name) for name in "abc"), period_s=1.0, length=T)


def task_of(name: str) -> Task:
    return window_anomaly(T, C, (rows_for(METHODS[name], WIDTHS[name], M), WIDTHS[name]))


def module_of(name: str, **more: Any) -> torch.nn.Module:
    config = {"architecture": name, "neighbours": 5, "clip": 30.0, "sharp": False, "embedding": E, "shape": 0.5}
    config |= {"usual": [1.0] * C, **more}
    torch.manual_seed(0)
    return build(task_of(name), windowing(), config)


def healthy(count: int = 60, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, T, C))
    rows[:, :, 1] = rows[:, :, 0] * 2 + 0.1 * rows[:, :, 1] + 10  # moves with the first
    return torch.tensor(rows, dtype=torch.float32)


def local_of(name: str, windows: torch.Tensor) -> list[torch.Tensor]:
    mean, std = windows.mean(dim=(0, 1)), windows.std(dim=(0, 1))
    with torch.inference_mode():
        features, _ = module_of(name).statistics(windows, torch.ones_like(windows), mean, std)  # type: ignore[operator]
    rule = CommissioningRule(method=METHODS[name])  # type: ignore[arg-type]
    bank = remember(features.numpy().astype(np.float64), rows_for(METHODS[name], WIDTHS[name], M), rule)
    return [mean, std, torch.from_numpy(bank)]


def ask(
    name: str, windows: torch.Tensor, valid: torch.Tensor | None = None, **more: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    valid = torch.ones_like(windows) if valid is None else valid
    with torch.inference_mode():
        score, contributions, features = module_of(name, **more)(windows, valid, *local_of(name, healthy()))
    return score, contributions, features


def test_statistics_are_those_of_the_valid_values() -> None:
    window = healthy(2)
    valid = torch.ones_like(window)
    valid[:, :5, 0] = 0
    mean, std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 0.5])
    features, seen = WindowStatistics(T)(window * valid, valid, mean, std)
    z = ((window - mean) / std).numpy()[0, 5:, 0]
    time = np.linspace(-1, 1, T)[5:]
    assert features[0, 0] == pytest.approx(z.mean(), abs=1e-5)
    assert features[0, 3] == pytest.approx(z.std(), abs=1e-4)
    assert features[0, 6] == pytest.approx(np.polyfit(time, z, 1)[0], abs=1e-4)
    assert seen.tolist() == [[1.0, 1.0, 1.0]] * 2


def test_the_score_is_the_distance_to_the_nearest_examples() -> None:
    windows = healthy(8, seed=1)
    score, _, features = ask("bank", windows)
    bank = local_of("bank", healthy())[2].numpy().astype(np.float64)
    query = ((features.numpy() - bank[0]) * bank[1]) @ bank[2 : 2 + D]
    distances = np.sqrt(((query[:, None] - bank[None, 2 + D :]) ** 2).mean(axis=2))
    expected = np.sort(distances, axis=1)[:, :5].mean(axis=1)
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("sharp", [False, True])
def test_a_channel_that_goes_wrong_is_heard_and_named(name: str, sharp: bool) -> None:
    windows = healthy(30, seed=1)
    before, _, _ = ask(name, windows, sharp=sharp)
    windows[:, :, 2] += 8
    after, contributions, _ = ask(name, windows, sharp=sharp)
    assert after.min() > before.max()
    assert contributions.argmax(dim=1).tolist() == [2] * 30
    np.testing.assert_allclose(contributions.sum(dim=1), 1.0, rtol=1e-5)
    assert (contributions >= 0).all()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_channel_that_leaves_the_one_it_follows_is_heard(name: str) -> None:
    """Each value by itself is usual: only together they are not."""
    windows = healthy(30, seed=1)
    before, _, _ = ask(name, windows)
    windows[:, :, 1] = 20 - windows[:, :, 1]
    windows[:, :, :2] += torch.tensor([1.0, -2.0])
    after, _, _ = ask(name, windows)
    assert after.median() > before.quantile(0.95)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_missing_channel_neither_alarms_nor_hides_the_others(name: str) -> None:
    windows = healthy(30, seed=1)
    before, _, _ = ask(name, windows)
    valid = torch.ones_like(windows)
    valid[:, :, 2] = 0
    gone, contributions, _ = ask(name, windows * valid, valid)
    assert gone.median() < 2 * before.median()
    assert contributions[:, 2].max() < 0.2
    windows[:, :, 0] += 8
    wrong, _, _ = ask(name, windows * valid, valid)
    assert wrong.min() > before.max()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_channel_that_drops_out_or_comes_back_is_no_fault_of_the_machine(name: str) -> None:
    """Every state between there and gone: a few values have statistics of their own."""
    windows = healthy(30, seed=1)
    windows[:, :, 2] += torch.linspace(-1, 1, T)  # its level drifts within the window: part of it is not the whole
    before, _, _ = ask(name, windows)
    for kept in range(T):
        for there in (slice(0, kept), slice(T - kept, T)):
            valid = torch.ones_like(windows)
            valid[:, :, 2] = 0
            valid[:, there, 2] = 1
            score, _, _ = ask(name, windows * valid, valid)
            assert score.median() < 2 * before.median(), (kept, there)
            assert torch.isfinite(score).all()


def test_a_slow_channel_is_there_as_often_as_it_usually_is() -> None:
    front = WindowStatistics(T, [1.0, 1.0, 0.25])
    window = healthy(2)
    valid = torch.ones_like(window)
    valid[:, :, 2] = 0
    valid[:, [1, 5], 2] = 1
    assert front(window * valid, valid, torch.zeros(C), torch.ones(C))[1].tolist() == [[1.0, 1.0, 1.0]] * 2
    valid[:, 5, 2] = 0
    assert front(window * valid, valid, torch.zeros(C), torch.ones(C))[1].tolist() == [[1.0, 1.0, 0.0]] * 2
    valid[:, : T // 2] = 0  # a young window: all have less
    valid[:, T - 1, 2] = 1
    assert front(window * valid, valid, torch.zeros(C), torch.ones(C))[1].tolist() == [[1.0, 1.0, 1.0]] * 2


@pytest.mark.parametrize("name", sorted(METHODS))
def test_nothing_valid_is_no_number_so_that_nobody_calls_it_healthy(name: str) -> None:
    windows = torch.zeros(2, T, C)
    score, contributions, features = ask(name, windows, windows)
    assert torch.isnan(score).all()
    assert torch.isfinite(contributions).all()
    assert torch.isfinite(features).all()


def test_rows_without_an_example_are_out_of_reach_of_anything() -> None:
    few = healthy(10)
    mean, std = few.mean(dim=(0, 1)), few.std(dim=(0, 1))
    features, _ = WindowStatistics(T)(few, torch.ones_like(few), mean, std)
    bank = remember(features.numpy().astype(np.float64), rows_for("neighbours", D, M), CommissioningRule())
    wild = torch.full((1, T, C), 1e6)
    with torch.inference_mode():
        score, _, _ = module_of("bank")(wild, torch.ones_like(wild), mean, std, torch.from_numpy(bank))
    assert 5 < float(score) < 100


def test_a_core_set_keeps_what_happened_once() -> None:
    """Of a thousand windows alike and one unlike them; evenly picked examples may miss it."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1000, D)) * 0.1
    features[501] += 5.0
    for method, near in (("core-set", True), ("neighbours", False)):
        bank = remember(features, rows_for(method, D, 20), CommissioningRule(method=method))  # type: ignore[arg-type]
        query = ((features[501] - bank[0]) * bank[1]) @ bank[2 : 2 + D]
        closest = np.sqrt(((query - bank[2 + D :]) ** 2).mean(axis=1)).min()
        assert (closest < 1e-3) == near
        assert bank.shape == (2 + D + 20, D)
        assert (bank == remember(features, 2 + D + 20, CommissioningRule(method=method))).all()  # type: ignore[arg-type]


def test_a_core_set_of_many_windows_takes_no_minute() -> None:
    features = np.random.default_rng(0).standard_normal((20_000, 80))
    began = time.process_time()
    remember(features, rows_for("core-set", 80, 512), CommissioningRule(method="core-set"))
    assert time.process_time() - began < 5


def test_a_machine_that_always_does_the_same_still_fills_its_memory() -> None:
    features = np.ones((100, D))
    bank = remember(features, rows_for("core-set", D, 20), CommissioningRule(method="core-set"))
    assert (np.abs(bank[2 + D :]) < 1).all()


def test_one_channel_among_many_is_heard_when_sharp() -> None:
    """The ratio of a lone channel's fault to healthy scores grows by the fourth-power mean."""
    windows = healthy(30, seed=1)
    wrong = windows.clone()
    wrong[:, :, 2] += 3
    ratios = [
        float(ask("bank", wrong, sharp=sharp)[0].median() / ask("bank", windows, sharp=sharp)[0].median())
        for sharp in (False, True)
    ]
    assert ratios[1] > ratios[0]


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="no anomaly detector"):
        build(task_of("bank"), windowing(), {"architecture": "forest"})


@pytest.fixture(scope="module", params=sorted(METHODS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    name = request.param
    task, file = task_of(name), tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
    windows = healthy(2)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        torch.onnx.export(
            module_of(name, sharp=True),
            (windows, torch.ones_like(windows), *local_of(name, healthy())),
            file,
            input_names=[spec.name for spec in task.inputs],
            output_names=[spec.name for spec in task.outputs],
            dynamic_shapes=tuple({0: batch} if spec.shape[0] == -1 else None for spec in task.inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return name, file


def test_onnx_runtime_says_the_same(exported: tuple[str, Path]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    name, file = exported
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    windows = healthy(7, seed=3)
    valid = torch.ones_like(windows)
    valid[:3, :, 1] = 0
    inputs = [windows * valid, valid, *local_of(name, healthy())]
    task = task_of(name)
    told = session.run(None, {spec.name: array.numpy() for spec, array in zip(task.inputs, inputs, strict=True)})
    with torch.inference_mode():
        expected = module_of(name, sharp=True)(*inputs)
    assert [spec.name for spec in task.outputs] == [output.name for output in session.get_outputs()]
    for got, want in zip(told, expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)


def test_nvidias_parser_takes_it(exported: tuple[str, Path]) -> None:
    reason = "tensorrt_rtx is not installed: that NVIDIA's parser takes the graph is not proved"
    rtx = pytest.importorskip("tensorrt_rtx", reason=reason)
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    parsed = parser.parse(exported[1].read_bytes())
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
