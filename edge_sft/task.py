"""Task: what is predicted. Kind, labels, input and output tensors; no behaviour of any model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TaskKind = Literal["classification", "anomaly", "detection", "segmentation", "regression"]
Modality = Literal["image", "window"]


class TensorSpec(BaseModel):
    """Name, dtype and shape of one graph input or output; ``-1`` is the batch, the only dynamic axis.

    An input with a ``default`` may be left out: the graph then takes the values that the bundle brings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    dtype: Literal["uint8", "int32", "int64", "float16", "float32"]
    shape: tuple[int, ...]
    default: bool = False

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Tell whether an array of this shape may be fed (``-1`` takes any size ≥ 1)."""
        return len(shape) == len(self.shape) and all(
            (want == -1 and got >= 1) or want == got for want, got in zip(self.shape, shape, strict=True)
        )


class Task(BaseModel):
    """What is predicted, frozen; equal in the checkpoint, the bundle and on the device.

    ``labels`` are in the order of the model's outputs; regression and anomaly detection have none. ``ok_labels``
    name those that mean a good part (a healthy machine); where none of the labels means a defect (sorting by type),
    ``ok_labels`` holds them all. The first label of a segmentation is the background, and good. ``quantiles`` are the
    levels of a regression's ``quantiles`` output, ``unit`` is what its ``value`` counts (cycles, hours).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: TaskKind
    modality: Modality = "image"
    labels: tuple[str, ...] = ()
    ok_labels: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quantiles: tuple[float, ...] = ()
    unit: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        unknown = [label for label in self.ok_labels if label not in self.labels]
        if unknown:
            raise ValueError(f"ok_labels {unknown} are not among the labels {list(self.labels)}")
        return self

    @property
    def defect_labels(self) -> tuple[str, ...]:
        """Labels that mean a defect, in output order."""
        return tuple(label for label in self.labels if label not in self.ok_labels)


def image_classification(labels: tuple[str, ...], ok_labels: tuple[str, ...], height: int, width: int) -> Task:
    """Describe image classification: ``image`` uint8 [N,H,W,3] RGB → ``probabilities`` float32 [N,K]."""
    return Task(
        kind="classification",
        modality="image",
        labels=labels,
        ok_labels=ok_labels,
        inputs=(_picture(height, width),),
        outputs=(TensorSpec(name="probabilities", dtype="float32", shape=(-1, len(labels))),),
    )


def _picture(height: int, width: int) -> TensorSpec:
    return TensorSpec(name="image", dtype="uint8", shape=(-1, height, width, 3))


def image_anomaly(
    height: int, width: int, *, places: tuple[int, int], features: int, bank: tuple[int, int] | None
) -> Task:
    """Describe anomaly detection on pictures.

    ``image`` uint8 [N,H,W,3] (and ``bank`` float32 [M,D], which has a default) → ``score`` float32 [N],
    ``anomaly_map`` float32 [N,h,w] in the score's unit and, where there is a bank, ``features`` float32 [N,P,E]:
    what `edge-sft commission` makes a bank of.

    Args:
        height: H.
        width: W.
        places: (h, w) of the map.
        features: E, numbers of one place; P = h·w.
        bank: (M, D), or None for a method that keeps none.
    """
    inputs = [_picture(height, width)]
    outputs = [
        TensorSpec(name="score", dtype="float32", shape=(-1,)),
        TensorSpec(name="anomaly_map", dtype="float32", shape=(-1, *places)),
    ]
    if bank is not None:
        inputs.append(TensorSpec(name="bank", dtype="float32", shape=bank, default=True))
        shape = (-1, places[0] * places[1], features)
        outputs.append(TensorSpec(name="features", dtype="float32", shape=shape))
    return Task(kind="anomaly", modality="image", inputs=tuple(inputs), outputs=tuple(outputs))


def image_detection(labels: tuple[str, ...], ok_labels: tuple[str, ...], height: int, width: int, most: int) -> Task:
    """Describe detection: ``image`` → ``boxes`` float32 [N,M,4] xyxy in input pixels, ``scores`` [N,M], ``labels``
    int32 [N,M] (positions in ``labels``); rows are in falling order of score and padded with score 0.
    """
    return Task(
        kind="detection",
        modality="image",
        labels=labels,
        ok_labels=ok_labels,
        inputs=(_picture(height, width),),
        outputs=(
            TensorSpec(name="boxes", dtype="float32", shape=(-1, most, 4)),
            TensorSpec(name="scores", dtype="float32", shape=(-1, most)),
            TensorSpec(name="labels", dtype="int32", shape=(-1, most)),
        ),
    )


def image_segmentation(
    labels: tuple[str, ...], ok_labels: tuple[str, ...], height: int, width: int, places: tuple[int, int]
) -> Task:
    """Describe segmentation: ``image`` → ``probabilities`` float32 [N,K,h,w]; label 0 is the background, and good."""
    return Task(
        kind="segmentation",
        modality="image",
        labels=labels,
        ok_labels=ok_labels,
        inputs=(_picture(height, width),),
        outputs=(TensorSpec(name="probabilities", dtype="float32", shape=(-1, len(labels), *places)),),
    )


def _window_inputs(length: int, channels: int) -> tuple[TensorSpec, TensorSpec]:
    shape = (-1, length, channels)
    return TensorSpec(name="window", dtype="float32", shape=shape), TensorSpec(
        name="valid", dtype="float32", shape=shape
    )


def window_classification(labels: tuple[str, ...], ok_labels: tuple[str, ...], length: int, channels: int) -> Task:
    """Describe fault classification: ``window``, ``valid`` float32 [N,T,C] → ``probabilities`` float32 [N,K]."""
    return Task(
        kind="classification",
        modality="window",
        labels=labels,
        ok_labels=ok_labels,
        inputs=_window_inputs(length, channels),
        outputs=(TensorSpec(name="probabilities", dtype="float32", shape=(-1, len(labels))),),
    )


def window_regression(length: int, channels: int, quantiles: tuple[float, ...], unit: str) -> Task:
    """Describe remaining useful life: ``window``, ``valid`` → ``value`` float32 [N], ``quantiles`` float32 [N,Q]."""
    return Task(
        kind="regression",
        modality="window",
        inputs=_window_inputs(length, channels),
        outputs=(
            TensorSpec(name="value", dtype="float32", shape=(-1,)),
            TensorSpec(name="quantiles", dtype="float32", shape=(-1, len(quantiles))),
        ),
        quantiles=quantiles,
        unit=unit,
    )


def window_anomaly(length: int, channels: int, bank: tuple[int, int] | None) -> Task:
    """Describe anomaly detection: ``window``, ``valid`` → ``score`` float32 [N], and from which channels it comes.

    What is local to a machine enters beside the window: ``mean`` and ``std`` float32 [C], and where the method keeps
    examples ``bank`` float32 [M,D]. ``contributions`` float32 [N,C] is zero or more and adds up to 1. With a bank
    there is a third output, ``features`` float32 [N,D], whatever the bank holds: commissioning makes the bank of them.
    """
    inputs = _window_inputs(length, channels)
    extra = [TensorSpec(name=name, dtype="float32", shape=(channels,)) for name in ("mean", "std")]
    if bank is not None:
        extra.append(TensorSpec(name="bank", dtype="float32", shape=bank))
    outputs = [
        TensorSpec(name="score", dtype="float32", shape=(-1,)),
        TensorSpec(name="contributions", dtype="float32", shape=(-1, channels)),
    ]
    if bank is not None:
        outputs.append(TensorSpec(name="features", dtype="float32", shape=(-1, bank[1])))
    return Task(kind="anomaly", modality="window", inputs=(*inputs, *extra), outputs=tuple(outputs))
