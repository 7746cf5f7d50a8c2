"""The comparison of streamed.py: what the agent's model was asked and said, against the same files offline."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sensor_bundles import Made, environment
from streamed_line import Heard, Key, Run
from streamed_tap import digest, said

from edge_sft.preprocess import Windowing
from edge_sft.preprocess.cutting import cut, ends_of
from edge_sft.preprocess.gridding import Grid, grid_run
from edge_sft.preprocess.window import Window
from edge_sft.slots.window_predictor import Captured, WindowPredictor, name_of

_NUMBERS = ("score", "value", "low", "high", "confidence")


def rounds(runs: Sequence[Run]) -> list[list[Run]]:
    """Share runs out so that no machine comes twice in one."""
    found: list[list[Run]] = []
    for run in runs:
        place = next((one for one in found if run.machine not in {other.machine for other in one}), None)
        if place is None:
            found.append([run])
        else:
            place.append(run)
    return found


def offline_windows(windowing: Windowing, runs: Sequence[Run]) -> dict[Key, Window]:
    """Cut every window of every run from the whole grid."""
    found: dict[Key, Window] = {}
    for run in runs:
        grid: Grid = grid_run(windowing, run.time, run.values)
        ends = ends_of(windowing, grid)
        for start in range(0, len(ends), 256):
            part = ends[start : start + 256]
            values, valid = cut(windowing, grid, part)
            for place, end in enumerate(grid.time[part].tolist()):
                found[run.asset, name_of(end)] = Window(run.asset, end, values[place].copy(), valid[place].copy())
    return found


@dataclass
class Compared:
    """One line of the table."""

    rows: int
    runs: int
    machines: int
    variant: str
    windows: int = 0
    batches: int = 0
    mean_batch: float = 0.0
    kills: list[str] = field(default_factory=list)
    took_s: float = 0.0
    messages: int = 0
    asked_wrong: int = 0  # windows whose bits are not the offline ones
    missing: int = 0  # of the expected, not heard over the broker
    extra: int = 0  # heard, not expected
    twice: int = 0  # decided twice (the second after a kill), told twice
    twice_apart: float = 0.0  # of these, the largest difference over the scale
    gaps: int = 0  # sequence numbers that never came
    unlike_tap: int = 0  # what the broker told is not what the model said
    batch_differ: int = 0  # Predictions that an equal batch offline does not give bit for bit
    alone: float = 0.0  # largest difference over the scale: one window at a time
    alone_verdicts: int = 0
    predict: float = 0.0  # the same: `edge-sft predict`
    predict_verdicts: int = 0
    predict_missing: int = 0
    undecided: int = 0


def numbers(one: dict[str, Any]) -> dict[str, float]:
    """A Prediction's numbers by name."""
    found = {name: float(one[name]) for name in _NUMBERS if one.get(name) is not None}
    return found | {f"p/{label}": float(share) for label, share in (one.get("probabilities") or {}).items()}


def scales(every: Sequence[dict[str, float]]) -> dict[str, float]:
    """1 for probabilities, else the largest magnitude of the output that a number is of (an interval's, both ends)."""
    largest: dict[str, float] = defaultdict(float)
    for one in every:
        for name, number in one.items():
            largest[name] = max(largest[name], abs(number))
    ends = max(largest.get("low", 0.0), largest.get("high", 0.0))
    known = {name: 1.0 if name.startswith("p/") or name == "confidence" else max(large, 1e-12)
             for name, large in largest.items()}  # fmt: skip
    return known | ({"low": ends, "high": ends} if ends else {})


def apart(one: dict[str, Any], other: dict[str, Any], scale: dict[str, float]) -> float:
    mine, yours = numbers(one), numbers(other)
    if mine.keys() != yours.keys():
        return float("inf")
    return max((abs(mine[name] - yours[name]) / scale[name] for name in mine), default=0.0)


def tapped(path: Path) -> list[dict[str, Any]]:
    """Read the tap's lines; the one that a kill cut short is left out."""
    lines = path.read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.endswith(b"}")]


def compare(
    heard: Heard, lines: list[dict[str, Any]], offline: dict[Key, Window], predictor: WindowPredictor, told: Compared
) -> dict[Key, dict[str, Any]]:
    """Fill in what the stream and the offline path say; returns what the stream said of each window."""
    digests = {key: digest(window) for key, window in offline.items()}
    of_tap: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    answered = 0
    for line in lines:
        keys = [(asset, name) for asset, name, _ in line["windows"]]
        told.asked_wrong += sum(digests.get((a, n)) != sha for a, n, sha in line["windows"])
        for key, one in zip(keys, line["said"], strict=True):
            of_tap[key].append(one)
        if all(key in offline for key in keys):
            equal = asked(predictor, [offline[key] for key in keys])
            told.batch_differ += sum(json.dumps(a) != json.dumps(b) for a, b in zip(equal, line["said"], strict=True))
            answered += len(keys)
    told.windows, told.batches = len(offline), len(lines)
    told.mean_batch = answered / max(1, len(lines))
    streamed: dict[Key, dict[str, Any]] = {}
    again: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for key, predictions in heard.found.items():
        mine = [{name: one.get(name) for name in of_tap[key][0]} for one in predictions] if key in of_tap else []
        told.unlike_tap += sum(one not in of_tap[key] for one in mine) + (key not in of_tap)
        told.twice += len(predictions) - 1
        if mine:
            streamed[key] = mine[0]
            again += [(mine[0], one) for one in mine[1:]]
    told.missing, told.extra = len(offline.keys() - heard.found.keys()), len(heard.found.keys() - offline.keys())
    told.gaps = heard.dropped + sum(max(seqs) + 1 - len(seqs) for seqs in heard.seqs.values())
    told.undecided = sum(one["verdict"] == "no_decision" for one in streamed.values())
    scale = scales([numbers(one) for one in streamed.values()])
    told.twice_apart = max((apart(one, other, scale) for one, other in again), default=0.0)
    for key, one in streamed.items():
        if key in offline:
            alone = asked(predictor, [offline[key]])[0]
            told.alone = max(told.alone, apart(one, alone, scale))
            told.alone_verdicts += alone["verdict"] != one["verdict"]
    return streamed


def asked(predictor: WindowPredictor, windows: Sequence[Window]) -> list[dict[str, Any]]:
    now = Captured(datetime.now(timezone.utc), time.monotonic())
    predictions = predictor.decide(windows, stream="main", captured=[now] * len(windows))
    return [json.loads(json.dumps(said(one))) for one in predictions]


def against_predict(
    one: Made, root: Path, folder: Path, runs: Sequence[Run], streamed: dict[Key, dict[str, Any]], told: Compared
) -> None:
    """Let `edge-sft predict` decide about the same files."""
    scale = scales([numbers(found) for found in streamed.values()])
    seen: set[Key] = set()
    for part in rounds(runs):
        out = folder / "predicted.jsonl"
        words = ["predict", str(one.bundle.resolve()), *(str(run.path.resolve()) for run in part), "--json"]
        edge_sft(one, *words, "--out", str(out), "--variant", told.variant, "--root", str(root))
        named = {run.machine: run.asset for run in part}
        for line in out.read_text().splitlines():
            prediction = json.loads(line)
            key = (named[prediction["asset"]], prediction["name"])
            if key in streamed:
                seen.add(key)
                told.predict = max(told.predict, apart(prediction, streamed[key], scale))
                told.predict_verdicts += prediction["verdict"] != streamed[key]["verdict"]
    told.predict_missing = len(streamed.keys() - seen)


def edge_sft(one: Made, *words: str) -> None:
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    done = subprocess.run(
        command, cwd=one.folder, env=environment(one.folder.parent), check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"edge-sft {' '.join(words)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
