"""Which updates may be averaged. Pure: what is wrong with one is said in words, and it is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_sft.errors import DataError
from edge_sft.federated.codec import decode
from edge_sft.federated.learner import Arrays
from edge_sft.federated.messages import Opened
from edge_sft.federated.privacy import length

Shapes = Mapping[str, tuple[int, ...]]
_NAMED = 3  # so many tensors are named in a refusal


@dataclass(frozen=True)
class Expected:
    """What an update must be of.

    Attributes:
        run: The run's name.
        round: The round that is being averaged, from 1.
        base: SHA-256 of the weights it must start from.
        shapes: Name and shape of every weight that travels.
        site: The site's name.
        samples: How many training samples the site said it has, when it was greeted.
    """

    run: str
    round: int
    base: str
    shapes: Shapes
    site: str
    samples: int


@dataclass(frozen=True)
class Update:
    """A site's update that may be averaged, but for its length.

    Attributes:
        site: Whose.
        samples: Training samples: its weight.
        delta: float32 arrays, relative to the weights that the round began with.
        loss: Mean training loss.
        length: L2 norm of all arrays together.
    """

    site: str
    samples: int
    delta: Arrays
    loss: float
    length: float


def vet(reply: Opened, expected: Expected) -> Update:
    """Read a site's update.

    Raises:
        DataError: Of another run, round or base (stale), not the model's weights, or not finite; ``fact`` says which.
    """
    _of_this_round(reply, expected)
    if reply.encoded is None:
        raise _refused(expected, "no update came with the answer")
    samples, loss = reply.metrics.get("num-examples", math.nan), reply.metrics.get("loss", math.nan)
    if samples != expected.samples:
        raise _refused(expected, f"it claims {samples:g} training samples; when greeted it had {expected.samples}")
    if not math.isfinite(loss):
        raise _refused(expected, f"its training loss is {loss}")
    try:
        delta = decode(reply.encoded)
    except DataError as error:
        raise _refused(expected, error.fact) from error
    wrong = misfit({name: array.shape for name, array in delta.items()}, expected.shapes)
    if wrong:
        raise _refused(expected, wrong)
    bad = sorted(name for name, array in delta.items() if not np.isfinite(array).all())
    if bad:
        raise _refused(expected, f"its update has NaN or infinite numbers in {_some(bad)}")
    return Update(expected.site, int(samples), delta, loss, length(delta))


def outliers(updates: list[Update], factor: float) -> dict[str, str]:
    """Return the sites whose update is absurdly long, each with why.

    The yardstick is the lower median: of two, the shorter, so that one poisoned site of two does not set it.
    """
    lengths = sorted(update.length for update in updates)
    if not lengths:
        return {}
    median = lengths[(len(lengths) - 1) // 2]
    return {
        update.site: f"its update is {update.length:.3g} long, {update.length / median:.0f} times the median "
        f"{median:.3g} (federated.outlier = {factor:g})"
        for update in updates
        if median > 0 and update.length > factor * median
    }


def misfit(found: Shapes, wanted: Shapes) -> str:
    """Return in words how weights differ from the model's; "" where they do not."""
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        return f"weights are missing: {_some(missing)}"
    if unknown:
        return f"it has weights that this model has not: {_some(unknown)}"
    other = sorted(name for name in wanted if tuple(found[name]) != tuple(wanted[name]))
    if other:
        listed = _some([f"{name} {list(found[name])} instead of {list(wanted[name])}" for name in other])
        return f"weights have another shape: {listed}"
    return ""


def _of_this_round(reply: Opened, expected: Expected) -> None:
    run, number, base = reply.text("run"), reply.number("round"), reply.text("base")
    if run != expected.run:
        raise _refused(expected, f"it is of the run {run!r}, not of {expected.run!r}")
    if number != expected.round:
        raise _refused(expected, f"stale: it is of round {number}, and this is round {expected.round}")
    if base != expected.base:
        raise _refused(
            expected, f"stale: it starts from other weights ({base[:12] or 'not said'}, not {expected.base[:12]})"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _refused(expected: Expected, fact: str) -> DataError:
    return DataError(f"{expected.site}'s update", fact, "It is left out; look at that site's log.")
