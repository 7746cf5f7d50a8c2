"""What reading the files told: channels that are missing or renamed, cells and rows that could not be used. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from edge_sft.data.dataset import Quarantined
from edge_sft.data.findings import Finding
from edge_sft.data.sensors.columns import Part
from edge_sft.data.sensors.tables import Table
from edge_sft.errors import DataError
from edge_sft.sensor_recipe import ChannelSection, SensorRecipe

_MANY_BROKEN = 0.2  # of all files: not some bad files but a bad export
_SHOWN = 5


def refuse_absent_channels(recipe: SensorRecipe, tables: Sequence[Table], parts: Sequence[Part], root: Path) -> None:
    """Refuse channels that no file has.

    Raises:
        DataError: Naming each, with the column that it may have meant.
    """
    absent = [c for c in recipe.data.channels if all(c.name in part.missing for part in parts)]
    if not absent:
        return
    header = list(dict.fromkeys(name for table in tables for name in table.header))
    said = []
    for channel in absent[:_SHOWN]:
        close = similar(_column(channel), header)
        said.append(f"'{_column(channel)}'" + (f" (did you mean '{close}'?)" if close else ""))
    more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    where = "no value of channel" if recipe.data.layout == "long" else "no column"
    known = ", ".join(f"'{name[:40]}'" for name in header[:24])
    raise DataError(str(root), f"has {where} {', '.join(said)}{more}", f"Columns found: {known}.")


def of_tables(
    recipe: SensorRecipe, tables: Sequence[Table], parts: Sequence[Part], broken: Sequence[Quarantined]
) -> Iterator[Finding]:
    """Yield what reading found."""
    if broken:
        yield _unreadable(tables, broken)
    headers = {table.name: table.header for table in tables}
    for channel in recipe.data.channels:
        lacking = list(dict.fromkeys(part.file for part in parts if channel.name in part.missing))
        if lacking and not recipe.data.run.startswith("file:"):
            yield _missing(recipe, channel, lacking, headers)
    rows = sum(table.broken for table in tables)
    if rows:
        ids = tuple(table.name for table in tables if table.broken)
        yield Finding(
            "warning",
            "broken-rows",
            f"Left out for too few or too many cells: {_number(rows, 'row')} in {_number(len(ids), 'file')}.",
            "Was the file cut off, or does a text hold the separator?",
            ids,
        )
    yield from _turned(parts)
    yield from _no_time(recipe, tables, parts)
    yield from _no_group(recipe, parts)
    yield from _no_numbers(recipe, tables)


def similar(name: str, header: Sequence[str]) -> str | None:
    """Find the column that a name most likely meant: other case, blanks, unit or spelling."""
    plain = {_plain(column): column for column in reversed(header)}
    mine = _plain(name)
    if mine in plain:
        return plain[mine]
    begins = [
        column for key, column in plain.items() if mine and (key.startswith(mine) or (key and mine.startswith(key)))
    ]
    if begins:
        return begins[0]
    close = get_close_matches(mine, list(plain), n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _missing(
    recipe: SensorRecipe, channel: ChannelSection, lacking: Sequence[str], headers: dict[str, tuple[str, ...]]
) -> Finding:
    taken = {_column(other) for other in recipe.data.channels}
    first = lacking[0]
    free = [column for column in headers.get(first, ()) if column not in taken]
    usual = {name for file, header in headers.items() if file not in lacking for name in header}
    strange = [column for column in free if column not in usual]  # what only these files have
    close = strange[0] if len(strange) == 1 else similar(_column(channel), free)
    files = first if len(lacking) == 1 else f"{first} and {_number(len(lacking) - 1, 'file')} more"
    if close is not None:
        lack = "has" if len(lacking) == 1 else "have"
        return Finding(
            "warning",
            "renamed-channel",
            f"Channel '{channel.name}': {files} {lack} no column '{_column(channel)}' "
            f"but '{close}'; was it renamed? "
            "Its values count as missing there.",
            f"Rename the column in the files to '{_column(channel)}'; a pattern in data.channels.column fits both.",
            tuple(lacking),
        )
    return Finding(
        "warning",
        "missing-channel",
        f"Channel '{channel.name}' is missing in {files}: no column '{_column(channel)}'. It is not valid there.",
        "Add it, or take the files out if the model must have it.",
        tuple(lacking),
    )


def _unreadable(tables: Sequence[Table], broken: Sequence[Quarantined]) -> Finding:
    many = len(broken) > _MANY_BROKEN * (len(broken) + len(tables))
    shown = "; ".join(f"{left.id} {left.reason}" for left in broken[:3])
    return Finding(
        "error" if many and len(broken) > 1 else "warning",
        "unreadable",
        f"{_number(len(broken), 'file')} cannot be used and {'is' if len(broken) == 1 else 'are'} left out: {shown}"
        + (f"; and {len(broken) - 3} more." if len(broken) > 3 else "."),
        "Mend them, or narrow data.pattern to the files that belong here.",
        tuple(left.id for left in broken),
    )


def _turned(parts: Sequence[Part]) -> Iterator[Finding]:
    ids = tuple(dict.fromkeys(part.file for part in parts if part.turned))
    if ids:
        text = (
            f"{_number(len(ids), 'file')} with the newest row first, for example {ids[0]}; read from the last row on."
        )
        yield Finding("note", "newest-first", text, "", ids)


def _no_time(recipe: SensorRecipe, tables: Sequence[Table], parts: Sequence[Part]) -> Iterator[Finding]:
    if recipe.data.layout == "long":
        return
    used: Counter[str] = Counter()
    for part in parts:
        used[part.file] += len(part.time)
    lost = {table.name: table.rows - used[table.name] for table in tables if table.rows > used[table.name]}
    if lost:
        rows = sum(lost.values())
        text = f"Left out for want of a readable time: {_number(rows, 'row')} in {_number(len(lost), 'file')}."
        yield Finding("warning", "no-time", text, "Look at them: cut off, or written in two ways?", tuple(lost))


def _no_group(recipe: SensorRecipe, parts: Sequence[Part]) -> Iterator[Finding]:
    setting = recipe.data.group
    if not setting or setting.startswith("time:"):
        return
    alone = tuple(dict.fromkeys(part.file for part in parts if not part.group))
    if alone:
        yield Finding(
            "warning",
            "no-group",
            f"No group by data.group = '{setting}' in {_number(len(alone), 'file')}, for example {alone[0]}; each "
            "counts as a group of its own.",
            "If it is of a machine that other files are of too, results are flattered: mend the pattern or the column.",
            alone,
        )


def _no_numbers(recipe: SensorRecipe, tables: Sequence[Table]) -> Iterator[Finding]:
    for channel in recipe.data.channels:
        column = recipe.data.value_column if recipe.data.layout == "long" else _column(channel)
        found = [(table.name, *table.unread[column]) for table in tables if column in table.unread]
        if found:
            cells = sum(count for _, count, _ in found)
            yield Finding(
                "warning",
                "no-number",
                f"Channel '{channel.name}' holds text instead of numbers: {_number(cells, 'cell')} in "
                f"{_number(len(found), 'file')}, for example '{found[0][2]}' in {found[0][0]}; it counts as missing.",
                "Is that a state word of the historian, or another column?",
                tuple(name for name, _, _ in found),
            )
        if recipe.data.layout == "long":
            return


def _column(channel: ChannelSection) -> str:
    return channel.column or channel.name


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
