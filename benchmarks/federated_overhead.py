"""What federation costs: simulated against plain training and Flower's Ray, deployed against Flower's quickstarts.

    python benchmarks/federated_overhead.py                 # everything, about ten minutes on two quiet cores
    python benchmarks/federated_overhead.py plain ray       # some of it

plain     `edge_sft.federated.simulate` against the same learners called in a loop: same data, steps, rounds and
          validation after each round, no messages, no vetting, no files. Both read the data anew. Final models are in
          neither: what counts ends with the last round.
ray       `edge-sft federate simulate`, the command, without and with ``--ray``; here with the final models.
deployed  `edge-sft federate run` over nginx, TLS and node authentication against apps as Flower's quickstarts have
          them over an insecure SuperLink, both with one step of training: the seconds are the round's own.

Whatever is compared takes turns in one run, at the same number of threads; numbers are medians, with the range.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import overhead_deployed
import torch
from overhead_deployed import Rounds

from edge_sft.federated.learners import make_learner
from edge_sft.federated.run_store import RunStore
from edge_sft.federated.simulate import Simulation, prepare, simulate
from edge_sft.progress import Silent

DATA = HERE.parents[1] / "shared" / "data"
SITES = 2
SILENT = Silent()
PARTS = ("training", "judging", "reading", "loading", "opening")


@dataclass
class Times:
    """Seconds by what they went into; wraps learners so that these tell."""

    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def of(self, what: str) -> Any:
        began = time.perf_counter()
        yield
        self.spent[what] += time.perf_counter() - began

    def make(self, recipe: str, data: Path, work: Path, progress: Any) -> Any:
        """Make a learner that is timed."""
        with self.of("reading"):
            return Timed(make_learner(recipe, data, work, progress), self)


class Timed:
    """A learner; its training and judging are timed."""

    def __init__(self, learner: Any, times: Times) -> None:
        self._learner, self._times = learner, times

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._learner, name)
        what = {"train": "training", "judge": "judging", "load": "loading", "opening": "opening"}.get(name, "")
        if not what:
            return found

        def timed(*words: Any, **named: Any) -> Any:
            with self._times.of(what):
                return found(*words, **named)

        return timed


class _Enough(BaseException):
    """The last round is done; what follows is not measured."""


@dataclass(frozen=True)
class Case:
    """What is learnt: a name, the recipe's file, rounds and steps a site and round."""

    name: str
    recipe: Path
    partition: str
    rounds: int
    steps: int


def cases(work: Path, short: bool, steps: int) -> list[Case]:
    """Write the recipes and what they read. The defaults are 15 steps a round (remaining life) and, for so many
    pictures, 24: fewer make what federation adds weigh more."""
    life, picture = (4, 2) if short else (12, 3)
    (work / "turbofan").mkdir(parents=True)
    loaded("turbofan").prepare(DATA / "cmapss", "FD001", work / "turbofan" / "engines")
    text = (HERE.parent / "examples" / "turbofan_plants" / "recipe.toml").read_text().partition("[federated]")[0]
    turbofan = work / "turbofan" / "recipe.toml"
    text = text.replace("seed = 0", f"seed = 0\nsteps = {15 * life}")
    turbofan.write_text(f"{text}\n{section(life, 15)}")
    (work / "steel").mkdir()
    init = [*overhead_deployed.EDGE_SFT, "init", str(DATA / "neu_det")]
    subprocess.run(init, cwd=work / "steel", check=True, capture_output=True)
    steel = work / "steel" / "recipe.toml"
    steel.write_text(f"{steel.read_text().replace('size = 192', 'size = 64')}\n{section(picture, steps)}")
    return [
        Case("remaining life (C-MAPSS FD001)", turbofan, "group", life, 15),
        Case("pictures (neu_det, 64 px)", steel, "dirichlet(100)", picture, steps),
    ]


def section(rounds: int, steps: int) -> str:
    """Return the recipe's part on federation: every default but these."""
    return f"[federated]\nrounds = {rounds}\nsteps = {steps}\n"


def loaded(example: str) -> Any:
    """Load an example's script."""
    spec = spec_from_file_location(example, HERE.parent / "examples" / example / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- simulated against plain training


def prepared(case: Case, runs: Path) -> RunStore:
    """Cut the data, before anything is timed."""
    return prepare(Simulation(case.recipe, runs, "run", SITES, case.partition, 0), SILENT)


def federated(case: Case, store: RunStore) -> tuple[float, Times]:
    """Return the seconds until the last round is done, and what they went into."""
    times, began = Times(), time.perf_counter()

    def say(text: str) -> None:
        if text.startswith(f"round {case.rounds} of {case.rounds}"):
            raise _Enough

    try:
        simulate(store, say, times.make)
    except _Enough:
        return time.perf_counter() - began, times
    raise AssertionError("the last round was not told")


def plain(case: Case, store: RunStore) -> tuple[float, Times]:
    """Train as long at each site without federation, each from its own weights on; return the seconds."""
    times, began = Times(), time.perf_counter()
    text = store.recipe()
    for site in sorted(path for path in (store.folder / "sites").iterdir() if path.is_dir()):
        learner = times.make(text, site / "data", site / "plain", SILENT)
        for number in range(1, case.rounds + 1):
            learner.judge("val")
            learner.train(round_number=number, rounds=case.rounds, steps=case.steps, proximal=0.0, progress=SILENT)
    return time.perf_counter() - began, times


def warm(store: RunStore) -> None:
    """Import what a learner imports, and take a step: who comes first would pay for it."""
    site = min(path for path in (store.folder / "sites").iterdir() if path.is_dir())
    learner = make_learner(store.recipe(), site / "data", site / "plain", SILENT)
    learner.judge("val")
    learner.train(round_number=2, rounds=2, steps=1, proximal=0.0, progress=SILENT)


def against_plain(found: Sequence[Case], work: Path, repeats: int) -> str:
    """Take turns; return the table."""
    rows = [
        "| learner | plain s | federated s | ratio | ratio by its own clock | federated, s of it: " + ", ".join(PARTS)
    ]
    rows = [f"{rows[0]}, rest |", "|---|---|---|---|---|---|"]
    for case in found:
        took: dict[Callable[..., Any], list[float]] = {plain: [], federated: []}
        ratios, own, spent = [], [], []
        warm(prepared(case, work / f"warm-{case.recipe.parent.name}"))
        for turn in range(repeats):
            order = (plain, federated) if turn % 2 else (federated, plain)
            one = {}
            for how in order:
                store = prepared(case, work / case.recipe.parent.name / f"{how.__name__}-{turn}")
                one[how], times = how(case, store)
                shown = ", ".join(f"{name} {seconds:.2f}" for name, seconds in times.spent.items())
                print(f"  {how.__name__}: {one[how]:.2f} s, of it {shown}", flush=True)
                if how is federated:
                    own.append(one[how] / sum(times.spent[name] for name in PARTS[:3]))
                    spent.append([*(times.spent[name] for name in PARTS), one[how] - sum(times.spent.values())])
                shutil.rmtree(store.folder)
            print(f"{case.name}, turn {turn}: {one[plain]:.2f} s plain, {one[federated]:.2f} s federated", flush=True)
            ratios.append(one[federated] / one[plain])
            for how, seconds in one.items():
                took[how].append(seconds)
        parts = ", ".join(f"{statistics.median(column):.2f}" for column in zip(*spent, strict=True))
        title = f"{case.name}, {SITES} sites × {case.rounds} rounds × {case.steps} steps"
        rows.append(f"| {title} | {middle(took[plain])} | {middle(took[federated])} | {middle(ratios)} | ")
        rows[-1] += f"{middle(own)} | {parts} |"
    return "\n".join(rows)


def middle(values: Sequence[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


# ---- simulated against Flower's Ray engine


def against_ray(case: Case, work: Path, repeats: int, threads: int) -> str:
    """Run the command without and with ``--ray``, in turns; return the table."""
    found: dict[str, list[Rounds]] = {"in one process": [], "Flower's Ray engine": []}
    for turn in range(repeats):
        for title, more in zip(found, ([], ["--ray"]), strict=True):
            out = work / f"ray-{turn}-{len(more)}"
            words = ["federate", "simulate", str(case.recipe), "--sites", str(SITES), "--partition", case.partition]
            words += ["--out", str(out), "--name", "run", "--threads", str(threads), *more]
            record = out / "run" / "rounds.jsonl"
            one = overhead_deployed.watched([*overhead_deployed.EDGE_SFT, *words], record)
            found[title].append(one)
            print(f"{title}, turn {turn}: {one.whole:.1f} s, between rounds {one.between}", flush=True)
    rows = ["| engine | whole command s | until round 1 is done s | s a round after that |", "|---|---|---|---|"]
    for title, runs in found.items():
        between = [seconds for one in runs for seconds in one.between]
        cells = middle([one.whole for one in runs]), middle([one.first for one in runs]), middle(between)
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="plain, ray, deployed; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="of a round with pictures")
    parser.add_argument("--model", default="", help="plain: pictures, or life; default: both")
    parser.add_argument("--short", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--port", type=int, default=20700, help="the first of six free ports for what is deployed")
    options = parser.parse_args()
    what = options.what or ["plain", "ray", "deployed"]
    if unknown := set(what) - {"plain", "ray", "deployed"}:
        parser.error(f"there is no {', '.join(unknown)}")
    torch.set_num_threads(options.threads)
    import flwr  # noqa: F401 - it sets its log's level as it is imported

    logging.getLogger("flwr").setLevel(logging.WARNING)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    tables = []
    with tempfile.TemporaryDirectory(prefix="edge-sft-overhead-") as scratch:
        work = Path(scratch)
        found = cases(work, options.short, options.steps)
        if "plain" in what:
            chosen = [case for case in found if options.model in case.name]
            tables.append(against_plain(chosen, work, options.repeats))
        if "ray" in what:
            tables.append(against_ray(found[0], work, max(1, options.repeats // 2), options.threads))
        if "deployed" in what:
            tables.append(overhead_deployed.measured(work, max(1, options.repeats // 2), options.port))
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with_what = ", ".join(f"{name} {version(name)}" for name in ("flwr", "ray", "torch", "numpy"))
    print(f"\n{now}, {os.cpu_count()} cores ({platform.machine()}), {options.threads} thread(s); {with_what}\n")
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
