"""Streamed = offline, on every sensor data set, with the agent killed -9 in mid-stream.

    python benchmarks/streamed.py --work DIR [--only FD001,skab] [--kills 4] [--most-rows 2500000]

DIR holds the bundles of sensor_bundles.py. Each is deployed to a new folder by `edge-sft deploy` (and every unseen
machine commissioned by `edge-sft commission` where the model wants it), then the real agent (`edge-sft run`, with a tap
that writes down what its model is asked) gets the rows of the unseen runs as JSON over a real Mosquitto, in messages of
1 to 20 rows (CWRU: to 2,000) from all machines in turn. It is killed -9 `--kills` times while rows come, and started
again. Predictions are collected from the broker. Against that stand, from the same files:

* windows: `grid_run` + `cut` of each whole run; every one must have been asked, bit for bit, and come over the broker;
* equal batch: `WindowPredictor.decide` on the batches that the agent made: all of a Prediction's numbers bit for bit;
* otherwise: one window at a time, and `edge-sft predict` (its own batches): largest difference over the output's scale;
* conditions: `ArgMin` of every variant's graph on every grid row of every unseen run against numpy's nearest centre.

Nothing is scored against labels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))

from agent_broker import machine
from sensor_bundles import SETS, Made, made
from streamed_compare import Compared, against_predict, compare, edge_sft, offline_windows, tapped
from streamed_conditions import Conditions, conditions
from streamed_line import stream, unseen_runs

from edge_sft.slots.window_predictor import WindowPredictor

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "streamed.md"
_TITLES = (
    "| set | runs | rows | windows | variant | agent's batches (mean) | kill -9 | windows, other bits | missing "
    "| equal batch, other bits | one by one, max diff / scale | `predict`, max diff / scale | verdicts changed |"
)


def measure(one: Made, kills: int, most_rows: int) -> tuple[Compared, Conditions | None]:
    from edge_sft.slots.commissioning_file import CommissioningStore
    from edge_sft.slots.proof import PROOF
    from edge_sft.slots.store import SlotStore

    with tempfile.TemporaryDirectory(prefix=f"streamed-{one.name}-") as name:
        folder = Path(name)
        root = folder / "root"
        edge_sft(one, "deploy", str(one.bundle.resolve()), "--to", "local", "--profile", str(one.profile.resolve()),
                 "--root", str(root))  # fmt: skip
        if one.healthy:
            edge_sft(one, "commission", str((one.folder / "healthy").resolve()), "--root", str(root))
        slot = SlotStore(root, "main").current()
        assert slot is not None
        variant = json.loads((slot.path / PROOF).read_text())["chosen"]
        store = CommissioningStore(root, "main", slot.digest)
        with WindowPredictor.open(slot.path, threads=1, commissioning=store) as predictor:
            windowing = predictor.windowing
            runs = unseen_runs(one, most_rows)
            told = Compared(sum(len(run.time) for run in runs), len(runs), len({run.asset for run in runs}), variant)
            offline = offline_windows(windowing, runs)
            found = conditions(one, slot.path, windowing, runs)
            most = 20 if told.rows < 200_000 else 2000
            heard, told.kills, told.took_s, told.messages = stream(
                folder, one.folder.parent, runs, windowing, set(offline), kills, most
            )
            streamed = compare(heard, tapped(folder / "tap.jsonl"), offline, predictor, told)
        against_predict(one, root, folder, runs, streamed, told)
        return told, found


def faults(told: Compared) -> list[str]:
    """What must not be."""
    must_be_none = ("asked_wrong", "missing", "extra", "gaps", "unlike_tap", "batch_differ")
    found = [f"{name}: {getattr(told, name)}" for name in (*must_be_none, "predict_missing") if getattr(told, name)]
    return found + [
        f"{name}: {getattr(told, name):.1e}"
        for name in ("alone", "predict", "twice_apart")
        if getattr(told, name) > 1e-4
    ]


def report(found: dict[str, tuple[Compared, Conditions | None]], began: str) -> str:
    lines = [
        "# Streamed = offline\n",
        f"`python benchmarks/streamed.py {' '.join(sys.argv[1:])}`",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {began}.\n",
        *_head(),
        _TITLES,
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (told, _) in found.items():
        lines.append(
            f"| {name} | {told.runs} | {told.rows:,} | {told.windows:,} | {told.variant} | {told.batches:,} "
            f"({told.mean_batch:.1f}) | {len(told.kills)} | {told.asked_wrong} | {told.missing} "
            f"| {told.batch_differ} | {told.alone:.1e} | {told.predict:.1e} "
            f"| {told.alone_verdicts} / {told.predict_verdicts} |"
        )
    lines += ["", "Kills and what the broker told:", ""]
    for name, (told, _) in found.items():
        lines.append(
            f"- {name}: {told.messages:,} messages in {told.took_s:.0f} s; killed {'; '.join(told.kills) or 'never'}. "
            f"{told.twice} decisions came twice (max diff / scale {told.twice_apart:.1e}), {told.gaps} "
            f"sequence numbers missing, {told.unlike_tap} told otherwise than the model said, {told.extra} not "
            f"expected, {told.undecided} without a decision."
        )
    lines += ["", "| set | engines | grid rows | wrong conditions by variant | nearest centre nearer by at least |",
              "|---|---:|---:|---|---:|"]  # fmt: skip
    for name, (_, lookup) in found.items():
        if lookup is not None:
            wrong = ", ".join(f"{variant} {'no lookup' if n < 0 else n}" for variant, n in lookup.wrong.items())
            lines.append(f"| {name} | {lookup.engines} | {lookup.rows:,} | {wrong} | {lookup.margin:.1e} |")
    bad = {name: faults(told) for name, (told, _) in found.items() if faults(told)}
    lines += ["", f"Not as it must be: {bad or 'nothing'}."]
    return "\n".join(lines) + "\n"


def _head() -> list[str]:
    return [
        "The real agent over a real Mosquitto, killed -9 and started again while rows come; offline is `grid_run` and",
        "`cut` over whole files with `WindowPredictor`, and `edge-sft predict`. Rows are of unseen runs, nothing is",
        "scored. *Equal batch* repeats the agent's own batches; differences are over the output's scale (1 for",
        "probabilities). A decision whose journal entry was not yet noted when the agent died is made and told again,",
        "in another batch.\n",
    ]


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--work", type=Path, required=True, help="folder of sensor_bundles.py")
    given.add_argument("--only", default="", help="sets, with commas")
    given.add_argument("--kills", type=int, default=4)
    given.add_argument("--most-rows", type=int, default=2_500_000, help="whole runs are taken until there are so many")
    given.add_argument("--out", type=Path, default=RESULT)
    asked_ = given.parse_args()
    began = machine()
    wanted = asked_.only.split(",") if asked_.only else list(SETS)
    found: dict[str, tuple[Compared, Conditions | None]] = {}
    for one in made(asked_.work):
        if one.name in wanted:
            print(f"== {one.name}", flush=True)
            found[one.name] = measure(one, asked_.kills, asked_.most_rows)
            print(found[one.name], flush=True)
    text = report(found, began)
    asked_.out.write_text(text, encoding="utf-8")
    print(text)
    if any(faults(told) for told, _ in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
