"""Files that people write: TOML parsed once by a strict model, every error reported together with its line."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edge_sft.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Model = TypeVar("Model", bound=BaseModel)

_HEADER = re.compile(r"^\s*\[(\[)?\s*([A-Za-z0-9_.\-\" ]+?)\s*\]?\]\s*(#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-]+|\"[^\"]+\")\s*(\.\s*[A-Za-z0-9_\-]+\s*)*=")


def loads(text: str, model: type[Model], *, source: str) -> Model:
    """Parse TOML text into a frozen model.

    Args:
        text: The file's content.
        model: A pydantic model with ``extra="forbid"``.
        source: The file's name, for messages.

    Raises:
        UserError: Not TOML, or any number of unknown keys, wrong types, values out of range or impossible
            combinations; all of them are listed, each with its line and what to do.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(source, f"is not valid TOML: {error}", "Mend that line and try again.") from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = _line_numbers(text)
        problems = [_describe(dict(item), model, lines) for item in error.errors(include_url=False)]
        listed = "\n".join(f"  - {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(source, f"has {count}:\n{listed}") from error


def load(path: Path, model: type[Model]) -> Model:
    """Read a TOML file into a frozen model. Raises UserError as `loads` does, and when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(str(path), "does not exist", "Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"cannot be read ({error})", "It must be a UTF-8 text file.") from error
    return loads(text, model, source=str(path))


def peek(path: Path) -> dict[str, Any]:
    """Read a TOML file without judging it. Raises OSError, or ValueError when it is no TOML."""
    with path.open("rb") as file:
        content: dict[str, Any] = tomllib.load(file)
    return content


def _line_numbers(text: str) -> dict[tuple[str | int, ...], int]:
    """Map key paths to 1-based lines. Tables, arrays of tables and one-line keys; multi-line values by start."""
    found: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            parts: tuple[str | int, ...] = tuple(p.strip().strip('"') for p in header.group(2).split("."))
            if header.group(1):
                counts[parts] = counts.get(parts, -1) + 1
                parts = (*parts, counts[parts])
            elif parts[:1] in counts:  # [pipeline.sub] below [[pipeline]]
                parts = (parts[0], counts[parts[:1]], *parts[1:])
            table = parts
            found.setdefault(table, number)
        elif _KEY.match(line):
            key = line.split("=", 1)[0]
            path = (*table, *(p.strip().strip('"') for p in key.split(".")))
            found.setdefault(path, number)
    return found


def _describe(error: dict[str, Any], model: type[BaseModel], lines: dict[tuple[str | int, ...], int]) -> str:
    location: tuple[str | int, ...] = tuple(error["loc"])
    where = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    prefix = f"line {where}: " if where else ""
    name = ".".join(str(part) for part in location)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(location[-1]), _keys_at(model, location[:-1]), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(_keys_at(model, location[:-1]))}"
        return f"{prefix}unknown key '{name}'; {hint}"
    if error["type"] == "missing":
        return f"{prefix}'{name}' is missing; add it"
    got = f" (got {error['input']!r})" if location and not isinstance(error.get("input"), dict) else ""
    return f"{prefix}{f'{chr(39)}{name}{chr(39)}: ' if name else ''}{message}{got}"


def _keys_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    current: list[Any] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [one.model_fields[part] for one in current if part in one.model_fields]
        if fields:
            current = [found for field in fields for found in _models_in(field.annotation)]
        else:  # pydantic puts the tag of a discriminated union into the path
            current = [one for one in current if part in _tags(one)]
    return sorted({name for one in current for name in one.model_fields})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]


def _tags(model: Any) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return () if kind is None else tuple(getattr(kind.annotation, "__args__", ()))
