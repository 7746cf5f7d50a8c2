"""Detectors and segmenters made from a recipe, and loaded from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from edge_sft import checkpoint as files
from edge_sft.errors import BugError, DataError, UserError
from edge_sft.models.classifier import Classifier
from edge_sft.models.dense.detector import DetectionHead
from edge_sft.models.dense.network import Dense
from edge_sft.models.dense.pyramid import taps
from edge_sft.models.dense.segmenter import SegmentationHead
from edge_sft.models.registry import Provenance, build_with_provenance
from edge_sft.recipe import BACKGROUND, ModelSection, Recipe
from edge_sft.task import Task, image_detection, image_segmentation

WIDTH = 96  # channels of the pyramid
_STRIDES = {3: 8, 4: 4, 5: 2}  # of the finest map, by the number of maps that the pyramid joins


def stride_of(recipe: Recipe) -> int:
    """Return how many pixels of the model's input one place of its answers spans."""
    if recipe.task.kind == "detection":
        return 4 if recipe.detection.small else 8
    return 2 if recipe.segmentation.fine else 4


def task_of(recipe: Recipe) -> Task:
    """Describe what a recipe's detector or segmenter takes and gives.

    Raises:
        UserError: The picture's size cannot be cut into places.
    """
    geometry, section, stride = recipe.image.preprocess(), recipe.task, stride_of(recipe)
    height, width = geometry.height, geometry.width
    if height % stride or width % stride:
        wrong = height if height % stride else width
        raise UserError(
            "image.size",
            f"{wrong} cannot be cut into places of {stride} pixels",
            f"Take {-(-wrong // stride) * stride}, or another multiple of {stride}.",
        )
    if section.kind == "detection":
        return image_detection(section.labels, section.ok, height, width, recipe.detection.most)
    labels, good = (BACKGROUND, *section.labels), (BACKGROUND, *section.ok)
    return image_segmentation(labels, good, height, width, (height // stride, width // stride))


def build(recipe: Recipe) -> tuple[Dense, Provenance]:
    """Build the network with the backbone's pre-trained weights and a fresh pyramid and head.

    Raises:
        UserError: Unknown backbone, one that has no maps, or weights that are not here.
        DataError: The weights are damaged.
    """
    task = task_of(recipe)
    classifier, provenance = build_with_provenance(recipe.model, 1, task.inputs[0].shape[1:3])  # type: ignore[arg-type]
    return _joined(classifier, task, stride_of(recipe), WIDTH, provenance.backbone), provenance


def load(directory: Path) -> nn.Module:
    """Load a checkpoint's network, in eval mode; its forward takes uint8 [N,H,W,3] and gives the task's outputs.

    Raises:
        DataError: No checkpoint, damaged weights, or weights of another network.
    """
    from safetensors.torch import load_file

    meta = files.read_meta(directory)
    tensors: dict[str, Tensor] = load_file(directory / files.WEIGHTS)
    laterals = [value for name, value in tensors.items() if name.startswith("pyramid.laterals.") and value.dim() == 4]
    stride = _STRIDES.get(len(laterals))
    if stride is None:
        raise DataError(str(directory), f"does not hold a {meta.backbone} with a pyramid", "Train again.")
    classifier, _ = build_with_provenance(ModelSection(backbone=meta.backbone, weights="random"), 1)
    dense = _joined(classifier, meta.task, stride, laterals[0].shape[0], meta.backbone)
    try:
        dense.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(str(directory), f"does not hold a {meta.backbone}", "Train again.") from error
    return dense.eval()


def _joined(classifier: Classifier, task: Task, stride: int, width: int, backbone: str) -> Dense:
    classifier.eval()
    height, breadth = task.inputs[0].shape[1:3]
    if task.kind == "detection":
        most = task.outputs[0].shape[1]
        head: nn.Module = DetectionHead(width, len(task.labels), stride=stride, size=(height, breadth), most=most)
    elif task.kind == "segmentation":
        head = SegmentationHead(width, len(task.labels))
    else:
        raise BugError(f"a network for {task.kind}", "was asked of the wrong place", "Please report it.")
    return Dense(classifier, taps(classifier.stages, stride, backbone=backbone), width, head).eval()
