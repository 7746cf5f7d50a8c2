"""proof.json, version 1: what was measured of a bundle on this device, what was chosen, what was refused and why."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_sft.errors import BundleRefused
from edge_sft.profile import DeviceProfile, VariantName

PROOF: Final = "proof.json"
SITE_POLICY: Final = "site-policy.json"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class VariantProof(_Strict):
    """One variant on this device. ``reason`` is empty when it passed; what was not measured is None.

    ``p50_ms`` and ``p95_ms`` cover preprocess + inference + decision of one frame, or inference + decision of one
    window; ``memory_mb`` is the growth of resident memory by loading the variant and running it, ``gpu_memory_mb``
    that of the GPU's memory in use.
    """

    variant: VariantName
    passed: bool
    reason: str = ""
    golden_samples: int = Field(default=0, ge=0)
    golden_difference: float | None = None
    golden_tolerance: float | None = None
    decisions_changed: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    runs: int = Field(default=0, ge=0)
    memory_mb: float | None = None
    gpu_memory_mb: float | None = Field(default=None, description="None on a processor; weights, scratch, buffers")
    plan: Literal["", "built", "cached"] = Field(
        default="", description="whether this deploy built its engine or the device had it; empty where none is built"
    )
    build_s: float | None = Field(default=None, ge=0, description="how long building its engine took")


class Proof(_Strict):
    """The whole of proof.json; written only when a variant was chosen."""

    schema_version: Literal[1] = 1
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bundle's manifest")
    name: str
    version: str
    proved_at: str = Field(description="UTC, RFC 3339")
    made_by: str
    profile: DeviceProfile
    machine: str
    engine: str
    provider: str
    library_version: str
    threads: int = Field(ge=1)
    gpu: str = Field(default="", description="the GPU's name; empty on a processor")
    compute_capability: str = ""
    driver: str = Field(default="", description="NVIDIA's driver")
    notes: tuple[str, ...] = Field(default=(), description="why an engine was built anew, and the like")
    frame: str = Field(
        description="what the latency was measured with: a frame's width x height, a window's steps x channels"
    )
    policy_origin: Literal["bundle", "site"]
    policy_version: str
    variants: tuple[VariantProof, ...] = Field(min_length=1)
    chosen: VariantName

    def of(self, variant: str) -> VariantProof | None:
        """Return what was measured of a variant, or None."""
        return next((item for item in self.variants if item.variant == variant), None)


def load(slot: Path) -> Proof:
    """Read a slot's proof.json. Raises BundleRefused when it is missing or not a proof v1."""
    path = slot / PROOF
    try:
        return Proof.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleRefused(str(slot), f"has no proof ({PROOF} is missing)", "Deploy the bundle again.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleRefused(
            str(path), f"is not a proof this version reads ({where}: {first['msg']})", "Deploy the bundle again."
        ) from error
