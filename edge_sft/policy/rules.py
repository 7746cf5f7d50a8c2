"""The rules by kind: frozen values, their JSON, and whether they fit a task."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from edge_sft.errors import BundleRefused
from edge_sft.task import Task


class AlarmRule(BaseModel):
    """When decisions about an asset open and close a case.

    Attributes:
        on_after_s: How long the asset must be ``nok`` without a break before a case opens.
        off_after_s: How long it must be ``ok`` before the case closes.
        clear_ratio: Below this share of the threshold a score counts as ``ok`` for closing (hysteresis).
        stale_s: Silence after which the asset is ``offline``: a state of its own, never healthy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_after_s: float = Field(default=0.0, ge=0)
    off_after_s: float = Field(default=0.0, ge=0)
    clear_ratio: float = Field(default=0.9, gt=0, le=1)
    stale_s: float = Field(default=60.0, gt=0)


class CommissioningRule(BaseModel):
    """How a machine's threshold and memory are made of its healthy run, the bundle's advice to `commission`.

    The threshold is ``factor`` times the ``quantile`` of the scores that healthy windows get from a memory made
    without them: the run is cut into ``blocks`` stretches, each scored by what the others teach. With ``alarms_a_day``
    it is ``factor`` times the lowest score at which these would have opened no more cases a day.

    Attributes:
        method: What the memory is: ``neighbours`` (examples, evenly over the run), ``core-set`` (those that leave
            nothing of the run far from all of them) or ``components`` (principal components, T² and Q).
        quantile: Of the healthy windows' scores; of no effect beside ``alarms_a_day``.
        alarms_a_day: How many cases a day a healthy machine may open. A run too short to show one may open none.
        factor: Room above it.
        blocks: Stretches the run is cut into. Few long ones ask more of the run (each state must occur in several of
            them) and give a higher threshold.
        min_windows: Fewer windows than this are no healthy run.
        clip: Standardised features count as at most this; one channel that explodes does not hide the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["neighbours", "core-set", "components"] = "neighbours"
    quantile: float = Field(default=0.99, gt=0, le=1)
    alarms_a_day: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    factor: float = Field(default=1.1, gt=0)
    blocks: int = Field(default=20, ge=2, le=1000)
    min_windows: int = Field(default=30, ge=2)
    clip: float = Field(default=30.0, gt=1, le=50)


class _Versioned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1

    @property
    def version(self) -> str:
        """Twelve hex digits that change when any number of the policy does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


class Policy(_Versioned):
    """Decision rule of a classification task.

    The evidence for a defect is the sum of the defect labels' probabilities. At or above ``threshold`` the part
    is ``nok``, below it ``ok``; inside ``[uncertain_low, uncertain_high)`` it is ``uncertain``. Where no label
    means a defect (sorting), the verdict is ``ok`` unless confidence is below ``min_confidence``.
    """

    kind: Literal["classification"] = "classification"
    labels: tuple[str, ...] = Field(min_length=2)
    ok_labels: tuple[str, ...] = ()
    threshold: float = Field(default=0.5, ge=0, le=1)
    uncertain_low: float | None = Field(default=None, ge=0, le=1)
    uncertain_high: float | None = Field(default=None, ge=0, le=1)
    min_confidence: float = Field(default=0.0, ge=0, le=1)
    deadline_ms: float | None = Field(default=None, gt=0)
    escape_cost: float = Field(default=1.0, ge=0)
    overkill_cost: float = Field(default=1.0, ge=0)
    prevalence: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if (self.uncertain_low is None) != (self.uncertain_high is None):
            raise ValueError("uncertain_low and uncertain_high go together: give both or neither")
        if self.uncertain_low is not None and self.uncertain_high is not None:
            if not self.uncertain_low <= self.threshold <= self.uncertain_high:
                raise ValueError("uncertain_low ≤ threshold ≤ uncertain_high must hold")
        if any(label not in self.labels for label in self.ok_labels):
            raise ValueError(f"ok_labels {list(self.ok_labels)} must be among labels {list(self.labels)}")
        return self


class AnomalyPolicy(_Versioned):
    """Decision rule of anomaly detection: at or above ``threshold`` the asset is ``nok``.

    The threshold is local to a machine and comes from its commissioning run; until there is one, every decision is
    ``no_decision``. ``scale`` divides the score in messages so that 1 is at the threshold.
    """

    kind: Literal["anomaly"] = "anomaly"
    threshold: float | None = Field(default=None, gt=0)
    alarm: AlarmRule = AlarmRule()
    commissioning: CommissioningRule = CommissioningRule()
    deadline_ms: float | None = Field(default=None, gt=0)


class PictureAnomalyPolicy(_Versioned):
    """Decision rule of anomaly detection on pictures: at or above ``threshold`` the part is ``nok``.

    Scores in messages are ratios to the threshold. Cells of the map at or above ``map_threshold`` are marked; they
    explain and do not decide. The bundle brings both thresholds; `edge-sft commission` makes a machine's own.

    Attributes:
        threshold: Of the score.
        map_threshold: Of the map's cells; None = nothing is marked.
        uncertain_low: From this score to the threshold a part is ``uncertain``; None = no such band.
        false_reject_rate: What commissioning sets the threshold for.
        folds: Parts that good pictures are cut into, each scored by a memory of the others.
        clean: Whether commissioning leaves out pictures among the good that look like none.
        min_area_mm2: Smaller marks are left out.
        min_length_mm: Shorter ones too.
        deadline_ms: After this age of a frame there is no decision any more.
    """

    kind: Literal["picture-anomaly"] = "picture-anomaly"
    threshold: float = Field(gt=0)
    map_threshold: float | None = Field(default=None, gt=0)
    uncertain_low: float | None = Field(default=None, gt=0)
    false_reject_rate: float = Field(default=0.01, gt=0, lt=1)
    folds: int = Field(default=5, ge=2, le=50)
    clean: bool = True
    min_area_mm2: float | None = Field(default=None, gt=0)
    min_length_mm: float | None = Field(default=None, gt=0)
    deadline_ms: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> PictureAnomalyPolicy:
        if self.uncertain_low is not None and self.uncertain_low > self.threshold:
            raise ValueError("uncertain_low must not be above threshold")
        return self


class DetectionPolicy(_Versioned):
    """Decision rule of detection: a box of a defect's label at or above its label's threshold makes the part ``nok``.

    Attributes:
        labels: The task's.
        ok_labels: What may be there on a good part.
        thresholds: One a label, in their order; boxes below are not told, but those in the uncertain band.
        uncertain_low: From this share of its threshold up to it a defect's score makes the part ``uncertain``.
        min_area_mm2: Smaller boxes are no defect, and are not told.
        min_length_mm: Shorter ones neither.
        deadline_ms: After this age of a frame there is no decision any more.
    """

    kind: Literal["detection"] = "detection"
    labels: tuple[str, ...] = Field(min_length=1)
    ok_labels: tuple[str, ...] = ()
    thresholds: tuple[float, ...]
    uncertain_low: float | None = Field(default=None, gt=0, le=1)
    min_area_mm2: float | None = Field(default=None, gt=0)
    min_length_mm: float | None = Field(default=None, gt=0)
    deadline_ms: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> DetectionPolicy:
        if len(self.thresholds) != len(self.labels):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.labels)} labels")
        if any(not 0 < threshold <= 1 for threshold in self.thresholds):
            raise ValueError("thresholds must be above 0 and at most 1")
        return self


class SegmentationPolicy(_Versioned):
    """Decision rule of segmentation: a connected part of a defect's label that is large enough makes the part ``nok``.

    Attributes:
        labels: The task's; the first is the background.
        ok_labels: The background, and what else may be there on a good part.
        threshold: A cell belongs to a defect where the defects' probabilities add up to this.
        min_area_px: Smaller parts are left out, in pixels of the frame.
        min_area_mm2: The same in square millimetres.
        min_length_mm: Shorter ones are left out.
        min_peak: Parts whose highest probability is below are left out.
        deadline_ms: After this age of a frame there is no decision any more.
    """

    kind: Literal["segmentation"] = "segmentation"
    labels: tuple[str, ...] = Field(min_length=2)
    ok_labels: tuple[str, ...] = Field(min_length=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    min_area_px: float = Field(default=0.0, ge=0)
    min_area_mm2: float | None = Field(default=None, gt=0)
    min_length_mm: float | None = Field(default=None, gt=0)
    min_peak: float = Field(default=0.0, ge=0, le=1)
    deadline_ms: float | None = Field(default=None, gt=0)


class RegressionPolicy(_Versioned):
    """Decision rule of remaining useful life: ``nok`` when the ``judge``d value is at or below ``act_below``.

    ``low`` judges by the interval's lower end (maintain rather too early), ``value`` by the estimate. Between
    ``act_below`` and ``warn_below`` the asset is ``uncertain``.
    """

    kind: Literal["regression"] = "regression"
    act_below: float = Field(default=0.0)
    warn_below: float | None = None
    judge: Literal["low", "value"] = "low"
    alarm: AlarmRule = AlarmRule()
    deadline_ms: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> RegressionPolicy:
        if self.warn_below is not None and self.warn_below < self.act_below:
            raise ValueError("warn_below must not be under act_below")
        return self


LabelledPolicy = Policy | DetectionPolicy | SegmentationPolicy
PicturePolicy = PictureAnomalyPolicy | DetectionPolicy | SegmentationPolicy
AnyPolicy = Annotated[
    Policy | AnomalyPolicy | RegressionPolicy | PictureAnomalyPolicy | DetectionPolicy | SegmentationPolicy,
    Field(discriminator="kind"),
]
_ANY: TypeAdapter[AnyPolicy] = TypeAdapter(AnyPolicy)


def from_json(content: bytes, *, source: str) -> AnyPolicy:
    """Parse policy.json. Raises BundleRefused when it is not a policy v1."""
    try:
        return _ANY.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleRefused(source, f"is not a valid policy ({where}: {first['msg']})", "Mend or remove it.") from error


def load(path: Path) -> AnyPolicy:
    """Read a policy file from the device's disk."""
    return from_json(path.read_bytes(), source=str(path))


def check_fits(policy: AnyPolicy, task: Task, *, source: str) -> None:
    """Refuse a policy made for another task.

    Raises:
        BundleRefused: Kind, labels (also their order) or good labels differ.
    """
    wanted = "picture-anomaly" if task.kind == "anomaly" and task.modality == "image" else task.kind
    if policy.kind != wanted:
        raise BundleRefused(
            source, f"is a policy for {policy.kind}, the model does {wanted}", "Give the model's own policy."
        )
    if not isinstance(policy, LabelledPolicy):
        return
    if policy.labels != task.labels:
        raise BundleRefused(
            source,
            f"was made for the labels {list(policy.labels)}, the model has {list(task.labels)}",
            "Give a policy with the model's labels in the model's order.",
        )
    if set(policy.ok_labels) != set(task.ok_labels):
        raise BundleRefused(
            source,
            f"calls {list(policy.ok_labels)} good, the model's task {list(task.ok_labels)}",
            "Make them agree.",
        )
