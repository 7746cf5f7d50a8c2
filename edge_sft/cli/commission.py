"""`edge-sft commission`: a machine's own threshold and memory, from a run that is known to be healthy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_sft.cli.console import console, errors, progress
from edge_sft.errors import DataError, EdgeSftError, UserError

if TYPE_CHECKING:
    from edge_sft.prediction import Rows
    from edge_sft.preprocess import Windowing
    from edge_sft.progress import Progress
    from edge_sft.slots.commissioning import Collector, Commissioning
    from edge_sft.slots.commissioning_file import CommissioningStore
    from edge_sft.slots.store import Slot
    from edge_sft.slots.window_predictor import WindowPredictor

_ROWS = 8192  # pushed at a time
_SPARSE = 0.95  # of a channel's cells that hold numbers: below it somebody should look
_SAID = 5
_ALWAYS = float("-inf"), float("inf")


def commission(
    rows: Annotated[
        list[Path] | None, typer.Argument(help="Files of a healthy run (or folders), with the recipe's columns.")
    ] = None,
    heard: Annotated[bool, typer.Option("--heard", help="Take the rows that the agent received and kept.")] = False,
    asset: Annotated[
        str | None, typer.Option(help="Only this machine; the name of the rows' machine where files give none.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="What the agent calls the machine, where the files call it otherwise.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Only rows from this time on (2026-01-31T06:00, or a number).")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Only rows before this time.")] = None,
    pipeline: Annotated[str, typer.Option(help="Which pipeline of the agent.")] = "main",
    root: Annotated[Path | None, typer.Option(help="The device's folder (default: your data folder).")] = None,
    show: Annotated[bool, typer.Option("--show", help="Only show what is commissioned.")] = False,
) -> None:
    """Teach the deployed anomaly model what is healthy on a machine: its statistics, memory and threshold.

    Give a run of at least some minutes in which the machine did all that it normally does. Nothing else sets the
    threshold; what is learnt stays on this device, signed, and belongs to the model that is deployed now.
    """
    from edge_sft.cli.paths import device_root
    from edge_sft.slots.commissioning_file import CommissioningStore
    from edge_sft.slots.store import SlotStore

    place = root or device_root()
    slot = SlotStore(place, pipeline).verified()
    store = CommissioningStore(place, pipeline, slot.digest)
    if show:
        _show(store, asset)
        return
    if bool(rows) == heard:
        raise UserError("the healthy run", "is not given, or twice", "Give files of rows, or --heard.")
    between = _time(start, "--from"), _time(end, "--to")
    said = "what the agent received" if heard else ", ".join(str(path) for path in rows or [])
    with progress() as bars:
        ring = SlotStore(place, pipeline).directory / "rows"
        found = _heard(ring) if heard else _read(slot, rows or [], asset, bars)
        _commission(slot, store, _called(_within(found, asset, between, said), name), said, bars)


def _commission(slot: Slot, store: CommissioningStore, found: Iterable[Rows], source: str, bars: Progress) -> None:
    from edge_sft.policy import AnomalyPolicy
    from edge_sft.slots import commissioning
    from edge_sft.slots.window_predictor import WindowPredictor

    failed: list[EdgeSftError] = []
    with WindowPredictor.open(slot.path) as predictor:
        if not isinstance(predictor.policy, AnomalyPolicy):
            fact = f"does {predictor.task.kind} and needs no commissioning"
            raise UserError(f"{predictor.model.name} {predictor.model.version}", fact, "Run the agent.")
        collected = _windows(predictor.windowing, found, bars)
        bars.start("Commissioning", len(collected))
        for asset, collector in sorted(collected.items()):
            bars.advance(0, note=asset)
            try:
                made = commissioning.commission(
                    predictor.outputs,
                    predictor.task,
                    predictor.windowing,
                    collector.healthy(),
                    predictor.policy.commissioning,
                    model_digest=predictor.model.digest,
                    asset=asset,
                    created_at=_now(),
                    source=source,
                    alarm=predictor.policy.alarm,
                )
            except DataError as error:  # the other machines are commissioned all the same
                failed.append(DataError(asset, str(error), ""))
                errors.print(f"{asset}: {error}", markup=False)
                continue
            store.write(made)
            bars.advance()
            _tell(made, predictor)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(collected)} machines", "were not commissioned", "See the reasons above."
        )


def _windows(windowing: Windowing, found: Iterable[Rows], bars: Progress) -> dict[str, Collector]:
    """Grid and cut every machine's rows as the agent does."""
    import numpy as np

    from edge_sft.preprocess.buffering import WindowBuffer
    from edge_sft.preprocess.gridding import Gridder
    from edge_sft.slots.commissioning import Collector

    names = [channel.name for channel in windowing.channels]
    made: dict[str, tuple[Gridder, WindowBuffer, Collector]] = {}
    noticed: dict[str, list[str]] = {}
    numbers: dict[str, Any] = {}
    count = 0
    for rows in found:
        if not count:  # files are read before their first rows come
            bars.start("Cutting windows", 1)
        parts = made.setdefault(rows.asset, (Gridder(windowing), WindowBuffer(windowing, rows.asset), Collector()))
        gridder, buffer, collector = parts
        for first in range(0, len(rows.time_s), _ROWS):
            time = rows.time_s[first : first + _ROWS]
            values = np.full((len(time), len(names)), np.nan)
            came = np.zeros(len(names))
            for column, name in enumerate(names):
                if name in rows.channels:
                    values[:, column] = rows.values[first : first + _ROWS, rows.channels.index(name)]
                    came[column] = len(time)
            collector.add(buffer.push(gridder.push(time, values)))
            while gridder.facts:
                noticed.setdefault(rows.asset, []).append(gridder.facts.popleft()[1])
            numbers[rows.asset] = numbers.get(rows.asset, 0) + np.array([np.isfinite(values).sum(axis=0), came])
            count += len(time)
            bars.advance(0, note=f"{rows.asset}: {count:,} rows")
    bars.advance()
    for asset, (gridder, buffer, collector) in made.items():
        collector.add(buffer.push(gridder.flush()))
        shares = zip(names, *numbers[asset].tolist(), strict=True)
        sparse = [
            f"{name} holds no number in {100 - 100 * some / most:.0f} % of the rows"
            for name, some, most in shares
            if 0 < some < _SPARSE * most
        ]
        _tell_of_run(asset, [*sparse, *noticed.get(asset, [])])
    return {asset: collector for asset, (_, _, collector) in made.items()}


def _tell_of_run(asset: str, sentences: Sequence[str]) -> None:
    """Say what is wrong with a run that is to be the measure of health."""
    distinct = list(dict.fromkeys(sentences))
    for sentence in distinct[:_SAID]:
        errors.print(f"{asset}: the healthy run: {sentence}", markup=False)
    if len(distinct) > _SAID:
        errors.print(f"{asset}: … and {len(distinct) - _SAID} things more like these", markup=False)


def _within(
    found: Iterable[Rows], asset: str | None, between: tuple[float | None, float | None], source: str
) -> Iterator[Rows]:
    """Yield the rows of a machine and a stretch of time.

    Raises:
        DataError: There are none; it says what there is.
    """
    from edge_sft.data.sensors.wording import names, when
    from edge_sft.prediction import Rows

    first, last = (bound if bound is not None else limit for bound, limit in zip(between, _ALWAYS, strict=True))
    seen: dict[str, tuple[float, float]] = {}
    any_kept = False
    for rows in found:
        low, high = seen.get(rows.asset, (float("inf"), float("-inf")))
        seen[rows.asset] = (min(low, float(rows.time_s.min())), max(high, float(rows.time_s.max())))
        keep = (rows.time_s >= first) & (rows.time_s < last)
        if (asset is None or rows.asset == asset) and keep.any():
            any_kept = True
            whole = bool(keep.all())  # a long recording lies in memory once
            yield rows if whole else Rows(rows.asset, rows.time_s[keep], rows.values[keep], rows.channels)
    if any_kept:
        return
    if asset in seen or (asset is None and seen):
        low, high = seen[asset] if asset in seen else next(iter(seen.values()))
        fact = f"holds no rows of that time; there are rows from {when(low)} to {when(high)}"
        raise DataError(source, fact, "Check --from and --to; times without a zone are UTC, as in the files.")
    fact = f"holds no rows of '{asset}'; it has {names(list(seen))}" if seen else "holds no rows"
    raise DataError(source, fact, "Check --asset; --as says what the agent calls the machine.")


def _called(found: Iterable[Rows], name: str | None) -> Iterator[Rows]:
    """Yield the rows under another name. Raises UserError where they are of several machines."""
    from edge_sft.prediction import Rows

    theirs = ""
    for rows in found:
        if name is not None and theirs not in ("", rows.asset):
            fact = f"would make one machine of '{theirs}' and '{rows.asset}'"
            raise UserError(f"--as {name}", fact, "Say with --asset which of them it is.")
        theirs = rows.asset
        yield rows if name is None else Rows(name, rows.time_s, rows.values, rows.channels)


def _heard(folder: Path) -> Iterator[Rows]:
    """Read the agent's raw ring; a running agent goes on writing it."""
    from edge_sft.runtime.rowlog import RowLog

    if not folder.is_dir():
        raise UserError(
            str(folder), "does not exist: the agent has kept no rows", "Run the agent first, or give files."
        )
    ring = RowLog(folder, ring_bytes=0, tell=lambda kind, sentence: None)
    for kept in ring.read():
        yield from kept.rows


def _read(slot: Slot, paths: Sequence[Path], asset: str | None, bars: Progress) -> Iterator[Rows]:
    """Read files with the columns, units and times that the bundle's recipe says."""
    from edge_sft import sensor_recipe, strict_toml
    from edge_sft.bundle.manifest import RECIPE
    from edge_sft.data.sensors.recordings import machine, named, read_recordings
    from edge_sft.prediction import Rows

    text = (slot.path / RECIPE).read_text(encoding="utf-8", errors="replace")
    recipe = strict_toml.loads(text, sensor_recipe.SensorRecipe, source=str(slot.path / RECIPE))
    whole = read_recordings(recipe, paths, lambda line: errors.print(line, markup=False, soft_wrap=True), bars)
    channels = tuple(channel.name for channel in recipe.data.channels)
    if asset is None and not all(named(part) for part in whole):
        errors.print("the files do not name the machine: give --asset as the agent calls it", markup=False)
    for part in whole:
        yield Rows(named(part) or asset or machine(part), part.time, part.values, channels)


def _show(store: CommissioningStore, asset: str | None) -> None:
    made = [one for one in store.all() if asset is None or one.asset == asset]
    if not made:
        raise UserError("this model", "has no machine commissioned here", "Run: edge-sft commission FILES")
    for one in made:
        console.print(
            f"{one.asset}: threshold {one.threshold:.4g}, {one.windows} windows, "
            f"made {one.created_at} from {one.source}",
            markup=False,
        )


def _tell(made: Commissioning, predictor: WindowPredictor) -> None:
    rule = predictor.policy
    console.print(
        f"{made.asset}: commissioned for {predictor.model.name} {predictor.model.version} from {made.windows} windows; "
        f"threshold {made.threshold:.4g}",
        markup=False,
    )
    for fact in made.facts:
        errors.print(f"{made.asset}: {fact}", markup=False)
    if getattr(rule, "threshold", None) is not None:
        errors.print("The policy has a threshold of its own, which goes before the machine's.", markup=False)


def _time(text: str | None, option: str) -> float | None:
    """Read a time as a number in the rows' own unit, or as a date (UTC where it names no zone) in seconds."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise UserError(f"{option} {text}", "is no time", "Write 2026-01-31T06:00:00 or a number.") from error
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _now() -> str:
    from edge_sft.prediction import rfc3339

    return rfc3339(datetime.now(timezone.utc))
