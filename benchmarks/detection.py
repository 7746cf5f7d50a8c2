"""Detection on public sets: NEU-DET (boxes as published) and magnetic tiles (boxes around the masks' parts).

python benchmarks/detection.py train|score|table neu_det|magnetic_tile [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse

import dense_runs

COLUMNS = ("map50", "map50_95", "recall", "precision", "escape_rate", "overkill_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=["train", "score", "table"])
    parser.add_argument("set", choices=["neu_det", "magnetic_tile"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    if given.do == "table":
        print(dense_runs.table("detection", COLUMNS))
        return
    for seed in given.seeds:
        (dense_runs.train if given.do == "train" else dense_runs.look)(given.set, "detection", seed)


if __name__ == "__main__":
    main()
