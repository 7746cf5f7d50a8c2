"""From an ONNX variant to a serialized engine: parser, shapes, limits, timing cache, progress."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, cast

from edge_sft.engines.nvidia import api
from edge_sft.engines.nvidia.defaults import take_out
from edge_sft.engines.nvidia.logging import logger
from edge_sft.engines.protocol import EngineNotBuilt
from edge_sft.profile import Building

Tell = Callable[[str, "float | None"], None]
_OTHER = "Export it again, or permit another variant in the profile."
_TELL_EVERY_S = 1.0
_COMPLAINTS = 3  # of a parser that refuses one node, the nodes after it are no news


@dataclass(frozen=True)
class Built:
    """A serialized engine, the timing cache after it (empty where the library has none), how long it took."""

    plan: bytes
    timing: bytes
    seconds: float


def build(
    library: api.Library,
    model: bytes,
    settings: Building,
    *,
    source: str,
    timing: bytes = b"",
    targets: tuple[str, ...] = (),
    last_s: float | None = None,
    tell: Tell = lambda text, share: None,
) -> Built:
    """Build an engine of an ONNX file, in this process; it may take minutes.

    Args:
        library: `tensorrt` or `tensorrt_rtx`.
        model: The variant's bytes; inputs with a default become inputs without.
        settings: The profile's.
        source: The variant's file, for messages.
        timing: A timing cache of this GPU and library; empty for none.
        targets: TensorRT-RTX only: compute capabilities to build for without the GPU; empty = the GPU at hand.
        last_s: How long it took last time.
        tell: Told how far it is.

    Raises:
        EngineNotBuilt: The parser refuses the model, or the builder gives up: no memory, no kernel, no time left.
    """
    began = time.monotonic()
    log, messages = logger(cast("Hashable", library))
    mark = messages.mark()
    bare, _ = take_out(model, source=source)
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    if not parser.parse(bare):
        raise EngineNotBuilt(source, f"is refused by NVIDIA's parser ({_complaints(parser)})", _OTHER)
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)  # so that FP32 means FP32 and the golden samples agree
    if settings.workspace_mb:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
    if targets:
        _aim(library, cast("api.RtxIBuilderConfig", config), targets, source)
    config.add_optimization_profile(_shapes(builder, network, settings.batch_max or 1, source))
    times = not hasattr(library, "IRuntimeCache")  # TensorRT-RTX tries no kernels while it builds
    if times:
        _use_timing(config, timing)
    progress = _Progress(settings.timeout_s, last_s, tell)
    config.progress_monitor = _monitor(library, progress)
    tell(progress.words(None), None)
    serialized = builder.build_serialized_network(network, config)
    if progress.late:
        raise EngineNotBuilt(source, f"was not built within {settings.timeout_s:g} s", "Raise timeout_s in [building].")
    if serialized is None:
        raise EngineNotBuilt(source, f"cannot be built into an engine ({messages.since(mark)})", _OTHER)
    kept = _timing_after(config) if times else b""
    plan = bytes(cast("bytes", serialized))
    del parser  # only now: the network works on the parser's memory, and to free that first is a crash
    return Built(plan, kept, time.monotonic() - began)


def _complaints(parser: api.OnnxParser) -> str:
    found = []
    for index in range(min(parser.num_errors, _COMPLAINTS)):
        error = parser.get_error(index)
        where = f"{error.node_operator()} '{error.node_name()}': " if error.node_operator() else ""
        found.append(f"{where}{' '.join(error.desc().split())[:200]}")
    more = parser.num_errors - len(found)
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "") or "it does not say why"


def _shapes(
    builder: api.Builder, network: api.INetworkDefinition, batch_max: int, source: str
) -> api.IOptimizationProfile:
    """Take batches of 1 to ``batch_max``, fastest at 1, which is what a line asks for."""
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        axes = list(tensor.shape)
        if -1 in axes[1:]:
            raise EngineNotBuilt(source, f"leaves more open in '{tensor.name}' {axes} than the batch", _OTHER)
        if axes[:1] == [-1]:
            shapes.set_shape(tensor.name, *([batch, *axes[1:]] for batch in (1, 1, batch_max)))
    return shapes


def _aim(library: Any, config: api.RtxIBuilderConfig, targets: tuple[str, ...], source: str) -> None:
    known = library.ComputeCapability.__members__
    names = [f"SM{target.replace('.', '')}" for target in targets]
    unknown = [target for target, name in zip(targets, names, strict=True) if name not in known]
    if unknown:
        can = ", ".join(name.removeprefix("SM") for name in known if name.startswith("SM"))
        raise EngineNotBuilt(
            source,
            f"cannot be built by TensorRT-RTX for compute capability {', '.join(unknown)}",
            f"It builds for {can} (without the dot); other GPUs take engine = 'tensorrt'.",
        )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(known[name], index)


def _use_timing(config: api.IBuilderConfig, timing: bytes) -> None:
    """Start from a timing cache; one that the library refuses is of no use and no harm."""
    cache = config.create_timing_cache(timing) or config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)


def _timing_after(config: api.IBuilderConfig) -> bytes:
    cache = config.get_timing_cache()
    return b"" if cache is None else bytes(cast("bytes", cache.serialize()))


class _Progress:
    """How far a build is: phases within phases, each of a known number of steps."""

    def __init__(self, timeout_s: float, last_s: float | None, tell: Tell) -> None:
        self.late = False
        self._began = time.monotonic()
        self._end = self._began + timeout_s
        self._last_s = last_s
        self._tell = tell
        self._told = self._began
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name: parent, steps, done
        self._share = 0.0
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> bool:
        """Take in a finished step; false when time is up and the library shall stop."""
        with self._lock:
            now = time.monotonic()
            self.late = self.late or now > self._end
            if name in self._phases:
                parent, steps, _ = self._phases[name]
                self._phases[name] = (parent, steps, step + 1)
            self._share = max(self._share, self._of_whole(name))
            due, share = now - self._told >= _TELL_EVERY_S, self._share
            if due:
                self._told = now
        if due:
            self._tell(self.words(share), share)
        return not self.late

    def finish(self, name: str) -> None:
        with self._lock:
            self._phases.pop(name, None)

    def words(self, share: float | None) -> str:
        """Say how long it has taken and may take: measured by the last build, else by the steps that are done."""
        passed = time.monotonic() - self._began
        left = None if self._last_s is None else self._last_s - passed
        if left is None and share and passed > 5:
            left = passed / share - passed
        text = "building the engine" + ("" if share is None else f", {100 * share:.0f} %, {passed:.0f} s so far")
        return text + (f", about {left:.0f} s left" if left is not None and left > 0 else "")

    def _of_whole(self, name: str) -> float:
        share, at = 0.0, name
        for _ in range(len(self._phases)):
            if at not in self._phases:
                break
            parent, steps, done = self._phases[at]
            share = min(1.0, (done + (share if at != name else 0.0)) / steps)
            if parent is None:
                return share
            at = parent
        return 0.0


def _monitor(library: api.Library, progress: _Progress) -> Any:
    """Return the library's view of a `_Progress`; nothing raises into it."""

    def phase_start(_: Any, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        progress.start(phase_name, parent_phase, num_steps)

    def step_complete(_: Any, phase_name: str, step: int) -> bool:
        with contextlib.suppress(Exception):
            return progress.step(phase_name, step)
        return True

    def phase_finish(_: Any, phase_name: str) -> None:
        progress.finish(phase_name)

    methods = {"phase_start": phase_start, "step_complete": step_complete, "phase_finish": phase_finish}
    return type("Monitor", (library.IProgressMonitor,), {"__init__": library.IProgressMonitor.__init__, **methods})()
