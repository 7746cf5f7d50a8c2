"""Made-up sensor models: what pages are made from, in the keys that trainings write."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.bundle.manifest import GateResult
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.policy import AlarmRule, AnomalyPolicy, AnyPolicy, Policy, RegressionPolicy
from edge_sft.preprocess import Channel, Windowing
from edge_sft.task import Task, window_anomaly, window_classification, window_regression

Arrays = dict[str, NDArray[Any]]
CHANNELS = ("pressure", "flow", "motor current", "vibration", "temperature")
LABELS = ("healthy", "inner race", "outer race", "ball")


def windowing(length: int = 30, **more: Any) -> Windowing:
    units = ("bar", "l/min", "A", "mm/s", "°C")
    channels = tuple(Channel(name=name, unit=unit) for name, unit in zip(CHANNELS, units, strict=True))
    return Windowing(channels=channels, period_s=1.0, length=length, **more)


def meta(task: Task, policy: AnyPolicy, name: str, backbone: str, **window: Any) -> CheckpointMeta:
    return CheckpointMeta(
        name=name,
        version="0.3.0",
        task=task,
        preprocess=windowing(**window),
        backbone=backbone,
        policy=policy,
        dataset_fingerprint="a1" * 32,
        test_fingerprint="b2" * 32,
        weights_sha256="c3" * 32,
        metrics={},
        training={"steps": 900, "wall_s": 41.2, "members": 3, "key": "d4" * 32},
    )


def lives(runs: int = 20, *, seed: int = 0, failed: bool = True, cap: float = 125.0) -> Arrays:
    """Runs to failure (or cut short before it) with estimates that sharpen as life ends."""
    random = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[Any]]] = {key: [] for key in ("run", "end", "rul", "value", "low", "high")}
    for index in range(runs):
        length = int(random.integers(140, 320))
        rul = np.arange(length)[::-1].astype(float) + (0 if failed else random.integers(5, 120))
        seen = np.minimum(rul, cap)
        drift = np.convolve(random.normal(0, 1, length + 20), np.ones(21) / 21, "valid") * (4 + 0.5 * seen)
        value = np.clip(seen + drift + random.normal(0, 0.1, 1) * seen, 0, cap)
        width = 5 + 0.28 * value
        parts["run"].append(np.full(length, f"engine {index + 1:03d}"))
        for key, array in (("end", np.arange(length) + 1.0), ("rul", rul), ("value", value)):
            parts[key].append(array)
        parts["low"].append(np.maximum(value - width, 0))
        parts["high"].append(np.minimum(value + width, cap))
    found = {f"test/{key}": np.concatenate(arrays) for key, arrays in parts.items()}
    return {**found, "cap": np.array(cap), "train/mean_rul": np.array(87.4)}


def rul_meta(**policy: Any) -> CheckpointMeta:
    rule = RegressionPolicy(**{"act_below": 20.0, **policy})
    task = window_regression(30, len(CHANNELS) + 1, (0.05, 0.95), "cycles")
    return meta(task, rule, "turbofan", "mlp", age=True)


def watched(runs: int = 6, *, seed: int = 0, events: bool = True, step: float = 10.0, rows: int = 2000) -> Arrays:
    """Runs with a healthy start, one or two events each, a missed one and false alarms among them."""
    random = np.random.default_rng(seed)
    keys = ("run", "time", "score", "threshold", "label", "contributions", "commissioning")
    parts: dict[str, list[NDArray[Any]]] = {key: [] for key in keys}
    for index in range(runs):
        threshold = float(random.uniform(2, 9))
        score = threshold * (0.35 + 0.12 * np.convolve(random.normal(0, 1, rows + 8), np.ones(9) / 3, "valid"))
        label = np.zeros(rows, dtype=np.int64)
        shares = random.dirichlet(np.ones(len(CHANNELS)) * 2, rows)
        for start in ((900, 1500) if index % 2 else (1200,)) if events else ():
            length = int(random.integers(80, 260))
            label[start : start + length] = 1
            ramp = np.clip((np.arange(length) - random.integers(0, 30)) / 40, 0, 1.6)
            missed = index == 2
            score[start : start + length] += threshold * ramp * (0.1 if missed else 1.0)
            shares[start : start + length] = random.dirichlet([1, 2, 1, 14, 2], length)
        if index in (1, 4):
            score[600:640] += threshold * 0.9
            shares[600:640] = random.dirichlet([1, 1, 12, 1, 1], 40)
        parts["run"].append(np.full(rows, f"pump {index + 1}"))
        parts["time"].append(np.arange(rows) * step)
        parts["score"].append(np.maximum(score, 0))
        parts["threshold"].append(np.full(rows, threshold))
        parts["label"].append(label)
        parts["contributions"].append(shares)
        parts["commissioning"].append(np.arange(rows) < 400)
    return {f"test/{key}": np.concatenate(arrays) for key, arrays in parts.items()}


def anomaly_meta(**rule: Any) -> CheckpointMeta:
    alarm = AlarmRule(**{"on_after_s": 60.0, "off_after_s": 120.0, **rule})
    policy = AnomalyPolicy(alarm=alarm)
    return meta(window_anomaly(30, len(CHANNELS), (512, 15)), policy, "cooling-pumps", "bank")


def recordings(machines: int = 12, *, seed: int = 0, apart: float = 2.0) -> Arrays:
    """Machines of four kinds, three recordings each, windows that vote; bearings differ from one another."""
    random = np.random.default_rng(seed)
    run, group, label, probabilities = [], [], [], []
    for machine in range(machines):
        kind = machine % len(LABELS)
        own = random.normal(0, 0.9, len(LABELS))
        for take in range(3):
            logits = random.normal(0, 1.0, (40, len(LABELS))) + own
            logits[:, kind] += apart
            exp = np.exp(logits)
            probabilities.append(exp / exp.sum(axis=1, keepdims=True))
            run += [f"bearing {machine + 1:02d}, load {take}"] * 40
            group += [f"bearing {machine + 1:02d}"] * 40
            label += [kind] * 40
    return {
        "test/run": np.array(run),
        "test/group": np.array(group),
        "test/label": np.array(label),
        "test/probabilities": np.concatenate(probabilities).astype(np.float32),
    }


def faults_meta(ok: tuple[str, ...] = ("healthy",), labels: tuple[str, ...] = LABELS) -> CheckpointMeta:
    policy = Policy(labels=labels, ok_labels=ok)
    return meta(window_classification(labels, ok, 30, len(CHANNELS)), policy, "bearings", "spectral")


def gates() -> tuple[GateResult, ...]:
    def gate(variant: Any, loss: float, passed: bool, note: str = "") -> GateResult:
        return GateResult(
            variant=variant,
            pictures=900,
            right_to_wrong=round(9 * loss) + 1,
            wrong_to_right=1,
            net_loss_points=loss,
            right_to_wrong_low=0.0,
            right_to_wrong_high=0.004,
            max_score_difference=0.02 + loss,
            tolerance_points=0.5,
            passed=passed,
            measure="AUROC",
            before=0.91,
            after=0.91 - loss / 100,
            note=note,
        )

    return (
        gate("fp32", 0.0, True),
        gate("int8-trt", 0.8, False, "the error grows too much"),
        gate("int8-cpu", 0.1, True),
    )
