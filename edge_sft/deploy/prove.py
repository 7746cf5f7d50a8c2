"""The proof's own process: `python -m edge_sft.deploy.prove`, request on stdin, events as JSON lines on stdout.

It is started once a variant to build its engine, where the profile's engine is one that is built, and then once to
measure all: what building takes is not charged to a model, and a build that crashes or hangs is one variant's.

A model that crashes its engine or eats the memory then takes this process with it, not the deploy and not the
agent; and resident memory is measured in a process that holds nothing else. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from edge_sft.deploy.candidates import Candidate, open_candidate
from edge_sft.deploy.judging import Measured
from edge_sft.engines.protocol import EngineNotBuilt, builds
from edge_sft.errors import DeviceError, EdgeSftError
from edge_sft.policy import AnyPolicy
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.slots import golden
from edge_sft.slots.memory import resident_mb
from edge_sft.slots.opening import build_engine, is_tiled
from edge_sft.slots.store import read_manifest

WARM_UP = 3
MIN_RUNS = 30
MAX_RUNS = 120
SECONDS_PER_VARIANT = 1.5
_HOPELESS = 3.0  # times the budget: after five such runs the rest would only cost the line time


class Request(BaseModel):
    """What is to be proved; with the step ``build`` only have engines in the device's cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: Path
    profile: DeviceProfile
    policy: AnyPolicy
    variants: tuple[VariantName, ...]
    step: Literal["build", "measure"] = "measure"


def main() -> None:
    """Serve one request, then leave without ceremony."""
    with contextlib.suppress(OSError):  # when memory runs out, the kernel should take this process, not the agent
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    request = Request.model_validate_json(_first_line())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        build(request) if request.step == "build" else measure(request)
        _tell("done")
    except EdgeSftError as error:
        _tell("failed", branch=type(error).__name__, thing=error.thing, fact=error.fact, remedy=error.remedy)
    sys.stdout.flush()
    os._exit(0)  # nothing here is worth a slow shutdown


def build(request: Request) -> None:
    """Have each variant's engine in the device's cache, and say of each whether it is.

    Raises:
        DeviceError: The library or the GPU is missing.
    """
    for variant in request.variants:
        _tell("doing", variant=variant, what="building its engine")
        try:
            info = build_engine(
                request.slot, variant, request.profile, lambda text, share: _tell("building", text=text, share=share)
            )
            _tell("engine", **asdict(info))
        except EngineNotBuilt as error:
            _tell("unbuilt", why=error.fact)


def measure(request: Request) -> None:
    """Load every variant, ask it the golden samples, then time those that answered right, interleaved.

    Raises:
        BundleRefused: golden.npz is unusable.
    """
    manifest = read_manifest(request.slot)
    modality = manifest.task.modality
    _import_libraries(modality)
    _wake_gpu(request)
    samples = golden.load(request.slot)
    tolerances = {entry.variant: entry.golden_tolerance for entry in manifest.variants}
    found: dict[VariantName, Measured] = {}
    loaded: dict[VariantName, Candidate] = {}
    for variant in request.variants:
        _tell("doing", variant=variant, what="loading")
        found[variant], candidate = _load_and_ask(request, variant, modality, samples, tolerances[variant])
        if candidate is not None:
            loaded[variant] = candidate
    times = _time(loaded, request.profile.budgets.latency_p95_ms)
    for variant, item in found.items():
        _tell("measured", **_with_times(item, times.get(variant, [])).model_dump())


def _load_and_ask(
    request: Request, variant: VariantName, modality: str, samples: golden.Golden, tolerance: float
) -> tuple[Measured, Candidate | None]:
    rule = request.policy.model_copy(update={"deadline_ms": None})  # here we want to know how late it would be
    # windows of many machines are decided in one run, and a GPU is given several tiles at a time
    together = modality == "window" or (builds(request.profile) and is_tiled(read_manifest(request.slot)))
    _give_back_memory()
    before, gpu_before = resident_mb(), _gpu_used_mb(request.profile)
    try:
        candidate = open_candidate(request.slot, variant, request.profile, rule, modality, samples)
        _tell("engine", **asdict(candidate.engine))
        _tell("doing", variant=variant, what="answering the golden samples")
        answer = golden.compare(samples, variant, candidate.outputs, rule, together=together)
    except EdgeSftError as error:
        return Measured(variant=variant, trouble=error.fact), None
    after, gpu_after = resident_mb(), _gpu_used_mb(request.profile)
    finite = bool(np.isfinite(answer.difference))
    measured = Measured(
        variant=variant,
        finite=finite,
        golden_samples=answer.samples,
        golden_difference=answer.difference if finite else None,
        golden_tolerance=tolerance,
        decisions_changed=answer.decisions_changed,
        memory_mb=_growth(before, after),
        gpu_memory_mb=_growth(gpu_before, gpu_after),
    )
    return measured, None if answer.wrong(tolerance) else candidate


def _time(loaded: dict[VariantName, Candidate], budget_ms: float) -> dict[VariantName, list[float]]:
    """Time the whole predict path of every variant in turn, so that a busy moment hits all alike.

    Returns milliseconds a run; NaN in the last place where the variant stopped answering.
    """
    times: dict[VariantName, list[float]] = {variant: [] for variant in loaded}
    running = dict(loaded)
    end = time.monotonic() + SECONDS_PER_VARIANT * max(1, len(loaded))
    for turn in range(-WARM_UP, MAX_RUNS):
        if not running or (turn >= MIN_RUNS and time.monotonic() > end):
            break
        for variant, candidate in list(running.items()):
            if turn < 0:
                _tell("doing", variant=variant, what="being timed")
            took = candidate.once()
            if turn >= 0 or np.isnan(took):
                times[variant].append(took)
            if np.isnan(took) or (turn == 5 and min(times[variant]) > _HOPELESS * budget_ms):
                del running[variant]
    return times


def _with_times(item: Measured, times: list[float]) -> Measured:
    if not times:
        return item
    if np.isnan(times[-1]):
        return item.model_copy(update={"trouble": f"stopped answering after {len(times) - 1} samples"})
    p50, p95 = (float(value) for value in np.percentile(times, (50, 95)))
    return item.model_copy(update={"p50_ms": p50, "p95_ms": p95, "runs": len(times)})


def _import_libraries(modality: str) -> None:
    """Load the heavy libraries first, so that they are not charged to the first model; sensors need no OpenCV."""
    from importlib import import_module

    for name in ("cv2", "onnxruntime") if modality == "image" else ("onnxruntime",):
        with contextlib.suppress(ImportError):  # opening the model says it in words
            import_module(name)


def _wake_gpu(request: Request) -> None:
    """Load one engine and let it go: the GPU's context takes hundreds of megabytes, which no model is to be charged."""
    if builds(request.profile) or request.profile.provider == "cuda":
        with contextlib.suppress(EdgeSftError):  # measuring says it in words
            build_engine(request.slot, request.variants[0], request.profile, lambda text, share: None)


def _gpu_used_mb(profile: DeviceProfile) -> float | None:
    """Return the GPU's memory in use; None for a profile of a processor, or where the driver does not tell."""
    if not builds(profile) and profile.provider != "cuda":
        return None
    from edge_sft.engines.nvidia.cuda import Driver

    with contextlib.suppress(DeviceError):
        return Driver().used_mb()
    return None


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def _give_back_memory() -> None:
    """Hand freed memory to the system, so that a model is not flattered by what the one before it left."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _first_line() -> bytes:
    """Read the request without buffering: the watching thread reads the same handle."""
    line = bytearray()
    while not line.endswith(b"\n"):
        block = os.read(0, 1)
        if not block:
            os._exit(3)
        line += block
    return bytes(line)


def _die_with_parent() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)  # returns when the parent closes its end, which the system does for a killed parent
    os._exit(3)


def _tell(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
