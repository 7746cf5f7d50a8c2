"""Which anomaly method, by group cross-validation on what may be learnt from: no judged row of SKAB or TEP is read.

    python benchmarks/skab_choice.py skab METHOD…     SKAB: the day without anomalies and the 400-row heads
    python benchmarks/skab_choice.py tep METHOD…      Tennessee Eastman: the training rows

METHOD is bank, t2q, encoder, encoder:E:S (E numbers a channel, which are S per cent of the evidence), or alarms (the
bank with other alarm rules, SKAB only). bank+t2q is the mean of both scores, each against its threshold (SKAB only).
Each prints a table and adds it to benchmarks/results/skab_choice.md.

SKAB: a group is a folder (valve1, valve2, other, the healthy day). An encoder is learnt on the three other groups,
then each recording of the left-out group commissions on its own beginning and is judged by faults injected behind it:
steps, ramps and noise as in `skab.py --choose`; and, since a net should see shapes, an oscillation, a frozen value and
the channels' own past played backwards. F1 is at SKAB's published share of abnormal rows (53 %).

TEP: the normal training rows in three blocks. An encoder is learnt and the memory made on two; false alarms are counted
on the third, and the training files of the 21 faults are ranked against it.

The rule: another method becomes the default when its mean F1 and its mean AUROC over all faults are both higher than
the bank's by 0.01, and higher in three of the four groups each.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from protocol_skab import Experiment, experiments, healthy_day
from protocol_tep import times, training
from skab import _broken, _f1, _part, score
from torch import nn

from edge_sft import sensor_recipe
from edge_sft.data.sensors.dataset import Run
from edge_sft.metrics.classification import roc
from edge_sft.policy import AlarmRule
from edge_sft.progress import Silent
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.slots.commissioning import Healthy, commission
from edge_sft.training.sensors.anomaly import SHAPE, assemble
from edge_sft.training.sensors.anomaly_encoder import learn
from edge_sft.training.sensors.commissioned import Judged, asker, follow, judge_run
from edge_sft.training.sensors.windows import cut_run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "skab_choice.md"
GROUPS = ("valve1", "valve2", "other", "anomaly-free")
KINDS = ("step", "ramp", "noise", "wave", "freeze", "backwards")
ALARMS = {
    "at once (as it is)": AlarmRule(),
    "opens after 5 s": AlarmRule(on_after_s=5),
    "closes after 15 s": AlarmRule(off_after_s=15),
    "closes after 60 s": AlarmRule(off_after_s=60),
    "opens after 5 s, closes after 15 s": AlarmRule(on_after_s=5, off_after_s=15),
    "opens after 10 s, closes after 60 s": AlarmRule(on_after_s=10, off_after_s=60),
}

Injected = tuple[Experiment, int, str, str]  # the recording, its head, group, kind


def group_of(one: Experiment) -> str:
    return one.name.split("/")[0]


def injected(seed: int = 0) -> list[Injected]:
    rng = np.random.default_rng(seed)
    day = healthy_day()
    pieces = [(_part(day, 1150 * i, 1150 * (i + 1)), 400, slice(600, 1000)) for i in range(0, 8, 2)]
    pieces += [(one.head(), 250, slice(310, 400)) for one in experiments() if not one.head().label.any()]
    return [
        ((_broken if kind in KINDS[:3] else _shaped)(one, head, where, kind, rng), head, group_of(one), kind)
        for one, head, where in pieces
        for kind in KINDS
    ]


def _shaped(one: Experiment, head: int, where: slice, kind: str, rng: np.random.Generator) -> Experiment:
    """Faults that leave the level where it is."""
    values, label = one.values.copy(), np.zeros(len(one.time), dtype=np.int64)
    label[where] = 1
    chosen = rng.choice(values.shape[1], rng.integers(1, 4), replace=False)
    size = rng.choice([1.5, 3.0, 6.0]) * one.values[:head, chosen].std(axis=0)
    count = where.stop - where.start
    if kind == "wave":
        values[where, chosen] += size * np.sin(2 * np.pi * np.arange(count) / 8 + rng.uniform(0, 6.28))[:, None]
    elif kind == "freeze":
        values[where, chosen] = values[where.start - 1, chosen]
    else:
        values[where, chosen] = values[max(0, head - count) : head, chosen][::-1][:count]
    return Experiment(f"{one.name}/{kind}", one.time, values, label)


def others(recipe: SensorRecipe, left_out: str) -> list[Healthy]:
    """What an encoder may learn from when a group is left out."""
    heads = [one.head() for one in experiments() if not one.head().label.any()]
    return [healthy(recipe, one) for one in (*heads, healthy_day()) if group_of(one) != left_out]


def healthy(recipe: SensorRecipe, one: Experiment) -> Healthy:
    windows = cut_run(recipe.windowing(), Run(one.name, one.name, one.name, "train", one.time, one.values))
    return Healthy(windows.values, windows.valid, windows.end)


def named(recipe: SensorRecipe, method: str) -> tuple[SensorRecipe, str, float]:
    name, size, share = (*method.split(":"), "", "")[:3]
    model = recipe.model.model_copy(update={"embedding": int(size)} if size else {})
    return recipe.model_copy(update={"model": model}), name, float(share) / 100 if share else SHAPE


def judge_group(recipe: SensorRecipe, method: str, group: str, files: list[Injected]) -> list[Judged]:
    parts = [_judge_group(recipe, one, group, files) for one in method.split("+")]
    return parts[0] if len(parts) == 1 else [_together(ones) for ones in zip(*parts, strict=True)]


def _together(ones: tuple[Judged, ...]) -> Judged:
    """The mean of several methods' scores, each against its own threshold."""
    return replace(ones[0], score=np.mean([one.score / one.threshold for one in ones], axis=0), threshold=1.0)


def _judge_group(recipe: SensorRecipe, method: str, group: str, files: list[Injected]) -> list[Judged]:
    recipe, name, share = named(recipe, method)
    encoder = learn(recipe, others(recipe, group), Silent()) if name == "encoder" else None
    task, module, policy, _ = assemble(recipe, name, encoder, share)
    infer = asker(module, task)
    judged = []
    for one, head, _, _ in files:
        run = Run(one.name, one.name, one.name, "test", one.time, one.values)
        judged.append(judge_run(infer, task, recipe.windowing(), policy, run, head_s=one.time[head - 1] - one.time[0]))
    return judged


def numbers(files: list[Injected], judged: list[Judged], rule: AlarmRule) -> tuple[float, float]:
    """Return F1 at SKAB's share of abnormal rows, and the mean AUROC."""
    by_name = {one.name: found for (one, *_), found in zip(files, judged, strict=True)}

    def answer(one: Experiment, head: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        found = by_name[one.name]
        alarmed, _ = follow(found.score, found.time, found.threshold, rule, ~found.commissioning)
        at = np.maximum(np.searchsorted(found.time, one.time[head:] + 0.25, side="right") - 1, 0)
        return found.score[at] / found.threshold, alarmed[at]

    said = score([one for one, *_ in files], answer, head=files[0][1])
    return _f1(said["false"], said["missed"]), said["auroc"]


def skab(methods: list[str]) -> str:
    recipe = sensor_recipe.load(HERE / "skab.toml")
    files = injected()
    lines = ["| method | faults | F1 " + " | ".join(GROUPS) + " | mean | AUROC " + " | ".join(GROUPS) + " | mean |"]
    lines.append("|---|---|" + "---|" * 10)
    for method in methods:
        began = time.monotonic()
        parts = {group: [file for file in files if file[2] == group] for group in GROUPS}
        judged = {group: judge_group(recipe, method.replace("alarms", "bank"), group, parts[group]) for group in GROUPS}
        rules = ALARMS if method == "alarms" else {method: recipe.policy.alarm}
        for label, rule in rules.items():
            for title, kinds in (("level", KINDS[:3]), ("shape", KINDS[3:]), ("all", KINDS)):
                cells = [_of_kinds(parts[group], judged[group], kinds, rule) for group in GROUPS]
                f1, areas = zip(*cells, strict=True)
                row = [*(f"{x:.3f}" for x in (*f1, np.mean(f1), *areas, np.mean(areas)))]
                lines.append(f"| {label} | {title} | " + " | ".join(row) + " |")
        print("\n".join(lines[-3 * len(rules) :]), f"({time.monotonic() - began:.0f} s)", flush=True)
    return "\n".join(lines)


def _of_kinds(
    files: list[Injected], judged: list[Judged], kinds: tuple[str, ...], rule: AlarmRule
) -> tuple[float, float]:
    chosen = [(file, found) for file, found in zip(files, judged, strict=True) if file[3] in kinds]
    return numbers([file for file, _ in chosen], [found for _, found in chosen], rule)


# --- Tennessee Eastman ----------------------------------------------------------------------------------------------


def tep(methods: list[str], folds: int = 3, rows: int = 240) -> str:
    """``rows`` of each fault's training file are ranked."""
    base = sensor_recipe.load(HERE / "tep.toml")
    normal, faults = training()
    lines = ["| method | AUROC, mean of 21 faults | rows found % | false rows % |", "|---|---|---|---|"]
    for method in methods:
        recipe, name, share = named(base, method)
        began, areas, found, false = time.monotonic(), [], [], []
        for block in np.array_split(np.arange(len(normal)), folds):
            known = [part for part in (normal[: block[0]], normal[block[-1] + 1 :]) if len(part)]
            ask = _scorer(recipe, name, known, share)
            quiet = ask(normal[block])
            false.append(float((quiet >= 1).mean()))
            for given in faults.values():
                loud = ask(given[:rows])
                found.append(float((loud >= 1).mean()))
                curve = roc(np.r_[np.zeros(len(quiet)), np.ones(len(loud))] == 1, np.r_[quiet, loud])
                areas.append(curve.area if curve else float("nan"))
        lines.append(f"| {method} | {np.mean(areas):.3f} | {100 * np.mean(found):.1f} | {100 * np.mean(false):.1f} |")
        print(lines[-1], f"({time.monotonic() - began:.0f} s)", flush=True)
    return "\n".join(lines)


def _scorer(
    recipe: SensorRecipe, name: str, known: list[NDArray[np.float64]], share: float
) -> Callable[..., NDArray[np.float64]]:
    windowing = recipe.windowing()

    def windows(rows: NDArray[np.float64], begin: float = 0.0) -> Healthy:
        cut = cut_run(windowing, Run("tep", "tep", "tep", "train", times(len(rows)), rows))
        return Healthy(cut.values, cut.valid, cut.end + begin)

    parts = [windows(rows, 1e7 * number) for number, rows in enumerate(known)]
    encoder: nn.Module | None = learn(recipe, parts, Silent()) if name == "encoder" else None
    task, module, policy, _ = assemble(recipe, name, encoder, share)
    infer = asker(module, task)
    whole = Healthy(*(np.concatenate([getattr(part, field) for part in parts]) for field in ("values", "valid", "end")))
    words = {"model_digest": "0" * 64, "asset": "", "created_at": "", "source": "d00"}
    made = commission(infer, task, windowing, whole, policy.commissioning, **words, alarm=policy.alarm)

    def ask(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        given = windows(rows)
        scores = [
            infer({"window": given.values[at : at + 128], "valid": given.valid[at : at + 128], **made.inputs})["score"]
            for at in range(0, len(given), 128)
        ]
        return np.concatenate(scores).astype(np.float64) / made.threshold

    return ask


def main() -> None:
    which, methods = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(1)
    text = skab(methods) if which == "skab" else tep(methods)
    before = RESULTS.read_text() if RESULTS.is_file() else f"# The choice of the anomaly method\n\n{__doc__}"
    now = datetime.now(timezone.utc).date()
    how = f"`python benchmarks/skab_choice.py {' '.join(sys.argv[1:])}`, {now}, {platform.machine()}, 1 thread"
    RESULTS.write_text(f"{before.rstrip()}\n\n## {which.upper()}: {', '.join(methods)}\n\n{how}\n\n{text}\n")


if __name__ == "__main__":
    main()
