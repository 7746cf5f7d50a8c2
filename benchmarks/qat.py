"""Where rounding alone costs accuracy: layers left in float against fine-tuning under rounding.

    python benchmarks/qat.py --checkpoint DIR [--only int8-trt] [--save benchmarks/results/qat.md]

DIR is a checkpoint of pictures, as `benchmarks/backbone_bundles.py` leaves in mobilenet-neu/build; it is only read.
Each row is made by the export's own functions. Flips are against the checkpoint, right→wrong and wrong→right. Gates
see validation; test is only reported, and every look at it is entered in test_looks.jsonl. Latency is the median of
one picture, the files taking turns in one process, one thread.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import quantization
import torch

from edge_sft import checkpoint as checkpoints
from edge_sft.cli.export import _recipe
from edge_sft.data.reader import open_dataset
from edge_sft.export import int8, onnx_from_checkpoint, pictures, quantize, ranges
from edge_sft.export.gating import Reference, infer
from edge_sft.metrics.intervals import paired_flips
from edge_sft.models.inference import InferenceModule
from edge_sft.progress import Silent
from edge_sft.training.machine import keep_freed_memory

LOOKS = Path(__file__).parent / "test_looks.jsonl"
TOLERANCE = 0.5
NOTE = (
    "The rates of fine-tuning were chosen on validation pictures of mobilenet_v3_large on neu_60, in four trials "
    "(S8S8): for that checkpoint the validation column is not an independent proof. Nothing was chosen on test."
)


class Steps(Silent):
    """Prints each phase and every tenth step: it takes minutes."""

    def __init__(self) -> None:
        self._done = 0

    def start(self, title: str, total: int) -> None:
        self._done = 0
        print(f"{title}: {total}", flush=True)

    def advance(self, units: int = 1, note: str = "") -> None:
        self._done += units
        if note and self._done % 10 == 0:
            print(f"  {self._done} {note}", flush=True)


class Case:
    """A checkpoint with what its variants are made from and held against."""

    def __init__(self, checkpoint: Path, out: Path) -> None:
        self.meta = checkpoints.read_meta(checkpoint)
        dataset = open_dataset(_recipe(checkpoint, None, None), Silent())
        task, spec = self.meta.task, self.meta.geometry
        module = InferenceModule(checkpoint)
        self.fp32 = onnx_from_checkpoint.export_fp32(module, task, out)
        self.val = self._reference(pictures.validation(dataset, task, spec, Silent()))
        self.test = self._reference(pictures.read(dataset.split("test"), task, spec, Silent(), ""))
        prepared = quantize.prepare(self.fp32)
        shown = pictures.for_ranges(dataset, task, spec, 128, Silent())
        self.source = int8.Source(
            prepared,
            ranges.observe(prepared, shown.batches(1), len(shown), Silent()),
            training=lambda told: {task.inputs[0].name: pictures.for_tuning(dataset, task, spec, told).images},
        )

    def _reference(self, shown: pictures.Pictures) -> Reference:
        answers = infer(self.fp32, self.meta.task, shown)
        return Reference(self.meta.task, self.meta.rule, shown, answers, TOLERANCE)

    def row(self, variant: str, how: str, file: Path, in_float: int, seconds: float) -> dict[str, Any]:
        """Judge a file on validation by the gate, and count what it does on test."""
        gate = self.val.prove(variant, file, Silent())  # type: ignore[arg-type]
        after = infer(file, self.meta.task, self.test.pictures)
        flips = paired_flips(self.test.pictures.labels, self.test.probabilities.argmax(1), after.argmax(1))
        layers = len(quantize.layers(self.source.model))
        found = {
            "variant": variant, "how": how, "passed": gate.passed, "in_float": f"{in_float} of {layers}",
            "val": f"{gate.right_to_wrong} / {gate.wrong_to_right}",
            "test": f"{flips.right_to_wrong} / {flips.wrong_to_right}",
            "divergence": round(self.val.distance(file), 4), "seconds": round(seconds), "file": file,
        }  # fmt: skip
        with LOOKS.open("a") as looks:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            look = {"date": now, "set": self.meta.name, "who": f"{variant} {how}", "flips": found["test"]}
            looks.write(json.dumps(look, ensure_ascii=False) + "\n")
        print({key: value for key, value in found.items() if key != "file"}, flush=True)
        return found


def rows(case: Case, variant: quantize.Int8Variant, out: Path) -> list[dict[str, Any]]:
    method = int8._best_method(variant, case.source, case.val, Silent())
    chosen = ranges.ranges(case.source.seen, method)
    made: list[tuple[int, bool, Path]] = []
    begun = time.monotonic()
    for keep in int8._exclusions(variant, case.source, chosen, case.val, Silent()):
        folder = out / f"{variant}-{len(keep)}"
        folder.mkdir()
        file = quantize.save(int8._made(variant, case.source, chosen, keep), variant, folder)
        made.append((len(keep), case.val.prove(variant, file, Silent()).passed, file))
        if made[-1][1]:
            break
    excluded = time.monotonic() - begun
    found = [case.row(variant, "rounding alone", made[0][2], 0, 0)]
    if len(made) > 1:
        found.append(case.row(variant, "layers in float", made[-1][2], made[-1][0], excluded))
    begun = time.monotonic()
    folder = out / f"{variant}-tuned"
    folder.mkdir()
    file = quantize.save(int8._tuned(variant, case.source, chosen, Steps()), variant, folder)
    return [*found, case.row(variant, "fine-tuned", file, 0, time.monotonic() - begun)]


def table(found: list[dict[str, Any]], fp32: Path, rounds: int) -> str:
    times = quantization.measure({"fp32": fp32} | {str(n): row["file"] for n, row in enumerate(found)}, 1, rounds)
    median = {name: statistics.median(values) for name, values in times.items()}
    lines = [
        f"fp32: {median['fp32']:.2f} ms\n",
        "| variant | how | layers in float | val flips | gate | val divergence | test flips | median ms | made in s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for place, row in enumerate(found):
        gate = "passed" if row["passed"] else "failed"
        cells = (row["variant"], row["how"], row["in_float"], row["val"], gate, row["divergence"], row["test"],
                 f"{median[str(place)]:.2f}", row["seconds"])  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--only", choices=("int8-trt", "int8-cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    where = quantization.machine()
    with tempfile.TemporaryDirectory() as scratch:
        case = Case(given.checkpoint, Path(scratch))
        variants = [name for name in get_args(quantize.Int8Variant) if given.only in (None, name)]
        found = [row for variant in variants for row in rows(case, variant, Path(scratch))]
        text = table(found, case.fp32, given.rounds)
    counts = f"{case.meta.name}: {len(case.val.pictures)} validation, {len(case.test.pictures)} test pictures"
    print(f"{counts}\n{text}")
    if given.save:
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        command = " ".join(["python", *sys.argv])
        given.save.write_text(
            f"# Fine-tuning under rounding\n\n`{command}`  \n{now}  \n{where}  \n{counts}\n\n{NOTE}\n\n{text}\n"
        )


if __name__ == "__main__":
    main()
