"""The coordinator's side of the app: settings from Flower's context, then the loop, then the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_sft.errors import EdgeSftError, UserError
from edge_sft.federated import sites
from edge_sft.federated.exchange import Clock, Exchange, WallClock
from edge_sft.federated.phase import Waiting
from edge_sft.federated.rounds import Coordinator
from edge_sft.federated.run_store import RunStore, State
from edge_sft.federated.settings import check_apart, section_of
from edge_sft.federated.summary import summarise

if TYPE_CHECKING:
    from flwr.serverapp import Grid

_LOG = logging.getLogger("flwr")  # Flower shows a run's log: `flwr log`
_SITES: Final = "sites.toml"
_EXPERIMENTAL: Final = (
    "secure aggregation is experimental: updates are seen as their sum only, so that no bad one can be named; counts, "
    "losses and scores of sites are still sent as they are"
)
_LATE_FACTOR: Final = 4  # a message lives so many deadlines, so that a late answer is seen and named


@dataclass(frozen=True)
class Settings:
    """What surrounds a run.

    Attributes:
        say: Told what happens, one sentence at a time.
        clock: Time.
        waiting: How long what is waited for.
        app: SHA-256 of the app; "" = what Flower says it runs.
    """

    say: Callable[[str], None] = field(default=_LOG.info)
    clock: Clock = field(default_factory=WallClock)
    waiting: Waiting = field(default_factory=Waiting)
    app: str = ""


def serve(grid: Grid, run_config: Mapping[str, Any], settings: Settings) -> State:
    """Run one run's rounds over Flower's Grid, or what is left of them.

    Args:
        grid: Flower's.
        run_config: ``run-dir`` (the folder of all runs) and ``run-name``; the run's recipe.toml must lie there.
        settings: What surrounds it.

    Raises:
        UserError: There is no such run, its recipe is wrong, or asks for what only a simulation can do.
        NetworkError: Too few sites; the run goes on when it is started again.
    """
    runs, name = Path(str(run_config.get("run-dir", ""))), str(run_config.get("run-name", ""))
    if not runs.is_absolute() or not name:
        raise UserError("the app", "needs run-dir (absolute) and run-name", "Start it with: edge-sft federate run")
    store = RunStore(runs, name)
    section = section_of(store.recipe(), str(store.folder / "recipe.toml"))
    if (runs.parent / _SITES).is_file():  # a coordinator's folder, no simulation
        check_apart(section, str(store.folder / "recipe.toml"))
    if section.privacy.kind == "secagg":
        settings.say(_EXPERIMENTAL)
    exchange = Exchange(grid, settings.clock, ttl_s=_LATE_FACTOR * section.deadline_s + 3600)
    coordinator = Coordinator(
        store,
        section,
        exchange,
        settings.clock,
        names=Approved(runs.parent / _SITES),
        app=settings.app or str(getattr(grid.run, "fab_hash", "")),
        say=settings.say,
        waiting=settings.waiting,
    )
    store.stopped("")
    try:
        state = coordinator.run()
    except Exception as error:
        store.stopped(str(error) if isinstance(error, EdgeSftError) else f"{type(error).__name__}: {error}")
        raise
    store.write_result(state.weights, summarise(store, section, state))
    return state


class Approved:
    """The names that the coordinator gave to Flower's nodes, as of now: sites are approved while a run goes on.

    Args:
        path: ``sites.toml``; without it all are None (a simulation).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._names: dict[int, str] | None = None

    def __call__(self) -> Mapping[int, str] | None:
        """Return them by node, read again where the file has changed. Raises UserError: it is damaged."""
        at = self._path.stat().st_mtime_ns if self._path.is_file() else 0
        if at != self._at:
            self._at = at
            self._names = {int(site.node_id): site.name for site in sites.read(self._path).approved}
        return self._names
