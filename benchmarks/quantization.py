"""What int8 buys on this CPU: median time of one picture for each variant, measured round-robin in one process.

    python benchmarks/quantization.py BUNDLE.edge | EXPORT_DIR | --demo   [--save benchmarks/results/quantization.md]

Interleaved, because two runs one after the other compare two moments of the machine, not two models. Idle worker
threads do not spin, as on the device. ``--demo`` needs no data: pre-trained Lite0 at 224 with a random head, ranges
from noise; its times mean something, its accuracy does not.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime as ort

VARIANTS = ("fp32", "fp16", "int8-trt", "int8-cpu")
MEANING = {
    "fp32": "FP32", "fp16": "FP16 (computed in FP32 on x86)", "int8-trt": "S8S8 symmetric, float bias",
    "int8-cpu": "U8S8, 7-bit weights",
}  # fmt: skip


def session(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def measure(files: dict[str, Path], threads: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each run at batch 1, the variants taking turns."""
    sessions = {variant: session(file, threads) for variant, file in files.items()}
    first = next(iter(sessions.values())).get_inputs()[0]
    image = np.random.default_rng(0).integers(0, 256, (1, *first.shape[1:])).astype(np.uint8)
    times: dict[str, list[float]] = {variant: [] for variant in sessions}
    for turn in range(rounds + 10):
        for variant, running in sessions.items():
            start = time.perf_counter()
            running.run(None, {first.name: image})
            if turn >= 10:
                times[variant].append((time.perf_counter() - start) * 1e3)
    return times


def table(files: dict[str, Path], rounds: int) -> str:
    lines = [
        "| variant | what | size MB | threads | median ms | p10 | p90 | against FP32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for threads in (1, 2):
        times = measure(files, threads, rounds)
        base = statistics.median(times["fp32"])
        for variant, values in times.items():
            median, (low, high) = statistics.median(values), np.percentile(values, [10, 90])
            size = files[variant].stat().st_size / 1e6
            lines.append(
                f"| {variant} | {MEANING[variant]} | {size:.1f} | {threads} | {median:.2f} | {low:.2f} | {high:.2f} "
                f"| {base / median:.2f}× |"
            )
    return "\n".join(lines)


def machine() -> str:
    model = platform.processor() or platform.machine()
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        rows = dict(row.split(":", 1) for row in info.read_text().split("\n\n")[0].splitlines() if ":" in row)
        cells = {key.strip(): value.strip() for key, value in rows.items()}
        model = cells.get("model name", model)
        known = cells.get("flags", "").split()
        flags = ", ".join(flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in known)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    versions = f"ONNX Runtime {ort.__version__}, Python {platform.python_version()}"
    return f"{model} ({flags}), {os.cpu_count()} cores{load}; {versions}"


def files_in(given: Path, scratch: Path) -> dict[str, Path]:
    if given.is_dir():
        folder = given
    else:
        folder = scratch
        with zipfile.ZipFile(given) as archive:  # one's own file on one's own machine: not verified here
            for variant in VARIANTS:
                if f"{variant}.onnx" in archive.namelist():
                    (folder / f"{variant}.onnx").write_bytes(archive.read(f"{variant}.onnx"))
    found = {variant: folder / f"{variant}.onnx" for variant in VARIANTS}
    return {variant: file for variant, file in found.items() if file.is_file()}


def demo(out: Path) -> dict[str, Path]:
    """Make the four variants of a pre-trained Lite0 with a random head, without gates."""
    import torch

    from edge_sft.export import bias, half, onnx_from_checkpoint, quantize, ranges
    from edge_sft.models.registry import build_classifier
    from edge_sft.progress import Silent
    from edge_sft.recipe import ModelSection
    from edge_sft.task import image_classification

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = build_classifier(ModelSection(), 5)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.classifier(image), dim=1)

    torch.manual_seed(0)
    task = image_classification(tuple("abcde"), (), 224, 224)
    files = {"fp32": onnx_from_checkpoint.export_fp32(Whole().eval(), task, out)}
    files["fp16"] = half.export_fp16(files["fp32"], out)
    prepared = quantize.prepare(files["fp32"])
    noise = np.random.default_rng(0).integers(0, 256, (8, 1, 224, 224, 3)).astype(np.uint8)
    seen = ranges.observe(prepared, noise, len(noise), Silent())
    chosen = ranges.ranges(seen, "minmax")
    for variant in ("int8-trt", "int8-cpu"):
        first = quantize.quantized(prepared, chosen, variant, ())
        model = bias.corrected(prepared, first, ranges.means(seen))
        files[variant] = quantize.save(quantize.quantized(model, chosen, variant, ()), variant, out)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="bundle or export folder")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    if (given.model is None) == (not given.demo):
        parser.error("give a bundle, an export folder, or --demo")
    with tempfile.TemporaryDirectory() as scratch:
        files = demo(Path(scratch)) if given.demo else files_in(given.model, Path(scratch))
        if "fp32" not in files:
            parser.error(f"{given.model} holds no fp32.onnx")
        where = machine()
        text = table(files, given.rounds)
    print(text)
    if given.save:
        when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        command = " ".join(["python", *sys.argv])
        given.save.parent.mkdir(parents=True, exist_ok=True)
        how = f"batch 1, medians of {given.rounds} interleaved rounds, no spinning"
        given.save.write_text(f"# Variants on a CPU\n\n`{command}`  \n{when}  \n{where}  \n{how}\n\n{text}\n")


if __name__ == "__main__":
    main()
