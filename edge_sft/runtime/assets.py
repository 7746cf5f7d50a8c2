"""The assets of a sensor pipeline, hundreds of them, each with a state of its own; made when their first row comes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import DataError
from edge_sft.policy import AlarmRule
from edge_sft.prediction import Rows
from edge_sft.preprocess import Windowing
from edge_sft.runtime.asset import HEALTHS, Asset, Columns, Due, Health
from edge_sft.slots.window_predictor import Captured

log = logging.getLogger(__name__)
# Names that a state message lists; how many there are is always said.
_NAMED_MAX = 200
_COLUMN_SETS_MAX = 1000
_WORDS: dict[Health, str] = {
    "offline": "no row came for {stale:g} s: offline",
    "stuck": "sensor stuck: {stuck} stands still",
    "undecided": "rows come, but no decision",
    "online": "online",
}


class Change(NamedTuple):
    """Something that people may want to know of an asset."""

    asset: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class AssetsView:
    """A look at all of them.

    Attributes:
        counts: How many by health.
        not_online: Why, in words, of those that are not online or lack a channel; at most 200.
        cases: Since when (in the decisions' time) a case is open, by asset; at most 200.
        open_cases: How many are open.
        late_rows: Rows left out so far because they came too late.
    """

    counts: dict[str, int] = field(default_factory=dict)
    not_online: dict[str, str] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    open_cases: int = 0
    late_rows: int = 0

    @property
    def facts(self) -> object:
        """What must be told at once when it changes."""
        return self.counts, self.not_online, self.cases, self.open_cases


class Fleet:
    """All assets of one pipeline under one windowing; used by one thread.

    Args:
        windowing: The model's.
        late_s: Rows may be late by this, in the time column's unit.
        jump_s: Rows older than that by three in a row mean that the clock was set back.
        most: Assets beyond it are refused: names may come from the network.
        expected: Assets that are offline until heard.
    """

    def __init__(
        self,
        windowing: Windowing,
        *,
        late_s: float = 0.0,
        jump_s: float = 60.0,
        most: int = 2000,
        expected: Sequence[str] = (),
    ) -> None:
        self.windowing = windowing
        self._late_s, self._jump_s, self._most = late_s, jump_s, most
        self._assets: dict[str, Asset] = {}
        self._columns: dict[tuple[str, ...], Columns] = {}
        self._refused: set[str] = set()
        self._news: list[Change] = []
        self._jumps: Counter[str] = Counter()
        for name in expected:
            self._make(name, -1e9)

    def __len__(self) -> int:
        return len(self._assets)

    def __contains__(self, name: object) -> bool:
        return name in self._assets

    def __getitem__(self, name: str) -> Asset:
        return self._assets[name]

    def _make(self, name: str, now_s: float) -> Asset:
        asset = Asset(name, self.windowing, late_s=self._late_s, jump_s=self._jump_s, now_s=now_s)
        self._assets[name] = asset
        return asset

    # --- rows → windows --------------------------------------------------------------------------------------

    def take(self, batch: Sequence[Rows], captured: Captured, now_s: float) -> list[Due]:
        """Take rows in order of arrival; return the windows they complete. Rows of an asset too many are left out."""
        dues: list[Due] = []
        for rows in batch:
            asset = self._assets.get(rows.asset) or self._admit(rows.asset, now_s)
            if asset is not None:
                dues += asset.take(rows.time_s, rows.values, self._columns_of(rows.channels), captured, now_s)
        return dues

    def _admit(self, name: str, now_s: float) -> Asset | None:
        if len(self._assets) < self._most:
            return self._make(name, now_s)
        if len(self._refused) < _NAMED_MAX and name not in self._refused:
            self._refused.add(name)
            self._news.append(
                Change(name, "asset_refused", f"is one asset more than assets.most ({self._most}); left out")
            )
        return None

    def _columns_of(self, channels: tuple[str, ...]) -> Columns:
        columns = self._columns.get(channels)
        if columns is None:
            if len(self._columns) >= _COLUMN_SETS_MAX:  # a source that names columns anew in every message
                self._columns.clear()
            columns = self._columns[channels] = Columns.of(channels, self.windowing)
        return columns

    def tick(self, now_s: float) -> list[Due]:
        """Let go what has waited long enough."""
        return [due for asset in self._assets.values() for due in asset.tick(now_s)]

    def push(self) -> list[Due]:
        """Give the grids what waits for a window; before `state`."""
        return [due for asset in self._assets.values() for due in asset.push()]

    def finish(self) -> list[Due]:
        """Complete what is open in every asset: the source has ended."""
        return [due for asset in self._assets.values() for due in asset.finish()]

    # --- what there is to say --------------------------------------------------------------------------------

    def look(self, rule: AlarmRule, now_s: float) -> list[Change]:
        """Judge the health of all; return what changed and what the grids noticed, in order."""
        news, self._news = self._news, []
        for asset in self._assets.values():
            news += self._noticed(asset)
            missing = asset.look_for_missing(rule.stale_s, now_s)
            if missing is not None:
                news.append(_about_channels(asset, missing))
            mute = asset.look_for_mute()
            if mute is not None:
                news.append(_about_numbers(asset, mute))
            before = asset.health
            if asset.look(rule, now_s):
                kind = "asset_online" if asset.health == "online" else f"asset_{asset.health}"
                news.append(Change(asset.name, kind, f"{_words(asset, rule)} (was {before})"))
        return news

    def _noticed(self, asset: Asset) -> list[Change]:
        facts = asset.gridder.facts
        news: list[Change] = []
        while facts:
            kind, sentence = facts.popleft()
            news.append(Change(asset.name, f"rows_{kind}", sentence))
        if asset.jumps != self._jumps[asset.name]:
            self._jumps[asset.name] = asset.jumps
            news.append(Change(asset.name, "clock_back", "the clock was set back: its rows are taken from there on"))
        return news

    def view(self, rule: AlarmRule) -> AssetsView:
        """Look at all of them."""
        assets = self._assets.values()
        counts = Counter(asset.health for asset in assets)
        not_online: dict[str, str] = {}
        cases: dict[str, dict[str, Any]] = {}
        opened = late = 0
        for asset in assets:
            late += asset.late
            if (asset.health != "online" or asset.missing or asset.mute) and len(not_online) < _NAMED_MAX:
                not_online[asset.name] = _words(asset, rule)
            if asset.case.open:
                opened += 1
                if len(cases) < _NAMED_MAX:
                    cases[asset.name] = {"number": asset.case.number, "opened": asset.case.opened_s}
        return AssetsView({health: counts[health] for health in HEALTHS}, not_online, cases, opened, late)

    # --- keeping ---------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return header and arrays of a file that `restore` understands; call `push` first."""
        arrays: dict[str, NDArray[Any]] = {}
        for number, asset in enumerate(self._assets.values()):
            arrays.update((f"{number}/{name}", array) for name, array in asset.state().items())
        header = {
            "windowing": self.windowing.model_dump_json(),
            "assets": [asset.facts() for asset in self._assets.values()],
        }
        return header, arrays

    def restore(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, stale_s: float) -> None:
        """Go on from a state of the same windowing. Raises DataError where it is damaged."""
        try:
            by_asset: list[dict[str, NDArray[Any]]] = [{} for _ in header["assets"]]
            for name, array in arrays.items():
                number, _, key = name.partition("/")
                by_asset[int(number)][key] = array
            for facts, state in zip(header["assets"], by_asset, strict=True):
                self._recalled(facts, stale_s).restore(state)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError("kept state of the assets", f"is damaged ({error})", "The state begins anew.") from error

    def recall(self, header: Mapping[str, Any], *, stale_s: float) -> None:
        """Take over cases and healths alone: the windows are of another kind now."""
        for facts in header["assets"]:
            self._recalled(facts, stale_s)

    def inherit(self, other: Fleet, *, stale_s: float) -> None:
        """Take over cases, healths and ages of the fleet before a swap."""
        self.recall({"assets": [asset.facts() for asset in other._assets.values()]}, stale_s=stale_s)
        for name, old in other._assets.items():
            self._assets[name].inherit_age(old)

    def _recalled(self, facts: Mapping[str, Any], stale_s: float) -> Asset:
        now_s = time.monotonic()
        asset = self._assets.get(facts["name"]) or self._make(facts["name"], now_s)
        asset.recall(facts, now_s=now_s, stale_s=stale_s)
        return asset


def same_windowing(header: Mapping[str, Any], windowing: Windowing) -> bool:
    """Tell whether a kept state can be restored under a windowing."""
    return bool(header.get("windowing") == windowing.model_dump_json())


def _about_channels(asset: Asset, missing: tuple[str, ...]) -> Change:
    if not missing:
        return Change(asset.name, "channels_back", "all channels come again")
    names = ", ".join(f"'{name}'" for name in missing)
    renamed = ", ".join(f"'{name}'" for name in asset.unknown[:5])
    hint = f"; {renamed} came instead: renamed? Mend the source's fields" if renamed else ""
    return Change(asset.name, "channel_missing", f"channel {names} does not come{hint}; decided without it")


def _about_numbers(asset: Asset, mute: tuple[str, ...]) -> Change:
    if not mute:
        return Change(asset.name, "numbers_back", "all channels bring numbers again")
    names = ", ".join(f"'{name}'" for name in mute)
    left = "decided without" if len(mute) < asset.width else "nothing is left to decide by"
    return Change(asset.name, "channel_mute", f"no number comes for channel {names} (empty, or text); {left}")


def _words(asset: Asset, rule: AlarmRule) -> str:
    words = _WORDS[asset.health].format(stale=rule.stale_s, stuck=", ".join(asset.gridder.stuck))
    if asset.health == "undecided":
        words += f": {asset.why_not or 'too little of the window is valid yet'}"
    if asset.missing:
        words += f"; without {', '.join(asset.missing)}"
    elif asset.mute:
        words += f"; no number from {', '.join(asset.mute)}"
    return words


def combined(batch: Sequence[Rows]) -> list[Rows]:
    """Join rows of an asset that came one after the other with the same columns, so that they cost one step."""
    runs: list[list[Rows]] = []
    newest: dict[str, list[Rows]] = {}
    for rows in batch:
        run = newest.get(rows.asset)
        if run is not None and run[0].channels == rows.channels:
            run.append(rows)
        else:
            newest[rows.asset] = [rows]
            runs.append(newest[rows.asset])
    return [run[0] if len(run) == 1 else _joined(run) for run in runs]


def _joined(parts: list[Rows]) -> Rows:
    time_s = np.concatenate([one.time_s for one in parts])
    return Rows(parts[0].asset, time_s, np.concatenate([one.values for one in parts]), parts[0].channels)
