"""What the device half says in an emulated arm64 root beside what it says here; called by arm64.sh.

    python benchmarks/arm64_table.py --work DIR --here BIN [--demo DIR] [--sensors DIR] [--save FILE] -- chroot ROOT

Both sides run the same commands over the same files (DIR of --work has the same path inside the root): versions,
doctor, profiles; then for every bundle `deploy` with what devices/arm64-cpu.toml permits, a commissioning where it
needs one, the golden samples of every variant that the bundle holds, `predict` with each, and one run of the agent over
a recording, its decisions received from a broker. Budgets under emulation are wide: speed is not what this shows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from agent_broker import machine, mosquitto

HERE = Path(__file__).resolve().parent
LIMIT_S = 3600
STREAMED = "FD001"  # whose recordings are tables that the agent replays
PICTURES, RECORDINGS = 8, 1  # of each bundle's unseen data: minutes under emulation, not hours
# devices/arm64-cpu.toml for any processor, with budgets that an emulated one can keep.
PROFILE = """\
schema_version = 1
name = "emulated"
title = "An emulated processor, CPU only (ONNX Runtime)"
engine = "onnxruntime"
provider = "cpu"
variants = ["int8-cpu", "fp32"]
threads = 1

[budgets]
latency_p95_ms = 60000.0
memory_mb = 4000.0
"""
AGENT = """\
[agent]
device = "{device}"
metrics_s = 60

[mqtt]
port = {port}

[[pipeline]]
name = "{pipeline}"
source = {{ kind = "replay", path = "{path}", speed = 0, time = "cycle" }}
"""


@dataclass(frozen=True)
class Case:
    """A bundle, whose key, what is decided with it, and the healthy run of one that must be commissioned."""

    name: str
    bundle: Path
    key: Path
    data: list[Path]
    healthy: list[Path] = field(default_factory=list)

    @property
    def rows(self) -> bool:
        return self.name != "pictures"


@dataclass(frozen=True)
class Side:
    """Where commands run: a name, what stands before each, and the environment's bin folder."""

    name: str
    before: tuple[str, ...]
    binaries: str
    folder: Path

    def run(self, *words: object, may_fail: bool = False) -> str:
        command = [*self.before, f"{self.binaries}/edge-sft", *map(str, words)]
        variables = {
            name: os.environ[name] for name in ("PATH", "QEMU_CPU", "ORT_DISABLE_TELEMETRY") if name in os.environ
        }
        variables |= {"HOME": str(self.folder), "COLUMNS": "150", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S, env=variables)
        if done.returncode and not may_fail:
            sys.exit(f"{self.name}: edge-sft {' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def python(self, script: str, *words: object) -> str:
        command = [*self.before, f"{self.binaries}/python", "-c", script, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        if done.returncode:
            sys.exit(f"{self.name}: {done.stdout}{done.stderr}")
        return done.stdout.strip()


def cases(demo: Path | None, sensors: Path | None, work: Path) -> Iterator[Case]:
    """Yield the bundles there are, each with its data copied to where both sides see it."""
    for name in ("FD001", "cwru", "skab"):
        folder = (sensors or Path()) / name
        if sensors is not None and folder.is_dir():
            made = next(folder.glob("runs/*.edge"))
            unseen = sorted((folder / "unseen").iterdir())
            healthy = sorted((folder / "healthy").iterdir()) if (folder / "healthy").is_dir() else []
            same = [file for file in healthy if file.name in {one.name for one in unseen[:RECORDINGS]}]
            yield _copied(Case(name, made, _key(sensors), unseen[:RECORDINGS], same), work)
    if demo is not None:
        made = next(demo.glob("*/build/*.edge"))
        pictures = sorted((made.parents[1] / "line").iterdir())
        yield _copied(Case("pictures", made, _key(demo), pictures[:: max(len(pictures) // PICTURES, 1)]), work)


def _key(folder: Path) -> Path:
    return next(folder.glob("keys/*.pub.pem"))


def _copied(case: Case, work: Path) -> Case:
    home = work / case.name

    def copy(file: Path, into: str) -> Path:
        (home / into).mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(file, home / into / file.name))

    data, healthy = [copy(one, "data") for one in case.data], [copy(one, "healthy") for one in case.healthy]
    return Case(case.name, copy(case.bundle, "bundle"), copy(case.key, "key"), data, healthy)


def variants_of(bundle: Path) -> list[str]:
    import zipfile

    names = {Path(name).stem for name in zipfile.ZipFile(bundle).namelist() if name.endswith(".onnx")}
    return [name for name in ("fp32", "fp16", "int8-trt", "int8-cpu") if name in names]


def deployed(side: Side, case: Case) -> dict[str, Any]:
    """Deploy a bundle and return its proof."""
    profile = side.folder / f"{case.name}.toml"
    profile.write_text(PROFILE)
    root, pipeline = side.folder / "device", case.name
    options = ("--root", root, "--pipeline", pipeline, "--profile", profile, "--key", case.key)
    print(side.run("deploy", case.bundle, "--to", "local", *options), flush=True)
    if case.healthy:
        side.run("commission", *case.healthy, "--root", root, "--pipeline", pipeline)
    proof: dict[str, Any] = json.loads((slot_of(side, case) / "proof.json").read_text())
    return proof


def slot_of(side: Side, case: Case) -> Path:
    home = side.folder / "device" / "pipelines" / case.name
    return home / str(json.loads((home / "current.json").read_text())["slot"])


# Run by the environment's own Python: every variant, also those that no CPU profile permits.
GOLDEN = """
import json, sys
from pathlib import Path
import onnxruntime
from edge_sft.slots import golden
from edge_sft.slots.opening import read_policy
slot, variants = Path(sys.argv[1]), sys.argv[2:]
samples, policy = golden.load(slot), read_policy(slot / "policy.json")
manifest = json.loads((slot / "manifest.json").read_text())
allowed = {one["variant"]: one["golden_tolerance"] for one in manifest["variants"]}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
for variant in variants:
    try:
        session = onnxruntime.InferenceSession(slot / f"{variant}.onnx", options, providers=["CPUExecutionProvider"])
    except Exception as error:
        print(json.dumps([variant, str(error)]))
        continue
    names = [one.name for one in session.get_outputs()]
    said = golden.compare(samples, variant, lambda inputs: dict(zip(names, session.run(names, inputs))), policy)
    print(json.dumps([variant, said.samples, said.difference, said.decisions_changed, allowed[variant]]))
"""


def asked(side: Side, case: Case) -> dict[str, list[Any]]:
    """Return of every variant: golden samples, by how much they differ, decisions changed, what is allowed.

    Or only the words of ONNX Runtime where it has no way to run the variant on this processor.
    """
    lines = side.python(GOLDEN, slot_of(side, case), *variants_of(case.bundle)).splitlines()
    return {variant: rest for variant, *rest in map(json.loads, lines)}


def predicted(side: Side, case: Case, variant: str) -> list[dict[str, Any]]:
    options = ("--key", case.key, "--variant", variant, "--json")
    place = ("--root", side.folder / "device", "--pipeline", case.name) if case.rows else ()
    return [json.loads(line) for line in side.run("predict", case.bundle, *case.data, *options, *place).splitlines()]


def differing(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> tuple[int, float]:
    """Return how many decisions (verdict, label) differ and the largest difference of a number in them."""
    if len(here) != len(there):
        sys.exit(f"{len(here)} decisions here, {len(there)} there")
    changed, worst = 0, 0.0
    for one, other in zip(here, there, strict=True):
        changed += any(one.get(name) != other.get(name) for name in ("name", "asset", "verdict", "label"))
        for name in ("score", "confidence", "value"):
            worst = max(worst, abs((one.get(name) or 0.0) - (other.get(name) or 0.0)))
    return changed, worst


def streamed(side: Side, case: Case, work: Path) -> list[dict[str, Any]]:
    """Run the agent over a recording and return the decisions that a broker was given."""
    import paho.mqtt.client as mqtt

    got: list[dict[str, Any]] = []
    ready = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: client.subscribe("edge-sft/v1/#", 1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _u, message: got.append({"topic": message.topic, **json.loads(message.payload)})
    home = work / f"broker-{side.name}"
    home.mkdir()
    with mosquitto(home) as port:
        client.connect("127.0.0.1", port)
        client.loop_start()
        ready.wait(30)
        config = side.folder / "agent.toml"
        text = AGENT.format(device=side.name, port=port, pipeline=case.name, path=case.data[0])
        config.write_text(text)
        side.run("run", "--config", config, "--root", side.folder / "device", "--until-done")
        client.loop_stop()
    envelopes = [one for one in got if one["topic"].endswith("/prediction")]
    return [one["prediction"] for one in sorted(envelopes, key=lambda one: one["seq"])]


def verdict(proof: dict[str, Any], variant: str) -> str:
    for one in proof["variants"]:
        if one["variant"] == variant:
            return "chosen" if variant == proof["chosen"] else "passed" if one["passed"] else str(one["reason"])
    return "not permitted"


def compare(case: Case, sides: tuple[Side, Side]) -> list[str]:
    """Return the rows of one bundle, a variant each."""
    proof = [deployed(side, case) for side in sides][1]
    golden = [asked(side, case) for side in sides]
    rows = []
    for variant in variants_of(case.bundle):
        if len(golden[1][variant]) == 1:
            print(f"{case.name} {variant}: {golden[1][variant][0]}", flush=True)
            why = "ONNX Runtime cannot load it here: " + golden[1][variant][0].split(" : ")[-1].split(" (node")[0]
            rows.append(f"| {case.name} | {variant} | – | – | – | – | – | {why} | – | – |")
            continue
        answers = [predicted(side, case, variant) for side in sides]
        changed, worst = differing(*answers)
        count, difference, decisions, allowed = golden[1][variant]
        rows.append(
            f"| {case.name} | {variant} | {count} | {golden[0][variant][1]:.2g} | {difference:.2g} | {allowed:.2g} "
            f"| {decisions} | {verdict(proof, variant)} | {changed} of {len(answers[0])} | {worst:.2g} |"
        )
        print(rows[-1], flush=True)
    return rows


VERSIONS = (
    "import platform, numpy, onnxruntime, cv2; print(f'{platform.machine()}: Python {platform.python_version()}, "
    "glibc {platform.libc_ver()[1]}, numpy {numpy.__version__}, ONNX Runtime {onnxruntime.__version__}, "
    "OpenCV {cv2.__version__}')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--work", "--here", "--demo", "--sensors"):
        parser.add_argument(name, type=Path, required=name in ("--work", "--here"))
    parser.add_argument("--save", type=Path, default=HERE / "results" / "arm64.md")
    parser.add_argument("inside", nargs="+")
    given = parser.parse_args()
    sides = (
        Side("x86", (), str(given.here), given.work / "x86"),
        Side("arm64", tuple(given.inside), "/opt/edge-sft/bin", given.work / "arm64"),
    )
    for side in sides:
        side.folder.mkdir()
    print("looking at both sides", flush=True)
    versions = [side.python(VERSIONS) for side in sides]
    looks = "\n".join(
        f"$ edge-sft {words}\n{sides[1].run(*words.split(), may_fail=True).rstrip()}"
        for words in ("--version", "doctor", "devices list")
    )
    print(looks, flush=True)
    rows: list[str] = []
    streamed_words = ""
    sets = "".join(f" --{name} DIR" for name in ("demo", "sensors") if getattr(given, name) is not None)
    head = {
        "date": datetime.now(timezone.utc).date(),
        "command": f"benchmarks/arm64.sh{sets}",
        "machine": machine(),
        "cpu": os.environ.get("QEMU_CPU", "qemu's own processor"),
        "how": given.inside[0],
        "qemu": first_line("qemu-aarch64-static", "--version"),
        "versions": "<br>\n".join(versions),
        "looks": looks,
    }
    for case in cases(given.demo, given.sensors, given.work):
        rows += compare(case, sides)
        if case.name == STREAMED:
            streamed_words = stream(case, sides, given.work)
            print(streamed_words, flush=True)
        given.save.write_text(PAGE.format(**head, rows="\n".join(rows), streamed=streamed_words))
    print(given.save.read_text())


def stream(case: Case, sides: tuple[Side, Side], work: Path) -> str:
    """Stream one recording through the agent on both sides and say what became of it."""
    here, there = (streamed(side, case, work) for side in sides)
    changed, worst = differing(here, there)
    return (
        f"`edge-sft run --until-done` over `{case.data[0].name}` ({case.name}), its decisions received from Mosquitto: "
        f"{len(there)} from arm64, {len(here)} from x86; {changed} differ, their numbers by at most {worst:.2g}."
    )


def first_line(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]


PAGE = """\
# The device half on 64-bit Arm (emulated), {date} UTC

Command: `{command}`<br>
Machine: {machine}; {qemu}; Debian bookworm of arm64, entered by `{how}`, {cpu}<br>
{versions}

An emulated processor: every instruction of Python, ONNX Runtime and OpenCV is Arm's, no time means anything. The
profile is a copy of devices/arm64-cpu.toml with budgets that an emulator can keep. Installed from arm64 wheels, without
an index.

```
{looks}
```

Golden: each variant's answers to the bundle's golden samples beside what was expected when it was built (on x86),
largest difference in shares of an output's scale. arm64: what `edge-sft deploy --to local` said of it there. Predicted:
`edge-sft predict` over unseen data, decisions (verdict and label) that differ from x86's, and the largest difference of a
score, confidence or value (FD001: in cycles).

| bundle | variant | golden samples | difference on x86 | on arm64 | tolerance | decisions changed | arm64 | predicted: differ | numbers differ by |
|---|---|---|---|---|---|---|---|---|---|
{rows}

{streamed}
"""  # noqa: E501

if __name__ == "__main__":
    main()
