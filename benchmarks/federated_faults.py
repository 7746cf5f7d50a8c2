"""What becomes of a run when something breaks: real processes, one federation of three plants, one run a fault.

    python benchmarks/federated_faults.py --out benchmarks/results/federated_faults.md   # 19 min, two busy cores

A coordinator (`federate up`: nginx, SuperLink with TLS and node authentication) and three `site run` on loopback learn
the remaining life of made-up engines by `edge-sft`'s own learner. Biases and head travel, the other layers stay at
their site; updates are int8 and what rounding loses is owed. One plant, graz, is broken in each run in another way, or
the coordinator is. What the table says is read from the run's record, the site's log and the files' SHA-256. The end is
1 where a promise was not kept. Needs nginx, and `faketime` for the wrong clocks.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from faults_world import BROKEN, SITES, World, patiently

from edge_sft.federated import chain, weights_file

ROUNDS, DEADLINE_S = 4, 25
RECIPE = """
[export]
variants = ["fp32"]

[train]
steps = 12
folds = 2

[federated]
rounds = {rounds}
quorum = 2
deadline_s = {deadline}
share = "bias"
compare_local = false
"""


@dataclass(frozen=True)
class Fault:
    """One run.

    Attributes:
        name: Of the run.
        what: What was broken, for people.
        control: What the broken site's process is told to do, and in which round.
        during: What is done to processes while the run goes on; returns what was found at that moment.
        first: Done before the run starts.
        status: What graz is in the record, by round.
        words: What must be said of it, in the record or in the site's log.
        same: The final model must be the undisturbed run's, byte for byte.
    """

    name: str
    what: str
    status: dict[int, str]
    words: str = ""
    control: tuple[str, int] | None = None
    during: Callable[[World, str], str] | None = None
    first: Callable[[World], None] | None = None
    same: bool = False


# ---- what is done to processes


def site_killed(world: World, name: str) -> str:
    """Kill -9 graz' site and all its processes with round 2's update learnt and not sent; start it again."""
    world.wait_held()
    count = world.kill(BROKEN)
    found = f"{count} processes; the record had {len(world.rounds(name))} rounds"
    world.release()
    world.serve(BROKEN)
    return found


def coordinator_killed(world: World, name: str) -> str:
    """Kill -9 everything of the coordinator with round 3 under way; start it again, go on with the run."""
    world.wait_held()
    count = world.kill("watch") + world.kill("up")
    found = f"{count} processes; the record had {len(world.rounds(name))} rounds"
    world.release()
    time.sleep(3)
    world.up()
    world.watch(name)
    return found


def paused(world: World, _: str) -> str:
    """Stop graz (SIGSTOP) in round 2 until round 3 is asked for; let it go on."""
    world.wait_held()
    world.signal_stop(BROKEN)
    world.release()
    patiently(lambda: len(world.rounds("paused")) >= 2, "round 2 without the paused site", DEADLINE_S + 60)
    world.signal_continue(BROKEN)
    return f"let go on when the record had {len(world.rounds('paused'))} rounds"


def clock(shift: str) -> Callable[[World], None]:
    """Let graz come with a clock that is wrong by so much."""

    def first(world: World) -> None:
        world.kill(BROKEN)
        world.serve(BROKEN, clock=shift, wait="")

    return first


def healed(world: World) -> None:
    """Start graz as it should be."""
    world.kill(BROKEN)
    world.serve(BROKEN)


OK = dict.fromkeys(range(1, ROUNDS + 1), "ok")
OUT: dict[int, str] = dict.fromkeys(range(1, ROUNDS + 1), "")
FAULTS = (
    Fault("undisturbed", "nothing", OK, same=True),
    Fault(
        "coordinator",
        f"kill −9 of the whole coordinator in round 3 of {ROUNDS}; started again",
        OK,
        control=("hold", 3),
        during=coordinator_killed,
        same=True,
    ),
    Fault(
        "site",
        "kill −9 of graz' processes in round 2, its update learnt and not sent; started again",
        {1: "ok", 3: "ok", 4: "ok"},
        control=("hold", 2),
        during=site_killed,
    ),
    Fault(
        "paused",
        f"graz stopped (SIGSTOP) in round 2 past the deadline of {DEADLINE_S} s, then let go on",
        {1: "ok", 2: "late", 4: "ok"},
        "late",
        control=("hold", 2),
        during=paused,
    ),
    Fault("nan", "graz sends NaN in round 2", OK | {2: "bad"}, "NaN or infinite numbers", control=("nan", 2)),
    Fault(
        "hundredfold",
        "graz sends a 100 times longer update in round 2",
        OK | {2: "bad"},
        "times the median",
        control=("hundredfold", 2),
    ),
    Fault("version", "graz runs edge-sft 0.0.9", OUT, "install the same version on both", control=("version", 0)),
    Fault("ahead", "graz' clock is ten minutes ahead", OUT, "clock", first=clock("+10m")),
    Fault("behind", "graz' clock says two years ago", OUT, "clock", first=clock("-730d")),
    Fault("healed", "nothing, after all that", OK, first=healed, same=True),
)


# ---- what came of it


@dataclass(frozen=True)
class Kept:
    """What a site holds of a run: tensors by name that never left it, and how many values it owes of how many."""

    private: tuple[str, ...] = ()
    owed: int = 0
    residual: int = 0


@dataclass
class Outcome:
    """What the files say of one run."""

    fault: Fault
    rows: list[dict[str, Any]]
    ended: str
    said: str
    digests: dict[str, str]
    seconds: float
    found: str
    kept: dict[str, Kept]
    chains: dict[str, str]

    def story(self) -> str:
        """Tell what the record says of graz and of the others, round by round."""
        parts = []
        for row in self.rows:
            sites = row["sites"]
            good = sum(one["status"] == "ok" for one in sites.values())
            mine = sites.get(BROKEN, {})
            why = f": {mine['why']}" if mine.get("why") and mine["status"] != "ok" else ""
            parts.append(f"round {row['round']}: {good} ok, graz {mine.get('status', 'not there')}{why}")
        return "; ".join(parts)

    def problems(self, wanted: dict[str, str]) -> list[str]:
        """Name the promises that were not kept."""
        found = [] if self.ended == "finished" else [f"ended as {self.ended}"]
        found += [] if [row["round"] for row in self.rows] == list(range(1, ROUNDS + 1)) else ["not every round once"]
        for row in self.rows:
            others = [name for name, one in row["sites"].items() if one["status"] == "ok" and name != BROKEN]
            found += [] if len(others) == len(SITES) - 1 else [f"round {row['round']}: not all others took part"]
            status = row["sites"].get(BROKEN, {}).get("status", "")
            expected = self.fault.status.get(row["round"])
            if expected is not None and status != expected and not (expected == "" and status != "ok"):
                found.append(
                    f"round {row['round']}: graz is {status or 'not there'}, expected {expected or 'left out'}"
                )
        if self.fault.words and self.fault.words not in self.story() + self.said:
            found.append(f"nobody said '{self.fault.words}'")
        if self.fault.same and (self.digests != wanted or set(wanted) != {"global", *SITES}):
            found.append("the final models are not the undisturbed run's")
        found += [f"the chain of {name}: {broken}" for name, broken in self.chains.items() if broken]
        for site in (name for name in SITES if self.last(name) == "ok"):
            kept = self.kept[site]
            found += [] if kept.private and kept.owed else [f"{site} holds no private layers or owes nothing"]
        return found

    def last(self, site: str) -> str:
        """Return what a site was in the last round."""
        return str(self.rows[-1]["sites"].get(site, {}).get("status", "")) if self.rows else ""

    def back(self) -> str:
        """Say in which round graz was in again after the one in which it was not."""
        good = [row["round"] for row in self.rows if row["sites"].get(BROKEN, {}).get("status") == "ok"]
        missed = [row["round"] for row in self.rows if row["round"] not in good]
        if not missed:
            return "in every round"
        again = [number for number in good if number > missed[0]]
        return f"missed round {missed[0]}, back in round {again[0]}" if again else "never in"


def go(world: World, fault: Fault) -> Outcome:
    """Run one run to its end."""
    began, log = time.monotonic(), world.log(BROKEN)
    if fault.first:
        fault.first(world)
    before = log.stat().st_size
    if fault.first and not fault.same:
        before = 0
        time.sleep(10)
    world.control(fault.name, *(fault.control or ("", 0)))
    world.watch(fault.name)
    found = fault.during(world, fault.name) if fault.during else ""
    ended = world.finish(fault.name)
    said = log.read_bytes()[before:].decode(errors="replace")
    ledgers = {site: world.folder / site / "ledger.jsonl" for site in SITES}
    chains = ledgers | {"the record": world.run_folder(fault.name) / "rounds.jsonl"}
    return Outcome(
        fault,
        world.rounds(fault.name),
        ended,
        said,
        digests(world, fault.name),
        time.monotonic() - began,
        found,
        {site: kept_at(world.folder / site / "runs" / fault.name) for site in SITES},
        {name: chain.check(path).broken for name, path in chains.items()},
    )


def kept_at(folder: Path) -> Kept:
    """Read what a site keeps after the last round."""
    private, residual = (folder / f"{kind}-{ROUNDS}.safetensors" for kind in ("private", "residual"))
    if not private.exists() or not residual.exists():
        return Kept()
    owed = weights_file.read(residual)[0].values()
    values = np.concatenate([array.ravel() for array in owed])
    return Kept(tuple(sorted(weights_file.read(private)[0])), int(np.count_nonzero(values)), values.size)


def digests(world: World, name: str) -> dict[str, str]:
    """Return the SHA-256 of the global weights and of each site's own model."""
    found = {"global": world.run_folder(name) / "result" / "global.safetensors"}
    found |= {site: world.folder / site / "runs" / name / "checkpoint" / "model.safetensors" for site in SITES}
    return {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in found.items() if path.exists()}


def last_words(outcome: Outcome) -> str:
    """Return the line of graz' own log that says what is wrong there, if any."""
    lines = [line.strip() for line in outcome.said.splitlines() if outcome.fault.words and outcome.fault.words in line]
    return lines[-1][:200] if lines else "–"


def table(outcomes: list[Outcome]) -> str:
    """Return the Markdown tables."""
    wanted = outcomes[0].digests
    lines = ["| broken | the record | graz | graz' own log | end | kept? |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        problems = one.problems(wanted)
        kept = f"**NO: {'; '.join(problems)}**" if problems else "yes"
        what = one.fault.what + (f" ({one.found})" if one.found else "")
        cells = [what, one.story(), one.back(), last_words(one), f"{one.ended}, {one.seconds:.0f} s", kept]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "SHA-256 of what the runs ended with:", ""]
    lines += ["| run | global | " + " | ".join(SITES) + " | graz: private tensors, values owed after the last round |"]
    lines += ["|---|---|" + "---|" * (len(SITES) + 1)]
    for one in outcomes:
        cells = [one.digests.get(key, "–")[:12] for key in ("global", *SITES)]
        kept = one.kept[BROKEN]
        held = f"{len(kept.private)}, {kept.owed} of {kept.residual}" if kept.private else "–"
        lines.append(f"| {one.fault.name} | {' | '.join(cells)} | {held} |")
    return "\n".join([*lines, "", *notes(outcomes)])


def notes(outcomes: list[Outcome]) -> list[str]:
    """Say which layers stayed, which runs ended alike and which chains held."""
    kinds = sorted({re.sub(r"\d+", "*", name) for name in outcomes[0].kept[BROKEN].private})
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for one in outcomes:
        alike.setdefault(tuple(sorted(one.digests.items())), []).append(one.fault.name)
    checks = sum(len(one.chains) for one in outcomes)
    broken = sum(bool(words) for one in outcomes for words in one.chains.values())
    return [
        f"Private layers, never sent: {', '.join(f'`{kind}`' for kind in kinds)}.",
        f"Runs that ended with the same bytes everywhere: {'; '.join(', '.join(names) for names in alike.values())}.",
        f"Hash chains checked (the record and each site's ledger, after each run): {checks}, broken: {broken}.",
    ]


def main() -> None:
    """Make the federation, break it, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of runs; default: all")
    parser.add_argument("--port", type=int, default=21100, help="the first of three free ports")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if not options.only or fault.name in {*options.only, "undisturbed"}]
    if shutil.which("faketime") is None:
        sys.exit("faketime is not installed: wrong clocks cannot be tried.")
    outcomes, began = [], time.monotonic()
    recipe = RECIPE.format(rounds=ROUNDS, deadline=DEADLINE_S)
    with tempfile.TemporaryDirectory(prefix="edge-sft-faults-") as scratch, World(Path(scratch), options.port) as world:
        world.make(recipe)
        for fault in chosen:
            outcomes.append(go(world, fault))
            print(f"{fault.name}: {outcomes[-1].ended}; {outcomes[-1].story()}", flush=True)
            with suppress(FileNotFoundError):
                world.control("", "", 0)
    text = (
        f"# What becomes of a run when something breaks\n\n"
        f"`python benchmarks/federated_faults.py {' '.join(sys.argv[1:])}`  \n"
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} cores, Flower "
        f"{version('flwr')}, PyTorch {version('torch')}; {time.monotonic() - began:.0f} s, "
        f"at a load of {os.getloadavg()[2]:.1f} (mean of the last 15 min)\n\n{table(outcomes)}\n"
    )
    print(f"\n{text}")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.exit(any(one.problems(outcomes[0].digests) for one in outcomes))


if __name__ == "__main__":
    main()
