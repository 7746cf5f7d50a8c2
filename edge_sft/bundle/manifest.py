"""manifest.json, version 1: what a bundle holds. Strict; parsed only after its signature was verified."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_sft.preprocess import Preprocess
from edge_sft.profile import VariantName
from edge_sft.task import Task

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
GOLDEN = "golden.npz"
POLICY = "policy.json"
RECIPE = "recipe.toml"
REPORT = "report.html"

_SHA256 = r"^[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Strict):
    """One file of the bundle, by its name inside the zip (no folders)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class GateResult(_Strict):
    """How one variant compared with the checkpoint on the validation split.

    ``right_to_wrong`` and ``wrong_to_right`` count paired flips; ``net_loss_points`` is their difference in
    percentage points; the bounds are the exact 95 % ones on the share of right→wrong flips.
    """

    variant: VariantName
    pictures: int = Field(ge=1)
    right_to_wrong: int = Field(ge=0)
    wrong_to_right: int = Field(ge=0)
    net_loss_points: float
    right_to_wrong_low: float
    right_to_wrong_high: float
    max_score_difference: float
    tolerance_points: float
    passed: bool
    balanced_accuracy: float | None = None
    note: str = ""


class VariantEntry(_Strict):
    """One ONNX file. Only variants whose gate passed are listed; the others are named in ``gates``."""

    variant: VariantName
    file: str
    golden_tolerance: float = Field(gt=0, description="largest allowed |difference| from the golden outputs")


class Manifest(_Strict):
    """The whole of manifest.json."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+([-+.][A-Za-z0-9.-]+)?$")
    created_at: str
    made_by: str
    task: Task
    preprocess: Preprocess
    variants: tuple[VariantEntry, ...] = Field(min_length=1)
    gates: tuple[GateResult, ...] = ()
    dataset_fingerprint: str
    weights_sha256: str = Field(pattern=_SHA256)
    metrics: dict[str, dict[str, float]] = {}
    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [entry.name for entry in self.files]
        if len(set(names)) != len(names):
            raise ValueError("a file is listed twice")
        reserved = {MANIFEST, SIGNATURE} & set(names)
        if reserved:
            raise ValueError(f"{sorted(reserved)} must not list themselves")
        needed = [GOLDEN, POLICY, *(entry.file for entry in self.variants)]
        missing = [name for name in needed if name not in names]
        if missing:
            raise ValueError(f"files {missing} are needed but not listed")
        return self
