"""A variant becomes a running engine: from the device's cache where all it depends on is the same, else built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

from edge_sft.engines.nvidia import api
from edge_sft.engines.nvidia.building import Built, build
from edge_sft.engines.nvidia.cuda import Cuda, Driver, Gpu
from edge_sft.engines.nvidia.defaults import take_out
from edge_sft.engines.nvidia.running import NvidiaEngine
from edge_sft.engines.plans import Facts, Found
from edge_sft.engines.protocol import EngineInfo, EngineNotBuilt, Workplace
from edge_sft.errors import DeviceError, EdgeSftError
from edge_sft.profile import DeviceProfile

PROVIDERS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_OLDEST = (10, 3)  # JetPack 6.1; before it strongly typed networks and half of our calls behave otherwise
_OTHER = "Permit another variant in the profile, or export it again."
T = TypeVar("T")


@dataclass(frozen=True)
class _Opening:
    """One variant on its way to an engine."""

    library: api.Library
    name: str
    cuda: Cuda
    gpu: Gpu
    model: Path
    content: bytes
    profile: DeviceProfile
    place: Workplace

    def facts(self, kind: Any = "plan") -> Facts:
        """What a cached file of this kind depends on; a timing cache serves all models."""
        of_model = kind != "timing"
        return Facts(
            kind=kind,
            library=self.name,
            library_version=self.library.__version__,
            gpu=self.gpu.name,
            compute_capability=self.gpu.compute_capability,
            driver=self.gpu.driver,
            building=self.profile.building.model_dump_json() if of_model else "",
            model_sha256=hashlib.sha256(self.content).hexdigest() if of_model else "",
        )

    def cached(self, kind: Any = "plan") -> Found:
        """Return what the cache has, verified."""
        return self.place.cache.read(self.facts(kind)) if self.place.cache else Found(None)

    def keep(self, content: bytes, seconds: float, kind: Any = "plan") -> None:
        """Put a content into the cache. Raises DeviceError."""
        if self.place.cache is not None and content:
            self.place.cache.write(self.facts(kind), content, seconds)

    def run(self, content: bytes, **how: Any) -> NvidiaEngine:
        """Load a plan. Raises DeviceError."""
        gpu = self.gpu
        info = EngineInfo(
            engine=self.name,
            provider=PROVIDERS[self.name],
            library_version=self.library.__version__,
            threads=1,  # it launches from the caller's
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            driver=gpu.driver,
        )
        return NvidiaEngine(
            self.library,
            content,
            self.cuda,
            replace(info, **how),
            str(self.model),
            self.profile.building,
            compiled=self.cached("runtime").content or b"" if self.name == "tensorrt_rtx" else b"",
            keep=lambda compiled: self.keep(compiled, 0.0, "runtime"),
            defaults=take_out(self.content, source=str(self.model))[1],
        )


def open_nvidia(
    name: str,
    model: Path,
    profile: DeviceProfile,
    place: Workplace,
    *,
    cuda: Callable[[], Cuda] = Driver,
) -> NvidiaEngine:
    """Open a variant on `tensorrt` or `tensorrt_rtx`.

    Args:
        name: The library's module.
        model: The variant.
        profile: What to run on.
        place: Where engines are kept and who watches.
        cuda: Opens the GPU.

    Raises:
        DeviceError: There is no GPU, or the library is too old; the same for every variant.
        EngineNotBuilt: No engine could be made of this variant.
        ImportError: The library is missing.
    """
    library = _imported(name)
    port = cuda()
    try:
        content = model.read_bytes()
    except OSError as error:
        raise DeviceError(str(model), f"cannot be read ({error.strerror or error})", "Deploy it again.") from error
    opening = _Opening(library, name, port, port.gpu(), model, content, profile, place)
    found = opening.cached()
    notes = [found.why] if found.why else []
    if found.content is not None:
        try:
            return _checked(opening.run(found.content, plan="cached"), place)
        except EngineNotBuilt:
            raise  # it runs and answers wrongly: the same library would build the same again
        except DeviceError as error:
            notes.append(f"the cached engine does not load: {error.fact}")
    if notes:
        place.tell(f"{notes[-1]}: building it now", None)
    built = _not_built(model, lambda: _build(opening))
    notes += _keep(opening, built)  # before it is loaded: what took minutes must not be lost to a full GPU
    seconds = round(built.seconds, 3)
    return _not_built(model, lambda: _checked(opening.run(built.plan, plan="built", build_s=seconds), place, notes))


def build_ahead(model: Path, profile: DeviceProfile, place: Workplace | None = None) -> Built:
    """Build with TensorRT-RTX for the GPUs that the profile names, on a machine that needs none.

    What comes out runs on those GPUs with the same version of TensorRT-RTX; it is not cached, a device trusts only
    what it built itself.

    Raises:
        EngineNotBuilt: The parser or the builder refuses the variant, or the library has no such target.
        DeviceError: The profile names no GPU, or the library is missing.
    """
    if profile.accelerator is None:
        raise DeviceError(f"device profile '{profile.name}'", "names no GPU to build for", "Add [accelerator] to it.")
    try:
        library = _imported("tensorrt_rtx")
    except ImportError as error:
        raise DeviceError("TensorRT-RTX", f"cannot be loaded ({error})", "pip install 'edge-sft[rtx]'") from error
    targets = profile.accelerator.compute_capabilities
    tell = (place or Workplace()).tell
    return build(library, model.read_bytes(), profile.building, source=str(model), targets=targets, tell=tell)


def _checked(engine: NvidiaEngine, place: Workplace, notes: Sequence[str] = ()) -> NvidiaEngine:
    """Hand on an engine that may be used, with all that is to be said of it in one line.

    Raises:
        EngineNotBuilt: It may not be used; it is closed then.
    """
    try:
        said = [*notes, place.check(engine)]
    except BaseException:
        engine.close()
        raise
    if any(said):
        engine.note("; ".join(filter(None, said)))
    return engine


def _build(opening: _Opening) -> Built:
    cache, profile = opening.place.cache, opening.profile
    return build(
        opening.library,
        opening.content,
        profile.building,
        source=str(opening.model),
        timing=opening.cached("timing").content or b"",
        last_s=cache.last_seconds(opening.facts().model_sha256) if cache else None,
        tell=opening.place.tell,
    )


def _keep(opening: _Opening, built: Built) -> list[str]:
    """Cache what was built; a full disk is no reason not to run, but it is said.

    Raises:
        DeviceError: It cannot be kept and must be.
    """
    try:
        opening.keep(built.plan, built.seconds)
    except (EdgeSftError, OSError) as error:
        if opening.place.must_keep:
            thing, why = (error.thing, error.fact) if isinstance(error, EdgeSftError) else ("the engine", str(error))
            fact = f"{why}: an engine cannot be kept there, and every start would build it anew"
            raise DeviceError(thing, fact, "Free some space, or give the folder to this user.") from error
        return [f"the engine could not be kept for the next start: {error}"]
    try:
        opening.keep(built.timing, 0.0, "timing")
    except (EdgeSftError, OSError) as error:
        return [f"what was learnt of kernels could not be kept for the next build: {error}"]
    return []


def _not_built(model: Path, call: Callable[[], T]) -> T:
    """Run what makes an engine: whatever goes wrong, it was this variant's engine that could not be made."""
    try:
        return call()
    except EngineNotBuilt:
        raise
    except EdgeSftError as error:
        raise EngineNotBuilt(error.thing, error.fact, error.remedy) from error
    except Exception as error:
        raise EngineNotBuilt(str(model), f"cannot be built into an engine ({error})", _OTHER) from error


def _imported(name: str) -> api.Library:
    library = cast("api.Library", import_module(name))
    version = library.__version__
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if name == "tensorrt" and numbers < _OLDEST:
        raise DeviceError(f"TensorRT {version}", "is too old", "TensorRT 10.3 (JetPack 6.1) or newer is needed.")
    return library
