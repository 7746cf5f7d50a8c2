"""Order tracking: rows against the clock → values at equal angles of the shaft. State of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import BugError
from edge_sft.preprocess.windowing import Windowing


@dataclass(frozen=True)
class Turn:
    """Values at equal angles.

    Attributes:
        fresh: Whether they cannot be joined to what came before (the shaft's angle was lost in between).
        cells: Angle step of each value, int64 [n], never falling, from 0.
        values: float64 [n, C], NaN where a channel is not known.
        first: First step whose time is given.
        times: When the shaft was at the steps ``first``, ``first`` + 1, …; float64 [m].
    """

    fresh: bool
    cells: NDArray[np.int64]
    values: NDArray[np.float64]
    first: int
    times: NDArray[np.float64]


class Shaft:
    """Follows the shaft's angle by its speed (revolutions a minute, trapezoids between rows; its sign is nothing).

    At each step of angle the channels are interpolated linearly between the rows around it. With ``mean`` the rows
    of the step count as well, which keeps what is faster than the steps from folding back. A channel's last value,
    the speed's too, stands in for ``hold_s``. Where the speed is not known the angle is lost and a new grid begins.
    """

    def __init__(self, windowing: Windowing) -> None:
        if windowing.order is None:
            raise BugError("order tracking", "was begun for a windowing without it")
        self._speed = windowing.names.index(windowing.order.speed_channel)
        self._steps = windowing.order.samples_per_revolution / 60.0  # of one revolution a minute in one second
        self._channels = len(windowing.channels)
        self._longest = windowing.length  # steps between two rows after which no window holds both
        self._hold = windowing.hold_s * (1 + 1e-9)
        self._mean = windowing.aggregate == "mean"
        self.begin()

    def begin(self) -> None:
        """Forget the run."""
        self._held = np.full(self._channels, np.nan)
        self._held_at = np.full(self._channels, np.nan)
        self._row = np.full(self._channels, np.nan)  # last row, held values in it
        self._time = np.nan
        self._angle = np.nan  # in steps; NaN: lost

    @property
    def lost(self) -> bool:
        """Whether the angle is not known now."""
        return bool(np.isnan(self._angle))

    def track(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> Iterator[Turn]:
        """Take rows of one run, times never falling; yield what they give, in parts that can be joined."""
        values = self._stood_in(time, values)
        speed = np.abs(np.concatenate([self._row[None, self._speed], values[:, self._speed]]))
        times = np.concatenate([[self._time], time])
        with np.errstate(invalid="ignore", over="ignore"):
            turned = (speed[1:] + speed[:-1]) * 0.5 * self._steps * np.diff(times)
            lost = ~(turned <= self._longest)
        lost[0] |= self.lost
        breaks = np.flatnonzero(lost)
        for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(time)], strict=True):
            if start == stop:
                continue
            fresh = bool(lost[start])
            if not np.isfinite(speed[start + 1]):  # a lost row whose own speed is unknown: nothing can begin here
                self._angle = np.nan
                self._row, self._time = values[stop - 1].copy(), float(time[stop - 1])
                continue
            yield self._turn(fresh, time[start:stop], values[start:stop], turned[start:stop])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all there is to know."""
        return {"shaft": np.concatenate([[self._time, self._angle], self._row, self._held, self._held_at])}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises KeyError, ValueError."""
        numbers = np.array(state["shaft"], np.float64)
        self._time, self._angle = float(numbers[0]), float(numbers[1])
        self._row, self._held, self._held_at = numbers[2:].reshape(3, self._channels)

    def _turn(
        self,
        fresh: bool,
        time: NDArray[np.float64],
        values: NDArray[np.float64],
        turned: NDArray[np.float64],
    ) -> Turn:
        if fresh:
            angle = np.cumsum(np.concatenate([[0.0], turned[1:]]))
            first = 0
            angles, times, rows = angle, time, values
        else:
            angles = np.cumsum(np.concatenate([[self._angle], turned]))
            first = int(np.floor(self._angle)) + 1
            angle, times, rows = (
                angles[1:],
                np.concatenate([[self._time], time]),
                np.concatenate([self._row[None], values]),
            )
        self._angle, self._time, self._row = float(angles[-1]), float(times[-1]), rows[-1].copy()
        steps = np.arange(first, int(np.floor(angles[-1])) + 1)
        after = np.searchsorted(angles, steps, side="left")  # first row at or behind the step
        before = np.maximum(after - 1, 0)
        span = angles[after] - angles[before]
        share = np.divide(steps - angles[before], span, out=np.zeros(len(steps)), where=span > 0)
        at = times[before] + share * (times[after] - times[before])
        points = rows[before] + share[:, None] * (rows[after] - rows[before])
        if not self._mean:
            return Turn(fresh, steps, points, first, at)
        own = np.arange(len(values)) + (len(rows) - len(values))
        order = np.argsort(np.concatenate([2 * after, 2 * own + 1]), kind="stable")
        cells = np.floor(np.concatenate([steps, angle]) + 0.5).astype(np.int64)
        return Turn(fresh, cells[order], np.concatenate([points, values])[order], first, at)

    def _stood_in(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        own = np.isfinite(values)
        latest = np.maximum.accumulate(np.where(own, np.arange(1, len(values) + 1)[:, None], 0), axis=0)
        known = np.concatenate([self._held[None], values])
        since = np.concatenate([self._held_at[None], np.broadcast_to(time[:, None], values.shape)])
        every = np.arange(self._channels)
        filled, at = known[latest, every], since[latest, every]
        self._held, self._held_at = filled[-1].copy(), at[-1].copy()
        with np.errstate(invalid="ignore"):
            return np.where(time[:, None] - at <= self._hold, filled, np.nan)
