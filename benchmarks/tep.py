"""Tennessee Eastman: delay and false alarms for the 21 faults, ours beside T²+Q.

    python benchmarks/tep.py [--data DIR]     score the test files; every such look is entered in test_looks.jsonl
    python benchmarks/tep.py --choose         how the configuration was chosen, on training rows

The 500 normal training rows commission; a case opens when six rows in a row are over the threshold (15 minutes). The
delay counts from the fault's first row to the case; a case before it, or in the normal test file, is a false alarm.
T²+Q is the textbook's: raw rows, components for 90 % of the variance, F and Jackson–Mudholkar limits at 99 %. "T²+Q on
windows" is the same statistics on our window features with our rule for the threshold.
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
from protocol_tep import FAULTS, ONSET, PERIOD_S, SHARED, Rows, judged, times, training

from edge_sft import sensor_recipe
from edge_sft.data.sensors.dataset import Run
from edge_sft.policy import AlarmRule
from edge_sft.sensor_recipe import SensorRecipe
from edge_sft.slots.commissioning import Healthy, commission
from edge_sft.training.sensors.anomaly import assemble
from edge_sft.training.sensors.commissioned import asker, follow
from edge_sft.training.sensors.windows import cut_run

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "tep.toml"
LOOKS = HERE / "test_looks.jsonl"
RESULTS = HERE / "results" / "tep.md"
_DAY_S = 86_400.0

Scorer = Callable[[Rows], NDArray[np.float64]]  # rows [n, 52] → score of each against its threshold, [n]


def ours(recipe: SensorRecipe, normal: Rows, name: str = "bank") -> Scorer:
    task, module, policy, _ = assemble(recipe, name)
    windowing, infer = recipe.windowing(), asker(module, task)

    def windows(rows: Rows) -> Healthy:
        cut = cut_run(windowing, Run("tep", "tep", "tep", "test", times(len(rows)), rows))
        return Healthy(cut.values, cut.valid, cut.end)

    words = {"model_digest": "0" * 64, "asset": "plant", "created_at": "", "source": "d00"}
    made = commission(infer, task, windowing, windows(normal), policy.commissioning, **words, alarm=policy.alarm)

    def scorer(rows: Rows) -> NDArray[np.float64]:
        given, found = windows(rows), np.zeros(len(rows))  # rows before the first window count as quiet
        at = np.rint(given.end / PERIOD_S).astype(np.int64)
        for start in range(0, len(given), 256):
            part = slice(start, start + 256)
            outputs = infer({"window": given.values[part], "valid": given.valid[part], **made.inputs})
            found[at[part]] = outputs["score"] / made.threshold
        return found

    return scorer


def t2q(normal: Rows, p: float = 0.99) -> Scorer:
    from scipy import stats

    mean, std, n = normal.mean(axis=0), normal.std(axis=0), len(normal)
    values, vectors = np.linalg.eigh(np.cov(((normal - mean) / std).T))
    values, vectors = values[::-1], vectors[:, ::-1]
    a = int(np.searchsorted(np.cumsum(values) / values.sum(), 0.9)) + 1
    t2_limit = a * (n - 1) * (n + 1) / (n * (n - a)) * stats.f.ppf(p, a, n - a)
    first, second, third = (float((values[a:] ** power).sum()) for power in (1, 2, 3))
    h0 = 1 - 2 * first * third / (3 * second**2)
    c = stats.norm.ppf(p)
    q_limit = first * (1 + c * h0 * np.sqrt(2 * second) / first + second * h0 * (h0 - 1) / first**2) ** (1 / h0)

    def scorer(rows: Rows) -> NDArray[np.float64]:
        z = (rows - mean) / std
        inside = z @ vectors[:, :a]
        t2 = (inside**2 / values[:a]).sum(axis=1)
        q = ((z - inside @ vectors[:, :a].T) ** 2).sum(axis=1)
        return np.maximum(t2 / t2_limit, q / q_limit)

    return scorer


def measure(scorer: Scorer, rule: AlarmRule, normal: Rows, faults: dict[int, Rows], onset: int) -> dict[str, object]:
    """Return delays (minutes; None = not found), rows over the threshold, false alarms."""
    delays: dict[int, float | None] = {}
    over: dict[int, float] = {}
    quiet = [scorer(normal)]
    for number, rows in faults.items():
        score = scorer(rows)
        quiet.append(score[:onset])
        after = score[onset:]
        alarmed, _ = follow(after, times(len(after)), 1.0, rule, np.ones(len(after), dtype=np.bool_))
        delays[number] = float(np.argmax(alarmed)) * PERIOD_S / 60 if alarmed.any() else None
        over[number] = float((after >= 1).mean())
    cases = sum(follow(part, times(len(part)), 1.0, rule, np.ones(len(part), dtype=np.bool_))[1] for part in quiet)
    healthy = np.concatenate(quiet)
    return {
        "delays": delays,
        "over": over,
        "false_rows": float((healthy >= 1).mean()),
        "false_cases": cases,
        "days": len(healthy) * PERIOD_S / _DAY_S,
    }


def table(results: dict[str, dict[str, object]]) -> str:
    head = "| fault | " + " | ".join(f"{name}: delay, min | rows found %" for name in results) + " |"
    lines = [head, "|---|" + "---|---|" * len(results)]
    for number in FAULTS:
        cells = []
        for found in results.values():
            delay, over = found["delays"][number], found["over"][number]  # type: ignore[index]
            cells.append(f"{'–' if delay is None else f'{delay:.0f}'} | {100 * over:.0f}")
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    lines.append("")
    for name, found in results.items():
        numbers = summary(found)
        lines.append(
            f"- {name}: {numbers['found']:.0f} of 21 faults found, median delay {numbers['median_delay_min']:.0f} min; "
            f"false alarms: {found['false_cases']} cases in {found['days']:.1f} normal days, "
            f"{100 * numbers['false_rows']:.1f} % of normal rows over the threshold"
        )
    return "\n".join(lines)


def summary(found: dict[str, object]) -> dict[str, float]:
    delays = [delay for delay in found["delays"].values() if delay is not None]  # type: ignore[attr-defined]
    return {
        "found": float(len(delays)),
        "median_delay_min": float(np.median(delays)) if delays else float("nan"),
        "rows_found": float(np.mean(list(found["over"].values()))),  # type: ignore[attr-defined]
        "false_rows": float(found["false_rows"]),  # type: ignore[arg-type]
        "false_cases": float(found["false_cases"]),  # type: ignore[arg-type]
    }


def choose(recipe: SensorRecipe, root: Path) -> None:
    """Print detections on the faulty training files and false alarms on normal rows kept from commissioning."""
    normal, faults = training(root)
    for length in (10, 20, 30):
        window = recipe.window.model_copy(update={"length": length})
        for name in ("bank", "t2q"):
            for quantile in (0.95, 0.99):
                rule = recipe.policy.commissioning.model_copy(update={"quantile": quantile})
                policy = recipe.policy.model_copy(update={"commissioning": rule})
                tried = recipe.model_copy(update={"window": window, "policy": policy})
                scorer = ours(tried, normal[:350], name)
                found = summary(measure(scorer, recipe.policy.alarm, normal[350:], faults, 0))
                print(f"{name} length {length} quantile {quantile}: {found}", flush=True)
    print("T²+Q", summary(measure(t2q(normal[:350]), recipe.policy.alarm, normal[350:], faults, 0)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--choose", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = sensor_recipe.load(CONFIG)
    if given.choose:
        choose(recipe, given.data)
        return
    began = time.monotonic()
    normal, _ = training(given.data)
    scorers = {"ours": ours(recipe, normal), "T²+Q": t2q(normal), "T²+Q on windows": ours(recipe, normal, "t2q")}
    healthy, faults = judged(given.data)
    rule = recipe.policy.alarm
    results = {name: measure(scorer, rule, healthy, faults, ONSET) for name, scorer in scorers.items()}
    digest = hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:12]
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with LOOKS.open("a") as file:
        for name, found in results.items():
            numbers = {key: round(value, 4) for key, value in summary(found).items()}
            entry = {"date": now, "set": "tep", "seed": 0, "who": name, "config": digest, **numbers}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    text = table(results)
    print(text)
    print(f"{time.monotonic() - began:.1f} s, configuration {digest}")
    looks = [json.loads(line) for line in LOOKS.read_text().splitlines() if line.strip()]
    count = sum(look["set"] == "tep" and look["who"] == "ours" for look in looks)
    how = f"`python benchmarks/tep.py`, {now[:10]}, {platform.machine()}, 1 thread"
    before = RESULTS.read_text() if RESULTS.is_file() else "# Tennessee Eastman\n\n" + __doc__.split("\n\n", 2)[2]
    RESULTS.write_text(f"{before.rstrip()}\n\n## Look {count}, configuration {digest}\n\n{how}\n\n{text}\n")


if __name__ == "__main__":
    main()
