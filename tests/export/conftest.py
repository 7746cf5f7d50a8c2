"""A small network that really learnt small pictures, exported once for all tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.data.dataset import Dataset, Item
from edge_sft.export.variants import ExportResult, export_module
from edge_sft.policy import Policy
from edge_sft.preprocess import Preprocess
from edge_sft.progress import Silent
from edge_sft.task import image_classification

if TYPE_CHECKING:
    from torch import nn

SIDE = 32
LABELS = ("good", "scratch", "stain")


@pytest.fixture(scope="session")
def torch() -> Iterator[ModuleType]:
    module = pytest.importorskip("torch", reason="torch is not installed: export is not proved")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Grey noise; a scratch is a bright line, a stain a dark blot. 40 pictures a class."""
    import cv2

    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    items = []
    for label in LABELS:
        (root / label).mkdir()
        for number in range(40):
            image = random.integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8)
            place = int(random.integers(6, SIDE - 10))
            if label == "scratch":
                image[place : place + 2, 4:-4] = 230
            if label == "stain":
                image[place : place + 5, place : place + 5] = 20
            path = root / label / f"{number:02d}.png"
            cv2.imwrite(str(path), image)
            split = "test" if number % 5 == 4 else "val" if number % 5 in (1, 3) else "train"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            items.append(Item(f"{label}/{path.name}", path, label, digest, split))  # type: ignore[arg-type]
    return Dataset(root, LABELS, tuple(sorted(items, key=lambda item: item.id)))


@pytest.fixture(scope="session")
def meta(dataset: Dataset) -> CheckpointMeta:
    return CheckpointMeta(
        name="tiny",
        version="0.1.0",
        task=image_classification(LABELS, ("good",), SIDE, SIDE),
        preprocess=Preprocess(height=SIDE, width=SIDE),
        backbone="tiny",
        policy=Policy(labels=LABELS, ok_labels=("good",)),
        dataset_fingerprint=dataset.fingerprint,
        weights_sha256="a" * 64,
        metrics={"val": {"accuracy": 0.5, "undefined": float("nan")}},
    )


@pytest.fixture(scope="session")
def tiny(torch: ModuleType, dataset: Dataset, meta: CheckpointMeta) -> nn.Module:
    """Convolution, depthwise convolution, batch norm, ReLU6, average, linear, softmax; trained for a second."""
    from edge_sft.export import pictures

    nn = torch.nn

    class Tiny(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
                nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
                nn.Conv2d(16, 24, 1), nn.ReLU6(),
            )  # fmt: skip
            self.head = nn.Linear(24, len(LABELS))

        def forward(self, image):  # type: ignore[no-untyped-def]
            maps = self.body((image.float().permute(0, 3, 1, 2) - 127) / 128)
            return torch.softmax(self.head(maps.amax(dim=(2, 3))) / 1.1, dim=1)

    torch.manual_seed(0)
    module = Tiny()
    shown = pictures.read(dataset.split("train"), meta.task, meta.preprocess, Silent(), "")
    images, labels = torch.from_numpy(shown.images), torch.from_numpy(shown.labels)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.nll_loss(torch.log(module(images) + 1e-6), labels).backward()
        optimizer.step()
    return module.eval()


@pytest.fixture(scope="session")
def exported(
    tiny: nn.Module, dataset: Dataset, meta: CheckpointMeta, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    return export_module(
        tiny,
        meta,
        dataset,
        tmp_path_factory.mktemp("export"),
        variants=("fp32", "fp16", "int8-trt", "int8-cpu"),
        calibration_pictures=32,
        tolerance_points=0.5,
        progress=Silent(),
    )
