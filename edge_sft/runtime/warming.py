"""The model of a sensor pipeline as its threads see it, and a Loader that has windows warmed before it takes over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

from edge_sft.policy import AnyPolicy
from edge_sft.prediction import Prediction
from edge_sft.preprocess import Windowing
from edge_sft.preprocess.window import Window
from edge_sft.runtime.crew import Crew
from edge_sft.runtime.swap import Loader
from edge_sft.slots.window_predictor import Captured, Commissioned


class WindowModel(Protocol):
    """What is used of `edge_sft.slots.window_predictor.WindowPredictor`."""

    windowing: Windowing
    policy: AnyPolicy
    commissioning: Commissioned | None

    def decide(self, windows: Sequence[Window], *, stream: str, captured: Sequence[Captured]) -> list[Prediction]:
        """Windows of any assets → one Prediction each."""
        ...


class WarmingLoader:
    """Loads like the loader it wraps; then ``warm`` fills windows of the new kind while the old model serves."""

    def __init__(self, loader: Loader, warm: Callable[[Windowing], None]) -> None:
        self._loader = loader
        self._warm = warm

    def generation(self) -> int:
        """Return which deploy should serve."""
        return self._loader.generation()

    def load(self, generation: int, current: Crew | None) -> Crew:
        """Load it and warm its windows; nothing is left loaded when either fails."""
        crew = self._loader.load(generation, current)
        try:
            self._warm(model_of(crew).windowing)
        except BaseException:
            crew.close()
            raise
        return crew


def model_of(crew: Crew) -> WindowModel:
    """Return the one model of a sensor pipeline's crew."""
    return cast("WindowModel", crew.lead)
