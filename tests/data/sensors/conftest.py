"""A small plant whose files are written as real loggers write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_sft import strict_toml
from edge_sft.data.sensors.checking import check_sensors
from edge_sft.data.sensors.dataset import SensorDataset
from edge_sft.data.sensors.findings import SensorFindings
from edge_sft.data.sensors.reader import open_sensor_dataset
from edge_sft.sensor_recipe import SensorRecipe

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
START = np.datetime64("2024-03-01T06:00:00")


class Plant:
    """Machines with the channels temp, pressure and rpm, one row a second."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.columns = ["time", "temp", "pressure", "rpm"]

    def rows(self, seed: int, count: int = 300, *, step: int = 1, start: Any = START) -> list[list[str]]:
        """Return rows as text; another seed is another machine."""
        rng = np.random.default_rng(seed)
        temp = 60 + 3 * np.sin(np.arange(count) / 40) + rng.normal(0, 0.3, count)
        pressure = 5 + rng.normal(0, 0.05, count)
        rpm = 1500 + rng.normal(0, 10, count)
        stamps = [str(start + np.timedelta64(step * i, "s")).replace("T", " ") for i in range(count)]
        return [
            [stamp, f"{a:.3f}", f"{b:.4f}", f"{c:.1f}"]
            for stamp, a, b, c in zip(stamps, temp, pressure, rpm, strict=True)
        ]

    def write(
        self, name: str, rows: Sequence[Sequence[str]], *, columns: Sequence[str] | None = None, separator: str = ","
    ) -> Path:
        """Write one CSV file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [separator.join(columns or self.columns), *(separator.join(row) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def fleet(self, count: int = 6, **settings: Any) -> Path:
        """Write a file a machine."""
        for number in range(count):
            self.write(f"m{number}.csv", self.rows(number, **settings))
        return self.root


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Return a plant in a folder of its own."""
    root = tmp_path / "plant"
    root.mkdir()
    return Plant(root)


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., SensorRecipe]:
    """Return a maker of recipes: ``make_recipe(root, data='run = "unit"', task='kind = "regression"')``."""

    def make(
        root: Path,
        *,
        data: str = 'time = "time"',
        task: str = 'kind = "anomaly"',
        channels: Sequence[str] = ("temp", "pressure", "rpm"),
        more: str = "",
    ) -> SensorRecipe:
        named = "".join(f"\n[[data.channels]]\n{c if '=' in c else f'name = {c!r}'}" for c in channels)
        text = f"modality = 'window'\nname = 'x'\n[task]\n{task}\n[data]\npath = '{root}'\n{data}\n{named}\n{more}\n"
        return strict_toml.loads(text, SensorRecipe, source="recipe")

    return make


@pytest.fixture(scope="session")
def opened(make_recipe: Callable[..., SensorRecipe]) -> Callable[..., SensorDataset]:
    """Return an opener of data sets, with the arguments of ``make_recipe``."""
    return lambda *args, **kwargs: open_sensor_dataset(make_recipe(*args, **kwargs))


@pytest.fixture(scope="session")
def checked(make_recipe: Callable[..., SensorRecipe]) -> Callable[..., SensorFindings]:
    """Return a checker of data, with the arguments of ``make_recipe``."""

    def check(*args: Any, **kwargs: Any) -> SensorFindings:
        recipe = make_recipe(*args, **kwargs)
        return check_sensors(recipe, open_sensor_dataset(recipe))

    return check


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of public data sets, or skip."""
    if not SHARED.is_dir():
        pytest.skip(f"no public data sets at {SHARED}")
    return SHARED
