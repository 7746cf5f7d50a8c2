"""Arrays as tables: NPZ, NPY, MAT and Parquet.

Arrays named like the wanted columns are columns of one table. Otherwise each array is a recording of its own, and its
columns are called ``1``, ``2``, …
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sft.data.sensors.tables import Column, Table, Told, Wanted, number, resolve, sha256_of, unheard
from edge_sft.errors import DeviceError


def read_npz(path: Path, name: str, wanted: Wanted, told: Told = unheard) -> list[Table] | str:
    """Read NumPy's NPZ; pickled objects are refused."""
    import zipfile
    import zlib

    try:
        # opened here: NumPy leaves a damaged file open
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key]) for key in file.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        return f"is no readable NPZ ({error})"
    return tables_of(arrays, name, sha256_of(path), wanted)


def read_npy(path: Path, name: str, wanted: Wanted, told: Told = unheard) -> list[Table] | str:
    """Read one NumPy array, [n] or [n, columns]; pickled objects are refused."""
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        return f"is no readable NPY ({error})"
    if array.dtype.names:
        return tables_of({key: array[key] for key in array.dtype.names}, name, sha256_of(path), wanted)
    return tables_of({"": array}, name, sha256_of(path), wanted)


def read_mat(path: Path, name: str, wanted: Wanted, told: Told = unheard) -> list[Table] | str:
    """Read MATLAB's MAT up to version 7; version 7.3 is HDF5 and says so.

    Raises:
        DeviceError: SciPy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DeviceError("MAT files", "need SciPy", "Install it: pip install 'edge-sft[train]'") from error
    try:
        content = loadmat(path, squeeze_me=False)
    except NotImplementedError:
        return "is a MAT file of version 7.3 (HDF5): save it with -v7, or as CSV or Parquet"
    except Exception as error:  # noqa: BLE001 - SciPy raises whatever it meets in a damaged file
        return f"is no readable MAT file ({error})"
    arrays = {key: value for key, value in content.items() if not key.startswith("__")}
    return tables_of(arrays, name, sha256_of(path), wanted)


def read_parquet(path: Path, name: str, wanted: Wanted, told: Told = unheard) -> list[Table] | str:
    """Read Parquet.

    Raises:
        DeviceError: PyArrow is missing.
    """
    pyarrow, parquet = _pyarrow()
    columns: dict[str, Column] = {}
    unread: dict[str, tuple[int, str]] = {}
    try:
        with parquet.ParquetFile(path) as file:
            header, rows = tuple(str(column) for column in file.schema_arrow.names), file.metadata.num_rows
            for column in wanted.names:  # one after the other: the table lies in memory once
                place = resolve(column, header)
                if place is not None:
                    cells = _arrow(file.read(columns=[place]).column(place))
                    columns[column], failed = _cells(cells, column, wanted)
                    unread |= {} if failed is None else {column: failed}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        return f"is no readable Parquet file ({str(error)[:200]})"
    return [Table(name=name, sha256=sha256_of(path), rows=rows, columns=columns, header=header, unread=unread)]


def peek_parquet(path: Path, rows: int) -> Table | str:
    """Return the first rows of all columns; text where it cannot be read. Raises DeviceError: PyArrow is missing."""
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            header = tuple(str(column) for column in file.schema_arrow.names)
            first = next(file.iter_batches(batch_size=rows), None)
            batch = file.schema_arrow.empty_table() if first is None else pyarrow.Table.from_batches([first])
            columns = {name: _arrow(batch.column(place)) for place, name in enumerate(header)}
            return Table(name=path.name, sha256="", rows=file.metadata.num_rows, columns=columns, header=header)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        return f"is no readable Parquet file ({str(error)[:200]})"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DeviceError("Parquet files", "need PyArrow", "Install it: pip install pyarrow") from error
    return pyarrow, parquet


def tables_of(arrays: Mapping[str, NDArray[Any]], name: str, digest: str, wanted: Wanted) -> list[Table] | str:
    """Make tables of named arrays; text says why there is none."""
    usable = {key: _flat(value) for key, value in arrays.items() if value.dtype.kind in "fiubUSM" and value.size}
    if not usable:
        return "holds no numeric array"
    found = {column: place for column in wanted.names if (place := resolve(column, list(usable))) is not None}
    if any(column in found for column in wanted.numbers):
        lengths = sorted({len(usable[place]) for place in found.values()} - {1})
        if len(lengths) > 1:
            return f"holds columns of different lengths ({', '.join(map(str, lengths))})"
        if any(usable[place].ndim > 1 for place in found.values()):
            return "holds a column that is a table itself"
        rows = lengths[0] if lengths else 1
        return [_columns_table(usable, name, digest, wanted, found, tuple(usable), rows)]
    tables = [_array_table(key, value, name, digest, wanted) for key, value in usable.items() if len(value) > 1]
    return tables or "holds single numbers only"


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 0:
        return array.reshape(1)
    if array.ndim == 2 and 1 in array.shape:  # MATLAB has no vectors
        return array.reshape(-1)
    return array


def _columns_table(
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    digest: str,
    wanted: Wanted,
    found: Mapping[str, str],
    header: tuple[str, ...],
    rows: int,
) -> Table:
    columns: dict[str, Column] = {}
    unread: dict[str, tuple[int, str]] = {}
    for column, place in found.items():
        values = arrays[place]
        full = np.broadcast_to(values, (rows,)) if len(values) == 1 else values  # one speed for a whole recording
        columns[column], failed = _cells(full, column, wanted)
        if failed:
            unread[column] = failed
    return Table(name=name, sha256=digest, rows=rows, columns=columns, header=header, unread=unread)


def _array_table(key: str, array: NDArray[Any], name: str, digest: str, wanted: Wanted) -> Table:
    grid = array.reshape(len(array), -1)
    header = tuple(str(i + 1) for i in range(grid.shape[1])) if array.ndim <= 2 else ()
    found = {column: place for column in wanted.names if (place := resolve(column, header)) is not None}
    columns = {column: _cells(grid[:, int(place) - 1], column, wanted)[0] for column, place in found.items()}
    return Table(f"{name}/{key}" if key else name, digest, len(array), columns, header)


def _cells(values: NDArray[Any], column: str, wanted: Wanted) -> tuple[Column, tuple[int, str] | None]:
    return _typed(values, as_text=column in wanted.texts, as_time=column in wanted.times)


def _typed(values: NDArray[Any], *, as_text: bool, as_time: bool) -> tuple[Column, tuple[int, str] | None]:
    kind = values.dtype.kind
    if kind == "M":
        seconds = values.astype("datetime64[us]").astype(np.int64) / 1e6
        return np.where(np.isnat(values), np.nan, seconds), None
    if kind in "fiub" and not as_text:
        numbers = values.astype(np.float64)
        numbers[~np.isfinite(numbers)] = np.nan
        return numbers, None
    cells = [_text(cell) for cell in values.tolist()]
    if as_text or as_time:
        return np.array(cells, dtype=object), None
    read = [number(cell) for cell in cells]
    failed = [cell for cell, value in zip(cells, read, strict=True) if value is None]
    result = np.array([np.nan if value is None else value for value in read], dtype=np.float64)
    return result, (len(failed), failed[0][:60]) if failed else None


def _text(cell: object) -> str:
    if cell is None:
        return ""
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _arrow(column: Any) -> NDArray[Any]:
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        micro = column.cast(pyarrow.timestamp("us", tz=column.type.tz), safe=False)
        return np.asarray(micro.cast(pyarrow.int64()).to_numpy(), dtype="float64").astype("datetime64[us]")
    if pyarrow.types.is_date(column.type):
        return np.asarray(column.to_numpy(), dtype="datetime64[us]")
    if pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    return np.array(column.to_pylist(), dtype=object)
