"""FP32, S8S8 and U8S8 on this CPU for four backbones and the sensor models, and whether the device chooses the same.

    python benchmarks/backbones.py --work DIR [--sensors DIR] [--only lite0-bsd,FD001] [--threads 1,2] [--seconds 3]

DIR holds the bundles of backbone_bundles.py (made when they are missing: half an hour); --sensors those of
sensor_bundles.py. Each bundle is deployed by `edge-sft deploy` with a profile that permits fp32, int8-trt and int8-cpu,
then measured by `edge-sft bench` in a fresh process in which the variants take turns. S8S8 is `int8-trt` (made for
TensorRT, run on the CPU here), U8S8 is `int8-cpu`. A variant that its accuracy gate refused is not in the bundle.

The choice is judged by medians of what the device measures, too: frame to decision for pictures, the engine for
windows. It agrees when it is the fastest (INT8 must gain 5 %) or within 5 % of it. Without --work's training, about a
minute for each bundle and number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import backbone_bundles
import sensor_bundles
from agent_broker import machine

from edge_sft.deploy.bench_result import BenchReport
from edge_sft.deploy.judging import LEAST_GAIN

RESULT = Path(__file__).resolve().parent / "results" / "backbones.md"
VARIANTS = ("fp32", "int8-trt", "int8-cpu")
WANTED = 1.6  # FP32 / U8S8 on the default backbone
PROFILE = """\
name = "bench-{threads}"
title = "This PC, CPU only, {threads} thread(s)"
variants = ["int8-cpu", "int8-trt", "fp32"]
threads = {threads}

[budgets]
latency_p95_ms = 5000.0
memory_mb = 2000.0
"""
_TITLES = (
    "| model | threads | engine FP32 | S8S8 | U8S8 | gain S8S8 | U8S8 | of bare | decides FP32 | S8S8 | U8S8 "
    "| fastest | chosen | agrees |"
)


@dataclass(frozen=True)
class Subject:
    """One bundle: what it is called here, what it holds, where the key is that signed it."""

    name: str
    what: str
    bundle: Path
    work: Path
    pictures: bool

    @property
    def judged_by(self) -> str:
        return "frame" if self.pictures else "engine"


@dataclass(frozen=True)
class Result:
    """One bundle with one number of threads, measured and deployed."""

    subject: Subject
    threads: int
    report: BenchReport
    proof: dict[str, Any]

    def p50(self, variant: str, path: str) -> float | None:
        row = self.report.timing(variant, path)
        return None if row is None else row.p50_ms

    @property
    def judged(self) -> dict[str, float]:
        found = {variant: self.p50(variant, self.subject.judged_by) for variant in VARIANTS}
        return {variant: value for variant, value in found.items() if value is not None}

    @property
    def fastest(self) -> str:
        """By the benchmark: INT8 only where it gains what the device wants of it."""
        times = self.judged
        limit = (1 - LEAST_GAIN) * times["fp32"]
        return min((v for v in times if v == "fp32" or times[v] <= limit), key=lambda variant: times[variant])

    @property
    def agrees(self) -> str:
        chosen, best = self.proof["chosen"], self.fastest
        if chosen == best:
            return "yes"
        return "tie" if self.judged[chosen] <= (1 + LEAST_GAIN) * self.judged[best] else "**no**"


def subjects(asked: argparse.Namespace) -> list[Subject]:
    wanted = set(asked.only.split(",")) if asked.only else None
    found: list[Subject] = []
    if asked.work is not None:
        for case in backbone_bundles.CASES:
            if wanted is None or case.name in wanted:
                backbone_bundles.make(case, asked.work)
        for case, bundle in backbone_bundles.made(asked.work):
            what = f"{case.backbone}, {case.size} px, {case.dataset}"
            found.append(Subject(case.name, what, bundle, asked.work, pictures=True))
    if asked.sensors is not None:
        for one in sensor_bundles.made(asked.sensors):
            bundles = sorted((one.folder / "runs").glob("*.edge"))
            found += [
                Subject(one.name, "sensor model", bundle, asked.sensors, pictures=False) for bundle in bundles[-1:]
            ]
    return [one for one in found if wanted is None or one.name in wanted]


def measured(one: Subject, threads: int, seconds: float) -> Result:
    """Deploy a bundle into a folder of its own, then measure what serves there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "profile.toml").write_text(PROFILE.format(threads=threads))
        root = ("--root", str(folder / "root"))
        edge_sft(one, "deploy", str(one.bundle.resolve()), "--profile", str(folder / "profile.toml"), *root)
        edge_sft(one, "bench", *root, "--seconds", str(seconds), "--json", str(folder / "bench.json"))
        report = BenchReport.model_validate_json((folder / "bench.json").read_bytes())
        proof = json.loads(next((folder / "root").rglob("proof.json")).read_text())
    return Result(one, threads, report, proof)


def edge_sft(one: Subject, *words: str) -> None:
    command = [sys.executable, "-m", "edge_sft.cli.main", *words]
    environment = backbone_bundles.environment(one.work)
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"edge-sft {' '.join(words)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def row(result: Result) -> str:
    one, fp32 = result.subject, result.p50("fp32", "engine")
    engine = [result.p50(variant, "engine") for variant in VARIANTS]
    gains = ["–" if value is None or fp32 is None else f"{fp32 / value:.2f}×" for value in engine[1:]]
    bare = [timing.of_bare for timing in result.report.timings if timing.path == "engine" and timing.of_bare]
    cells = (
        one.name, str(result.threads), *(_ms(value) for value in engine), *gains,
        f"{min(bare):.2f}–{max(bare):.2f}" if bare else "–",
        *(_ms(result.judged.get(variant)) for variant in VARIANTS),
        result.fastest, result.proof["chosen"], result.agrees,
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def gates(one: Subject) -> list[str]:
    """Say what the export's accuracy gate found out about each variant."""
    with zipfile.ZipFile(one.bundle) as archive:  # verified by the deploy
        manifest = json.loads(archive.read("manifest.json"))
    lines = []
    for gate in manifest["gates"]:
        if gate["variant"] in VARIANTS:
            if not gate["passed"] and gate["note"].startswith("could not be made"):
                lines.append(f"| {one.name} | {one.what} | {gate['variant']} | not made | – | – | – | {gate['note']} |")
                continue
            accuracy = gate.get("balanced_accuracy")
            measure = f"{gate['measure']} {gate['before']:.4g} → {gate['after']:.4g}" if gate.get("measure") else "–"
            lines.append(
                f"| {one.name} | {one.what} | {gate['variant']} | {'passed' if gate['passed'] else '**refused**'} "
                f"| {measure if accuracy is None else f'balanced accuracy {accuracy:.3f}'} "
                f"| {gate['right_to_wrong']} / {gate['wrong_to_right']} of {gate['pictures']} "
                f"| {100 * gate['right_to_wrong_high']:.2f} % | {gate['note'] or '–'} |"
            )
    return lines


def verdicts(results: list[Result]) -> list[str]:
    """Say what the table shows of what was wanted."""
    disagree = [f"{r.subject.name} with {r.threads}" for r in results if "no" in r.agrees]
    lines = [
        f"- The device's choice agrees in {len(results) - len(disagree)} of {len(results)} rows"
        + (f"; not in: {', '.join(disagree)}." if disagree else ".")
    ]
    for result in results:
        if result.subject.name.startswith("lite0"):
            fp32, u8s8 = result.p50("fp32", "engine"), result.p50("int8-cpu", "engine")
            gain = f"{fp32 / u8s8:.2f}×" if fp32 and u8s8 else "not in the bundle: its gate refused it"
            reached = bool(fp32 and u8s8 and fp32 / u8s8 >= WANTED)
            lines.append(
                f"- U8S8 on {result.subject.what}, {result.threads} thread(s): {gain} "
                f"({WANTED}× is wanted: {'reached' if reached else '**not reached**'})."
            )
    won = dict.fromkeys(r.subject.name for r in results if r.fastest == "int8-cpu")
    lost = dict.fromkeys(r.subject.name for r in results if r.fastest == "fp32" and len(r.judged) > 1)
    lines.append(f"- INT8 wins on {', '.join(won) or 'none'}; it loses on {', '.join(lost) or 'none'}.")
    return lines


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--work", type=Path, help="folder of backbone_bundles.py; made when missing")
    given.add_argument("--sensors", type=Path, help="folder of sensor_bundles.py")
    given.add_argument("--only", default="", help="names, with commas")
    given.add_argument("--threads", default="1,2")
    given.add_argument("--seconds", type=float, default=3.0, help="for each variant and way through")
    given.add_argument("--out", type=Path, default=RESULT)
    asked = given.parse_args()
    began = machine()
    table: list[str] = []
    checked: list[str] = []
    results: list[Result] = []
    for one in subjects(asked):
        checked += gates(one)
        for threads in asked.threads.split(","):
            results.append(measured(one, int(threads), asked.seconds))
            table.append(row(results[-1]))
            print(table[-1], flush=True)
    if not results:
        given.error("no bundle: give --work, --sensors or both")
    text = "\n".join(
        [
            "# Variants on a CPU: four backbones, the sensor models, and what the device chooses\n",
            f"`python benchmarks/backbones.py {' '.join(sys.argv[1:])}`  ",
            f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {began}\n",
            "Medians in milliseconds, batch 1, each row a fresh process in which the variants take turns. S8S8 is",
            "`int8-trt` run on the CPU, U8S8 `int8-cpu`. *Engine* is inference alone, *of bare* its speed beside the",
            "library's own loop (1 = the same); *decides* is from a 1280x1024 frame to the decision, for sensors the",
            "engine. *Fastest* follows from these medians, *chosen* is `proof.json` of `edge-sft deploy`.\n",
            _TITLES,
            "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---|---|---|",
            *table,
            "",
            *verdicts(results),
            "\n## The accuracy gates of these bundles\n",
            "On validation pictures or windows, paired with the checkpoint; the bound is the exact 95 % upper one of",
            "those that turn wrong.\n",
            "| model | what | variant | gate | after | right → wrong / wrong → right | bound | note |",
            "|---|---|---|---|---|---:|---:|---|",
            *checked,
        ]
    )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
