"""Policy: how a model's outputs become a decision. Pure functions over frozen values; the bundle brings the
default, the active one is a versioned file on the device."""

from edge_sft.policy.deciding import decide, defect_score
from edge_sft.policy.deciding_pictures import decide_picture
from edge_sft.policy.rules import (
    AlarmRule,
    AnomalyPolicy,
    AnyPolicy,
    CommissioningRule,
    DetectionPolicy,
    PictureAnomalyPolicy,
    PicturePolicy,
    Policy,
    RegressionPolicy,
    SegmentationPolicy,
    check_fits,
    from_json,
    load,
)

__all__ = [
    "AlarmRule",
    "AnomalyPolicy",
    "AnyPolicy",
    "CommissioningRule",
    "DetectionPolicy",
    "PictureAnomalyPolicy",
    "PicturePolicy",
    "Policy",
    "RegressionPolicy",
    "SegmentationPolicy",
    "check_fits",
    "decide",
    "decide_picture",
    "defect_score",
    "from_json",
    "load",
]
