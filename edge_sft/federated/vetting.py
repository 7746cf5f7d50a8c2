"""Which updates may be averaged. Pure: what is wrong with one is said in words, and it is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_sft.errors import DataError
from edge_sft.federated.codec import decode
from edge_sft.federated.learner import Arrays
from edge_sft.federated.messages import Opened
from edge_sft.federated.privacy import length

Shapes = Mapping[str, tuple[int, ...]]
_NAMED = 3  # so many tensors are named in a refusal
_TELLS = 3  # so many updates have a median that tells who is wrong


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
    loss = vet_words(reply, expected)
    if reply.encoded is None:
        raise _refused(expected, "no update came with the answer")
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
    return Update(expected.site, expected.samples, delta, loss, length(delta))


def vet_words(reply: Opened, expected: Expected) -> float:
    """Judge what a site says beside its update; return its loss.

    Raises:
        DataError: Of another run, round or base (stale), other counts than it was greeted with, or no loss.
    """
    _of_this_round(reply, expected)
    samples, loss = reply.metrics.get("num-examples", math.nan), reply.metrics.get("loss", math.nan)
    if samples != expected.samples:
        raise _refused(expected, f"it claims {samples:g} training samples; when greeted it had {expected.samples}")
    if not math.isfinite(loss):
        raise _refused(expected, f"its training loss is {loss}")
    return loss


def outliers(updates: list[Update], factor: float, earlier: Mapping[str, list[float]]) -> dict[str, str]:
    """Return the sites whose update is absurdly long, each with why.

    Three or more are compared to their median. Of two the median cannot say who is wrong: two honest plants may differ
    so much, and the run would stop for it. There a site is left out when its update is long beside the other's and
    beside the longest that it sent itself in earlier rounds. What that cannot tell, `bounded` takes the danger from.

    Args:
        updates: What came, one a site.
        factor: ``federated.outlier``.
        earlier: Lengths of the updates that were let in from each site in earlier rounds.
    """
    if len(updates) < _TELLS:
        return _beside_their_own(updates, factor, earlier)
    lengths = sorted(update.length for update in updates)
    median = lengths[(len(lengths) - 1) // 2]  # of four, the shorter of the middle: half of them may be poisoned
    return {
        update.site: f"its update is {update.length:.3g} long, {update.length / median:.0f} times the median "
        f"{median:.3g} (federated.outlier = {factor:g})"
        for update in updates
        if median > 0 and update.length > factor * median
    }


def _beside_their_own(updates: list[Update], factor: float, earlier: Mapping[str, list[float]]) -> dict[str, str]:
    shortest = min((update.length for update in updates), default=0.0)
    found = {}
    for update in updates:
        own = max(earlier.get(update.site, ()), default=0.0)
        beside = len(updates) == 1 or update.length > factor * shortest
        if beside and own > 0 and update.length > factor * own:
            found[update.site] = (
                f"its update is {update.length:.3g} long, {update.length / own:.0f} times the longest that it sent "
                f"in earlier rounds, {own:.3g} (federated.outlier = {factor:g})"
            )
    return found


def bounded(updates: list[Update], factor: float) -> tuple[list[Update], dict[str, str]]:
    """Return the updates of a round with two sites such that neither drowns the other, and what was said of whom.

    Where lengths differ more than ``factor`` times and nothing tells which is wrong, the longer one counts as if it
    were ``factor`` times the shorter: in its own direction, but not so far. Three and more stay as they are.
    """
    shortest = min((update.length for update in updates), default=0.0)
    if len(updates) != _TELLS - 1 or shortest <= 0:
        return updates, {}
    kept, said = [], {}
    for update in updates:
        times = update.length / shortest
        if times > factor:
            share = np.float32(factor / times)
            kept.append(replace(update, delta={name: array * share for name, array in update.delta.items()}))
            said[update.site] = (
                f"its update is {times:.0f} times as long as the other site's and counts as {factor:g} times "
                "(federated.outlier): of two, nobody can say which is wrong"
            )
        else:
            kept.append(update)
    return kept, said


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
