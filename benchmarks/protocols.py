"""The public sets and their splits, exactly as ../shared/data/README.md says; shared by ours, plain and probe."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Row:
    """One picture: identity for people, file, label, and the group that must not straddle splits."""

    id: str
    path: Path
    label: str
    group: str | None = None


@dataclass(frozen=True)
class Protocol:
    """A set cut into train, val and test; ``apart`` is scored but belongs to no split."""

    name: str
    root: Path
    ok: tuple[str, ...]
    train: list[Row]
    val: list[Row]
    test: list[Row]
    apart: list[Row]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({row.label for row in (*self.train, *self.val, *self.test)}))


def load(name: str, seed: int) -> Protocol:
    """Load one set by name; ``seed`` only matters where pictures are drawn (NEU)."""
    return SETS[name](seed)


def _from_csv(folder: str, ok: tuple[str, ...]) -> Callable[[int], Protocol]:
    def read(_seed: int) -> Protocol:
        root = SHARED / folder
        parts: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
        with (root / "splits.csv").open(newline="") as file:
            for line in csv.DictReader(file):
                row = Row(line["path"], root / line["path"], line["label"], line.get("group"))
                parts[line["split"]].append(row)
        return Protocol(folder, root, ok, parts["train"], parts["val"], parts["test"], [])

    return read


def _neu(per_class: int) -> Callable[[int], Protocol]:
    """NEU with few labels: ``per_class`` train pictures by seed, and as many (≤ 45) for validation.

    Who owns 5 labelled pictures a class does not own 45 more to validate with; the test split stays whole.
    """

    def read(seed: int) -> Protocol:
        full = _from_csv("neu_det", ())(seed)
        chosen = {}
        for split, rows in (("train", full.train), ("val", full.val)):
            rng = random.Random(f"{seed}/{split}")
            picked: list[Row] = []
            for label in full.labels:
                of_label = sorted((row for row in rows if row.label == label), key=lambda row: row.id)
                picked += sorted(rng.sample(of_label, min(per_class, len(of_label))), key=lambda row: row.id)
            chosen[split] = picked
        return Protocol(f"neu_{per_class}", full.root, full.labels, chosen["train"], chosen["val"], full.test, [])

    return read


def _elpv(_seed: int) -> Protocol:
    """70/15/15 by SHA-256 of the file name, stratified by type × label; 0.33 (experts unsure) apart."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("elpv_dataset is not installed: pip install elpv-dataset")
    root = Path(spec.submodule_search_locations[0]) / "data"
    strata: dict[tuple[str, str], list[Row]] = {}
    apart: list[Row] = []
    for line in (root / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        value = float(probability)
        row = Row(name, root / name, "nok" if value >= 0.6 else "ok")
        if 0.1 < value < 0.6:
            apart.append(row)
        else:
            strata.setdefault((kind, row.label), []).append(row)
    parts: tuple[list[Row], list[Row], list[Row]] = ([], [], [])
    for rows in strata.values():
        ordered = sorted(rows, key=lambda row: hashlib.sha256(Path(row.id).name.encode()).hexdigest())
        first, second = round(0.70 * len(ordered)), round(0.85 * len(ordered))
        for part, cut in zip(parts, (ordered[:first], ordered[first:second], ordered[second:]), strict=True):
            part.extend(cut)
    train, val, test = (sorted(part, key=lambda row: row.id) for part in parts)
    return Protocol("elpv", root, ("ok",), train, val, test, apart)


SETS: dict[str, Callable[[int], Protocol]] = {
    "elpv": _elpv,
    "bsd_pitting": _from_csv("bsd_pitting", ("clean",)),
    "magnetic_tile": _from_csv("magnetic_tile", ("free",)),
    "infrared_solar": _from_csv("infrared_solar", ("No-Anomaly",)),
    "neu_5": _neu(5),
    "neu_60": _neu(60),
}
