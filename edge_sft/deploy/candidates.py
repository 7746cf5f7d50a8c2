"""A variant on trial: loaded, asked, timed. Pictures pay for a camera's frame, sensors for a window and a decision."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sft import policy as policies
from edge_sft.engines.protocol import EngineInfo
from edge_sft.errors import DataError, DeviceError
from edge_sft.policy import AnyPolicy
from edge_sft.prediction import Sample
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.slots.golden import Arrays, Golden
from edge_sft.slots.opening import Opened, open_model
from edge_sft.slots.predictor import Predictor

FRAME = (1024, 1280)  # height, width: a common 1.3-megapixel line camera; preprocessing starts from it


class Candidate(Protocol):
    """One variant, loaded."""

    @property
    def engine(self) -> EngineInfo:
        """What really runs."""
        ...

    def outputs(self, inputs: Arrays) -> Arrays:
        """Run the graph on prepared inputs with their batch axis. Raises DeviceError."""
        ...

    def once(self) -> float:
        """Decide one sample from its raw data on; returns milliseconds, NaN when nothing was decided."""
        ...


def open_candidate(
    slot: Path, variant: VariantName, profile: DeviceProfile, rule: AnyPolicy, modality: str, samples: Golden
) -> Candidate:
    """Load a variant of a slot. Raises what `Predictor.open` does."""
    if modality == "window":
        return WindowCandidate(open_model(slot, policy=rule, variant=variant, profile=profile), samples)
    return PictureCandidate(Predictor.open(slot, policy=rule, variant=variant, profile=profile), samples)


class PictureCandidate:
    """A model of pictures: preprocessing a frame, inference, decision."""

    def __init__(self, predictor: Predictor, samples: Golden) -> None:
        self._predictor = predictor
        self._samples = samples
        self._frame: NDArray[np.uint8] | None = None

    @property
    def engine(self) -> EngineInfo:
        """What really runs."""
        return self._predictor.engine

    def outputs(self, inputs: Arrays) -> Arrays:
        """Run the graph."""
        return self._predictor.outputs(inputs)

    def once(self) -> float:
        """Decide a camera's frame."""
        if self._frame is None:
            self._frame = _frame(self._samples)
        begin = time.monotonic()
        prediction = self._predictor.predict(Sample(self._frame, datetime.now(timezone.utc), begin, stream="proof"))
        took = (time.monotonic() - begin) * 1000
        return float("nan") if prediction.verdict == "no_decision" else took


class WindowCandidate:
    """A model of sensor windows: stacking a window, inference, decision; the golden windows in turn.

    What a row costs before it completes a window (gridding) is the same for every variant and is not counted.
    """

    def __init__(self, opened: Opened, samples: Golden) -> None:
        self._opened = opened
        self._samples = samples
        self._turn = 0

    @property
    def engine(self) -> EngineInfo:
        """What really runs."""
        return self._opened.engine.info

    def outputs(self, inputs: Arrays) -> Arrays:
        """Run the graph."""
        return self._opened.engine.infer(inputs)

    def once(self) -> float:
        """Decide one golden window."""
        sample = self._samples.sample(self._turn % self._samples.count)
        self._turn += 1
        begin = time.perf_counter()  # these take microseconds, and monotonic() counts in 16 ms steps on Windows
        windows = {name: np.stack(list(array)) for name, array in sample.items() if name in self._samples.inputs}
        try:
            outputs = self.outputs({**sample, **windows})
        except DeviceError:
            return float("nan")
        # without a commissioning an anomaly's decision is that there is none: the time it takes is the same
        policies.decide({name: array[0] for name, array in outputs.items()}, self._opened.policy)
        return (time.perf_counter() - begin) * 1000


def measured_with(modality: str, inputs: tuple[Any, ...]) -> str:
    """Say in a proof what the latency was measured with: a frame's width x height, or a window's steps x channels."""
    if modality == "window":
        return "x".join(str(axis) for axis in inputs[0].shape[1:])
    return f"{FRAME[1]}x{FRAME[0]}"


def _frame(samples: Golden) -> NDArray[np.uint8]:
    """Enlarge a golden picture to a camera's frame: only the cost of preprocessing it matters."""
    import cv2

    picture = next(iter(samples.inputs.values()))[0]
    if picture.dtype != np.uint8 or picture.ndim != 3:
        raise DataError("golden.npz", "holds no pictures", "Build the bundle again.")
    return np.asarray(cv2.resize(picture, (FRAME[1], FRAME[0])), dtype=np.uint8)
