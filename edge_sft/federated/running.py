"""One federated run from the coordinator's side: its folder, submitting it to Flower, following it to its end.

Flower forgets a run when its SuperLink or ServerApp dies (``failed: No heartbeat``). The rounds are in our folder, so
the run is submitted again and goes on from the last whole round.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from edge_sft import durable
from edge_sft.errors import DeviceError, NetworkError, UserError
from edge_sft.federated import chain
from edge_sft.federated.run_store import FACTS, RECIPE, RESULT, ROUNDS, STOPPED, RunStore
from edge_sft.federated.settings import check_apart, section_of
from edge_sft.federated.sites import Sites
from edge_sft.federated.superlink import RunState
from edge_sft.progress import Progress

Answer = TypeVar("Answer")
_ASK_EVERY: Final = 5  # turns of one second between two questions to Flower; each starts a process of 2 s
_FRUITLESS: Final = 3  # submissions in a row that bring no round to an end
_AWAY: Final = 60  # turns of two seconds in a row without an answer of the SuperLink


class RunControl(Protocol):
    """What starts runs and tells of them."""

    def start(self, app: Path, config: Mapping[str, str]) -> int:
        """Submit an app; return the run's id."""
        ...

    def run_state(self, run_id: int) -> RunState:
        """Return what became of a run."""
        ...


def prepare(runs: Path, name: str, recipe: Path | None, rounds: int | None) -> Path:
    """Return a run's folder, made with a copy of its recipe where it is new.

    Args:
        runs: The folder of all runs.
        name: The run's.
        recipe: Its recipe; None for a run that is there.
        rounds: How many rounds, instead of what the recipe says.

    Raises:
        UserError: The name is none, there is no recipe or it is wrong, or the run was begun with another one.
        DeviceError: The disk refuses.
    """
    if recipe is not None:
        text = _with_rounds(_read(recipe), rounds)
        check_apart(section_of(text, str(recipe)), str(recipe))
        return RunStore.create(runs, name, text).folder
    store = RunStore(runs, name)
    store.recipe()
    return store.folder


def check_sites(folder: Path, known: Sites) -> None:
    """Refuse a run that can never reach its quorum. Raises UserError."""
    quorum = section_of(_read(folder / RECIPE), str(folder / RECIPE)).quorum
    if len(known.approved) < quorum:
        names = ", ".join(site.name for site in known.approved) or "none yet"
        raise UserError(
            f"run {folder.name}",
            f"needs {quorum} sites and {len(known.approved)} are approved ({names})",
            "edge-sft federate invite SITE, then edge-sft site approve FILE; or a smaller `quorum` in the recipe.",
        )


def rounds_of(folder: Path) -> int:
    """Return how many rounds a run's recipe asks for."""
    return section_of(_read(folder / RECIPE), str(folder / RECIPE)).rounds


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the record's lines of rounds, repeated ones too, in order; it follows no chain (federate verify does)."""
    return [line for line in chain.check(folder / ROUNDS).records if line.get("kind") in {"round", "repeat"}]


def done(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rounds are finished."""
    return len({row["round"] for row in rows if row["kind"] == "round"})


def finished(folder: Path) -> bool:
    """Tell whether a run has its result."""
    return (folder / RESULT / FACTS).exists()


def told(record: Mapping[str, Any]) -> str:
    """Say a round in one line: who took part, and who did not and why."""
    sites: Mapping[str, Mapping[str, Any]] = record.get("sites", {})
    well = sorted(name for name, row in sites.items() if row.get("status") == "ok")
    others = [_absent(name, row) for name, row in sorted(sites.items()) if row.get("status") != "ok"]
    bytes_up = sum(int(row.get("bytes_up", 0)) for row in sites.values())
    parts = [f"{len(well)} of {len(sites)} sites: {', '.join(well) or 'none'}", *others]
    title = f"round {record['round']}" + (", to be repeated" if record.get("kind") == "repeat" else "")
    return f"{title}: {'; '.join(parts)}" + (f"; {bytes_up / 1e6:.1f} MB up" if bytes_up else "")


def _absent(name: str, row: Mapping[str, Any]) -> str:
    why = str(row.get("why") or "")
    return f"{name} {row.get('status', 'silent')}" + (f" ({why})" if why else "")


@dataclass
class _Following:
    run_id: int
    fruitless: int
    seen: int


def follow(
    control: RunControl,
    folder: Path,
    app: Path,
    *,
    progress: Progress,
    say: Callable[[str], None],
    sleep: Callable[[float], object],
) -> None:
    """Submit a run where it does not run yet, follow it to its result, submit it again when Flower lost it.

    Args:
        control: Flower.
        folder: The run's, as `prepare` returned it.
        app: The Flower app's folder.
        progress: Advances by rounds.
        say: Takes one line a round, and what happened besides.
        sleep: Waits so many seconds.

    Raises:
        UserError: The run was stopped, by a person or by the app itself; its reason is in the message.
        DeviceError: It failed three times in a row without bringing a round to an end.
        NetworkError: The SuperLink is away for minutes.
    """
    total = rounds_of(folder)
    progress.start(folder.name, total)
    rows = history(folder)
    progress.advance(min(done(rows), total))
    at = _Following(remembered(folder) or _submit(control, folder, app, say, sleep), 0, len(rows))
    while not finished(folder):
        for _ in range(_ASK_EVERY):
            _tell_new(folder, at, total, progress, say)
            if finished(folder):
                break
            sleep(1.0)
        state = _ask_state(control, at.run_id, say, sleep)
        if state.over and not finished(folder):
            _judge(folder, state, at)
            say(
                f"Flower lost the run ({state.details or state.status}); it goes on after round {done(history(folder))}"
            )
            at.run_id = _submit(control, folder, app, say, sleep)
    _tell_new(folder, at, total, progress, say)


def _judge(folder: Path, state: RunState, at: _Following) -> None:
    """Raise where submitting again would be wrong."""
    again = f"Go on with: edge-sft federate run --name {folder.name}"
    reason = folder / STOPPED
    if reason.exists():
        (folder / "flower.json").unlink(missing_ok=True)
        raise UserError(f"run {folder.name}", _read(reason).strip(), again)
    if state.status.endswith("stopped"):
        (folder / "flower.json").unlink(missing_ok=True)
        raise UserError(f"run {folder.name}", "was stopped", again)
    at.fruitless += 1
    if at.fruitless >= _FRUITLESS:
        (folder / "flower.json").unlink(missing_ok=True)
        fact = f"ended {_FRUITLESS} times without a whole round ({state.details or state.status})"
        raise DeviceError(f"run {folder.name}", fact, f"Look at the SuperLink's log. {again}")


def _tell_new(folder: Path, at: _Following, total: int, progress: Progress, say: Callable[[str], None]) -> None:
    rows = history(folder)
    for row in rows[at.seen :]:
        say(told(row))
        at.fruitless = 0
    progress.advance(max(0, min(done(rows), total) - min(done(rows[: at.seen]), total)))
    at.seen = len(rows)


def _submit(
    control: RunControl, folder: Path, app: Path, say: Callable[[str], None], sleep: Callable[[float], object]
) -> int:
    (folder / STOPPED).unlink(missing_ok=True)
    config = {"run-dir": str(folder.parent.absolute()), "run-name": folder.name}
    run_id = _patiently(lambda: control.start(app, config), say, sleep)
    durable.write_text(folder / "flower.json", json.dumps({"run_id": str(run_id)}) + "\n")
    return run_id


def remembered(folder: Path) -> int:
    """Return the id under which Flower knows a run, or 0."""
    try:
        return int(json.loads(_read(folder / "flower.json"))["run_id"])
    except (UserError, ValueError, KeyError):
        return 0


def _ask_state(
    control: RunControl, run_id: int, say: Callable[[str], None], sleep: Callable[[float], object]
) -> RunState:
    try:
        return _patiently(lambda: control.run_state(run_id), say, sleep)
    except UserError as error:
        if "not found" in error.fact:  # a new database: the run is unknown there
            return RunState(run_id, "finished:lost")
        raise


def _patiently(ask: Callable[[], Answer], say: Callable[[str], None], sleep: Callable[[float], object]) -> Answer:
    for turn in range(_AWAY):
        try:
            return ask()
        except NetworkError as error:
            if turn == 0:
                say(f"waiting: {error.thing} {error.fact}")
            last = error
        sleep(2.0)
    raise last


_ROUNDS: Final = re.compile(r"(?m)^(\s*rounds\s*=\s*)(\d+)")


def _section(text: str) -> tuple[str, str, str]:
    """Cut a recipe into what stands before, in and after its ``[federated]`` table."""
    found = re.search(r"(?ms)^\s*\[federated\][^\n]*\n?(.*?)(?=^\s*\[|\Z)", text)
    if found is None:
        return text, "", ""
    return text[: found.start(1)], found[1], text[found.end(1) :]


def _with_rounds(text: str, rounds: int | None) -> str:
    if rounds is None:
        return text
    if rounds < 1:
        raise UserError(f"--rounds {rounds}", "is too few", "One round is the least.")
    before, inside, after = _section(text)
    if not re.search(r"(?m)^\s*\[federated\]", text):
        return f"{text.rstrip()}\n\n[federated]\nrounds = {rounds}\n"
    if _ROUNDS.search(inside):
        return before + _ROUNDS.sub(lambda found: f"{found[1]}{rounds}", inside, count=1) + after
    return f"{before.rstrip()}\nrounds = {rounds}\n{inside}{after}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"cannot be read ({error})", "Check the path.") from error
