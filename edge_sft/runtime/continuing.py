"""What outlives a kill and a swap: the raw ring, the saved state of the assets, and how a fleet goes on from both."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_sft.errors import EdgeSftError
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Rows
from edge_sft.preprocess import Windowing
from edge_sft.runtime import keeping
from edge_sft.runtime.asset import Due
from edge_sft.runtime.assets import Fleet, combined, same_windowing
from edge_sft.runtime.config import AssetsSection
from edge_sft.runtime.rowlog import Kept, Position, RowLog
from edge_sft.slots.window_predictor import Captured

log = logging.getLogger(__name__)
STATE = "assets.state"
# A broker delivers again what was not acknowledged; so many of the newest records are compared, for so long.
_REPEATS = 2000
_REPEATS_S = 120.0
_State = tuple[dict[str, Any], dict[str, Any]]


class Continuity:
    """The memory of a sensor pipeline, in one folder.

    `keep` is the feeding thread's, `settle` and `sync` the settling one's, `warm` the swapping one's, all else the
    working one's.

    Args:
        folder: Its own.
        given: The pipeline's configuration.
        tell: Told (kind, sentence) of what a person may want to know.
        redelivers: Whether the source may give rows again after a restart.

    Attributes:
        place: Everything before it in the raw ring went through the fleet, or came before the first model.
    """

    def __init__(
        self, folder: Path, given: AssetsSection, tell: Callable[[str, str], None], *, redelivers: bool
    ) -> None:
        self._given = given
        self._tell = tell
        self._path = folder / STATE
        self._log = RowLog(folder, ring_bytes=int(given.ring_mb * 2**20), tell=tell)
        self._warmed: tuple[Fleet, Position] | None = None
        self._first: Position | None = None  # from here on there is a model
        self._waiting: _State | None = None
        self._saving = threading.Lock()
        self._repeats = {_mark(one) for one in self._log.newest(_REPEATS)} if redelivers else set()
        self._repeats_until_s = time.monotonic() + _REPEATS_S
        self._left_something = self._log.marked is not None
        self.place = self._log.marked

    # --- rows ------------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> str:
        """Where the source was, in its own words."""
        return self._log.cursor

    def without_repeats(self, rows: list[Rows]) -> list[Rows]:
        """Leave out rows that an earlier process had already."""
        if not self._repeats:
            return rows
        if time.monotonic() > self._repeats_until_s:
            self._repeats.clear()
        return [one for one in rows if _mark(one) not in self._repeats]

    def keep(self, rows: Sequence[Rows], captured: Captured, cursor: str) -> Position | None:
        """Write rows to the raw ring; the place behind them, None when the disk refused."""
        return self._log.append(rows, cursor=cursor, received_s=captured.at.timestamp())

    def is_new(self, end: Position | None) -> bool:
        """Tell whether a batch has not gone through the fleet yet."""
        return end is None or self.place is None or end > self.place

    def passed(self, end: Position | None) -> None:
        """Note that a batch has gone through the fleet."""
        if end is not None:
            self.place = end

    # --- fleets ----------------------------------------------------------------------------------------------

    def new_fleet(self, windowing: Windowing) -> Fleet:
        """Make one without assets, but those that are expected."""
        given = self._given
        return Fleet(windowing, late_s=given.late_s, jump_s=given.jump_s, most=given.most, expected=given.expected)

    def resume(self, windowing: Windowing, rule: AlarmRule, decide: Callable[[Sequence[Due], bool], None]) -> Fleet:
        """Return the fleet of this process's first model: from the saved state and the raw ring.

        Args:
            windowing: The model's.
            rule: The policy's.
            decide: Called with the windows that the ring's rows complete; True when the journal has their decisions
                already, so that only the cases must learn of them.
        """
        fleet, start = self._restored(windowing, rule.stale_s)
        first = self.place is None
        if self.place is None:  # the first model ever: what came before it only fills its windows
            self.place = self._first or self._log.end
            self._log.mark(self.place)
        counted = 0
        for one in self._log.read(start):
            counted += sum(len(rows.time_s) for rows in one.rows)
            new = self.is_new(one.end)
            dues = fleet.take(combined(one.rows), when(one), time.monotonic())
            if new or not first:  # nobody was told of the first model's past: no case may be open from it
                decide(dues, not new)
            if new:
                self.passed(one.end)
        if self._left_something or start is not None:
            begin = "the saved state" if start is not None else "no saved state"
            self._tell("resumed", f"{len(fleet)} assets go on from {begin} and {counted} rows of the raw ring")
        return fleet

    def _restored(self, windowing: Windowing, stale_s: float) -> tuple[Fleet, Position | None]:
        fleet = self.new_fleet(windowing)
        try:
            kept = keeping.read(self._path)
            if kept is None:
                return fleet, None
            header, arrays = kept
            if not same_windowing(header, windowing):
                fleet.recall(header, stale_s=stale_s)
                return fleet, None
            fleet.restore(header, arrays, stale_s=stale_s)
            return fleet, Position(*header["position"])
        except (EdgeSftError, KeyError, TypeError, ValueError) as error:
            self._tell("state_damaged", f"{error}; windows are filled from the raw ring")
            return self.new_fleet(windowing), None

    def warm(self, windowing: Windowing, current: Fleet | None) -> None:
        """Fill windows of another kind from the raw ring while the old model serves; before it is put on duty."""
        if current is None:
            self._first = self._first or self._log.end
            return
        if current.windowing == windowing:
            return
        fleet, until = self.new_fleet(windowing), self._log.end
        self._refill(fleet, None, until)
        self._warmed = (fleet, until)

    def change(self, old: Fleet, windowing: Windowing, rule: AlarmRule) -> Fleet:
        """Return a fleet with windows of another kind: those warmed beside, and what came meanwhile."""
        warmed, self._warmed = self._warmed, None
        if warmed is None or warmed[0].windowing != windowing:
            fleet, start = self.new_fleet(windowing), None
        else:
            fleet, start = warmed
        self._refill(fleet, start, self.place)
        fleet.look(rule, time.monotonic())  # what the ring's rows had to tell was told when they came
        fleet.inherit(old, stale_s=rule.stale_s)
        return fleet

    def _refill(self, fleet: Fleet, after: Position | None, until: Position | None) -> None:
        """Put rows of the raw ring through a fleet; nothing is decided, it was."""
        for one in self._log.read(after, until):
            fleet.take(combined(one.rows), when(one), time.monotonic())

    # --- keeping ---------------------------------------------------------------------------------------------

    def save(self, fleet: Fleet) -> None:
        """Take the assets' state, everything that waited pushed; `settle` writes it."""
        if self.place is not None:
            header, arrays = fleet.state()
            self._waiting = ({**header, "position": list(self.place)}, arrays)

    def settle(self, flush: Callable[[float], bool]) -> None:
        """Note how far decisions are in the journal, write a state that waits, delete what nobody needs."""
        with self._saving:
            waiting, place = self._waiting, self.place  # in this order: what is saved is flushed below
            moved = place is not None and place != self._log.marked
            if not (moved or waiting) or not flush(5.0):
                return
            if moved and place is not None:
                self._log.mark(place)
            if waiting is None:
                return
            if self._waiting is waiting:
                self._waiting = None
            try:
                keeping.write(self._path, *waiting)
            except EdgeSftError as error:
                self._tell("state_not_saved", str(error))
                return
            self._log.trim(Position(*waiting[0]["position"]))

    def sync(self) -> None:
        """Force the raw ring to the disk."""
        self._log.sync()

    def close(self) -> None:
        """Force the raw ring to the disk and close it."""
        self._log.close()


def when(kept: Kept) -> Captured:
    """Say when a kept record came, on this process's clock: as long ago as the wall clock says."""
    ago_s = max(0.0, time.time() - kept.received_s)
    return Captured(datetime.fromtimestamp(kept.received_s, timezone.utc), time.monotonic() - ago_s)


def _mark(rows: Rows) -> int:
    return hash((rows.asset, rows.channels, rows.time_s.tobytes(), rows.values.tobytes()))
