"""How the memory of good pictures was chosen: validation AUROC on public sets, nothing of their test splits is read.

    python benchmarks/anomaly_choice.py [--sets magnetic_tile ...] [--elpv FOLDER] [--kept 64 96 128] [--own 1 4 16]

Prints one row a set and setting: positions alone, examples alone, both as they are added up, and how many of the
validation's good pictures are rejected where 5 % were asked for. ``--elpv`` is a folder with the elpv-dataset package
(``pip install --no-deps --target FOLDER elpv-dataset``).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edge_sft.metrics.classification import roc
from edge_sft.models.anomaly import build
from edge_sft.preprocess import Preprocess, read_tensor
from edge_sft.recipe import ModelSection
from edge_sft.slots import picture_memory

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
GOOD = {"magnetic_tile": "free", "bsd_pitting": "clean", "infrared_solar": "No-Anomaly"}
SIZE = 224


@dataclass(frozen=True)
class Row:
    path: Path
    good: bool
    split: str
    group: str


def published(name: str) -> list[Row]:
    with (DATA / name / "splits.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    labels = {line["label"] for line in lines}
    good = next(label for label in labels if label.lower() in {GOOD[name].lower(), "clean", "no-anomaly", "free"})
    return [
        Row(DATA / name / line["path"], line["label"] == good, line["split"], line.get("group") or line["path"])
        for line in lines
    ]


def elpv(folder: Path) -> list[Row]:
    """70/15/15 by SHA-256 of the file name, stratified by type and label; the experts' unsure third is left out."""
    base = folder / "elpv_dataset" / "data"
    strata: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for line in (base / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, probability, kind = line.split()
        if abs(float(probability) - 1 / 3) > 0.1:
            strata[(kind, float(probability) > 0.5)].append(path)
    rows = []
    for (_, bad), paths in strata.items():
        paths.sort(key=lambda path: hashlib.sha256(Path(path).name.encode()).hexdigest())
        first, second = round(0.7 * len(paths)), round(0.85 * len(paths))
        for index, path in enumerate(paths):
            side = "train" if index < first else "val" if index < second else "test"
            rows.append(Row(base / path, not bad, side, path))
    return rows


def features(rows: list[Row]) -> np.ndarray:
    detector, _ = build(ModelSection(), (SIZE, SIZE), 16)
    spec = Preprocess(height=SIZE, width=SIZE)
    told = []
    with torch.inference_mode():
        for start in range(0, len(rows), 16):
            images = np.stack([read_tensor(row.path, spec) for row in rows[start : start + 16]])
            told.append(detector.features(torch.from_numpy(images)).half().numpy())
    return np.concatenate(told)


def area(defect: np.ndarray, scores: np.ndarray) -> float:
    curve = roc(defect, scores)
    return float("nan") if curve is None else curve.area


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sets", nargs="*", default=list(GOOD))
    arguments.add_argument("--elpv", type=Path)
    arguments.add_argument("--kept", nargs="*", type=int, default=[64, 96, 128])
    arguments.add_argument("--own", nargs="*", type=float, default=[4.0])
    given = arguments.parse_args()
    sets = {name: published(name) for name in given.sets}
    if given.elpv:
        sets["elpv"] = elpv(given.elpv)
    print("| set | good, train | val | kept D | own | positions | examples | both | rejected of 5 % | fit s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, rows in sets.items():
        train = [row for row in rows if row.split == "train" and row.good]
        val = [row for row in rows if row.split == "val"]
        inside, outside = features(train), features(val)
        defect = np.array([not row.good for row in val])
        for kept in given.kept:
            for own in given.own:
                picture_memory._OWN = own
                layout = replace(picture_memory.Layout.of(inside.shape[2], inside.shape[1], 1024), width=kept)
                began = time.monotonic()
                memory = picture_memory.fit(inside, [row.group for row in train], layout, rate=0.05, clean=False)
                took = time.monotonic() - began
                basis, centres, whitening, examples, _ = layout.cut(memory.bank)
                reduced = outside.astype(np.float32) @ basis - centres
                position = picture_memory.top_mean(picture_memory._by_position(reduced, whitening))
                example = picture_memory.top_mean(picture_memory._by_example(reduced, examples))
                scores, _ = picture_memory.score(outside, memory.bank, layout)
                false = int((scores[~defect] >= 1).sum())
                print(
                    f"| {name} | {len(train)} | {len(val)} | {kept} | {own:g} | {area(defect, position):.4f} | "
                    f"{area(defect, example):.4f} | {area(defect, scores):.4f} | {false} of {int((~defect).sum())} | "
                    f"{took:.0f} |"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
