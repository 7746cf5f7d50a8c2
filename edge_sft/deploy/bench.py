"""Measuring a model where it runs: every variant beside the bare library, in a fresh process, with progress."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import edge_sft
from edge_sft.bundle.manifest import Manifest
from edge_sft.deploy import proving
from edge_sft.deploy.bench_result import BenchReport, Measured
from edge_sft.deploy.bench_run import BenchRequest
from edge_sft.errors import BugError, DeviceError, UserError
from edge_sft.prediction import rfc3339
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.progress import Progress, Silent

_STEPS = 100
_SILENCE_S = 120.0  # beside what building an engine may take: a process that says nothing for longer hangs


def chosen_variants(manifest: Manifest, profile: DeviceProfile, asked: list[str]) -> tuple[VariantName, ...]:
    """Return the variants to measure: those asked for, else what the profile permits and the bundle holds.

    Raises:
        UserError: The bundle does not hold one, or none of what the profile permits.
    """
    held = [entry.variant for entry in manifest.variants]
    chosen = asked or [variant for variant in profile.variants if variant in held]
    unknown = [name for name in chosen if name not in held]
    if unknown or not chosen:
        what = f"holds no {' and no '.join(unknown or profile.variants)}"
        raise UserError(f"{manifest.name} {manifest.version}", what, f"It holds: {', '.join(held)}.")
    return tuple(variant for variant in held if variant in chosen)


def bench(request: BenchRequest, manifest: Manifest, digest: str, progress: Progress | None = None) -> BenchReport:
    """Measure in a process of its own; ended with this one, or when this is interrupted.

    Args:
        request: What to measure.
        manifest: The bundle's.
        digest: SHA-256 of its bytes.
        progress: Watched by people.

    Raises:
        DeviceError: No variant runs, or the process crashed or hangs; it says at what.
        EdgeSftError: What the measuring itself raised.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found = _measured(request, progress or Silent())
    return BenchReport(
        **found.model_dump(),
        measured_at=rfc3339(datetime.now(timezone.utc)),
        made_by=f"edge-sft {edge_sft.__version__}",
        name=manifest.name,
        version=manifest.version,
        digest=digest,
        profile=request.profile,
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        load=load,
    )


def _measured(request: BenchRequest, progress: Progress) -> Measured:
    silence_s = request.profile.building.timeout_s + _SILENCE_S + request.energy_s
    with tempfile.TemporaryFile() as words, _child(words) as child:
        follower = _Follower(progress)
        try:
            follower.follow(child, request, silence_s)
        finally:
            child.kill()
            status = child.wait()
        if follower.result is None:
            words.seek(0)
            said = words.read()[-4000:].decode(errors="replace").strip().splitlines()
            why = follower.hung or proving._ending(status) + (f": {said[-1][:200]}" if said else "")
            raise DeviceError("the measuring process", f"ended while {follower.doing} ({why})", "Run: edge-sft doctor")
        return follower.result


@contextlib.contextmanager
def _child(words: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_sft.deploy.bench_run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        cwd=Path(edge_sft.__file__).resolve().parent.parent,  # not where a stray numpy.py may lie
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _Follower:
    """Takes in what the child says."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._at = 0
        self._timing = False
        self.doing = "starting"
        self.hung = ""
        self.result: Measured | None = None

    def follow(self, child: subprocess.Popen[bytes], request: BenchRequest, silence_s: float) -> None:
        if child.stdin is None or child.stdout is None:
            raise BugError("the measuring process", "has no pipes", "Please report it.")
        lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=proving._read_lines, args=(child.stdout, lines), daemon=True).start()
        with contextlib.suppress(OSError):  # a child that died at once is found out below
            child.stdin.write(request.model_dump_json().encode() + b"\n")
            child.stdin.flush()
        self._progress.start("Loading", len(request.variants))
        while True:
            heard = _next(lines, silence_s)
            if heard is TimeoutError:
                self.hung = f"said nothing for {silence_s:g} s"
                return
            if heard is None or self._note(heard):
                return

    def _note(self, line: Any) -> bool:
        """Take in one event; true when it was the last."""
        try:
            event: dict[str, Any] = json.loads(line)
            kind = event.pop("event")
        except (ValueError, KeyError, AttributeError, TypeError):
            return False  # a library wrote to stdout
        if kind == "doing":
            self._doing(event["what"])
        elif kind == "timing":
            self._show(event["share"], event["what"])
        elif kind == "failed":
            raise proving._error(event)
        elif kind == "result":
            self.result = Measured.model_validate(event["report"])
        return bool(kind == "done")

    def _doing(self, what: str) -> None:
        self.doing = what
        self._progress.advance(1 if what.startswith("loading") else 0, what)

    def _show(self, share: float, rounds: str) -> None:
        if not self._timing:
            self._timing, self.doing = True, "timing"
            self._progress.start("Timing in turn", _STEPS)
        self._progress.advance(int(share * _STEPS) - self._at, rounds)
        self._at = int(share * _STEPS)


def _next(lines: queue.Queue[bytes | None], silence_s: float) -> Any:
    """Return the next line, None at the end, or TimeoutError; polled, so that Ctrl-C is heard on every system."""
    end = time.monotonic() + silence_s
    while time.monotonic() < end:
        with contextlib.suppress(queue.Empty):
            return lines.get(timeout=0.2)
    return TimeoutError


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
