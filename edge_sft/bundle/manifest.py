"""manifest.json, version 1: what a bundle holds. Strict; parsed only after its signature was verified."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_sft.errors import BundleRefused
from edge_sft.preprocess import AnyPreprocess
from edge_sft.profile import VariantName
from edge_sft.task import Task

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
GOLDEN = "golden.npz"
POLICY = "policy.json"
RECIPE = "recipe.toml"
REPORT = "report.html"

READS_VERSIONS = (1,)

_SHA256 = r"^[0-9a-f]{64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Strict):
    """One file of the bundle, by its name inside the zip (no folders)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class GateResult(_Strict):
    """How one variant compared with the checkpoint on the validation split, on so many ``pictures`` or windows.

    What counts as right is the kind's: the label; for remaining life that the interval holds what truly remained;
    for an anomaly the verdict at a threshold made on the training windows. ``right_to_wrong`` and
    ``wrong_to_right`` count paired flips; ``net_loss_points`` is their difference in percentage points; the bounds
    are the exact 95 % ones on the share of right→wrong flips. ``verdicts_…`` count the same for ok/nok at the
    default policy's threshold. ``max_score_difference`` is the largest |difference| of any output, in shares of that
    output's scale (a probability's is 1). Where the kind has a measure of its own, ``measure`` names it (RMSE in
    cycles, AUROC) and ``before`` and ``after`` are the checkpoint's and the variant's.
    """

    variant: VariantName
    pictures: int = Field(ge=1)
    right_to_wrong: int = Field(ge=0)
    wrong_to_right: int = Field(ge=0)
    net_loss_points: float
    right_to_wrong_low: float
    right_to_wrong_high: float
    verdicts_right_to_wrong: int = Field(default=0, ge=0)
    verdicts_wrong_to_right: int = Field(default=0, ge=0)
    max_score_difference: float
    tolerance_points: float
    passed: bool
    balanced_accuracy: float | None = None
    measure: str = ""
    before: float | None = None
    after: float | None = None
    note: str = ""


class VariantEntry(_Strict):
    """One ONNX file. Only variants whose gate passed are listed; the others are named in ``gates``."""

    variant: VariantName
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,94}\.onnx$")
    golden_tolerance: float = Field(
        gt=0, description="largest allowed |difference| from the golden outputs, in shares of an output's scale"
    )


class Draft(_Strict):
    """All of manifest.json that its maker states; the list of files is found out while writing."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+([-+.][A-Za-z0-9.-]+)?$")
    created_at: str
    made_by: str
    task: Task
    preprocess: AnyPreprocess
    variants: tuple[VariantEntry, ...] = Field(min_length=1)
    gates: tuple[GateResult, ...] = ()
    dataset_fingerprint: str
    weights_sha256: str = Field(pattern=_SHA256)
    metrics: dict[str, dict[str, float]] = {}


class Manifest(Draft):
    """The whole of manifest.json."""

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [entry.name for entry in self.files]
        if len({name.casefold() for name in names}) != len(names):  # Windows folds case when extracting
            raise ValueError("a file is listed twice")
        reserved = {MANIFEST, SIGNATURE} & set(names)
        if reserved:
            raise ValueError(f"{sorted(reserved)} must not list themselves")
        needed = [GOLDEN, POLICY, *(entry.file for entry in self.variants)]
        missing = [name for name in needed if name not in names]
        if missing:
            raise ValueError(f"files {missing} are needed but not listed")
        return self

    def to_bytes(self) -> bytes:
        """Serialise canonically: keys sorted, two-space indent, UTF-8, one newline at the end."""
        content = self.model_dump(mode="json")
        return (json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def from_bytes(content: bytes, *, source: str) -> Manifest:
    """Parse manifest.json; call it only on bytes whose signature was verified.

    Raises:
        BundleRefused: Not JSON, a schema version that this version does not read (checked before anything
            else, so that a newer bundle is named as such), or not a manifest of its version.
    """
    thing = f"{source}, {MANIFEST}"
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleRefused(thing, f"is not JSON ({error})", "Build the bundle again.") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if type(version) is not int or version not in READS_VERSIONS:
        reads = ", ".join(str(known) for known in READS_VERSIONS)
        raise BundleRefused(
            thing,
            f"has schema_version {version!r}; this edge-sft reads {reads}",
            "Update edge-sft on this machine, or build the bundle with the version that runs here.",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "whole"
        raise BundleRefused(thing, f"is not valid ({where}: {first['msg']})", "Build the bundle again.") from error
