"""The ways through a loaded variant that are timed: end to end as on the line, and the engine alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sft import policy as policies
from edge_sft.bundle.manifest import Manifest
from edge_sft.deploy.candidates import FRAME
from edge_sft.engines.protocol import Engine
from edge_sft.errors import DataError, DeviceError, UserError
from edge_sft.policy import AnyPolicy
from edge_sft.prediction import Encoded, Prediction, Sample
from edge_sft.preprocess import Windowing
from edge_sft.preprocess.buffering import WindowBuffer
from edge_sft.preprocess.gridding import Gridder
from edge_sft.preprocess.window import Window
from edge_sft.profile import DeviceProfile, VariantName
from edge_sft.slots.golden import Arrays, Golden
from edge_sft.slots.opening import open_model
from edge_sft.slots.predictor import Predictor
from edge_sft.slots.window_predictor import Captured, WindowPredictor

Run = Callable[[], object]

_JPEG_QUALITY = 90
_ROWS_MAX = 64  # times the rows of one hop or window, after which rows that give no window never will


class Ways(Protocol):
    """From raw data to decisions."""

    @property
    def begins(self) -> tuple[str, ...]:
        """What end to end may begin with."""
        ...

    def end_to_end(self, begin: str, batch: int) -> Run:
        """Return what decides ``batch`` samples once. Raises DataError; what is returned, DeviceError."""
        ...


@dataclass(frozen=True)
class Subject:
    """One variant, loaded."""

    engine: Engine
    ways: Ways


class PictureWays:
    """A model of pictures: from a JPEG file's bytes, or from a camera's frame."""

    begins = ("jpeg", "frame")

    def __init__(self, predictor: Predictor, samples: Golden, picture: Path | None) -> None:
        self._predictor = predictor
        self._frame, content = _picture(samples, picture)
        self._data: dict[str, Encoded | NDArray[np.uint8]] = {"jpeg": Encoded(content), "frame": self._frame}

    def end_to_end(self, begin: str, batch: int) -> Run:
        """Decide so many pictures: one as the agent does, more in one run of the graph."""
        data, predictor = self._data[begin], self._predictor

        def sample() -> Sample:
            return Sample(data, datetime.now(timezone.utc), time.monotonic(), stream="bench")

        if batch == 1:
            return lambda: _decided(predictor.predict(sample()))

        if predictor.task.kind != "classification":  # one picture has batches of its own: its tiles

            def one_by_one() -> None:
                for _ in range(batch):
                    _decided(predictor.predict(sample()))

            return one_by_one

        name = predictor.task.inputs[0].name

        def run() -> None:
            tensors = np.concatenate([predictor.prepare(sample()) for _ in range(batch)])
            outputs = predictor.outputs({name: tensors})
            for row in range(batch):
                policies.decide({key: array[row] for key, array in outputs.items()}, predictor.policy)

        return run


class WindowWays:
    """A model of sensor windows: from the rows that complete a window, for as many machines as the batch is large."""

    begins = ("rows",)

    def __init__(self, predictor: WindowPredictor, samples: Golden) -> None:
        self._predictor = predictor
        self._samples = samples

    def end_to_end(self, begin: str, batch: int) -> Run:
        """Push rows of so many machines until each has a window, and decide them together. Raises DataError."""
        predictor = self._predictor
        streams = [RowStream(predictor.windowing, self._samples, f"{begin}-{place}") for place in range(batch)]

        def run() -> None:
            now = Captured(datetime.now(timezone.utc), time.monotonic())
            windows = [stream.window() for stream in streams]
            for prediction in predictor.decide(windows, stream="bench", captured=[now] * batch):
                _decided(prediction)

        return run


class RowStream:
    """Golden windows as the rows that they were made of, one after the other and over again, without an end."""

    def __init__(self, windowing: Windowing, samples: Golden, asset: str) -> None:
        values, valid = (samples.inputs[name][..., : len(windowing.channels)] for name in ("window", "valid"))
        scale = np.array([channel.scale for channel in windowing.channels])
        offset = np.array([channel.offset for channel in windowing.channels])
        rows = (values.astype(np.float64) - offset) / scale
        self._rows = np.where(valid > 0, rows, np.nan).reshape(-1, len(windowing.channels))
        self._windowing, self._asset = windowing, asset
        self._gridder, self._buffer = Gridder(windowing), WindowBuffer(windowing, asset)
        self._pushes = count()
        self.window(at_most=_ROWS_MAX * (windowing.length // windowing.hop + 1))  # the first needs a whole window

    def window(self, at_most: int = _ROWS_MAX) -> Window:
        """Push rows, a hop at a time, until a window is complete. Raises DataError when none will be."""
        hop = self._windowing.hop
        for _ in range(at_most):
            steps = next(self._pushes) * hop + np.arange(hop)
            time_s = steps.astype(np.float64) * self._windowing.period_s
            grid = self._gridder.push(time_s, self._rows[steps % len(self._rows)])
            if windows := self._buffer.push(grid):
                return windows[-1]
        raise DataError("golden.npz", "holds windows that give none when they are fed again as rows")


def open_subject(
    slot: Path,
    variant: VariantName,
    profile: DeviceProfile,
    policy: AnyPolicy,
    manifest: Manifest,
    samples: Golden,
    picture: Path | None,
) -> Subject:
    """Load a variant of a slot. Raises what `edge_sft.slots.opening.open_model` does, and UserError for a picture."""
    opened = open_model(slot, policy=policy, variant=variant, profile=profile)
    if manifest.task.modality != "window":
        shown = opened.start(lambda it: Predictor(it.engine, it.manifest, it.model, it.policy, deadline_ms=None))
        return Subject(opened.engine, PictureWays(shown, samples, picture))
    machines = _GoldenMachine(samples)
    predictor = opened.start(
        lambda it: WindowPredictor(it.engine, it.manifest, it.model, it.policy, commissioning=machines)
    )
    return Subject(opened.engine, WindowWays(predictor, samples))


def inputs_of(samples: Golden, batch: int) -> Arrays:
    """Return golden inputs for one run of ``batch`` samples, over again where there are fewer."""
    chosen = np.arange(batch) % samples.count
    return {name: np.ascontiguousarray(array[chosen]) for name, array in samples.inputs.items()} | samples.local


class _GoldenMachine:
    """Every machine commissioned as the golden samples' was; its threshold only has to be there."""

    threshold = 1.0

    def __init__(self, samples: Golden) -> None:
        self.inputs: Mapping[str, NDArray[np.float32]] = samples.local

    def of(self, asset: str) -> _GoldenMachine:
        """Return itself."""
        del asset
        return self

    def why_not(self, asset: str) -> str:
        """Nothing speaks against it."""
        del asset
        return ""

    def refresh(self) -> tuple[str, ...]:
        """Nothing changes."""
        return ()


def _decided(prediction: Prediction) -> None:
    if prediction.verdict == "no_decision":
        raise DeviceError("a sample", prediction.reason or "was not decided")


def _picture(samples: Golden, given: Path | None) -> tuple[NDArray[np.uint8], bytes]:
    """Return a frame and a file's bytes: the user's, or a golden picture enlarged to a camera's size."""
    import cv2

    if given is not None:
        try:
            content = given.read_bytes()
        except OSError as error:
            raise UserError(str(given), f"cannot be read ({error.strerror or error})", "Check --picture.") from error
        frame: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if frame is None:
            raise UserError(str(given), "is no picture", "Check --picture.")
        return np.ascontiguousarray(frame[..., ::-1]), content
    golden = next(iter(samples.inputs.values()))[0]
    frame = np.asarray(cv2.resize(golden, (FRAME[1], FRAME[0])), dtype=np.uint8)
    _, encoded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return frame, encoded.tobytes()
