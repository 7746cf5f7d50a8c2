"""Reading a manifest: CSV or JSONL, a row a picture: path, label; optional split, group, part_id, weight."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from edge_sft.data.dataset import Quarantined
from edge_sft.data.listing import SPLIT_WORDS, Listed, Listing, identity
from edge_sft.errors import DataError

COLUMNS = ("path", "label", "split", "group", "part_id", "weight")
SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".jsonl", ".ndjson"})
_SHOWN = 5  # rows named in one message

Row = dict[str, str]


def read_manifest(manifest: Path, root: Path) -> Listing:
    """List the pictures of a manifest; its paths are relative to the data folder (or absolute inside it).

    CSV may be separated by comma, semicolon, tab or bar, with or without a byte order mark; backslashes are taken
    as separators; column names ignore case; columns that nobody knows are left aside with a note. Rows without a
    path or label, rows listed twice and paths that leave the data folder are quarantined.

    Raises:
        DataError: Not readable, no such columns, or rows with a split or weight that means nothing.
    """
    columns, rows = read_rows(manifest)
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            str(manifest),
            f"has no column {' and no column '.join(missing)}; its columns are {', '.join(columns) or 'none'}",
            "The first line must name the columns: path,label and, if you like, split,group,part_id,weight.",
        )
    _refuse_nonsense(manifest, rows)
    entries, quarantined = _entries(rows, root)
    unknown = [name for name in columns if name and name not in COLUMNS]
    notes = [f"Columns of {manifest.name} that are not used: {', '.join(unknown)}."] if unknown else []
    return Listing("manifest", entries, quarantined, tuple(notes))


def read_rows(manifest: Path) -> tuple[list[str], list[tuple[int, Row]]]:
    """Return the column names and (line number, row) pairs. Raises DataError when it is no CSV or JSONL."""
    text = _text(manifest)
    if manifest.suffix.lower() in {".jsonl", ".ndjson"}:
        return _json_lines(manifest, text)
    header = text.lstrip().splitlines()[0] if text.strip() else ""
    separator = max(",;\t|", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns: list[str] = []
        rows: list[tuple[int, Row]] = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip().lower() for cell in cells]
                continue
            rows.append((reader.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=False))))
    except csv.Error as error:
        raise DataError(str(manifest), f"is no CSV at line {reader.line_num} ({error})", "Mend that line.") from error
    return columns, rows


def _text(manifest: Path) -> str:
    try:
        content = manifest.read_bytes()
    except OSError as error:
        fact = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(str(manifest), fact, "Check data.manifest in the recipe.") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(str(manifest), f"is not UTF-8 (line {line})", "Save it as 'CSV UTF-8'.") from error


def _json_lines(manifest: Path, text: str) -> tuple[list[str], list[tuple[int, Row]]]:
    columns: dict[str, None] = {}
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(str(manifest), f"line {number} is no JSON ({error.msg})", "Mend that line.") from error
        if not isinstance(data, dict):
            raise DataError(str(manifest), f"line {number} is no JSON object", "Write one {…} a line.")
        row = {str(key).strip().lower(): "" if v is None else str(v).strip() for key, v in data.items()}
        columns.update(dict.fromkeys(row))
        rows.append((number, row))
    return list(columns), rows


def _refuse_nonsense(manifest: Path, rows: list[tuple[int, Row]]) -> None:
    problems = []
    for number, row in rows:
        split, weight = row.get("split", ""), row.get("weight", "")
        if split and split.lower() not in SPLIT_WORDS:
            problems.append(f"line {number}: split '{split}' is none of train, val, test")
        if weight and _weight(weight) is None:
            problems.append(f"line {number}: weight '{weight}' is no number above 0")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(str(manifest), "; ".join(problems[:_SHOWN]) + more, "Mend these rows.")


def _weight(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _entries(rows: list[tuple[int, Row]], root: Path) -> tuple[tuple[Listed, ...], tuple[Quarantined, ...]]:
    found: dict[str, tuple[int, Listed]] = {}
    refused: dict[str, str] = {}
    for number, row in rows:
        text, label = row.get("path", ""), unicodedata.normalize("NFC", row.get("label", ""))
        if not text or not label:
            refused[text or f"line {number}"] = f"has no {'label' if text else 'path'} (manifest line {number})"
            continue
        path = _resolve(text, root)
        name = identity(path, root)
        if name.startswith("../") or name == "..":
            refused[text] = "lies outside of the data folder; set data.path to a folder above it"
            continue
        if name in refused:
            continue
        if name in found:
            line, first = found[name]
            if first.label != label:
                refused[name] = f"is listed with two labels: {first.label} (line {line}), {label} (line {number})"
                del found[name]
            continue
        found[name] = (number, _listed(name, path, label, row))
    entries = sorted((entry for _, entry in found.values()), key=lambda entry: entry.id)
    return tuple(entries), tuple(Quarantined(name, reason) for name, reason in sorted(refused.items()))


def _listed(name: str, path: Path, label: str, row: Row) -> Listed:
    return Listed(
        id=name,
        path=path,
        label=label,
        split=SPLIT_WORDS.get(row.get("split", "").lower()),
        group=row.get("group") or None,
        part_id=row.get("part_id") or None,
        weight=_weight(row.get("weight", "")) or 1.0,
    )


def _resolve(text: str, root: Path) -> Path:
    """Join lexically: a link inside the data folder may lead out of it, the text of a manifest may not."""
    if "\\" in text and not os.path.exists(root / text):  # noqa: PTH110 - Path.exists raises on names too long
        text = PureWindowsPath(text).as_posix()
    return Path(os.path.normpath(root / text))


def candidates(folder: Path) -> Iterator[Path]:
    """Yield the files directly in a folder that could be manifests, by suffix."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            yield path
