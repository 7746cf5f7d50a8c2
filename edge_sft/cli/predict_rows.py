"""`edge-sft predict` with a bundle of sensors: files of rows in, a decision a window out, as on the line."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edge_sft.cli.console import errors, progress

if TYPE_CHECKING:
    from edge_sft.bundle.reading import VerifiedBundle
    from edge_sft.data.sensors.columns import Part
    from edge_sft.policy import AnyPolicy
    from edge_sft.prediction import Prediction
    from edge_sft.preprocess import Windowing
    from edge_sft.preprocess.window import Window
    from edge_sft.progress import Progress
    from edge_sft.sensor_recipe import SensorRecipe
    from edge_sft.slots.window_predictor import WindowPredictor

COLUMNS = ("asset", "name", "verdict", "label", "score", "confidence", "value", "low", "high", "reason")
_ROWS = 8192  # pushed at a time: a long recording's windows never lie in memory together


def predictions(
    bundle: VerifiedBundle,
    paths: Sequence[Path],
    *,
    variant: str,
    policy: AnyPolicy | None,
    root: Path,
    pipeline: str,
    last: bool,
    watched: bool = False,
) -> Generator[Prediction, None, None]:
    """Yield a Prediction a window, recording by recording, each ``name``d by the time at which its window ends.

    Args:
        bundle: A verified bundle of a sensor model; its recipe says what the files' columns mean.
        paths: Files of rows, or folders of them.
        variant: Which of the bundle's variants to run.
        policy: Another policy than the bundle's own.
        root: The device's folder, whose commissionings an anomaly model needs.
        pipeline: Under which it was commissioned.
        last: Only the newest window of each recording.
        watched: Show how far it is: the decisions themselves do not go to the screen.

    Raises:
        DataError: A file has no usable rows, or a channel is in none of them.
        UserError: The bundle's recipe is not one that this version reads.
    """
    from edge_sft.data.sensors.recordings import read_recordings
    from edge_sft.progress import Silent
    from edge_sft.slots.commissioning_file import CommissioningStore
    from edge_sft.slots.window_predictor import WindowPredictor

    recipe = _recipe(bundle)
    with progress(errors) as reading:
        parts = read_recordings(recipe, paths, lambda line: errors.print(line, markup=False, soft_wrap=True), reading)
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="edge-sft-")))
        bundle.extract_to(folder)
        store = CommissioningStore(root, pipeline, bundle.digest)
        opened = WindowPredictor.open(folder, policy=policy, variant=variant, commissioning=store)
        predictor = cleanup.enter_context(opened)
        bars = cleanup.enter_context(progress(errors)) if watched else Silent()
        bars.start("Deciding", sum(len(part.time) for part in parts))
        for part in parts:
            yield from _decided(predictor, part, bars, last=last)


def text_line(prediction: Prediction, unit: str) -> bytes:
    """Write one decision for people; ``unit`` is what a value counts. Times that are a clock's are written as such."""
    what = prediction.label or ""
    if prediction.value is not None:
        what = f"{prediction.value:.4g}"
        if prediction.low is not None and prediction.high is not None:
            what += f" ({prediction.low:.4g} to {prediction.high:.4g}) {unit}"
    elif prediction.channels:
        what = f"{prediction.score:.3g} × threshold: {', '.join(list(prediction.channels)[:3])}"
    elif prediction.verdict == "no_decision":
        what = prediction.reason or ""
    return f"{prediction.verdict:<12} {prediction.asset} at {_clock(prediction.name or '?')}  {what}\n".encode()


def _clock(end: str) -> str:
    """Write a window's end as date and time of day (UTC) where it is a clock's, else as it is."""
    import numpy as np

    from edge_sft.data.sensors.wording import is_clock

    try:
        time_s = float(end)
    except ValueError:
        return end
    if not is_clock(time_s):
        return end
    return str(np.datetime64(round(time_s * 1000), "ms")).replace("T", " ").removesuffix(".000")


def _recipe(bundle: VerifiedBundle) -> SensorRecipe:
    from edge_sft import sensor_recipe, strict_toml
    from edge_sft.bundle.manifest import RECIPE

    text = bundle.read(RECIPE).decode("utf-8", errors="replace")
    return strict_toml.loads(text, sensor_recipe.SensorRecipe, source=f"{bundle.path}, {RECIPE}")


def _decided(predictor: WindowPredictor, part: Part, bars: Progress, *, last: bool) -> Iterator[Prediction]:
    """Decide about a recording's windows, or its newest one, in order of time."""
    from edge_sft.data.sensors.recordings import machine

    newest: Sequence[Window] = ()
    for windows in _windows(predictor.windowing, part, bars):
        newest = windows[-1:]
        if not last:
            yield from _asked(predictor, windows)
    if last:
        yield from _asked(predictor, newest)
    if not newest:
        fact = f"{len(part.time)} rows hold no window of {predictor.windowing.length} steps with enough valid values"
        errors.print(f"{machine(part)}: {fact}", markup=False, soft_wrap=True)


def _windows(windowing: Windowing, part: Part, bars: Progress) -> Iterator[Sequence[Window]]:
    """Push a recording's rows as a stream would; what a window holds does not depend on how the rows are cut."""
    from edge_sft.data.sensors.recordings import machine
    from edge_sft.preprocess.buffering import WindowBuffer
    from edge_sft.preprocess.gridding import Gridder

    gridder, buffer = Gridder(windowing), WindowBuffer(windowing, machine(part))
    for start in range(0, len(part.time), _ROWS):
        rows = slice(start, start + _ROWS)
        if windows := buffer.push(gridder.push(part.time[rows], part.values[rows])):
            yield windows
        bars.advance(len(part.time[rows]))
    if windows := buffer.push(gridder.flush()):
        yield windows


def _asked(predictor: WindowPredictor, windows: Sequence[Window]) -> list[Prediction]:
    from edge_sft.slots.window_predictor import Captured

    now = Captured(datetime.now(timezone.utc), time.monotonic())
    return predictor.decide(windows, stream="predict", captured=[now] * len(windows))
