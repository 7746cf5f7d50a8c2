"""Late and out-of-order rows of one asset: put into order within a stated window, left out beyond it.

With ``late_s`` 0 rows go on as they came; `Gridder` then judges them alone. Otherwise a row waits until a row came
that is ``late_s`` newer (or nothing comes for that long), so that what is late by less is still in order. What is
older than that is left out and counted, unless three rows one after the other are older by ``jump_s``: then the
clock was set back, what waits goes on, and the old rows begin anew. One stray row of yesterday moves nothing.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = tuple[float, NDArray[np.float64]]
_WITNESSES = 3
_BY_TIME = itemgetter(0)


class Reorder:
    """State of one asset; see the module's text.

    Attributes:
        late: Rows left out so far.
        jumps: Times that the clock was set back so far.
    """

    def __init__(self, late_s: float, jump_s: float) -> None:
        self._late_s = late_s
        self._jump_s = jump_s
        self._waiting: list[Row] = []
        self._suspects: list[Row] = []
        self._newest = self._released = -math.inf
        self.late = 0
        self.jumps = 0

    def push(self, time: NDArray[np.float64], values: NDArray[np.float64]) -> list[Row]:
        """Take rows in order of arrival; return those that may go on, in order."""
        rows = zip(time.tolist(), values, strict=True)
        if not self._late_s:
            return list(rows)
        out: list[Row] = []
        for row in rows:
            self._take(row, out)
        return out

    def _take(self, row: Row, out: list[Row]) -> None:
        moment = row[0]
        if moment < self._released:
            self._old(row, out)
            return
        if not abs(moment) < math.inf:  # NaN and infinities would hold the others for ever; the grid tells of them
            out.append(row)
            return
        self.late += len(self._suspects)
        self._suspects.clear()
        insort(self._waiting, row, key=_BY_TIME)
        self._newest = max(self._newest, moment)
        self._release(self._newest - self._late_s, out)

    def _old(self, row: Row, out: list[Row]) -> None:
        if self._newest - row[0] <= self._jump_s:
            self.late += 1
            return
        self._suspects.append(row)
        if len(self._suspects) < _WITNESSES:
            return
        again, self._suspects = self._suspects, []
        self._release(math.inf, out)
        self._newest = self._released = -math.inf
        self.jumps += 1
        for one in again:
            self._take(one, out)

    def _release(self, until: float, out: list[Row]) -> None:
        count = 0
        while count < len(self._waiting) and self._waiting[count][0] <= until:
            count += 1
        if count:
            out += self._waiting[:count]
            self._released = max(self._released, self._waiting[count - 1][0])
            del self._waiting[:count]

    def drain(self) -> list[Row]:
        """Let everything that waits go on: nothing came for ``late_s``, or nothing more will come."""
        out: list[Row] = []
        self._release(math.inf, out)
        return out

    def __len__(self) -> int:
        return len(self._waiting)

    def state(self, width: int) -> dict[str, NDArray[Any]]:
        """Return all there is to know for going on exactly from here."""
        return {
            "times": np.array([self._newest, self._released]),
            "counts": np.array([self.late, self.jumps], np.int64),
            "waiting": _packed(self._waiting, width),
            "suspects": _packed(self._suspects, width),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises KeyError, ValueError where it is none."""
        self._newest, self._released = (float(one) for one in state["times"])
        self.late, self.jumps = (int(one) for one in state["counts"])
        self._waiting, self._suspects = _unpacked(state["waiting"]), _unpacked(state["suspects"])


def stacked(rows: Iterable[Row], width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows as times [n] and values [n, width]."""
    both = list(rows)
    time = np.array([moment for moment, _ in both], dtype=np.float64)
    values = np.stack([one for _, one in both]) if both else np.zeros((0, width))
    return time, values


def _packed(rows: list[Row], width: int) -> NDArray[np.float64]:
    time, values = stacked(rows, width)
    return np.column_stack([time, values])


def _unpacked(array: NDArray[Any]) -> list[Row]:
    table = np.asarray(array, dtype=np.float64)
    return list(zip(table[:, 0].tolist(), table[:, 1:], strict=True))
