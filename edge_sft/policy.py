"""Policy: how a model's outputs become a decision. Pure functions over frozen values; the bundle brings the
default, the active one is a versioned file on the device."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from edge_sft.errors import BundleRefused
from edge_sft.prediction import Decision
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


AnyPolicy = Annotated[Policy | AnomalyPolicy | RegressionPolicy, Field(discriminator="kind")]
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
    if policy.kind != task.kind:
        raise BundleRefused(
            source, f"is a policy for {policy.kind}, the model does {task.kind}", "Give the model's own policy."
        )
    if not isinstance(policy, Policy):
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


def decide(outputs: dict[str, NDArray[Any]], policy: AnyPolicy) -> Decision:
    """Turn one sample's outputs into a decision.

    Args:
        outputs: The graph's outputs with the batch axis removed: ``probabilities`` float [K]; ``score`` float [] and
            ``contributions`` [C]; or ``value`` [] and ``quantiles`` [Q].
        policy: The active policy; its labels are in the order of the outputs.

    Returns:
        A Decision; ``no_decision`` when the outputs hold NaN, infinities or the wrong number of values, or the
        machine was not commissioned.
    """
    if isinstance(policy, AnomalyPolicy):
        return _decide_anomaly(outputs, policy)
    if isinstance(policy, RegressionPolicy):
        return _decide_regression(outputs, policy)
    return _decide_classification(outputs, policy)


def _decide_anomaly(outputs: dict[str, NDArray[Any]], policy: AnomalyPolicy) -> Decision:
    score = float(np.asarray(outputs["score"]).reshape(()))
    if not np.isfinite(score):
        return Decision("no_decision", reason="model output is not finite")
    if policy.threshold is None:
        return Decision("no_decision", reason="not commissioned: this machine has no threshold yet")
    ratio = max(score, 0.0) / policy.threshold
    return Decision("nok" if ratio >= 1 else "ok", score=ratio)


def _decide_regression(outputs: dict[str, NDArray[Any]], policy: RegressionPolicy) -> Decision:
    value = float(np.asarray(outputs["value"]).reshape(()))
    quantiles = np.asarray(outputs["quantiles"], dtype=np.float64).reshape(-1)
    if not (np.isfinite(value) and np.isfinite(quantiles).all()):
        return Decision("no_decision", reason="model output is not finite")
    low, high = (float(quantiles[0]), float(quantiles[-1])) if quantiles.size else (value, value)
    judged = low if policy.judge == "low" else value
    if judged <= policy.act_below:
        return Decision("nok", value=value, low=low, high=high)
    if policy.warn_below is not None and judged <= policy.warn_below:
        reason = f"at or below warn_below ({policy.warn_below:g})"
        return Decision("uncertain", reason=reason, value=value, low=low, high=high)
    return Decision("ok", value=value, low=low, high=high)


def _decide_classification(outputs: dict[str, NDArray[Any]], policy: Policy) -> Decision:
    probabilities = np.asarray(outputs.get("probabilities", ()), dtype=np.float64).reshape(-1)
    if probabilities.size != len(policy.labels):
        return Decision("no_decision", reason=f"{probabilities.size} outputs for {len(policy.labels)} labels")
    if not np.isfinite(probabilities).all():
        return Decision("no_decision", reason="model output is not finite")
    best = int(probabilities.argmax())
    label = policy.labels[best]
    confidence = float(np.clip(probabilities[best], 0.0, 1.0))
    score = defect_score(probabilities, policy)
    if policy.uncertain_low is not None and policy.uncertain_high is not None:
        if policy.uncertain_low <= score < policy.uncertain_high:
            return Decision("uncertain", label, score, confidence, "score inside the uncertain band")
    if confidence < policy.min_confidence:
        return Decision("uncertain", label, score, confidence, "confidence below min_confidence")
    sorting = len(policy.ok_labels) == len(policy.labels)
    verdict: Literal["ok", "nok"] = "nok" if not sorting and score >= policy.threshold else "ok"
    return Decision(verdict, label, score, confidence)


def defect_score(probabilities: NDArray[Any], policy: Policy) -> float:
    """Return the evidence for a defect in [0, 1]: one minus the good labels' probabilities."""
    good = [index for index, label in enumerate(policy.labels) if label in policy.ok_labels]
    return float(np.clip(1.0 - float(np.sum(np.asarray(probabilities, dtype=np.float64)[good])), 0.0, 1.0))
