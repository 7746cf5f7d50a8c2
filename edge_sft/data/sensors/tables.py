"""Table: the columns of one file (or of one array in it), as they were written. Readers by file type build it."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.errors import EdgeSftError

Column = NDArray[Any]  # float64 with NaN where nothing is, or object holding str

NOTHING = frozenset(["", "-", "--", "---", "?", ".", "nan", "na", "n/a", "#n/a", "none", "null", "nil", "missing"])
_OTHER = ((",", "."), (".", ","))
_THOUSANDS = {sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:\{sign}\d{{3}})+(?:\{other}\d*)?$") for sign, other in _OTHER}
# what can only be a decimal sign: not before three last digits, or behind a 0, four digits or the other sign
_DECIMAL = {
    sign: re.compile(
        rf"[+-]?(?:\d*\{sign}(?:\d{{1,2}}|\d{{4,}})|(?:0|\d{{4,}})\{sign}\d+|[\d\{other}]+\{other}\d{{3}}\{sign}\d*)"
        r"(?:[eE][+-]?\d+)?$"
    )
    for sign, other in _OTHER
}
_TRUTH = {"true": 1.0, "on": 1.0, "yes": 1.0, "false": 0.0, "off": 0.0, "no": 0.0}


@dataclass(frozen=True)
class Wanted:
    """Columns to read, by name as in the recipe, with ``*`` and ``?`` for one that differs from file to file.

    ``numbers`` become float64, ``texts`` text, ``times`` numbers where the first rows are numbers and text otherwise.
    """

    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    separator: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name once."""
        return tuple(dict.fromkeys((*self.times, *self.texts, *self.numbers)))


@dataclass(frozen=True)
class Table:
    """What a file holds of what was wanted.

    Attributes:
        name: The file's path below the data folder, and the array's name where a file holds several.
        sha256: Of the file's content.
        rows: Length of every column.
        columns: By the name that was wanted; a column that the file lacks is not there.
        header: All columns of the file, in order; of files without a header ``1``, ``2``, …
        units: Units that a second header row names, by column of the file.
        unread: Columns with cells that are no number: how many, and the first such cell.
        broken: Rows left out because they have too few or too many cells.
    """

    name: str
    sha256: str
    rows: int
    columns: Mapping[str, Column] = field(repr=False)
    header: tuple[str, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    broken: int = 0


Told = Callable[[int], None]  # takes how many rows were read so far
Reader = Callable[[Path, str, Wanted, Told], "list[Table] | str"]

# suffix → module and function, imported on use; a file type more is one entry and one function
READERS: dict[str, str] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat"), "edge_sft.data.sensors.csv_tables:read"),
    ".npz": "edge_sft.data.sensors.array_tables:read_npz",
    ".npy": "edge_sft.data.sensors.array_tables:read_npy",
    ".mat": "edge_sft.data.sensors.array_tables:read_mat",
    ".parquet": "edge_sft.data.sensors.array_tables:read_parquet",
}


def kind_of(path: Path) -> str:
    """Return the suffix that says what a file is, ``.gz`` looked through; lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1] if suffixes else ""


def unheard(rows: int) -> None:
    """Tell nobody how many rows were read."""


def read_tables(path: Path, name: str, wanted: Wanted, told: Told = unheard) -> list[Table] | str:
    """Read one file.

    Args:
        path: Where it lies.
        name: What people call it: its path below the data folder.
        wanted: The columns to read.
        told: Told on the way how many rows were read, where a file is read row by row.

    Returns:
        Its tables (several where it holds several recordings), or why it cannot be used, as a clause.

    Raises:
        DeviceError: A package is missing that this type of file needs.
    """
    target = READERS.get(kind_of(path))
    if target is None:
        return f"is of no known type ({path.suffix or 'no suffix'})"
    from importlib import import_module

    module, _, function = target.partition(":")
    reader: Reader = getattr(import_module(module), function)
    try:
        if path.stat().st_size == 0:
            return "is an empty file"
        return reader(path, name, wanted, told)
    except (OSError, EOFError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    except EdgeSftError:
        raise


def resolve(pattern: str, header: Iterable[str]) -> str | None:
    """Find the column that a name means: itself, else the only one that it matches with ``*`` and ``?``."""
    known = list(header)
    if pattern in known:
        return pattern
    if not any(sign in pattern for sign in "*?["):
        return None
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    return found[0] if len(found) == 1 else None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def number(cell: str, decimal: str = "") -> float | None:
    """Read one cell as a number: decimal comma or point, thousands, truth words; NaN for nothing, None for text.

    Args:
        cell: As it is written.
        decimal: ``,`` or ``.`` where the column's other cells told (`decimal_sign`); else this cell has to.
    """
    plain = cell.strip()
    if plain.lower() in NOTHING:
        return np.nan
    if decimal == "," and _THOUSANDS["."].match(plain):
        return float(plain.replace(".", "").replace(",", "."))
    if decimal == "." and _THOUSANDS[","].match(plain):
        return float(plain.replace(",", ""))
    try:
        value = float(plain)
        return value if np.isfinite(value) else np.nan
    except ValueError:
        pass
    if "," in plain:
        # 1.234,5 and 1,234.5: whichever comes last is the decimal sign
        comma_last = plain.rfind(",") > plain.rfind(".")
        changed = plain.replace(".", "").replace(",", ".", 1) if comma_last else plain.replace(",", "")
        try:
            return float(changed)
        except ValueError:
            return None
    return _TRUTH.get(plain.lower())


def decimal_sign(cells: Sequence[str]) -> str:
    """Tell whether a column's decimals are behind a comma or a point; "" where no cell says.

    ``1,234`` alone may be either: where other cells are whole numbers below a thousand, it is a thousand and more;
    where all have their three digits, these are decimals.
    """
    marked = [plain for cell in cells if "," in (plain := cell.strip()) or "." in plain]
    comma = any(_DECIMAL[","].match(cell) for cell in marked)
    point = any(_DECIMAL["."].match(cell) for cell in marked)
    if comma != point:
        return "," if comma else "."
    if comma or not any("," in cell for cell in marked):
        return ""
    whole = [plain for cell in cells if (plain := cell.strip()).lstrip("-").isdigit()]
    return "." if whole and all(len(cell.lstrip("-")) <= 3 for cell in whole) else ""
