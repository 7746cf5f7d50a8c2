"""The parent's side of the proof: runs `edge_sft.deploy.prove` and survives whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import math
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import edge_sft
from edge_sft import errors
from edge_sft.deploy.judging import Measured
from edge_sft.deploy.prove import Request
from edge_sft.engines.protocol import EngineInfo, builds
from edge_sft.errors import BugError, DeviceError, EdgeSftError
from edge_sft.profile import VariantName
from edge_sft.slots.memory import resident_mb

_POLL_S = 0.05
_RUNAWAY = 3.0  # times the memory budget, on top of the libraries: measured growth beyond is refused anyway
_LIBRARIES_MB = 400.0
_SPARE_S = 60.0  # for starting and loading: an engine's own time limit is kept in the child, in better words
_TELL_EVERY_S = 10.0  # where a library tells nothing of its progress, at least that it is at work

Tell = Callable[[str, "float | None"], None]


@dataclass
class Measurements:
    """What came out: one Measured a variant asked for, in that order, and what really ran them."""

    items: list[Measured] = field(default_factory=list)
    engine: EngineInfo | None = None


@dataclass(frozen=True)
class Outcome:
    """Whether a variant has an engine: what it is, or why there is none."""

    engine: EngineInfo | None
    trouble: str = ""


@dataclass
class _Attempt:
    """One run of the child."""

    items: list[Measured] = field(default_factory=list)
    engine: EngineInfo | None = None
    variant: str | None = None
    what: str = "starting"
    done: bool = False
    killed_for: str = ""
    unbuilt: str = ""


def build(request: Request, variant: VariantName, tell: Tell) -> Outcome:
    """Have a variant's engine in the device's cache, built in a process of its own if it must be.

    Args:
        request: Slot, profile and policy.
        variant: Whose engine.
        tell: Told what is going on, and how much of it is done where that is known.

    Raises:
        DeviceError: The library or the GPU is missing: no variant would do.
    """
    timeout_s = request.profile.building.timeout_s + _SPARE_S
    asked = request.model_copy(update={"variants": (variant,), "step": "build"})
    attempt, status, words = _attempt(asked, timeout_s, tell)
    if attempt.done:
        return Outcome(None if attempt.unbuilt else attempt.engine, attempt.unbuilt)
    if attempt.variant is None:
        raise _not_started(attempt, status, words)
    return Outcome(None, f"{attempt.killed_for or 'crashed (' + _ending(status) + ')'} while {attempt.what}")


def measure(request: Request, *, timeout_s: float) -> Measurements:
    """Measure the variants in a process of their own; one that crashes it is named and the rest go on.

    Args:
        request: Slot, profile, policy and variants.
        timeout_s: For each attempt as a whole.

    Raises:
        DeviceError: The proof could not even start.
        EdgeSftError: What the proof itself raised, e.g. BundleRefused for unusable golden samples.
    """
    crashed: dict[str, Measured] = {}
    while True:
        left = tuple(variant for variant in request.variants if variant not in crashed)
        if not left:
            return Measurements([crashed[variant] for variant in request.variants])
        attempt, status, words = _attempt(request.model_copy(update={"variants": left}), timeout_s)
        if attempt.done:
            by_name = {item.variant: item for item in attempt.items} | crashed
            return Measurements([by_name[variant] for variant in request.variants], attempt.engine)
        if attempt.variant is None:
            raise _not_started(attempt, status, words)
        trouble = f"{attempt.killed_for or 'crashed the engine (' + _ending(status) + ')'} while {attempt.what}"
        crashed[attempt.variant] = Measured.model_validate({"variant": attempt.variant, "trouble": trouble})


def _not_started(attempt: _Attempt, status: int, words: str) -> DeviceError:
    why = attempt.killed_for or words or _ending(status)
    return DeviceError("the proof", f"could not start ({why})", "Run: edge-sft doctor")


def _attempt(request: Request, timeout_s: float, tell: Tell = lambda text, share: None) -> tuple[_Attempt, int, str]:
    """Run the child once; return what it told, its exit status and its last words."""
    limit_mb = _LIBRARIES_MB + _RUNAWAY * request.profile.budgets.memory_mb * len(request.variants)
    if builds(request.profile) or request.profile.provider == "cuda":
        limit_mb = math.inf  # NVIDIA's libraries alone take gigabytes, and more to build; the kernel has the last word
    with tempfile.TemporaryFile(dir=request.slot) as words:  # not /tmp, which may be full
        child = subprocess.Popen(
            [sys.executable, "-m", "edge_sft.deploy.prove"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            # `-m` looks into the working directory first: not where a stray numpy.py may lie
            cwd=Path(edge_sft.__file__).resolve().parent.parent,
        )
        try:
            attempt = _follow(child, request, timeout_s, limit_mb, tell)
        finally:
            child.kill()
            status = child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        words.seek(0)
        said = words.read()[-4000:].decode(errors="replace").strip().splitlines()
    return attempt, status, said[-1][:300] if said else ""


def _follow(
    child: subprocess.Popen[bytes], request: Request, timeout_s: float, limit_mb: float, tell: Tell
) -> _Attempt:
    if child.stdin is None or child.stdout is None:
        raise BugError("the proof", "has no pipes", "Please report it.")
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read_lines, args=(child.stdout, lines), daemon=True).start()
    with contextlib.suppress(OSError):  # a child that died at once is found out below
        child.stdin.write(request.model_dump_json().encode() + b"\n")
        child.stdin.flush()
    attempt, began = _Attempt(), time.monotonic()
    end, told = began + timeout_s, began
    while True:
        try:
            line = lines.get(timeout=_POLL_S)
        except queue.Empty:
            used = resident_mb(child.pid)
            if used is not None and used > limit_mb:
                attempt.killed_for = f"took {used:.0f} MB of memory"
                return attempt
            if time.monotonic() > end:
                attempt.killed_for = f"did not end within {timeout_s:g} s"
                return attempt
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                tell(f"{attempt.what}, {told - began:.0f} s so far", None)
            continue
        told = time.monotonic()
        if line is None or _note(attempt, line, tell):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
            return attempt


def _note(attempt: _Attempt, line: bytes, tell: Tell) -> bool:
    """Take in one event; true when it was the last."""
    try:
        event: dict[str, Any] = json.loads(line)
        kind = event.pop("event")
    except (ValueError, KeyError, AttributeError):
        return False  # a library wrote to stdout
    if kind == "doing":
        attempt.variant, attempt.what = event["variant"], event["what"]
    elif kind == "engine":
        attempt.engine = EngineInfo(**{**event, "notes": tuple(event.get("notes", ()))})
    elif kind == "building":
        tell(event["text"], event["share"])
    elif kind == "unbuilt":
        attempt.unbuilt = event["why"]
    elif kind == "measured":
        attempt.items.append(Measured.model_validate(event))
    elif kind == "failed":
        raise _error(event)
    attempt.done = kind == "done"
    return attempt.done


def _error(event: dict[str, str]) -> EdgeSftError:
    branch = getattr(errors, event["branch"], BugError)
    error: EdgeSftError = branch(event["thing"], event["fact"], event["remedy"])
    return error


def _read_lines(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # the pipe is closed under us when the child is killed
        for line in pipe:
            lines.put(line)
    lines.put(None)


def _ending(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
            why = ": the machine ran out of memory, most likely" if name == "SIGKILL" else ""
            return f"killed by {name}{why}"
    return f"exit status {status}"
