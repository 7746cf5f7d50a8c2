"""The text of a commented recipe: every key of the model in its order, with its default or what was recognised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from edge_sft.recipe import Recipe

COMMENTS: dict[str, str] = {
    "schema_version": "version of this file's format",
    "name": "of the model; part of file names and messages",
    "version": "raise it with every model you hand to the line",
    "task.kind": "what is predicted: one label a picture",
    "task.labels": "in the order of the model's outputs; keep the order once a model is on the line",
    "task.ok": "labels that mean a good part; [] = sorting, no label is a defect",
    "data.path": "folder of the pictures",
    "data.layout": "how the folder is to be read; auto looks",
    "data.annotations": "COCO file, or folder of VOC's or YOLO's files, where they do not lie with the pictures",
    "data.masks": "folder of masks, laid out as the pictures are",
    "data.manifest": "CSV or JSONL: path, label and optionally split, group, part_id, weight",
    "data.split.val": "share that chooses thresholds and when to stop",
    "data.split.test": "share that is only reported",
    "data.split.seed": "another seed, another cut",
    "data.split.group": "what must stay on one side (serial, lot, tile): a regex on the path, its first group counts",
    "data.split.near_duplicates": "keep nearly equal pictures on one side",
    "data.split.frozen_test": "insist on this test split; edge-sft check prints the fingerprint",
    "image.size": "side in pixels of what the model sees, or [height, width]",
    "image.fit": "stretch: ignore the aspect ratio; pad: grey borders; crop: cut the edges",
    "image.roi": "region of interest: left, top, right, bottom as fractions of the picture",
    "image.ignore": "boxes to paint grey, in fractions of the region of interest",
    "image.grey": "drop the colour",
    "image.depth_range": "of 16-bit pictures: these values become black and white",
    "image.tiles": "cut large pictures into tiles of this size",
    "image.mm_per_pixel": "of the camera's picture; marks are then told in millimetres",
    "model.backbone": "efficientnet_lite0 is fast; efficientnet_lite2 is more accurate and slower",
    "model.weights": "a file of your own instead of the installed weights",
    "model.dropout": "against learning by heart",
    "augment.flip_horizontal": "false where a mirrored part would be a defect",
    "augment.flip_vertical": "true where up and down do not matter",
    "augment.rotate_deg": "turn by at most so many degrees; it blurs, so only where parts do come turned",
    "augment.shift": "move by at most this fraction of the side",
    "augment.scale": "zoom by 1 ± this; it blurs, so only where distances do vary",
    "augment.brightness": "lighter or darker by at most this fraction",
    "augment.contrast": "more or less contrast by at most this fraction",
    "augment.noise": "deviation of added noise as a fraction of full scale",
    "train.steps": '"auto" chooses by the number of pictures; 0 trains the last layer only',
    "train.batch_size": "pictures a step",
    "train.learning_rate": "of the last layer",
    "train.layer_decay": "each block below learns slower by this factor",
    "train.frozen_stages": "stages next to the picture that stay as pre-trained",
    "train.weight_decay": "against large weights",
    "train.label_smoothing": "how far to doubt the labels",
    "train.class_balance": "0 = classes as often as found, 1 = every class equally often",
    "train.ema_decay": "averaging of the weights over steps",
    "train.patience": "validations without improvement before stopping",
    "train.seed": "another seed, another training",
    "train.precision": "bf16 only where the processor is faster with it; auto measures",
    "train.device": "auto takes a GPU if there is one",
    "policy.escape_cost": "what a defect that slips through costs, in any unit",
    "policy.overkill_cost": "what a good part scrapped costs, in the same unit",
    "policy.prevalence": "share of defects on the line, if it differs from the pictures",
    "policy.max_escape_rate": "at most this share of defects may slip through",
    "policy.false_reject_rate": "share of good parts that may be rejected; goes before the costs",
    "policy.min_area_mm2": "smaller marks are no defect",
    "policy.min_length_mm": "shorter marks are no defect",
    "policy.deadline_ms": "a decision later than this is no_decision",
    "export.variants": "what to make; each must pass its gate, fp32 is the reference",
    "export.tolerance_points": "net loss of accuracy allowed, in percentage points",
    "export.calibration_pictures": "pictures that quantization ranges are measured on",
}
OPTIONAL_SECTIONS = frozenset({"federated"})  # only who lets plants learn together writes one
# What has an effect for these kinds only; elsewhere it is not written, and most of it refused.
_WHERE = ("anomaly", "detection", "segmentation")  # kinds that say where
_LEARNT = ("classification", "detection", "segmentation")  # kinds that fine-tune a network
ONLY_FOR: dict[str, tuple[str, ...]] = {
    "data.annotations": _WHERE,
    "data.masks": _WHERE,
    "image.tiles": _WHERE,
    "image.mm_per_pixel": _WHERE,
    "model.dropout": ("classification",),
    "augment": _LEARNT,
    "train.label_smoothing": ("classification",),
    "policy.max_escape_rate": ("classification",),
    "policy.false_reject_rate": _WHERE,
    "policy.min_area_mm2": _WHERE,
    "policy.min_length_mm": _WHERE,
    "anomaly": ("anomaly",),
    "detection": ("detection",),
    "segmentation": ("segmentation",),
}
EXAMPLES: dict[str, Any] = {
    "data.manifest": "splits.csv",
    "data.annotations": "annotations",
    "data.masks": "masks",
    "image.tiles": {"overlap": 32, "scale": 1.0},
    "image.mm_per_pixel": 0.05,
    "policy.false_reject_rate": 0.01,
    "policy.min_area_mm2": 0.1,
    "policy.min_length_mm": 0.5,
    "data.split.group": "([0-9]+)_[0-9]+",
    "data.split.frozen_test": "0" * 64,
    "image.roi": [0.1, 0.1, 0.9, 0.9],
    "image.ignore": [{"left": 0.0, "top": 0.9, "right": 0.2, "bottom": 1.0}],
    "image.depth_range": [0, 4095],
    "model.weights": "weights.safetensors",
    "policy.prevalence": 0.01,
    "policy.max_escape_rate": 0.001,
    "policy.deadline_ms": 100,
}


def compose(values: Mapping[str, Any], remarks: Mapping[str, list[str]], opening: list[str]) -> str:
    """Write a recipe.

    Args:
        values: What was recognised, by dotted key; every other key shows its default.
        remarks: Comment lines to put above a dotted key or a section.
        opening: Comment lines for the top of the file.
    """
    lines = [f"# {line}".rstrip() for line in opening]
    lines += _section(Recipe, "", values, remarks)
    return "\n".join(lines) + "\n"


def _section(
    model: type[BaseModel], prefix: str, values: Mapping[str, Any], remarks: Mapping[str, list[str]]
) -> list[str]:
    kind = str(values.get("task.kind", "classification"))
    lines: list[str] = []
    deeper: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = field.annotation
        if key in OPTIONAL_SECTIONS or kind not in ONLY_FOR.get(key, (kind,)):
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            above = [f"# {remark}" for remark in remarks.get(key, [])]
            deeper += ["", *above, f"[{key}]", *_section(inner, f"{key}.", values, remarks)]
            continue
        lines += [f"# {remark}" for remark in remarks.get(key, [])]
        value = values.get(key, field.get_default(call_default_factory=True))
        absent = value is None or (key == "image.ignore" and not value)
        written = f"{name} = {toml(EXAMPLES.get(key, '') if absent else value)}"
        comment = COMMENTS.get(key) or field.description
        lines.append(f"{'# ' if absent else ''}{written}{f'  # {comment}' if comment else ''}")
    return lines + deeper


def toml(value: Any) -> str:
    """Write a value as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(item)}' for key, item in value.items())} }}"
    return str(value)
