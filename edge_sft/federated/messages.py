"""What coordinator and sites say to each other, in Flower's records: at most one of arrays, metrics and config each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_sft.errors import DataError
from edge_sft.federated.codec import Encoded
from edge_sft.federated_section import Compression

if TYPE_CHECKING:
    from flwr.app import RecordDict

PROTOCOL: Final = 1  # raised when a site of before could misunderstand

HELLO: Final = "query.hello"
BASE: Final = "query.base"
ROUND: Final = "train.round"
FINAL: Final = "train.final"
SECURE: Final = "train"  # the four steps of a secure round; Flower's half of the protocol takes no other type

_ARRAYS, _METRICS, _CONFIG = "arrays", "metrics", "config"
_CODES: Final = "delta"
_ENCODINGS: Final[tuple[Compression, ...]] = ("none", "bf16", "int8")

Scalar = str | int | float | bool | bytes


@dataclass(frozen=True)
class Opened:
    """A message's content.

    Attributes:
        config: Words and switches.
        metrics: Numbers.
        encoded: Weights or an update, if it carries one; not yet decoded.
    """

    config: dict[str, Any]
    metrics: dict[str, float]
    encoded: Encoded | None

    def text(self, name: str) -> str:
        """Return a word of the config; "" where it is missing or no word."""
        found = self.config.get(name, "")
        return found if isinstance(found, str) else ""

    def number(self, name: str) -> int:
        """Return a whole number of the config; -1 where it is missing or none."""
        found = self.config.get(name, -1)
        return found if isinstance(found, int) and not isinstance(found, bool) else -1


def packed(
    config: Mapping[str, Scalar], metrics: Mapping[str, float] | None = None, encoded: Encoded | None = None
) -> RecordDict:
    """Put a message's content together."""
    from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

    said: dict[str, Any] = dict(config)
    content = RecordDict()
    if encoded is not None:
        said |= {"encoding": encoded.encoding, "layout": encoded.layout}
        content[_ARRAYS] = ArrayRecord({_CODES: Array(np.ascontiguousarray(encoded.codes))})
    if metrics:
        content[_METRICS] = MetricRecord({name: float(value) for name, value in metrics.items()})
    content[_CONFIG] = ConfigRecord(said)
    return content


def opened(content: RecordDict) -> Opened:
    """Take a message's content apart.

    Raises:
        DataError: It is not made as `packed` makes them.
    """
    try:
        config = dict(content.config_records.get(_CONFIG, {}))
        numbers: Mapping[str, Any] = content.metric_records.get(_METRICS, {})
        metrics = {name: float(value) for name, value in numbers.items()}
        arrays = content.array_records.get(_ARRAYS)
        if arrays is None:
            return Opened(config, metrics, None)
        if list(arrays) != [_CODES]:
            raise DataError("a message", f"holds the arrays {sorted(arrays)}", f"Expected one, {_CODES!r}.")
        layout, encoding = config.get("layout"), config.get("encoding")
        if not isinstance(layout, bytes) or encoding not in _ENCODINGS:
            raise DataError("a message", "does not say how its update is written", "Check the versions of edge-sft.")
        return Opened(config, metrics, Encoded(arrays[_CODES].numpy(), layout, encoding))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise DataError("a message", f"cannot be read ({error})", "Check the versions of edge-sft.") from error


def payload_bytes(content: RecordDict) -> int:
    """Return how many bytes a message's content is as Flower writes it for the network (without HTTP and TLS)."""
    from flwr.app import Array, ArrayRecord, RecordDict

    fresh = RecordDict()  # Flower keeps views of an array that it has cut into pieces, and those cannot be pickled
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays = {key: Array(one.dtype, one.shape, one.stype, one.data) for key, one in record.items()}
            fresh[name] = ArrayRecord(arrays)
        else:
            fresh[name] = record
    return _deflated(fresh)


def _deflated(item: Any) -> int:
    return len(item.deflate()) + sum(_deflated(child) for child in (item.children or {}).values())
