"""FP32, FP16 and both INT8 of every shipped sensor model: made or why not, what they lose, how fast, which is chosen.

    python benchmarks/sensor_variants.py --work DIR [--only FD001,skab] [--seconds 3] [--anew]

DIR holds the bundles of sensor_bundles.py; their variants are exported again from the checkpoints by this tree's
`edge-sft export` into DIR/<set>/variants (kept; --anew makes them again). Gates are those of the export: paired on
validation windows, with the exact 95 % bound of windows that turn wrong. Latencies are medians of ONNX Runtime on the
CPU with one and with two threads, one window a call, the variants in turn in an order drawn anew each time (a busy
machine slows all alike), the quickest tenth beside it. What a device chooses is asked of `edge-sft deploy` with a
profile that permits fp32, int8-cpu and int8-trt on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from typing import Any, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from agent_broker import machine
from numpy.typing import NDArray
from sensor_bundles import SETS, Made, environment, made

from edge_sft.profile import VariantName

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "sensor_variants.md"
VARIANTS: tuple[VariantName, ...] = get_args(VariantName)
THREADS = (1, 2)
_TITLES = (
    "| set | variant | made | KiB | max diff / scale | on validation | right → wrong / wrong → right | bound "
    "| 1 thread, ms | 2 threads, ms |"
)
PROFILE = """\
schema_version = 1
name = "bench"
title = "Any PC, CPU only (ONNX Runtime)"
engine = "onnxruntime"
provider = "cpu"
variants = ["int8-cpu", "int8-trt", "fp32"]
threads = 1

[budgets]
latency_p95_ms = 5000.0
memory_mb = 2000.0
"""


def edge_sft(one: Made, *words: str) -> None:
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    done = subprocess.run(
        command, cwd=one.folder, env=environment(one.folder.parent), check=False, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"edge-sft {' '.join(words)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def exported(one: Made, anew: bool) -> Path:
    """Export the checkpoint's variants again, unless they are there."""
    out = one.folder / "variants"
    if anew:
        shutil.rmtree(out, ignore_errors=True)
    if not (out / "gates.json").is_file():
        edge_sft(one, "export", "runs/checkpoint", "--out", "variants", "--recipe", "recipe.toml")
    return out


def session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def latencies(out: Path, seconds: float) -> dict[tuple[str, int], str]:
    """Milliseconds a window by variant and threads, median and quickest tenth, in an order drawn anew each turn."""
    golden = np.load(out / "golden.npz")
    windows = {name[3:]: golden[name] for name in golden.files if name.startswith("in/")}
    local = {name[6:]: golden[name] for name in golden.files if name.startswith("local/")}
    count = len(windows["window"])
    feeds: list[dict[str, NDArray[Any]]] = [
        {**{name: array[place : place + 1] for name, array in windows.items()}, **local} for place in range(count)
    ]
    runs = {
        (variant, threads): session(out / f"{variant}.onnx", threads)
        for variant in VARIANTS
        for threads in THREADS
        if (out / f"{variant}.onnx").is_file()
    }
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    order, random = list(runs), Random(0)
    until, turn = time.monotonic() + seconds * len(runs), 0
    while time.monotonic() < until or turn < 30:
        for key in random.sample(order, len(order)):  # always first behind another process's slice would be slower
            one = runs[key]
            feed = feeds[turn % count]
            begin = time.perf_counter()
            one.run(None, feed)
            times[key].append(time.perf_counter() - begin)
        turn += 1
    found = {key: np.percentile(np.array(one[3:]) * 1000, [50, 10]) for key, one in times.items()}
    return {key: f"{median:.3f} ({quick:.3f})" for key, (median, quick) in found.items()}


def chosen(one: Made, out: Path) -> tuple[str, dict[str, str]]:
    """Deploy a bundle of these variants; return what was chosen and why the others were refused."""
    from edge_sft.bundle.keys import load_private
    from edge_sft.export.bundling import bundle_from_checkpoint
    from edge_sft.export.variants import read_export

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench.toml").write_text(PROFILE)
        key = load_private(next((one.folder.parent / "keys").glob("*.pem")))
        bundle = bundle_from_checkpoint(one.checkpoint, read_export(out), folder, key, "<html></html>")
        edge_sft(one, "deploy", str(bundle), "--profile", str(folder / "bench.toml"), "--root", str(folder / "root"))
        proof = json.loads(next((folder / "root").rglob("proof.json")).read_text())
    reasons = {found["variant"]: found["reason"] for found in proof["variants"] if not found["passed"]}
    slower = {
        found["variant"]: f"passed, not the fastest (p50 {found['p50_ms']:.3g} ms)"
        for found in proof["variants"]
        if found["passed"] and found["variant"] != proof["chosen"]
    }
    return str(proof["chosen"]), reasons | slower


def rows(one: Made, asked: argparse.Namespace) -> tuple[list[str], list[str]]:
    out = exported(one, asked.anew)
    found = json.loads((out / "gates.json").read_text())
    gates = {gate["variant"]: gate for gate in (found if isinstance(found, list) else found["gates"])}
    speed = latencies(out, asked.seconds)
    choice, refused = chosen(one, out)
    table: list[str] = []
    for variant in VARIANTS:
        gate = gates[variant]
        file = out / f"{variant}.onnx"
        if not file.is_file():
            table.append(f"| {one.name} | {variant} | no: {gate['note']} | – | – | – | – | – | – | – |")
            continue
        change = "–"
        if gate.get("before") is not None:
            change = f"{gate['measure']} {gate['before']:.4g} → {gate['after']:.4g}"
        elif gate.get("balanced_accuracy") is not None:
            change = f"balanced accuracy {gate['balanced_accuracy']:.3f}"
        flips = f"{gate['right_to_wrong']} / {gate['wrong_to_right']} of {gate['pictures']}"
        table.append(
            f"| {one.name} | {variant} | yes | {file.stat().st_size / 1024:.0f} | {gate['max_score_difference']:.1e} | "
            f"{change} | {flips} | {100 * gate['right_to_wrong_high']:.2f} % | "
            f"{speed[variant, 1]} | {speed[variant, 2]} |"
        )
    told = [f"- {one.name}: **{choice}**. " + "; ".join(f"{name}: {why}" for name, why in refused.items())]
    told += [
        f"  - {name}: {gate['note']}"
        for name, gate in gates.items()
        if gate["note"] and (out / f"{name}.onnx").is_file()
    ]
    return table, told


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--work", type=Path, required=True, help="folder of sensor_bundles.py")
    given.add_argument("--only", default="", help="sets, with commas")
    given.add_argument("--seconds", type=float, default=3.0, help="for each variant and number of threads")
    given.add_argument("--anew", action="store_true", help="export again")
    given.add_argument("--out", type=Path, default=RESULT)
    asked = given.parse_args()
    began = machine()
    wanted = asked.only.split(",") if asked.only else list(SETS)
    table: list[str] = []
    told: list[str] = []
    for one in made(asked.work):
        if one.name in wanted:
            print(f"== {one.name}", flush=True)
            more = rows(one, asked)
            table += more[0]
            told += more[1]
            print("\n".join((*more[0], *more[1])), flush=True)
    lines = [
        "# Variants of every shipped sensor model\n",
        f"`python benchmarks/sensor_variants.py {' '.join(sys.argv[1:])}`",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {began}.\n",
        "Gates are paired with the checkpoint on validation windows; the bound is the exact 95 % upper one of windows",
        "that turn wrong. Latency is the median of one window a call, the variants in turn, and in brackets the",
        "quickest tenth, which other processes disturb less. FP16 on a CPU is emulated: it is for TensorRT, as is",
        "int8-trt. An anomaly's gate runs with the bundle's default memory, of no machine: its AUROC tells variants",
        "apart and says nothing of how well it finds. skab and tep are the default architecture, -encoder the other.\n",
        _TITLES,
        "|---|---|---|---:|---:|---|---:|---:|---:|---:|",
        *table,
        "\nWhat a device with ONNX Runtime on one thread chose, and why not the others; below, what export noted:\n",
        *told,
    ]
    text = "\n".join(lines) + "\n"
    asked.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
