"""Which raw values may be used: plausible ones from sensors that still move. State of one asset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.preprocess.windowing import Windowing

_LARGEST = float(np.finfo(np.float32).max)


class Validity:
    """Takes away values that cannot be: outside a channel's limits, not finite, or from a stuck sensor.

    Attributes:
        value: Last usable value of each watched channel, float64 [W].
        since: Time since which it has been that, float64 [W].
        stuck: Whether the channel stood still for its ``stuck_s`` at its last row, bool [W].
    """

    def __init__(self, windowing: Windowing) -> None:
        channels = windowing.channels
        self._scale = np.array([c.scale for c in channels])
        self._offset = np.array([c.offset for c in channels])
        self._converts = bool((self._scale != 1.0).any() or (self._offset != 0.0).any())
        self._low = np.array([-_LARGEST if c.low is None else max(c.low, -_LARGEST) for c in channels])
        self._high = np.array([_LARGEST if c.high is None else min(c.high, _LARGEST) for c in channels])
        self.watched = np.array([i for i, c in enumerate(channels) if c.stuck_s is not None], dtype=np.intp)
        self._limit = np.array([c.stuck_s for c in channels if c.stuck_s is not None], dtype=np.float64)
        self.forget()

    def forget(self) -> None:
        """Begin anew: a new run."""
        self.value = np.full(self.watched.size, np.nan)
        self.since = np.full(self.watched.size, np.nan)
        self.stuck = np.zeros(self.watched.size, dtype=np.bool_)

    def in_units(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return raw values [n, C] in their channels' units."""
        if not self._converts:
            return values
        with np.errstate(invalid="ignore", over="ignore"):
            converted: NDArray[np.float64] = values * self._scale + self._offset
        return converted

    def plausible(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return raw values [n, C] in their units, with NaN for those outside the limits; keeps no state."""
        values = self.in_units(values)
        with np.errstate(invalid="ignore"):
            usable = (values >= self._low) & (values <= self._high)
        return values if usable.all() else np.where(usable, values, np.nan)

    def moving(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one run's plausible values with NaN for those of stuck sensors."""
        if not self.watched.size:
            return values
        if len(values) == 1:
            return self._moving_row(float(time[0]), values)
        own = values[:, self.watched]
        seen = np.isfinite(own)
        if seen.all() and (own[0] != self.value).all() and (own[1:] != own[:-1]).all():  # noise, as sensors have
            self.value, self.since = own[-1].copy(), np.full(self.watched.size, time[-1])
            self.stuck = np.zeros(self.watched.size, dtype=np.bool_)
            return values
        every = np.arange(self.watched.size)
        order = np.arange(1, len(own) + 1)[:, None]
        latest = np.maximum.accumulate(np.where(seen, order, 0), axis=0)
        known = np.concatenate([self.value[None], own])
        before = np.concatenate([np.zeros_like(latest[:1]), latest[:-1]])
        changed = seen & (own != known[before, every])
        change = np.maximum.accumulate(np.where(changed, order, 0), axis=0)
        times = np.concatenate([self.since[None], np.broadcast_to(time[:, None], own.shape)])
        since = times[change, every]
        still = seen & (time[:, None] - since >= self._limit)
        self.value = known[latest[-1], every]
        self.since = since[-1].copy()
        self.stuck = np.where(latest[-1] > 0, still[np.maximum(latest[-1] - 1, 0), every], self.stuck)
        if not still.any():
            return values
        values = values.copy()
        values[:, self.watched] = np.where(still, np.nan, own)
        return values

    def _moving_row(self, time: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Do the same for one row: the usual case of a stream."""
        own = values[0, self.watched]
        seen = np.isfinite(own)
        changed = seen & (own != self.value)
        self.value = np.where(changed, own, self.value)
        self.since = np.where(changed, time, self.since)
        still = seen & (time - self.since >= self._limit)
        self.stuck = np.where(seen, still, self.stuck)
        if not still.any():
            return values
        values = values.copy()
        values[0, self.watched[still]] = np.nan
        return values

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know."""
        return {"watched": np.stack([self.value, self.since, self.stuck.astype(np.float64)])}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises KeyError, ValueError."""
        self.value, self.since, stuck = np.array(state["watched"], np.float64).reshape(3, self.watched.size)
        self.stuck = stuck > 0
