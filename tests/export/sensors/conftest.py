"""Small sensor models of each kind that really learnt small machines, exported once for all tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.export.sensors.variants import export_module
from edge_sft.export.sensors.windows import Shown, for_ranges
from edge_sft.export.variants import ExportResult
from edge_sft.policy import AnomalyPolicy, Policy, RegressionPolicy
from edge_sft.preprocess import Channel, Windowing
from edge_sft.progress import Silent
from edge_sft.task import Task, window_anomaly, window_classification, window_regression

if TYPE_CHECKING:
    from torch import nn

LENGTH, CAP = 16, 60.0
LABELS = ("healthy", "worn", "loose")
ALL = ("fp32", "fp16", "int8-trt", "int8-cpu")
WINDOWING = Windowing(
    channels=(Channel(name="speed", unit="rpm"), Channel(name="heat"), Channel(name="vibration")),
    period_s=1.0,
    length=LENGTH,
    min_valid=0.25,
)


@dataclass(frozen=True)
class Model:
    """A module with all that its export needs."""

    module: nn.Module
    meta: CheckpointMeta
    dataset: SensorDataset
    local: dict[str, Any] = field(default_factory=dict)

    def export(self, out: Path, **changes: Any) -> ExportResult:
        given: dict[str, Any] = {"variants": ALL, "tolerance_points": 1.0, "cap": CAP, "progress": Silent(), **changes}
        return export_module(self.module, self.meta, self.dataset, out, local=self.local, **given)


@pytest.fixture(scope="session")
def torch() -> Iterator[ModuleType]:
    module = pytest.importorskip("torch", reason="torch is not installed: export is not proved")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset() -> SensorDataset:
    """Twenty machines that wear out: heat and vibration rise towards the end of 9,000 rpm give or take 3."""
    random, runs = np.random.default_rng(0), []
    for number in range(20):
        life = int(random.integers(70, 110))
        left = np.arange(life, 0, -1.0)
        wear = np.exp(-left / 25)
        values = np.stack([
            9000 + random.normal(0, 3, life),
            40 + 30 * wear + random.normal(0, 1, life),
            0.002 + 0.004 * wear + random.normal(0, 2e-4, life),
        ], axis=1)  # fmt: skip
        values[random.random(values.shape) < 0.02] = np.nan
        labels = np.where(left > 40, 0, 1 + number % 2)
        values[labels == 2, 0] += 12
        split = "test" if number % 5 == 4 else "val" if number % 5 == 3 else "train"
        digest = hashlib.sha256(values.tobytes()).hexdigest()
        name = f"machine {number:02d}"
        runs.append(Run(name, name, name, split, np.arange(life) * 1.0, values, labels, left, digest))  # type: ignore[arg-type]
    return SensorDataset(Path("machines"), ("speed", "heat", "vibration"), LABELS, tuple(runs))


@pytest.fixture(scope="session")
def train(dataset: SensorDataset) -> Shown:
    return for_ranges(dataset, WINDOWING, {}, 1000, Silent())


def meta_of(task: Task, policy: Any, dataset: SensorDataset) -> CheckpointMeta:
    return CheckpointMeta(
        name="machines",
        version="0.1.0",
        task=task,
        preprocess=WINDOWING,
        backbone="tiny",
        policy=policy,
        dataset_fingerprint=dataset.fingerprint,
        weights_sha256="a" * 64,
        metrics={"val": {"rmse": 1.0}},
    )


Maker = Callable[[int], "nn.Module"]


@pytest.fixture(scope="session")
def network(torch: ModuleType, train: Shown) -> Maker:
    """Normalise with the mask, convolve, average with the mask, two linear layers."""
    nn = torch.nn
    count = train.valid.sum(axis=(0, 1))
    mean = (train.window * train.valid).sum(axis=(0, 1)) / count
    std = np.sqrt((((train.window - mean) * train.valid) ** 2).sum(axis=(0, 1)) / count)

    class Network(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
            self.register_buffer("scale", torch.from_numpy((1 / std).astype(np.float32)))
            self.conv = nn.Sequential(nn.Conv1d(3, 16, 5, padding=2), nn.ReLU())
            self.body = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, outputs))

        def forward(self, window, valid):  # type: ignore[no-untyped-def]
            x = torch.clamp((window - self.mean) * self.scale, -8.0, 8.0) * valid
            there = valid.amax(dim=2, keepdim=True).transpose(1, 2)
            x = self.conv(x.transpose(1, 2)) * there
            return self.body(x.sum(dim=2) / there.sum(dim=2).clamp(min=1.0))

    def make(outputs: int) -> nn.Module:
        torch.manual_seed(0)
        return Network(outputs)

    return make


def fit(torch: ModuleType, network: nn.Module, train: Shown, loss: Callable[..., Any]) -> None:
    window, valid = torch.from_numpy(train.window), torch.from_numpy(train.valid)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss(network(window, valid)).backward()
        optimizer.step()


@pytest.fixture(scope="session")
def life(torch: ModuleType, dataset: SensorDataset, train: Shown, network: Maker) -> Model:
    """Remaining life with an interval."""

    class Life(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network(1)

        def forward(self, window, valid):  # type: ignore[no-untyped-def]
            value = torch.clamp(self.network(window, valid).squeeze(1) * CAP, 0.0, CAP)
            return value, torch.stack([torch.clamp(value - 12.0, 0.0, CAP), torch.clamp(value + 12.0, 0.0, CAP)], dim=1)

    module = Life()
    truth = torch.from_numpy(np.minimum(train.rul, CAP).astype(np.float32)) / CAP
    fit(torch, module.network, train, lambda said: ((said.squeeze(1) - truth) ** 2).mean())
    task = window_regression(LENGTH, 3, (0.05, 0.95), "hours")
    return Model(module.eval(), meta_of(task, RegressionPolicy(act_below=10.0), dataset), dataset)


@pytest.fixture(scope="session")
def faults(torch: ModuleType, dataset: SensorDataset, train: Shown, network: Maker) -> Model:
    """Which fault it is."""

    class Faults(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network(3)

        def forward(self, window, valid):  # type: ignore[no-untyped-def]
            return (torch.softmax(self.network(window, valid), dim=1),)

    module = Faults()
    truth = torch.from_numpy(train.label)
    fit(torch, module.network, train, lambda said: torch.nn.functional.cross_entropy(said, truth))
    task = window_classification(LABELS, ("healthy",), LENGTH, 3)
    return Model(module.eval(), meta_of(task, Policy(labels=LABELS, ok_labels=("healthy",)), dataset), dataset)


@pytest.fixture(scope="session")
def anomaly(torch: ModuleType, dataset: SensorDataset, train: Shown) -> Model:
    """How far a window's mean is from the nearest of the machine's healthy ones; mean, std and bank are inputs."""

    class Nearest(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, window, valid, mean, std, bank):  # type: ignore[no-untyped-def]
            z = torch.clamp((window - mean) / std, -8.0, 8.0) * valid
            features = z.sum(dim=1) / valid.sum(dim=1).clamp(min=1.0)
            nearness = 2.0 * torch.matmul(features, bank.transpose(0, 1)) - (bank * bank).sum(dim=1)
            nearest = torch.topk(nearness, 1, dim=1).indices.reshape(-1)
            by = (features - bank.index_select(0, nearest)) ** 2 + 1e-6
            return torch.sqrt(by.sum(dim=1)), by / by.sum(dim=1, keepdim=True), features

    healthy = train.label == 0
    window, valid = train.window[healthy], train.valid[healthy]
    mean = (window * valid).sum(axis=(0, 1)) / valid.sum(axis=(0, 1))
    std = np.sqrt((((window - mean) * valid) ** 2).sum(axis=(0, 1)) / valid.sum(axis=(0, 1)))
    features = (((window - mean) / std) * valid).sum(axis=1) / valid.sum(axis=1).clip(1)
    local = {"mean": mean, "std": std, "bank": features[:: len(features) // 20][:20]}
    task = window_anomaly(LENGTH, 3, (20, 3))
    local = {name: array.astype(np.float32) for name, array in local.items()}
    return Model(Nearest().eval(), meta_of(task, AnomalyPolicy(), dataset), dataset, local)


@pytest.fixture(scope="session")
def exported(
    life: Model, faults: Model, anomaly: Model, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ExportResult]:
    models = {"life": life, "faults": faults, "anomaly": anomaly}
    return {name: model.export(tmp_path_factory.mktemp(name)) for name, model in models.items()}
