"""What is told of many assets, so that it can still be read: one sentence for many, none twice a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edge_sft.runtime.assets import Change

_TOGETHER = 5  # assets with the same news at once that get one sentence
_NAMED = 10
_AGAIN_S = 60.0
_REMEMBERED = 10_000


class News:
    """Passes news on to ``tell``; what was said of the same asset in the last minute is only counted."""

    def __init__(self, tell: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def changes(self, changes: Sequence[Change]) -> None:
        """Tell what changed at one look at all assets. Healths are always told, what grids notice once a minute."""
        kinds: dict[str, list[Change]] = {}
        for change in changes:
            kinds.setdefault(change.kind, []).append(change)
        for kind, group in kinds.items():
            assets = sorted({change.asset for change in group})
            if len(assets) > _TOGETHER:
                names = ", ".join(assets[:_NAMED]) + (", …" if len(assets) > _NAMED else "")
                self._tell(kind, f"{len(assets)} assets ({names}): {group[0].sentence}")
                continue
            for change in group:
                if kind.startswith("rows_"):
                    self.tell(kind, change.asset, change.sentence)
                else:
                    self._tell(kind, f"{change.asset}: {change.sentence}")

    def tell(self, kind: str, what: str, sentence: str) -> None:
        """Tell, unless the same kind was told of the same thing within a minute."""
        now_s = self._clock()
        before_s, kept_back = self._said.get((kind, what), (-_AGAIN_S, 0))
        if now_s - before_s < _AGAIN_S:
            self._said[kind, what] = (before_s, kept_back + 1)
            return
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[kind, what] = (now_s, 0)
        more = f" (and {kept_back} times more in the last minute)" if kept_back else ""
        self._tell(kind, f"{what}: {sentence}{more}")
