"""What the command line prints with: one console, one progress bar, one way to end on an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from edge_sft.progress import Progress

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress(on: Console = console) -> Iterator[Progress]:
    """Yield a Progress drawn with rich, with time left; on ``errors`` where the answer itself goes to the screen."""
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=on,
    )

    class Drawn:
        task: TaskID | None = None

        def start(self, title: str, total: int) -> None:
            if self.task is not None:
                bars.update(self.task, completed=bars.tasks[-1].total)
            self.task = bars.add_task(title, total=total, note="")

        def advance(self, units: int = 1, note: str = "") -> None:
            if self.task is not None:
                bars.advance(self.task, units)
                if note:
                    bars.update(self.task, note=note)

    with bars:
        yield Drawn()
