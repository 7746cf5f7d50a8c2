"""The parts of gpu.sh that ask Python: what is installed, whether it sees the GPU, and the tables of a run.

python benchmarks/gpu_tables.py facts
python benchmarks/gpu_tables.py usable onnxruntime|tensorrt|tensorrt_rtx|torch cuda|cpu    says why not, exits 1
python benchmarks/gpu_tables.py accelerator                            the profile's [accelerator] of this GPU
python benchmarks/gpu_tables.py tables TITLE ROOT BENCH.json           of `edge-sft deploy` and `edge-sft bench`
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

WANTED = 0.97  # of the bare loop's throughput


def facts() -> None:
    print(f"Python {sys.version.split()[0]}")
    for name in ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy", "onnx", "cv2", "pydantic"):
        try:
            print(f"{name} {importlib.import_module(name).__version__}")
        except Exception as error:  # noqa: BLE001, PERF203 - a library may fail in any way: that is the fact
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def usable(name: str, device: str) -> str:
    """Return why a library cannot be used; empty where it can."""
    try:
        library = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001
        return f"{name} cannot be imported here ({type(error).__name__}: {error})"
    if name == "torch" and device == "cuda" and not library.cuda.is_available():
        return f"torch {library.__version__} sees no usable GPU"
    if name == "onnxruntime" and device == "cuda" and "CUDAExecutionProvider" not in library.get_available_providers():
        return f"onnxruntime {library.__version__} is the CPU's wheel: bring onnxruntime-gpu (gpu.sh prepare, take)"
    return ""


def accelerator() -> str:
    ask = ["nvidia-smi", "--query-gpu=compute_cap,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""
    capability, memory = (part.strip() for part in told.split(","))
    return f'[accelerator]\ncompute_capabilities = ["{capability}"]\nmemory_mb = {int(float(memory))}'


def tables(title: str, root: Path, bench: Path) -> None:
    proof = json.loads(next(root.rglob("proof.json")).read_text())
    print(f"\n## {title}: {proof['name']} on {proof['engine']} {proof['library_version']}, {proof['provider']}\n")
    print("| variant | golden samples | largest difference | allowed | decisions changed | p50 ms | verdict |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for item in proof["variants"]:
        verdict = "chosen" if item["variant"] == proof["chosen"] else "passed" if item["passed"] else item["reason"]
        cells = [item["golden_difference"], item["golden_tolerance"], item["decisions_changed"], item["p50_ms"]]
        print(f"| {item['variant']} | {item['golden_samples']} | {' | '.join(map(_cell, cells))} | {verdict} |")
    with contextlib.suppress(OSError):
        _speeds(json.loads(bench.read_text()))


def _speeds(report: dict) -> None:  # type: ignore[type-arg]
    print("\n| variant | from | batch | p50 ms | p99 ms | a second | of bare | J of the GPU |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    slow = []
    for row in report["timings"]:
        cells = [row[key] for key in ("batch", "p50_ms", "p99_ms", "per_second", "of_bare")]
        cells.append(row["joules"].get("gpu"))
        print(f"| {row['variant']} | {row['path']} | {' | '.join(map(_cell, cells))} |")
        if row["path"] == "engine" and row["of_bare"] is not None and row["of_bare"] < WANTED:
            slow.append(f"{row['variant']} at {row['batch']} ({row['of_bare']:.2f})")
    held = any(row["path"] == "engine" and row["of_bare"] is not None for row in report["timings"])
    verdict = f"below: {', '.join(slow)}" if slow else "reached in every row" if held else "no bare loop was timed"
    print(f"\nEngine against the bare loop of the same library, {WANTED} wanted: {verdict}.")
    for line in (*report["energy"]["not_readable"], *report["notes"]):
        print(f"- {line}")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    match sys.argv[1:]:
        case ["facts"]:
            facts()
        case ["usable", name, device]:
            why = usable(name, device)
            print(why)
            sys.exit(bool(why))
        case ["accelerator"]:
            print(accelerator())
        case ["tables", title, root, bench]:
            tables(title, Path(root), Path(bench))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
