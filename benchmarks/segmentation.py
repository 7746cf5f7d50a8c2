"""Segmentation of magnetic tiles: which pixels are a defect, and of which kind.

python benchmarks/segmentation.py train|score|table magnetic_tile [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse

import dense_runs

COLUMNS = ("iou", "aupro", "defect_recall", "false_parts", "area_error", "escape_rate", "overkill_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["train", "score", "table"])
    parser.add_argument("set", choices=["magnetic_tile"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    if given.do == "table":
        print(dense_runs.table("segmentation", COLUMNS))
        return
    for seed in given.seeds:
        (dense_runs.train if given.do == "train" else dense_runs.look)(given.set, "segmentation", seed)


if __name__ == "__main__":
    main()
