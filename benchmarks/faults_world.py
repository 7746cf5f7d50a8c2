"""For `federated_faults.py`: one federation of real processes on loopback, and how to break a site of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EDGE_SFT = (sys.executable, "-m", "edge_sft.cli.main")
SITES, BROKEN = ("lyon", "turin", "graz"), "graz"

# What the broken site's Python imports first: it changes what leaves, in the run and round that a file names.
SABOTAGE = """
import importlib.abc, importlib.util, json, os, sys, time
from pathlib import Path
HERE = Path(os.environ["EDGE_SFT_FAULTS"])
NAME = "edge_sft.federated.client"

def told(run, number):
    try:
        fault = json.loads((HERE / "fault.json").read_text())
    except (OSError, ValueError):
        return ""
    return fault["kind"] if (fault["run"], fault["round"]) == (run, number) else ""

def sabotage(client):
    update, hello, version = client._update, client._hello, client.__version__
    def spoilt(section, store, after, before, number):
        encoded, kind = update(section, store, after, before, number), told(store.run, number)
        if kind == "hold":
            (HERE / "held").touch()
            while (HERE / "held").exists():
                time.sleep(0.05)
        if kind in ("nan", "hundredfold"):
            arrays = client.decode(encoded)
            for name, array in arrays.items():
                arrays[name] = array * 100 if kind == "hundredfold" else array + float("nan")
            encoded = client.encode(arrays, "none")
        return encoded
    def greeted(asked, store, *rest):
        client.__version__ = "0.0.9" if told(store.run, 0) == "version" else version
        return hello(asked, store, *rest)
    client._update, client._hello = spoilt, greeted

class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def execute(module):
            run(module)
            sabotage(module)
        spec.loader.exec_module = execute
        return spec

sys.meta_path.insert(0, Hook())
"""


def patiently(done: Callable[[], Any], what: str, patience_s: float = 180.0) -> Any:
    """Wait until something is truthy and return it; end where it never comes."""
    ends = time.monotonic() + patience_s
    while not (found := done()):
        if time.monotonic() > ends:
            raise SystemExit(f"waited {patience_s:.0f} s for {what}")
        time.sleep(0.1)
    return found


class World:
    """A coordinator in ``hub/`` and a folder a site; processes by name."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._running)):
            self._running[name].terminate()
        time.sleep(3)
        for name in reversed(list(self._running)):
            self.kill(name)

    def make(self, recipe: str) -> None:
        """Make the federation, let all sites join and come online."""
        plants = _example()
        text = (ROOT / "examples" / "turbofan_plants" / "recipe.toml").read_text().partition("[train]")[0]
        (self.folder / "recipe.toml").write_text(text.replace("length = 100", "length = 40") + recipe)
        (self.folder / "faults").mkdir()
        (self.folder / "faults" / "sitecustomize.py").write_text(SABOTAGE)
        listen = f"--address 127.0.0.1:{self.port} --listen 127.0.0.1:{self.port} --superlink-port {self.port + 1}"
        self.verb(f"federate init {listen} --dir hub")
        self.up()
        for number, site in enumerate(SITES):
            (self.folder / f"data-{site}").mkdir()
            plants.made_up(self.folder / f"data-{site}" / "engines", random.Random(number), wear=1.0, gain=1.0)
            self.verb(f"federate invite {site} --dir hub")
            self.verb(f"site join {site}.invite --data data-{site}/engines --recipe recipe.toml --dir {site}")
            self.serve(site, wait="does not admit")
            self.verb(f"site approve {site}.join --dir hub")
            self.until(site, "serving: node")

    # ---- processes

    def verb(self, line: str) -> str:
        """Run a verb of edge-sft; return what it printed."""
        done = subprocess.run(
            [*EDGE_SFT, *line.split()],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"edge-sft {line}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def log(self, name: str) -> Path:
        """Return where a process writes."""
        return self.folder / f"{name}.log"

    def start(self, name: str, words: Sequence[object], env: dict[str, str] | None = None) -> None:
        """Start a process; its log begins anew."""
        with self.log(name).open("wb") as out:
            self._running[name] = subprocess.Popen(
                [str(word) for word in words],
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env={**self._environment, **(env or {})},
                start_new_session=True,
            )

    def until(self, name: str, said: str, patience_s: float = 120.0) -> None:
        """Wait until a process has said something."""
        patiently(lambda: said in self.log(name).read_text(errors="replace"), f"'{said}' in {name}.log", patience_s)

    def up(self) -> None:
        """Start the coordinator."""
        self.start("up", [*EDGE_SFT, "federate", "up", "--dir", "hub"])
        self.until("up", "is up")

    def serve(self, site: str, *, clock: str = "", wait: str = "serving: node") -> None:
        """Start a site, perhaps with another clock; the broken one with what breaks it."""
        faults = self.folder / "faults"
        env = {"EDGE_SFT_FAULTS": str(faults), "PYTHONPATH": f"{faults}:{ROOT}"} if site == BROKEN else {}
        # clocks that only ever go forward stay as they are: the machine was not asleep
        shifted = ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", clock] if clock else []
        self.start(site, [*shifted, *EDGE_SFT, "site", "run", "--dir", site], env)
        if wait:
            self.until(site, wait)

    def kill(self, name: str) -> int:
        """Kill -9 a process and all that it started; return how many there were."""
        family = self._family(name)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running[name].wait()
        return len(family)

    def signal_stop(self, name: str) -> None:
        """Stop a process and all that it started, as a machine that hangs."""
        for pid in self._family(name):
            os.kill(pid, signal.SIGSTOP)

    def signal_continue(self, name: str) -> None:
        """Let them go on."""
        for pid in self._family(name):
            os.kill(pid, signal.SIGCONT)

    def _family(self, name: str) -> list[int]:
        """Return a process and its descendants, eldest first."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found = [self._running[name].pid]
        for pid in found:
            found += parents.get(pid, [])
        return found

    # ---- runs

    def control(self, run: str, kind: str, number: int) -> None:
        """Say what the broken site does in a run's round."""
        path = self.folder / "faults" / "fault.json"
        path.with_suffix(".new").write_text(json.dumps({"run": run, "kind": kind, "round": number}))
        path.with_suffix(".new").replace(path)

    def wait_held(self) -> None:
        """Wait until the broken site has learnt and holds its update back."""
        patiently((self.folder / "faults" / "held").exists, "the site to hold its update")

    def release(self) -> None:
        """Let it go, and never hold again in this run."""
        self.control("", "", 0)
        (self.folder / "faults" / "held").unlink()

    def watch(self, name: str) -> None:
        """Start a run, or watch the one that goes on."""
        words = ["federate", "run", "recipe.toml", "--name", name, "--dir", "hub"]
        self.start("watch", [*EDGE_SFT, *words])

    def finish(self, name: str) -> str:
        """Wait until the run ends; return how."""
        code = self._running["watch"].wait(420)
        words = self.log("watch").read_text()
        if code:
            raise SystemExit(f"{name} ended with {code}:\n{words}\n{self.log('up').read_text()}")
        result = json.loads((self.run_folder(name) / "result" / "federated.json").read_text())
        return str(result["status"])

    def run_folder(self, name: str) -> Path:
        """Return where the coordinator keeps a run."""
        return self.folder / "hub" / "runs" / name

    def rounds(self, name: str) -> list[dict[str, Any]]:
        """Return the record's rounds."""
        record = self.run_folder(name) / "rounds.jsonl"
        rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        return [row for row in rows if row["kind"] == "round"]


def _example() -> Any:
    """Load the example that makes up engines."""
    spec = spec_from_file_location("turbofan_plants", ROOT / "examples" / "turbofan_plants" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
