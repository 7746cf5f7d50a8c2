"""What a run starts from: the common starting weights, and in them what all sites' data say together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edge_sft.errors import NetworkError
from edge_sft.federated.codec import encode
from edge_sft.federated.keys import digest
from edge_sft.federated.learner import Arrays, Part
from edge_sft.federated.members import Member, Members
from edge_sft.federated.run_store import State
from edge_sft.federated.settings import read_recipe
from edge_sft.sensor_recipe import SensorRecipe


def first_state(
    weights: Arrays,
    parts: dict[str, Part],
    facts: dict[str, str],
    members: Members,
    recipe: str,
    quorum: int,
    say: Callable[[str], None],
) -> State:
    """Return the state before round 1.

    Args:
        weights: The starting weights, the same at every site.
        parts: What each is.
        facts: What all sites have in common.
        members: Who takes part, with what they told of their data; who told nonsense is turned away.
        recipe: The run's, as text.
        quorum: So many must be left.
        say: Told of sites whose channels are odd.

    Raises:
        NetworkError: Fewer are left.
    """
    owed = {name: np.zeros_like(array) for name, array in weights.items()}
    begun = State(0, weights, owed, parts, facts)
    known = [members.known[name] for name in sorted(members.known)]
    if not any(member.opening for member in known):
        return begun
    known = [member for member in known if not _turned_away(member, weights, members, say)]
    if len(known) < quorum:
        raise NetworkError(
            "the run's beginning",
            f"{len(known)} of {quorum} needed sites told of their channels what can be used; "
            + "; ".join(members.turned_away.values()),
            "Look at those sites' data.",
        )
    changed = _merged(known, recipe, say)
    delta = {name: value - weights[name] for name, value in changed.items()}
    return replace(
        begun,
        weights={name: array + delta[name] if name in delta else array for name, array in weights.items()},
        step=encode(delta, "none"),
        previous=digest(weights),
    )


def _turned_away(member: Member, weights: Arrays, members: Members, say: Callable[[str], None]) -> bool:
    from edge_sft.federated.normaliser import problem

    why = problem(member.opening, {name: array.shape for name, array in weights.items()})
    if why:
        members.turned_away[member.node] = f"{member.name}: {why}"
        del members.known[member.name]
        say(f"{member.name} is turned away: {why}")
    return bool(why)


def _merged(known: list[Member], recipe: str, say: Callable[[str], None]) -> Arrays:
    from edge_sft.federated.normaliser import merged, oddities, standardisation
    from edge_sft.models.sensors.regressor import lifelong
    from edge_sft.training.sensors.features import condition_channels

    found = read_recipe(recipe)
    assert isinstance(found, SensorRecipe)  # only learners of sensors tell anything
    windowing, conditions = found.windowing(), condition_channels(found)
    for name, why in oddities({member.name: member.opening for member in known}, windowing.names, conditions).items():
        say(f"{name}: {why}")
    told = [member.opening for member in known]
    return merged(told, conditions=conditions, lifelong=lifelong(windowing)) | standardisation(told)
