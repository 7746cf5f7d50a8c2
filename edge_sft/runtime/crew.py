"""The loaded model as a pipeline's workers use it: one or more Predictors that come and go together."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from edge_sft.prediction import ModelIdentity, Prediction, Sample


class LoadedModel(Protocol):
    """What is used of `edge_sft.slots.predictor.Predictor`.

    `prepare` and `no_decision` may be called by any thread, `infer` by one at a time.
    """

    model: ModelIdentity
    memory_mb: float

    def prepare(self, sample: Sample) -> NDArray[Any]:
        """Sample → model input."""
        ...

    def infer(self, tensor: Any, sample: Sample) -> Prediction:
        """Model input → decision; deadline checked before and after."""
        ...

    def no_decision(self, sample: Sample, reason: str) -> Prediction:
        """Say that nothing was decided."""
        ...

    def close(self) -> None:
        """Free it."""
        ...


class Crew:
    """Equal Predictors of one model and policy; `infer` waits for a free one."""

    def __init__(self, models: Sequence[LoadedModel], *, policy_version: str | None, generation: int) -> None:
        self.model = models[0].model
        self.policy_version = policy_version
        self.generation = generation
        self.memory_mb = sum(one.memory_mb for one in models)
        self._all = tuple(models)
        self._free: queue.SimpleQueue[LoadedModel] = queue.SimpleQueue()
        for one in models:
            self._free.put(one)
        self.users = 0  # guarded by the Post's lock
        self.retired = False

    def __len__(self) -> int:
        return len(self._all)

    @property
    def lead(self) -> LoadedModel:
        """The first Predictor: the only one where decisions are made in order, in batches."""
        return self._all[0]

    def prepare(self, sample: Sample) -> NDArray[Any]:
        """Preprocess; any number of threads at once."""
        return self._all[0].prepare(sample)

    def infer(self, tensor: NDArray[Any], sample: Sample) -> Prediction:
        """Decide on the first Predictor that is free."""
        one = self._free.get()
        try:
            return one.infer(tensor, sample)
        finally:
            self._free.put(one)

    def decide(self, tensor: Any, sample: Sample) -> tuple[Prediction, Any]:
        """Decide as `infer`, and also return the map behind the decision, where the model has one."""
        one = self._free.get()
        try:
            return one.infer(tensor, sample), getattr(one, "heat", None)
        finally:
            self._free.put(one)

    def shown(self, sample: Sample, prediction: Prediction, heat: Any) -> Any:
        """Return what `edge_sft.slots.overlay` draws; None where the model shows nothing. Also after `close`."""
        show = getattr(self._all[0], "shown", None)
        return None if show is None else show(sample, prediction, heat)

    @property
    def mm_per_pixel(self) -> float | None:
        """Of its frames; None where nobody measured it."""
        return getattr(self._all[0], "mm_per_pixel", None)

    def no_decision(self, sample: Sample, reason: str) -> Prediction:
        """Say that nothing was decided."""
        return self._all[0].no_decision(sample, reason)

    def close(self) -> None:
        """Free every Predictor."""
        for one in self._all:
            with contextlib.suppress(Exception):  # a library that fails to free must not stop the line
                one.close()


class Post:
    """Who is on duty. A change takes effect between two claims; the old crew is free after its last sample."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._crew: Crew | None = None

    @property
    def crew(self) -> Crew | None:
        """The crew on duty, for looking at; samples go through `claim`."""
        return self._crew

    def claim(self) -> Crew | None:
        """Return the crew on duty, to be given back with `release`; None before the first."""
        with self._changed:
            if self._crew is not None:
                self._crew.users += 1
            return self._crew

    def release(self, crew: Crew | None) -> None:
        """Give a claimed crew back."""
        if crew is None:
            return
        with self._changed:
            crew.users -= 1
            if crew.retired and not crew.users:
                self._changed.notify_all()

    def hand_over(self, crew: Crew | None) -> Crew | None:
        """Put a new crew on duty; returns the old one, which may still have samples in hand."""
        with self._changed:
            old, self._crew = self._crew, crew
            if old is not None:
                old.retired = True
            self._changed.notify_all()
        return old

    def wait_idle(self, crew: Crew, timeout_s: float) -> bool:
        """Wait until a retired crew has no sample in hand."""
        with self._changed:
            return self._changed.wait_for(lambda: crew.users == 0, timeout_s)

    def wait_manned(self, timeout_s: float) -> bool:
        """Wait until there is a crew."""
        with self._changed:
            return self._changed.wait_for(lambda: self._crew is not None, timeout_s)
