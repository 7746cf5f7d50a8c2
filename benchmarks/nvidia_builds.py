"""Every model family through NVIDIA's real parser and builder, without a GPU, by TensorRT-RTX.

    python benchmarks/nvidia_builds.py [--bundles DIR] [--only NAME] [--results]

Backbones at 224 x 224 and sensor models of the default sizes, untrained (benchmarks/families.py says why), and what
`edge-sft export` left of real ones in DIR (its exports, and bundles' variants). Strongly typed, TF32 off, batch 1 to 8,
one plan for the GPUs of compute capability 8.6, 8.9 and 12.0. --results writes benchmarks/results/nvidia_builds.md and
benchmarks/results/operators.md. Half an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import families
import onnx
import operators
import tensorrt_rtx as trt

RESULT = Path(__file__).resolve().parent / "results" / "nvidia_builds.md"
GPUS = ("SM86", "SM89", "SM120")
BATCH_MAX = 8
HEAD = (
    "| family | variant | ONNX, MB | parsed | subgraphs | build, s | plan, MB | refused or warned |",
    "|---|---|---|---|---|---|---|---|",
)


class Said(trt.ILogger):  # type: ignore[misc]
    """Keeps warnings and errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        serious = (trt.ILogger.Severity.WARNING, trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
        if severity in serious:
            self.lines.append(" ".join(message.split())[:160])


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    parsed: bool
    subgraphs: int
    seconds: float
    plan_bytes: int
    said: tuple[str, ...]


def build(model: bytes) -> Outcome:
    """Parse and build, as the project's engine does it; what the library warns of is told too."""
    log = Said()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    supported = parser.supports_model_v2(model)
    subgraphs = parser.num_subgraphs
    refused = [
        f"refused: {parser.get_error(index).node_operator()}: {parser.get_error(index).desc()}"[:160]
        for index in range(parser.num_errors)
    ]
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model) or not supported:
        return Outcome(False, subgraphs, 0.0, 0, (*refused, *log.lines))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = len(GPUS)
    for place, name in enumerate(GPUS):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    shapes = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        if tensor.shape[0] == -1:
            rest = list(tensor.shape)[1:]
            shapes.set_shape(tensor.name, *([batch, *rest] for batch in (1, 1, BATCH_MAX)))
    config.add_optimization_profile(shapes)
    began = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    seconds = time.monotonic() - began
    size = 0 if plan is None else plan.nbytes
    del parser  # only now: the network works on the parser's memory
    return Outcome(True, subgraphs, seconds, size, tuple(dict.fromkeys(log.lines)))


def row(family: str, variant: str, file: Path | str) -> str:
    """Build one variant, or say why there is none."""
    if isinstance(file, str):
        return f"| {family} | {variant} | – | – | – | – | – | not made: {file.split(';')[0]} |"
    model = file.read_bytes()
    found = build(model)
    parsed, plan = ("yes" if found.parsed else "**no**"), f"{found.plan_bytes / 1e6:.2f}"
    said = "; ".join(found.said).replace("|", "/") or "–"
    built = f"{found.seconds:.1f} | {plan}" if found.plan_bytes else "– | –"
    return f"| {family} | {variant} | {len(model) / 1e6:.2f} | {parsed} | {found.subgraphs} | {built} | {said} |"


def real(folder: Path, scratch: Path) -> Iterator[tuple[str, families.Files]]:
    """Yield the exports and the bundles of a folder, by the folder that they lie in."""
    for gates in sorted(folder.rglob("gates.json")):
        yield f"{gates.parent.parent.name} (exported)", families.of_folder(gates.parent)
    for bundle in sorted(folder.rglob("*.edge")):
        out = scratch / bundle.stem
        with zipfile.ZipFile(bundle) as files:
            names = [name for name in files.namelist() if name.endswith(".onnx") and "int8-cpu" not in name]
            files.extractall(out, names)
        kinds = ("fp32", "fp16", "int8-trt")
        found = {name: next(iter(out.rglob(f"{name}.onnx")), "its gate, see the bundle") for name in kinds}
        yield f"{bundle.stem} (bundle)", found


def every(asked: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, families.Files]]:
    """Yield name and files of all that is to be built."""
    for family in (*families.picture_families(224), *families.sensor_families(length=30, wave=2048)):
        if asked.only in family.name:
            out = scratch / family.name.replace("/", "-").replace(" ", "-")
            out.mkdir()
            yield family.name, family.make(out)
    if asked.bundles:
        for name, files in real(asked.bundles, scratch):
            if asked.only in name:
                yield name, files


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--bundles", type=Path)
    given.add_argument("--only", default="")
    given.add_argument("--results", action="store_true")
    asked = given.parse_args()
    print("\n".join(HEAD))
    rows, listed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, files in every(asked, Path(scratch)):
            for variant, file in files.items():
                rows.append(row(name, variant, file))
                print(rows[-1], flush=True)
                if isinstance(file, Path):
                    listed.append(operators.as_row(f"{name} {variant}", onnx.load(file)))
    if asked.results:
        RESULT.write_text("\n".join([*preamble(), "", *HEAD, *rows, ""]), encoding="utf-8")
        operators.RESULT.write_text(operators.report(listed), encoding="utf-8")
    sys.exit(any("**no**" in line or "refuse" in line for line in (*rows, *listed)))


def preamble() -> list[str]:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return [
        "# Every model family through NVIDIA's parser and builder, without a GPU",
        "",
        f"`python benchmarks/nvidia_builds.py --bundles DIR --results`, {now}, TensorRT-RTX {trt.__version__}:",
        f"strongly typed, TF32 off, batch 1 to {BATCH_MAX}, one plan for compute capabilities 8.6, 8.9 and 12.0.",
        "Backbones at 224 × 224 and sensor models untrained, except bundles and exports of real data, which say so.",
        "Build times are of a shared two-core machine. Building is proved here, not running: no GPU was at hand.",
    ]


if __name__ == "__main__":
    main()
