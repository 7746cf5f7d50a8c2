"""Plants in one process over a learner small enough to be read: a linear network in numpy with all kinds of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_sft import durable
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.errors import DataError
from edge_sft.federated.learner import Arrays, Compatible, Judged, JudgedSplit, Learnt, Part
from edge_sft.federated.phase import Waiting
from edge_sft.federated.run_store import RunStore, State
from edge_sft.federated.server import Settings
from edge_sft.policy import Policy
from edge_sft.preprocess import Preprocess
from edge_sft.progress import Progress, Silent
from edge_sft.task import image_classification

IN, HIDDEN, OUT = 12, 10, 3
PARTS: dict[str, Part] = {"body.weight": "body", "norm.weight": "norm", "body.bias": "bias", "head.weight": "head"}

RECIPE = """name = "toy"
[task]
labels = ["good", "bad"]
[data]
path = "."
[federated]
"""


def recipe(**federated: Any) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"deadline_s": 30, **federated}.items()]
    return RECIPE + "\n".join(lines) + "\n"


def start(hidden: int = HIDDEN, inputs: int = IN) -> Arrays:
    rng = np.random.default_rng(7)
    return {
        "body.weight": rng.normal(0, inputs**-0.5, (hidden, inputs)).astype(np.float32),
        "norm.weight": np.ones(inputs, dtype=np.float32),
        "body.bias": np.zeros(hidden, dtype=np.float32),
        "head.weight": rng.normal(0, hidden**-0.5, (OUT, hidden)).astype(np.float32),
    }


def write_data(folder: Path, seed: int, *, samples: int = 120, inputs: int = IN, gain: float = 1.0) -> Path:
    """Readings of one plant: the same truth everywhere, another gain and other readings."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).normal(0, inputs**-0.5, (OUT, inputs))
    x = rng.normal(0, 1, (samples, inputs)).astype(np.float32)
    y = (x @ truth.T + rng.normal(0, 0.05, (samples, OUT))).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "data.npz", x=x * np.float32(gain), y=y)
    return folder


def write_site(folder: Path, name: str, seed: int, **options: Any) -> Path:
    write_data(folder / "data", seed, **options)
    (folder / "site.toml").write_text(f'site = "{name}"\ndata = "data"\n')
    return folder


class Toy:
    """The protocol `Learner` over `start`."""

    base = None

    def __init__(self, data: Path, *, hidden: int = HIDDEN) -> None:
        self._data, self._hidden = data, hidden
        with np.load(data / "data.npz") as found:
            self._x, self._y = found["x"], found["y"]
        n = len(self._x)
        a, b = n * 6 // 10, n * 8 // 10
        self._splits = {"train": slice(0, a), "val": slice(a, b), "test": slice(b, n)}
        self._weights = start(hidden, self._x.shape[1])

    @property
    def compatible(self) -> Compatible:
        return Compatible({"inputs": str(self._x.shape[1]), "hidden": str(len(self._weights["body.bias"]))})

    @property
    def parts(self) -> dict[str, Part]:
        return dict(PARTS)

    @property
    def samples(self) -> dict[JudgedSplit, int]:
        return {split: len(self._x[rows]) for split, rows in self._splits.items()}  # type: ignore[misc]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._x.tobytes()).hexdigest()

    def opening(self) -> Arrays:
        return {}

    def weights(self) -> Arrays:
        return {name: array.copy() for name, array in self._weights.items()}

    def load(self, weights: Arrays) -> None:
        for name, array in weights.items():
            if self._weights[name].shape != array.shape:
                raise DataError(name, "has another shape")
            self._weights[name] = array.astype(np.float32).copy()

    def train(
        self, *, round_number: int, rounds: int, steps: int | None, proximal: float, progress: Progress
    ) -> Learnt:
        x, y = self._x[self._splits["train"]], self._y[self._splits["train"]]
        began = self.weights()
        rng = np.random.default_rng([round_number, len(x)])
        count = steps or max(1, 120 // rounds)
        losses = []
        for _ in range(count):
            rows = rng.integers(0, len(x), 32)
            loss, slopes = self._slopes(x[rows], y[rows])
            losses.append(loss)
            for name, slope in slopes.items():
                pull = slope + np.float32(proximal) * (self._weights[name] - began[name])
                self._weights[name] = (self._weights[name] - np.float32(0.03) * pull).astype(np.float32)
        return Learnt(len(x), float(np.mean(losses)), count)

    def judge(self, split: JudgedSplit) -> Judged:
        x, y = self._x[self._splits[split]], self._y[self._splits[split]]
        error = float(np.sqrt(np.mean((self._predict(x) - y) ** 2)))
        return Judged(len(x), -error, {"rmse": error})

    @property
    def groups(self) -> dict[str, str]:
        return {}

    def judge_checkpoint(self, checkpoint: Path, split: JudgedSplit) -> Judged:
        mine, content = self.weights(), (checkpoint / "model.bin").read_bytes()
        at = 0
        for name, array in sorted(mine.items()):
            size = array.nbytes
            self._weights[name] = np.frombuffer(content[at : at + size], np.float32).reshape(array.shape)
            at += size
        judged = self.judge(split)
        self._weights = mine
        return judged

    def alone(self, out: Path, progress: Progress) -> CheckpointMeta:
        other = Toy(self._data, hidden=self._hidden)
        other.train(round_number=1, rounds=1, steps=None, proximal=0.0, progress=progress)
        return other.checkpoint(out, personal=False, progress=progress)

    def checkpoint(self, out: Path, *, personal: bool, progress: Progress) -> CheckpointMeta:
        if personal:
            self.train(round_number=1, rounds=10, steps=20, proximal=0.0, progress=Silent())
        content = b"".join(array.tobytes() for _, array in sorted(self._weights.items()))
        durable.write_bytes(out / "model.bin", content)
        labels = ("good", "bad")
        return CheckpointMeta(
            name="toy",
            version="0.1.0",
            task=image_classification(labels, ("good",), 16, 16),
            preprocess=Preprocess(height=16, width=16),
            backbone="toy",
            policy=Policy(labels=labels, ok_labels=("good",)),
            dataset_fingerprint="0" * 64,
            weights_sha256=hashlib.sha256(content).hexdigest(),
            metrics={split: self.judge(split).numbers for split in ("val", "test")},  # type: ignore[arg-type]
            training={"chosen": "personal"},
        )

    def _predict(self, x: np.ndarray) -> np.ndarray:
        w = self._weights
        return ((x * w["norm.weight"]) @ w["body.weight"].T + w["body.bias"]) @ w["head.weight"].T

    def _slopes(self, x: np.ndarray, y: np.ndarray) -> tuple[float, Arrays]:
        w = self._weights
        scaled = x * w["norm.weight"]
        hidden = scaled @ w["body.weight"].T + w["body.bias"]
        error = (hidden @ w["head.weight"].T - y) / np.float32(len(x))
        back = error @ w["head.weight"]
        slopes = {
            "head.weight": error.T @ hidden,
            "body.weight": back.T @ scaled,
            "body.bias": back.sum(0),
            "norm.weight": ((back @ w["body.weight"]) * x).sum(0),
        }
        return float((error**2).sum() * len(x)), slopes


def make(recipe: str, data: Path, work: Path, progress: Progress) -> Toy:
    return Toy(data)


NAMES = ("plant-a", "plant-b", "plant-c")


class QuickClock:
    """A clock on which waiting costs nothing."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class Plants:
    """A run over some sites; ``said`` is what the coordinator told."""

    root: Path
    recipe: str
    names: tuple[str, ...] = NAMES
    make: Callable[..., Any] = make
    options: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def grid(self, **options: Any) -> Any:
        from edge_sft.federated.app import make_client_app
        from edge_sft.federated.local_grid import LocalGrid

        sites = {}
        for number, name in enumerate(self.names, start=1):
            folder = self.root / "sites" / name
            if not folder.exists():
                write_site(folder, name, number, **self.options)
            sites[10 + number] = folder
        return LocalGrid(make_client_app(self.make), sites, **options)

    def run(self, grid: Any = None, clock: Any = None, waiting: Waiting | None = None) -> State:
        from edge_sft.federated.server import serve

        self.store()
        settings = Settings(
            say=self.said.append,
            clock=clock or QuickClock(),
            waiting=waiting or Waiting(poll_s=0.5, join_s=1.0),
            app="f" * 64,
        )
        return serve(grid or self.grid(), {"run-dir": str(self.root / "runs"), "run-name": "first"}, settings)

    def store(self) -> RunStore:
        return RunStore.create(self.root / "runs", "first", self.recipe)

    def rounds(self) -> list[dict[str, Any]]:
        return self.store().lines("round")
