"""One asset of a sensor pipeline: its late rows, its grid, its window, its case, and whether it is there at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sft import alarms
from edge_sft.alarms import Case, CaseEvent
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Prediction
from edge_sft.preprocess import Windowing
from edge_sft.preprocess.buffering import WindowBuffer
from edge_sft.preprocess.gridding import Gridder
from edge_sft.preprocess.window import Window
from edge_sft.runtime.lateness import Reorder, stacked
from edge_sft.slots.window_predictor import Captured

Health = Literal["online", "offline", "stuck", "undecided"]
HEALTHS: tuple[Health, ...] = ("online", "offline", "stuck", "undecided")
# Rows wait for the one that completes the next window, because the grid costs the same for one row as for twenty.
_HELD_ROWS = 4096
_HELD_S = 2.0
# A column that does not come in messages that carry others is missing after so long; a message with one column only
# (one topic a tag) says nothing of the others, there it takes as long as silence does.
_MISSING_S = 2.0


class Due(NamedTuple):
    """A window to decide."""

    asset: Asset
    window: Window
    captured: Captured


@dataclass(frozen=True)
class Columns:
    """How the columns of a message lie in the window: ``order`` are its columns, ``to`` the window's, ``same``: both
    are alike."""

    order: NDArray[np.intp]
    to: NDArray[np.intp]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    same: bool = False

    @classmethod
    def of(cls, channels: tuple[str, ...], windowing: Windowing) -> Columns:
        """Compare a message's channels with the model's."""
        wanted = [channel.name for channel in windowing.channels]
        at = {name: index for index, name in enumerate(channels)}
        pairs = [(at[name], index) for index, name in enumerate(wanted) if name in at]
        order, to = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        missing = tuple(name for name in wanted if name not in at)
        unknown = tuple(name for name in channels if name not in wanted)
        return cls(order, to, missing, unknown, same=channels == tuple(wanted))

    def aligned(self, values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
        """Return the values [n, width] in the window's order, NaN where a column did not come."""
        if self.same:
            return values
        if not self.missing:
            return values[:, self.order]
        out = np.full((len(values), width), np.nan)
        out[:, self.to] = values[:, self.order]
        return out


class Asset:
    """State of one asset; used by one thread. Clocks: ``now_s`` is the device's monotonic one.

    Attributes:
        name: Which.
        health: ``offline`` (silent for ``stale_s``), ``stuck`` (a sensor stands still), ``undecided`` (rows come, and
            no decision), or ``online``. None of them means that the machine is healthy.
        case: Its alarm.
        missing: Channels that do not come.
        mute: Channels that come without a number (empty, or text) for half a window or longer.
        why_not: Why the newest window was not decided; empty where it was.
    """

    def __init__(self, name: str, windowing: Windowing, *, late_s: float, jump_s: float, now_s: float) -> None:
        self.name = name
        self.health: Health = "undecided"
        self.case = Case()
        self.missing: tuple[str, ...] = ()
        self.why_not = ""
        self.unknown: tuple[str, ...] = ()
        self.mute: tuple[str, ...] = ()
        self._windowing = windowing
        self.width = len(windowing.channels)
        self._late_s = late_s
        self._reorder = Reorder(late_s, jump_s)
        self.gridder = Gridder(windowing)
        self._buffer = WindowBuffer(windowing, name)
        self._held: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self._held_rows = 0
        self._held_since_s = self._seen_s = self._began_s = self._complete_s = now_s
        self._column_seen_s = np.full(self.width, now_s)
        self._spoke = np.full(self.width, math.nan)  # time of the newest row with a number, in the rows' own unit
        self._spoke_all = self._heard = math.nan
        self._patience = max(windowing.hold_s, windowing.length * windowing.period_s / 2)
        self._partial = False
        self._single = True
        self._decided_s = -math.inf
        self._newest = self._due = -math.inf
        self._captured: Captured | None = None

    # --- rows → windows --------------------------------------------------------------------------------------

    def take(
        self, time: NDArray[np.float64], values: NDArray[np.float64], columns: Columns, captured: Captured, now_s: float
    ) -> list[Due]:
        """Take rows in order of arrival; return the windows that they complete."""
        self._note(columns, now_s)
        self._captured = captured
        values = columns.aligned(values, self.width)
        if self._late_s:
            time, values = stacked(self._reorder.push(time, values), self.width)
        return self._hold(time, values, now_s)

    def _note(self, columns: Columns, now_s: float) -> None:
        self._seen_s = now_s
        if not columns.missing:
            self._complete_s = now_s
            return
        self._partial = True
        self._single = len(columns.to) <= 1 < self.width
        self._column_seen_s[columns.to] = now_s
        self.unknown = columns.unknown

    def _hold(self, time: NDArray[np.float64], values: NDArray[np.float64], now_s: float) -> list[Due]:
        if not len(time):
            return []
        if not self._held:
            self._held_since_s = now_s
        self._held.append((time, values))
        self._held_rows += len(time)
        newest = time.item() if len(time) == 1 else float(time.max())
        self._newest = max(self._newest, newest)
        if self._newest >= self._due or self._held_rows >= _HELD_ROWS:
            return self.push()
        return []

    def push(self) -> list[Due]:
        """Give the grid what waits for a window to be complete; any moment gives the same windows."""
        if not self._held:
            return []
        held, self._held, self._held_rows = self._held, [], 0
        self._newest = -math.inf
        time, values = np.concatenate([t for t, _ in held]), np.concatenate([v for _, v in held])
        self._listen(float(time[-1]), values)
        grid = self.gridder.push(time, values)
        if len(grid) and self._windowing.order is None:
            steps = self._windowing.hop - (int(grid.index[-1]) + 1) % self._windowing.hop
            self._due = float(grid.time[-1]) + (steps + 0.5) * self._windowing.period_s
        return self._dues(self._buffer.push(grid))

    def _listen(self, time: float, values: NDArray[np.float64]) -> None:
        """Note which channels have brought a number; another order of time (a clock set back) begins anew."""
        begins = not time >= self._heard - self._patience
        self._heard = time if begins else max(time, self._heard)
        known = np.isfinite(values).any(axis=0)
        if begins or known.all():
            self._spoke_all = self._heard
        else:
            self._spoke[known] = self._heard

    def look_for_mute(self) -> tuple[str, ...] | None:
        """Return the channels that bring no number, when that has changed; None otherwise."""
        if self._spoke_all == self._heard and not self.mute:
            return None
        gone = np.fmax(self._spoke, self._spoke_all) + self._patience < self._heard
        mute = tuple(one.name for one, is_gone in zip(self._windowing.channels, gone, strict=True) if is_gone)
        if mute == self.mute:
            return None
        self.mute = mute
        return mute

    def _dues(self, windows: list[Window]) -> list[Due]:
        if not windows:
            return []
        assert self._captured is not None
        return [Due(self, window, self._captured) for window in windows]

    def tick(self, now_s: float) -> list[Due]:
        """Let go what has waited long enough: rows for later ones, rows for the next window."""
        dues: list[Due] = []
        if len(self._reorder) and now_s - self._seen_s >= self._late_s:
            dues += self._hold(*stacked(self._reorder.drain(), self.width), now_s)
        if self._held and now_s - self._held_since_s >= _HELD_S:
            dues += self.push()
        return dues

    def finish(self) -> list[Due]:
        """Complete what is open: nothing more will come."""
        dues = self._hold(*stacked(self._reorder.drain(), self.width), self._seen_s)
        dues += self.push()
        return dues + self._dues(self._buffer.push(self.gridder.flush()))

    # --- decisions → case ------------------------------------------------------------------------------------

    def decided(
        self, prediction: Prediction, end: float, rule: AlarmRule, threshold: float, now_s: float
    ) -> tuple[CaseEvent, ...]:
        """Take a decision into account; returns what happened to the case."""
        if prediction.verdict != "no_decision":
            self._decided_s = now_s
        self.why_not = prediction.reason or "" if prediction.verdict == "no_decision" else ""
        self.case, events = alarms.step(self.case, prediction, rule, end, threshold=threshold)
        return events

    # --- health ----------------------------------------------------------------------------------------------

    def look(self, rule: AlarmRule, now_s: float) -> bool:
        """Judge its health anew; True when it changed."""
        before = self.health
        self.health = self._judged(rule.stale_s, now_s)
        if self.health == "offline" and before != "offline":
            self.case = alarms.interrupted(self.case)
        return self.health != before

    def _judged(self, stale_s: float, now_s: float) -> Health:
        if now_s - self._seen_s > stale_s:
            return "offline"
        if self.gridder.stuck:
            return "stuck"
        patience_s = stale_s + 3 * self._windowing.hop * self._windowing.period_s
        return "online" if now_s - self._decided_s <= patience_s else "undecided"

    def look_for_missing(self, stale_s: float, now_s: float) -> tuple[str, ...] | None:
        """Return the channels that do not come, when that has changed; None otherwise."""
        if not (self._partial or self.missing):
            return None
        patience_s = stale_s if self._single else min(_MISSING_S, stale_s)
        seen_s = np.maximum(self._column_seen_s, self._complete_s)
        gone = seen_s + patience_s < self._seen_s
        missing = tuple(one.name for one, is_gone in zip(self._windowing.channels, gone, strict=True) if is_gone)
        if missing == self.missing:
            return None
        self.missing = missing
        self._partial = bool(missing)
        return missing

    @property
    def silent_since_s(self) -> float:
        """When the newest rows came."""
        return self._seen_s

    @property
    def late(self) -> int:
        """Rows left out because they came too late."""
        return self._reorder.late

    @property
    def jumps(self) -> int:
        """How often its clock was set back by more than the stated window."""
        return self._reorder.jumps

    # --- keeping ---------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what outlives a model: its case and health."""
        return {"name": self.name, "health": self.health, "case": asdict(self.case)}

    def recall(self, facts: Mapping[str, Any], *, now_s: float, stale_s: float) -> None:
        """Go on with a case and a health; who was offline stays so until rows come."""
        self.health = facts["health"]
        self.case = Case(**facts["case"])
        if self.health == "offline":
            self._seen_s = now_s - 2 * stale_s
        elif self.health == "online":
            self._decided_s = now_s

    def inherit_age(self, old: Asset) -> None:
        """Take over since when the machine runs from an asset that saw more of it than the raw ring still holds."""
        missed = self.gridder.origin - old.gridder.origin  # NaN before the first row
        alike = self._windowing.gap_s == old._windowing.gap_s
        if not (self._windowing.age and alike and missed > 0):
            return
        self.gridder.started(old.gridder.origin)
        window = self._buffer.state()
        window["values"][:, -1] += np.float32(missed / self._windowing.age_unit)
        self._buffer = WindowBuffer.restore(self._windowing, self.name, window)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return grid, window and late rows; call `push` first."""
        parts = {"g": self.gridder.state(), "b": self._buffer.state(), "r": self._reorder.state(self.width)}
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state. Raises DataError, KeyError or ValueError where it is none of this windowing."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"g": {}, "b": {}, "r": {}}
        for name, array in state.items():
            part, _, key = name.partition("/")
            parts[part][key] = array
        self.gridder = Gridder.restore(self._windowing, parts["g"])
        self._buffer = WindowBuffer.restore(self._windowing, self.name, parts["b"])
        self._reorder.restore(parts["r"])
