"""What `edge-sft bench` finds out, version 1: the shape of its JSON file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_sft.profile import DeviceProfile, VariantName

BARE = "bare"  # the library's own loop on inputs that lie ready
ENGINE = "engine"  # the engine port on the same inputs


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Timing(_Strict):
    """How long one way through one variant took."""

    variant: VariantName
    path: str = Field(description="jpeg, frame or rows: from there to the decision; engine; bare: the library alone")
    batch: int = Field(ge=1)
    runs: int = Field(ge=1)
    p50_ms: float = Field(description="of one run, which decides `batch` samples")
    p95_ms: float
    p99_ms: float
    max_ms: float
    per_second: float = Field(description="samples a second, from the mean")
    of_bare: float | None = Field(default=None, description="the bare loop's median divided by this one; 1 = as quick")
    joules: dict[str, float] = Field(default={}, description="for one decision, by meter, idle power included")


class Loaded(_Strict):
    """A variant that was opened; ``trouble`` is why not, or why it is not timed to the end."""

    variant: VariantName
    trouble: str = ""
    engine: str = ""
    provider: str = ""
    library_version: str = ""
    threads: int = 0
    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    plan: str = Field(default="", description="built just now, or cached; empty where no engine is built")
    build_s: float | None = None
    notes: tuple[str, ...] = ()
    load_s: float | None = None
    memory_mb: float | None = Field(default=None, description="growth of resident memory by loading and one run")
    gpu_memory_mb: float | None = Field(default=None, description="growth of the GPU's memory in use")


class Energy(_Strict):
    """Which meters there are, what they read while nothing ran, and why others could not be read."""

    meters: tuple[str, ...] = ()
    idle_watts: dict[str, float] = {}
    not_readable: tuple[str, ...] = ()


class Measured(_Strict):
    """What the measuring process says."""

    input: str = Field(description="what end to end begins with")
    variants: tuple[Loaded, ...]
    timings: tuple[Timing, ...]
    energy: Energy
    notes: tuple[str, ...] = Field(default=(), description="what was not timed, and why")


class BenchReport(Measured):
    """The whole of the JSON file."""

    schema_version: Literal[1] = 1
    measured_at: str = Field(description="UTC, RFC 3339")
    made_by: str
    name: str
    version: str
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bundle's manifest")
    profile: DeviceProfile
    machine: str
    processor: str
    cores: int
    load: float | None = Field(description="the system's load average when it began; None where there is none")

    def timing(self, variant: str, path: str, batch: int = 1) -> Timing | None:
        """Return one row, or None."""
        wanted = (variant, path, batch)
        return next((row for row in self.timings if (row.variant, row.path, row.batch) == wanted), None)
