"""NASA's C-MAPSS turbofans as runs: training engines run to failure, test engines stop some cycles before."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.dataset import Run, SensorDataset
from edge_sft.sensor_recipe import SensorRecipe

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "cmapss"
SETS = ("FD001", "FD002", "FD003", "FD004")
CAP = 125.0
CHANNELS = ("op1", "op2", "op3", *(f"s{number}" for number in range(1, 22)))
CONDITIONS = ("op1", "op2", "op3")


def recipe(
    name: str,
    *,
    conditions: bool,
    age: bool = True,
    seed: int = 0,
    base: str | None = None,
    **changes: object,
) -> SensorRecipe:
    """The recipe of a C-MAPSS set; ``changes`` go to its sections as ``section={"key": value}``."""
    sections: dict[str, dict[str, object]] = {
        "task": {"kind": "regression", "cap": CAP, "unit": "cycles", "quantiles": [0.05, 0.95]},
        "data": {
            "path": "cmapss",
            "time": "cycle",
            "group": "unit",
            "channels": [{"name": channel} for channel in CHANNELS],
            "conditions": list(CONDITIONS) if conditions else [],
        },
        "window": {"period_s": 1.0, "length": 80, "hop": 1, "min_valid": 0.0125, "age": age, "age_unit": 100.0},
        "normalise": {"by": "condition" if conditions else "global", "clusters": 6},
        "model": {"architecture": "mlp"},
        "train": {"seed": seed},
    }
    if base is not None:
        sections["model"]["base"] = base
    for section, values in changes.items():
        assert isinstance(values, dict)
        sections[section] = {**sections.get(section, {}), **values}
    return SensorRecipe.model_validate({"modality": "window", "name": name.lower(), **sections})


def toml_of(recipe: SensorRecipe) -> str:
    """The recipe as a person would have written it, for the checkpoint."""
    plain = recipe.model_dump(mode="json", exclude_none=True)
    alone = [f"{key} = {_toml(value)}" for key, value in plain.items() if not isinstance(value, dict)]
    tables = [
        "\n".join([f"\n[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items())])
        for name, section in plain.items()
        if isinstance(section, dict)
    ]
    return "\n".join([*alone, *tables]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value)


def six_conditions(name: str) -> bool:
    """Whether a set's engines fly under six conditions (told by its op columns, not by its results)."""
    return name in ("FD002", "FD004")


def engines(name: str, part: str = "train", root: Path = DATA) -> dict[int, NDArray[np.float64]]:
    """Unit → rows [n, 1 + 24]: cycle and channels."""
    with gzip.open(root / f"{part}_{name}.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return {int(unit): table[table[:, 0] == unit][:, 1:] for unit in np.unique(table[:, 0])}


def remaining(name: str, root: Path = DATA) -> NDArray[np.float64]:
    """What remained of each test engine at its last cycle."""
    return np.loadtxt(root / f"RUL_{name}.txt").reshape(-1)


def training_runs(name: str, *, val: float = 0.05, seed: int = 0, root: Path = DATA) -> tuple[Run, ...]:
    """Training engines; a few of them are kept as the validation split that export's gates need."""
    found = engines(name, "train", root)
    held = np.random.default_rng(seed).permutation(sorted(found))[: max(1, round(val * len(found)))]
    return tuple(
        _run(f"{name}/{unit:03d}", "val" if unit in held else "train", rows, 0.0) for unit, rows in found.items()
    )


def stopped_runs(name: str, root: Path = DATA) -> tuple[Run, ...]:
    """Test engines with what truly remains at every row."""
    left = remaining(name, root)
    return tuple(
        _run(f"{name}/test/{unit:03d}", "test", rows, left[unit - 1])
        for unit, rows in engines(name, "test", root).items()
    )


def dataset(runs: tuple[Run, ...], root: Path = DATA) -> SensorDataset:
    """Runs as a dataset."""
    return SensorDataset(root, CHANNELS, (), tuple(sorted(runs, key=lambda run: run.id)))


def _run(name: str, split: str, rows: NDArray[np.float64], left: float) -> Run:
    digest = hashlib.sha256(name.encode() + rows.tobytes() + np.float64(left).tobytes()).hexdigest()
    return Run(
        id=name,
        group=name,
        asset=name,
        split=split,  # type: ignore[arg-type]
        time=rows[:, 0],
        values=rows[:, 1:],
        rul=left + rows[-1, 0] - rows[:, 0],
        sha256=digest,
    )
