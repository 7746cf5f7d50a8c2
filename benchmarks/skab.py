"""SKAB by its own protocol: always alarm, T²+Q and ours, in one command.

    python benchmarks/skab.py [--data DIR]     score the judged rows; every such look is entered in test_looks.jsonl
    python benchmarks/skab.py --choose         how the configuration was chosen, without them

The first 400 rows of each of the 34 files commission the machine (as in the protocol, whatever their labels: one head
holds 296 rows labelled abnormal), every later row is judged. F1, false and missed alarms count rows over all files;
AUROC is the mean over files. Ours goes the way a device goes: grid by the clock, windows, commissioning, alarm cases.
"Default rule" is the same model with the threshold that a recipe gets which says nothing about it (1.1 times the .99
quantile): more than half of SKAB's rows are abnormal, so its F1 pays for alarms that nobody on a line would bear.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from protocol_skab import HEAD, SHARED, Experiment, experiments, healthy_day

from edge_sft import sensor_recipe
from edge_sft.data.sensors.dataset import Run
from edge_sft.metrics.classification import roc
from edge_sft.sensor_recipe import SensorPolicySection, SensorRecipe
from edge_sft.training.sensors.anomaly import assemble
from edge_sft.training.sensors.commissioned import asker, judge_run, pointwise

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "skab.toml"
LOOKS = HERE / "test_looks.jsonl"
RESULTS = HERE / "results" / "skab.md"
_DAY_S = 86_400.0

# One method's answer for the judged rows of a file: score (larger = worse) and alarm, [n - HEAD].
Answer = tuple[NDArray[np.float64], NDArray[np.bool_]]


def always(one: Experiment, head: int) -> Answer:
    count = len(one.time) - head
    return np.zeros(count), np.ones(count, dtype=np.bool_)


def t2q(one: Experiment, head: int) -> Answer:
    """T²+Q as the public leaderboard runs it: z-score, components for 85 % of the variance, limits at p = .999,
    median of 5 rows. Its Q limit takes powers of a sum for sums of powers, and of eigenvalues in no order; both kept,
    to compare.
    """
    from scipy import stats

    train, test = one.values[:head], one.values[head:]
    moving = train.std(axis=0) > 0
    mean, std = train[:, moving].mean(axis=0), train[:, moving].std(axis=0)
    z, later = (train[:, moving] - mean) / std, (test[:, moving] - mean) / std
    values, vectors = np.linalg.eigh(np.cov(z.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), 0.85)) + 1
    n = len(z)
    t2_limit = kept * (n - 1) * (n + 1) / (n * (n - kept)) * stats.f.ppf(0.999, kept, n - kept)
    left = np.linalg.eig(np.cov(z.T))[0][kept:].sum()
    q_limit = left * (1 + stats.norm.ppf(0.999) * np.sqrt(2) / 3 - 2 / 9) ** 3
    inside = later @ vectors[:, :kept]
    t2 = _median5((inside**2 / values[:kept]).sum(axis=1))
    q = _median5(((later - inside @ vectors[:, :kept].T) ** 2).sum(axis=1))
    return np.maximum(t2 / t2_limit, q / q_limit), (t2 > t2_limit) | (q > q_limit)


def _median5(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of the last 5 rows; the first 4 have none and count as quiet."""
    middle = np.median(np.lib.stride_tricks.sliding_window_view(series, 5), axis=1)
    return np.concatenate([np.zeros(4), middle])


def ours(recipe: SensorRecipe) -> Callable[[Experiment, int], Answer]:
    name = recipe.model.architecture
    task, module, policy, _ = assemble(recipe, "bank" if name == "auto" else name)
    infer = asker(module, task)

    def answer(one: Experiment, head: int) -> Answer:
        run = Run(id=one.name, group=one.name, asset=one.name, split="test", time=one.time, values=one.values)
        judged = judge_run(infer, task, recipe.windowing(), policy, run, head_s=one.time[head - 1] - one.time[0])
        if judged.why:
            raise SystemExit(judged.why)
        # the newest window at each judged row; a row in a cell without a window keeps the last decision
        at = np.maximum(np.searchsorted(judged.time, one.time[head:] + 0.25, side="right") - 1, 0)
        return judged.score[at] / judged.threshold, judged.alarmed[at]

    return answer


def score(files: list[Experiment], method: Callable[[Experiment, int], Answer], head: int = HEAD) -> dict[str, float]:
    truth, alarms, areas, opened, seconds = [], [], [], 0, 0.0
    false_opened, healthy_s = 0, 0.0
    for one in files:
        values, alarm = method(one, head)
        label = one.label[head:] == 1
        curve = roc(label, values)
        areas += [] if curve is None else [curve.area]
        begins = alarm & ~np.r_[False, alarm[:-1]]
        opened += int(begins.sum())
        false_opened += int((begins & ~label).sum())
        seconds += float(one.time[-1] - one.time[head])
        healthy_s += float((~label).mean()) * float(one.time[-1] - one.time[head])
        truth.append(label)
        alarms.append(alarm)
    found = pointwise(np.concatenate(truth), np.concatenate(alarms))
    return {
        **found,
        "auroc": float(np.mean(areas)),
        "events_a_day": opened / seconds * _DAY_S,
        "false_events_a_day": false_opened / healthy_s * _DAY_S,
    }


def table(results: dict[str, dict[str, float]]) -> str:
    lines = ["| method | F1 | FAR % | MAR % | AUROC per file | events a day | of them false, a healthy day |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, found in results.items():
        lines.append(
            f"| {name} | {found['f1']:.3f} | {100 * found['false']:.1f} | {100 * found['missed']:.1f} | "
            f"{found['auroc']:.3f} | {found['events_a_day']:.0f} | {found['false_events_a_day']:.0f} |"
        )
    return "\n".join(lines)


# --- choosing, without a judged row ---------------------------------------------------------------------------------


def injected(seed: int = 0) -> list[tuple[Experiment, int]]:
    """Files with faults injected into healthy rows, and their heads: the healthy day in eight pieces (head 400), and
    the protocol's heads without labelled anomalies (head 250).
    """
    rng = np.random.default_rng(seed)
    day = healthy_day()
    pieces = [(_part(day, 1150 * i, 1150 * (i + 1)), 400, 600, 1000) for i in range(8)]
    pieces += [(one.head(), 250, 310, 400) for one in experiments() if not one.head().label.any()]
    return [
        (_broken(one, head, slice(first, last), kind, rng), head)
        for one, head, first, last in pieces
        for kind in ("step", "ramp", "noise")
    ]


def _part(one: Experiment, first: int, last: int) -> Experiment:
    return Experiment(f"{one.name}/{first}", one.time[first:last], one.values[first:last], one.label[first:last])


def _broken(one: Experiment, head: int, where: slice, kind: str, rng: np.random.Generator) -> Experiment:
    values, label = one.values.copy(), np.zeros(len(one.time), dtype=np.int64)
    label[where] = 1
    chosen = rng.choice(values.shape[1], rng.integers(1, 4), replace=False)
    size = rng.choice([1.5, 3.0, 6.0]) * one.values[:head, chosen].std(axis=0)
    count = where.stop - where.start
    sign = rng.choice([-1, 1], len(chosen))
    onset = np.minimum(np.arange(count) / 60, 1.0)[:, None]
    shapes = {
        "step": onset * sign,
        "ramp": 2 * np.arange(count)[:, None] / count * sign,
        "noise": onset * rng.standard_normal((count, len(chosen))),
    }
    values[where, chosen] += size * shapes[kind]
    return Experiment(f"{one.name}/{kind}", one.time, values, label)


def choose(recipe: SensorRecipe) -> None:
    """Print F1 on injected faults over windows and quantiles, at the share of abnormal rows that the protocol has."""
    files = injected()
    grid = [(30, 5, 0.75), *((30, 20, quantile) for quantile in (0.75, 0.9, 0.95, 0.99)), (20, 20, 0.9), (45, 20, 0.9)]
    for length, blocks, quantile in grid:
        tried = _changed(recipe, length, blocks, quantile)
        found = [score([one for one, size in files if size == head], ours(tried), head=head) for head in (400, 250)]
        f1 = [_f1(one["false"], one["missed"]) for one in found]
        areas = [one["auroc"] for one in found]
        print(
            f"length {length} blocks {blocks} quantile {quantile}: F1 day {f1[0]:.3f} heads {f1[1]:.3f} "
            f"mean {np.mean(f1):.3f}; "
            f"FAR {found[0]['false']:.2f} {found[1]['false']:.2f}; AUROC {areas[0]:.3f} {areas[1]:.3f}",
            flush=True,
        )


def _changed(recipe: SensorRecipe, length: int, blocks: int, quantile: float) -> SensorRecipe:
    rule = recipe.policy.commissioning.model_copy(update={"quantile": quantile, "blocks": blocks})
    return recipe.model_copy(
        update={
            "window": recipe.window.model_copy(update={"length": length}),
            "policy": recipe.policy.model_copy(update={"commissioning": rule}),
        }
    )


def _f1(false: float, missed: float, share: float = 0.53) -> float:
    hit = 2 * (1 - missed) * share
    return hit / (hit + false * (1 - share) + missed * share)


def enter(who: str, config: str, found: dict[str, float]) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    rounded = {name: round(value, 4) for name, value in found.items()}
    with LOOKS.open("a") as file:
        file.write(json.dumps({"date": now, "set": "skab", "seed": 0, "who": who, "config": config, **rounded}) + "\n")


def keep(results: dict[str, dict[str, float]], digest: str) -> None:
    """Add the table to benchmarks/results/skab.md, the first look at the top."""
    looks = [json.loads(line) for line in LOOKS.read_text().splitlines() if '"skab"' in line]
    count = sum(look["set"] == "skab" and look["who"] == "ours" for look in looks)
    now = datetime.now(timezone.utc).date()
    how = f"`python benchmarks/skab.py`, {now}, {platform.machine()}, 1 thread"
    head = f"## Look {count}, configuration {digest}\n\n{how}\n"
    before = RESULTS.read_text() if RESULTS.is_file() else f"# SKAB\n\n{(__doc__ or '').split(chr(10) * 2, 2)[2]}"
    RESULTS.write_text(f"{before.rstrip()}\n\n{head}\n{table(results)}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = sensor_recipe.load(CONFIG)
    if given.choose:
        choose(recipe)
        return
    began = time.monotonic()
    files = experiments(given.data)
    plain = recipe.model_copy(update={"policy": SensorPolicySection()})
    methods = {"always alarm": always, "T²+Q": t2q, "ours": ours(recipe), "ours, default rule": ours(plain)}
    results = {name: score(files, method) for name, method in methods.items()}
    digest = hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]
    for name in list(methods)[1:]:
        enter(name, digest, results[name])
    print(table(results))
    print(f"{len(files)} files, {time.monotonic() - began:.1f} s, configuration {digest}")
    keep(results, digest)


if __name__ == "__main__":
    main()
