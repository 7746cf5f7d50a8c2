"""JSON messages → rows: a field map and nothing else. Pure; no network.

Understood are one row (``{"time": …, "temp": 20.1}``), a list of rows, and columns of equal length
(``{"time": […], "temp": […]}``); or one value a message, its channel named by the topic or a field.
"""

from __future__ import annotations

import json
import math
import re
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from edge_sft.errors import DataError
from edge_sft.prediction import Rows
from edge_sft.runtime.config import RowsFromMqtt
from edge_sft.runtime.sources.rowtime import to_seconds

_ROWS_MAX = 100_000
_NAME_MAX = 200
_CHANNELS_MAX = 512  # as many as a model can have
_SETS_MAX = 1000
_KEYS_REMEMBERED = 1024  # of a set of fields: names come from the network
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ABSENT = object()


class RowReader:
    """Reads messages as a source's configuration says."""

    def __init__(self, config: RowsFromMqtt) -> None:
        self._config = config
        self._asset_level = _level(config.asset)
        self._channel_level = _level(config.channel)
        self._fields = {channel: tuple(path.split(".")) for channel, path in config.fields.items()}
        self._channels = tuple(self._fields)
        self._time = tuple(config.time.split(".")) if config.time else ()
        self._own = {config.time.split(".")[0], config.asset if self._asset_level is None else ""}
        self._sets: dict[tuple[str, ...], tuple[str, ...]] = {}

    def read(self, topic: str, payload: bytes, now_s: float) -> list[Rows]:
        """Return the rows of a message, one `Rows` an asset and set of columns.

        Args:
            topic: It came on.
            payload: As it came.
            now_s: UTC, for rows without a time of their own.

        Raises:
            DataError: It is not understood; nothing of it is used.
        """
        message = _parsed(topic, payload)
        levels = topic.split("/")
        if self._config.channel:
            return [self._single(levels, message, now_s, topic)]
        if isinstance(message, dict):
            return [self._one(levels, message, now_s, topic)]
        if isinstance(message, list) and message and all(isinstance(one, dict) for one in message):
            if len(message) > _ROWS_MAX:
                raise _not_understood(topic, f"holds more than {_ROWS_MAX} rows")
            return [self._one(levels, one, now_s, topic) for one in message]
        raise _not_understood(topic, "is neither an object nor a list of objects")

    def _one(self, levels: list[str], message: dict[str, Any], now_s: float, topic: str) -> Rows:
        asset = self._name(self._asset_level, self._config.asset, levels, message, topic)
        channels = self._channels or self._numbers(message)
        if self._fields:
            found = [_at(message, path) for path in self._fields.values()]
            if _ABSENT in found:  # a renamed column must be seen as missing, not as silent
                channels = tuple(name for name, value in zip(channels, found, strict=True) if value is not _ABSENT)
                found = [value for value in found if value is not _ABSENT]
        else:
            found = [message[name] for name in channels]
        if not found:
            wanted = ", ".join(self._config.fields.values()) or "(any number)"
            raise _not_understood(topic, f"holds none of the fields {wanted}")
        values = _table(found, topic)
        return Rows(asset, self._times(message, len(values), now_s, topic), values, channels)

    def _single(self, levels: list[str], message: Any, now_s: float, topic: str) -> Rows:
        fields = message if isinstance(message, dict) else {}
        asset = self._name(self._asset_level, self._config.asset, levels, fields, topic)
        channel = self._name(self._channel_level, self._config.channel, levels, fields, topic)
        value = _at(fields, tuple(self._config.value.split("."))) if self._config.value else message
        if value is _ABSENT:
            raise _not_understood(topic, f"has no field '{self._config.value}'")
        values = _table([value], topic)
        return Rows(asset, self._times(fields, len(values), now_s, topic), values, (channel,))

    def _numbers(self, message: dict[str, Any]) -> tuple[str, ...]:
        """Return the fields that hold numbers, told once for each set of fields."""
        keys = tuple(message)
        known = self._sets.get(keys)
        if known is None:
            if len(self._sets) >= _SETS_MAX:
                self._sets.clear()
            numbers = (key for key in keys if key not in self._own and not isinstance(message[key], (dict, str)))
            known = tuple(key for key in islice(numbers, _CHANNELS_MAX) if _is_text(key))
            # a field that says "n/a" now may be a number in the next message: such a set is looked at again
            settled = not any(isinstance(message[key], str) for key in keys if key not in self._own)
            if settled and len(keys) <= _KEYS_REMEMBERED:
                self._sets[keys] = known
        return known

    def _name(self, level: int | None, field: str, levels: list[str], message: dict[str, Any], topic: str) -> str:
        if level is not None:
            name: Any = levels[level] if level < len(levels) else _ABSENT
        else:
            name = _at(message, tuple(field.split(".")))
        if name is not _ABSENT and name is not None and not isinstance(name, (dict, list)):
            text = str(name).strip()  # as files of rows are read: "P6 " and "P6" are one machine
            if 0 < len(text) <= _NAME_MAX and _is_text(text):
                return text
        raise _not_understood(topic, f"does not name its asset or channel ({field})")

    def _times(self, message: dict[str, Any], count: int, now_s: float, topic: str) -> NDArray[np.float64]:
        given = _at(message, self._time) if self._time else _ABSENT
        if given is _ABSENT or given is None:
            if count > 1:
                raise _not_understood(topic, f"holds {count} rows and no '{self._config.time}'")
            return np.array([now_s])
        if isinstance(given, list):
            if len(given) != count:
                raise _not_understood(topic, f"holds {len(given)} times for {count} rows")
            return np.array([to_seconds(one, self._config.time_format) for one in given], dtype=np.float64)
        when = to_seconds(given, self._config.time_format)
        if count != 1 or math.isnan(when):
            raise _not_understood(topic, f"has a time that is none ({str(given)[:40]!r})")
        return np.array([when])


def _parsed(topic: str, payload: bytes) -> Any:
    try:
        return from_json(payload)  # four times as fast as json, the same floats to the last bit
    except ValueError:
        pass
    try:
        return json.loads(payload)  # takes UTF-16 and byte order marks too
    except (ValueError, RecursionError) as error:
        raise _not_understood(topic, f"is not JSON ({str(error)[:80]})") from error


def _table(found: list[Any], topic: str) -> NDArray[np.float64]:
    """Return values [n, C] of C fields that hold a number each, or a list of n numbers each."""
    lengths = {len(one) for one in found if isinstance(one, list)} if list in map(type, found) else set()
    if not lengths:
        try:
            return np.array([found], dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            return np.array([[_number(one) for one in found]], dtype=np.float64)
    if len(lengths) != 1 or not all(isinstance(one, list) for one in found) or lengths.pop() > _ROWS_MAX:
        raise _not_understood(topic, "holds columns of different lengths")
    return np.stack([np.array([_number(one) for one in column], dtype=np.float64) for column in found], axis=1)


def _number(value: Any) -> float:
    """Return a number; NaN for null, for what is none (``"bad"``, ``"---"``) and for four hundred digits."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_text(name: str) -> bool:
    """Tell whether a name can be kept and published: no control characters, no half of a surrogate pair."""
    return not _NO_TEXT.search(name)


def _at(message: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(message, dict) or key not in message:
            return _ABSENT
        message = message[key]
    return message


def _level(text: str) -> int | None:
    number = text.removeprefix("topic:")
    return int(number) if number != text and number.isdecimal() else None


def _not_understood(topic: str, fact: str) -> DataError:
    return DataError(f"message on {topic}", fact, "Mend the sender, or the source's fields in agent.toml.")
