"""Which cases a recorded run would have opened: the device's own alarm step, over decisions that lie in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sft.alarms import Case, step
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Prediction
from edge_sft.report.sensor_scores import Floats

_ANY = "1970-01-01T00:00:00.000Z"
_DECIDED = Prediction(stream="report", captured_at=_ANY, decided_at=_ANY, latency_ms=0, verdict="ok")


@dataclass(frozen=True)
class Stretch:
    """From ``start`` to ``end`` in the run's time; rows ``first`` to ``last`` of its run."""

    start: float
    end: float
    first: int
    last: int


def cases_of(time: Floats, bad: NDArray[np.bool_], rule: AlarmRule, ratio: Floats | None = None) -> tuple[Stretch, ...]:
    """Open and close cases as `edge_sft.alarms.step` does; the last one may still be open at the end.

    Args:
        time: When each decision was made, float64 [n], rising.
        bad: Which decisions were ``nok``, bool [n]; the others were ``ok``.
        rule: The policy's.
        ratio: Scores against their threshold, float64 [n]; None where decisions have no score.
    """
    found: list[Stretch] = []
    case, opened, row = Case(), 0, 0
    changing = np.flatnonzero(bad)
    clear = np.flatnonzero(~bad if ratio is None else ~bad & (ratio < rule.clear_ratio))
    while True:
        # Rows in which nothing can begin are passed over: runs are long and alarms are rare.
        if case.open and case.good_since_s is None:
            row = _next(clear, row)
        elif not case.open and case.bad_since_s is None:
            row = _next(changing, row)
        if row >= len(time):
            break
        score = None if ratio is None else float(ratio[row])
        verdict = "nok" if bad[row] else "ok"
        told = _DECIDED.model_copy(update={"verdict": verdict, "score": score})
        case, events = step(case, told, rule, float(time[row]))
        for event in events:
            if event.kind == "case_opened":
                opened = row
            else:
                found.append(Stretch(float(time[opened]), event.at_s, opened, row))
        row += 1
    if case.open:
        found.append(Stretch(float(time[opened]), float(time[-1]), opened, len(time) - 1))
    return tuple(found)


def stretches_of(time: Floats, mask: NDArray[np.bool_]) -> tuple[Stretch, ...]:
    """Unbroken stretches where ``mask`` is true."""
    pairs = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))).reshape(-1, 2)
    return tuple(Stretch(float(time[first]), float(time[end - 1]), int(first), int(end - 1)) for first, end in pairs)


def meet(a: Stretch, b: Stretch) -> bool:
    """Whether two stretches of one run share a row."""
    return a.first <= b.last and b.first <= a.last


def _next(rows: NDArray[np.int64], row: int) -> int:
    place = int(np.searchsorted(rows, row))
    return int(rows[place]) if place < len(rows) else np.iinfo(np.int64).max
