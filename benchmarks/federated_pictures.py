"""Pictures at four plants, the whole road by real processes: from `federate init` to decisions over MQTT at each plant.

    python benchmarks/federated_pictures.py --out benchmarks/results/federated_pictures.md

Ball screws (bsd_pitting), whole groups given to four plants within each of the set's own splits. The coordinator and
each plant live in a network namespace of their own, as in examples/turbofan_plants, whose script does the walking: it
needs root on Linux, nginx and Mosquitto. One plant writes the recipe with `edge-sft init`; nothing is added to it but
`[federated] rounds`. Each plant joins, is approved, learns, exports and signs its own model, deploys it, and its agent
decides about the plant's test pictures, which its broker hands to a ledger.

This shows the road, not how good federation is (federated_quality.py): a plant has some forty test pictures. The
run tells each plant's test score, so each one appends to test_looks.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import protocols

from edge_sft.federated import partition

NAMES = ("lyon", "turin", "graz", "porto")
SET, DATA, LINE = "bsd_pitting", "pits", "line"
SPLITS = ("train", "val", "test")
LOOKS = HERE / "test_looks.jsonl"
PICTURES = f'{{ kind = "files", path = "{LINE}" }}'
STAGES = {"join": "site join", "export": "site export", "deploy": "deploy", "stream": "run --config"}


def example() -> Any:
    """Load the example: places, and the commands of the road."""
    spec = spec_from_file_location("turbofan_plants", HERE.parent / "examples" / "turbofan_plants" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Decided:
    """What a plant's broker handed on: verdicts by the truth's side, and the variant that spoke.

    Attributes:
        pictures: How many lay on the line.
        decisions: How many came.
        verdicts: (whether the part is good, verdict) → how many.
        variant: What the device chose at its proof.
    """

    pictures: int
    decisions: int
    verdicts: Counter[tuple[bool, str]]
    variant: str

    def cell(self) -> str:
        """Say what became of good and bad parts."""
        bad, good = ({v: self.verdicts[side, v] for v in ("ok", "nok", "uncertain")} for side in (False, True))
        return (
            f"{bad['ok']} of {sum(bad.values())} pitted passed, {good['nok']} of {sum(good.values())} clean scrapped, "
            f"{bad['uncertain'] + good['uncertain']} uncertain"
        )


def shared_out(set_: protocols.Protocol) -> dict[str, list[tuple[protocols.Row, str]]]:
    """Return each plant's pictures with their splits: whole groups, evenly, within each split."""
    found: dict[str, list[tuple[protocols.Row, str]]] = {name: [] for name in NAMES}
    sites = dict(zip(partition.names_of(len(NAMES)), NAMES, strict=True))
    for split, rows in zip(SPLITS, (set_.train, set_.val, set_.test), strict=True):
        where = partition.by_group({row.id: row.group or row.id for row in rows}, len(NAMES), seed=0)
        for row in rows:
            found[sites[where[row.id]]].append((row, split))
    return found


def furnish(folder: Path, pictures: list[tuple[protocols.Row, str]]) -> None:
    """Put a plant's pictures into its folder with a manifest, and those of its test split onto its line."""
    (folder / LINE).mkdir()
    for row, split in pictures:
        target = folder / DATA / row.id
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row.path, target)
        if split == "test":
            shutil.copy(row.path, folder / LINE / f"{row.label}-{row.path.name}")
    with (folder / DATA / "parts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "group"))
        writer.writerows((row.id, row.label, split, row.group) for row, split in pictures)


def walk(script: Any, work: Path, rounds: int, steps: int | None) -> dict[str, Any]:
    """Go the whole road; return federated.json, what was decided, and seconds of each plant and of the run."""
    set_ = protocols.load(SET, 0)
    with script.places(work, NAMES, loopback=False) as (coordinator, plants), contextlib.ExitStack() as running:
        if script.lacking():
            sys.exit(f"No network namespaces ({script.lacking()}): nothing was measured.")
        for name, pictures in shared_out(set_).items():
            furnish(plants[name].folder, pictures)
        share_recipe(coordinator, plants, rounds, steps)
        script.federate(coordinator, plants, running, DATA)
        decided = {}
        for name, place in plants.items():
            script.packed(place)
            decisions = script.streamed(place, running, PICTURES)
            print(script.said(place, decisions), flush=True)
            decided[name] = tally(place, decisions, set_.ok)
        (result,) = coordinator.folder.rglob("federated.json")
        took = {name: dict(place.took) for name, place in (("coordinator", coordinator), *plants.items())}
        return {"result": json.loads(result.read_text()), "decided": decided, "took": took}


def share_recipe(coordinator: Any, plants: dict[str, Any], rounds: int, steps: int | None) -> None:
    """Let the first plant draft the recipe from its own pictures and mail it to the others."""
    first = plants[NAMES[0]]
    first.edge_sft(f"init {DATA}")
    drafted = first.folder / "recipe.toml"
    text = drafted.read_text(encoding="utf-8") + f"\n[federated]\nrounds = {rounds}\n"
    text = text.replace('steps = "auto"', f"steps = {steps}") if steps else text
    for place in (coordinator, *plants.values()):
        (place.folder / "recipe.toml").write_text(text, encoding="utf-8")


def tally(place: Any, decisions: list[dict[str, str]], ok: tuple[str, ...]) -> Decided:
    """Hold decisions against the label that each file's name begins with."""
    seen: Counter[tuple[bool, str]] = Counter()
    for one in decisions:
        seen[Path(one["name"]).name.partition("-")[0] in ok, one["verdict"]] += 1
    (proof,) = (place.folder / "device" / "pipelines").rglob("proof.json")
    return Decided(len(list((place.folder / LINE).iterdir())), len(decisions), seen, chosen_of(proof))


def chosen_of(proof: Path) -> str:
    """Return the variant that a device chose."""
    return str(json.loads(proof.read_text(encoding="utf-8"))["chosen"])


def table(walked: dict[str, Any]) -> str:
    """Return the Markdown tables."""
    result, took = walked["result"], walked["took"]
    scored = [
        "| plant | pictures train / val / test | alone | global | personal | personal − alone [95 %] | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    moved = [
        "| plant | variant | decisions over MQTT | MB up | MB down | join s | run s | export s | deploy s | agent s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, said in walked["decided"].items():
        site, stage = result["sites"][name], stages(took[name])
        counts = " / ".join(f"{site['samples'][split]:.0f}" for split in SPLITS)
        scores = " | ".join(f"{site[way]['test']['balanced_accuracy']:.3f}" for way in ("alone", "global", "personal"))
        scored.append(f"| {name} | {counts} | {scores} | {paired(site)} | {site['chosen']} |")
        moved.append(
            f"| {name} | {said.variant} | {said.decisions} of {said.pictures}: {said.cell()} "
            f"| {site['bytes_up'] / 1e6:.1f} | {site['bytes_down'] / 1e6:.1f} | {stage['join']:.0f} "
            f"| {site['seconds']:.0f} | {stage['export']:.0f} | {stage['deploy']:.0f} | {stage['stream']:.0f} |"
        )
    return "\n".join([*scored, "", *moved, "", totals(result, took["coordinator"])])


def stages(took: dict[str, float]) -> dict[str, float]:
    """Return a plant's seconds by stage."""
    return {
        stage: sum(seconds for line, seconds in took.items() if line.startswith(begin))
        for stage, begin in STAGES.items()
    }


def paired(site: dict[str, Any]) -> str:
    """Return the gain over learning alone with its interval, in points."""
    found = site["paired"].get("personal-alone", {}).get("test")
    if not found:
        return "–"
    low, high = found.get("low"), found.get("high")
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * found['difference']:+.1f}{interval}"


def totals(result: dict[str, Any], coordinator: dict[str, float]) -> str:
    """Say what the run took in all."""
    moved = result["bytes"]
    share = (moved["up"] + moved["down"]) / moved["plain"]
    run = sum(seconds for line, seconds in coordinator.items() if line.startswith("federate run"))
    return (
        f"`federate run`: {run:.0f} s for {result['rounds']} rounds and the final models, {result['status']}; "
        f"{moved['up'] / 1e6:.1f} MB up and {moved['down'] / 1e6:.1f} MB down in all, {100 * share:.0f} % of what "
        f"Flower's plain FedAvg sends for as many rounds of the same model ({result['weights']['bytes'] / 1e6:.1f} MB)."
    )


def looked(result: dict[str, Any], rounds: int, steps: int | None) -> None:
    """Write down that test splits were scored."""
    with LOOKS.open("a", encoding="utf-8") as file:
        for name, site in result["sites"].items():
            row = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "set": f"federated_{SET}"}
            row |= {"seed": 0, "who": "ours", "config": f"{rounds} rounds, steps {steps or 'auto'}", "site": name}
            scores = {way: site[way]["test"]["balanced_accuracy"] for way in ("alone", "global", "personal")}
            file.write(json.dumps(row | {"samples": site["samples"]["test"]} | scores) + "\n")


def main() -> None:
    """Walk, print, keep."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--steps", type=int, help="of training; default: the recipe's auto")
    given.add_argument("--threads", type=int, default=1, help="of each process")
    given.add_argument("--work", type=Path, help="a folder to be made, and kept; default: a temporary one")
    given.add_argument("--out", type=Path, help="write the table here, too")
    asked = given.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(asked.threads), "OMP_WAIT_POLICY": "PASSIVE", "NO_COLOR": "1"}
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        walked = walk(example(), (asked.work or Path(temporary) / "work").resolve(), asked.rounds, asked.steps)
    looked(walked["result"], asked.rounds, asked.steps)
    options = " ".join(word for word in sys.argv[1:] if word)
    head = (
        f"# Pictures at four plants, the whole road\n\n"
        f"Command: `python benchmarks/federated_pictures.py {options}`  \n"
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, load "
        f"{load:.1f} when it began, {asked.threads} thread a process, Python {platform.python_version()}, "
        f"PyTorch {version('torch')}, Flower {version('flwr')}, ONNX Runtime {version('onnxruntime')}; "
        f"{time.monotonic() - began:.0f} s in all\n\n"
    )
    text = f"{head}{table(walked)}\n"
    print(f"\n{text}")
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
