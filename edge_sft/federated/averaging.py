"""From one round's weights to the next: average, hide, round, and keep what rounding took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from edge_sft.errors import DataError
from edge_sft.federated.codec import round_trip
from edge_sft.federated.learner import Arrays
from edge_sft.federated.privacy import clip, coordinator_std, noised, secret_in
from edge_sft.federated.run_store import State
from edge_sft.federated.strategies import Memory, average
from edge_sft.federated.vetting import Update
from edge_sft.federated_section import FederatedSection

_NOISE_FILE: Final = "noise.secret"


def advanced(section: FederatedSection, state: State, updates: list[Update], *, run: str, folder: Path) -> State:
    """Return the state after a round, but for its line in the record.

    What sites hold is the sum of what they were sent. The broadcast is encoded like an update; what that rounds away is
    owed, and part of the next one.

    Args:
        section: Strategy, compression, privacy.
        state: Before the round.
        updates: What was let in, by the sites' names.
        run: The run's name, for noise.
        folder: Where the secret for noise lies.

    Raises:
        DataError: The strategy cannot average, or the average is not finite.
    """
    number = state.done + 1
    made, memory = average(
        section, number, state.weights, [_clipped(section, one) for one in updates], state.parts, state.memory
    )
    moved = {name: (made[name] - state.weights[name]).astype(np.float32) for name in made}
    moved = _hidden(section, moved, len(updates), folder, f"{run}|{number}|{state.base}")
    return stepped(section, state, moved, memory)


def stepped(section: FederatedSection, state: State, moved: Arrays, memory: Memory) -> State:
    """Return the state after a round that moves the weights so far (float32), but for its line in the record.

    Raises:
        DataError: The step is not finite.
    """
    number = state.done + 1
    wanted = {name: state.weights[name].astype(np.float64) + moved[name] + state.owed[name] for name in moved}
    delta = {name: (wanted[name] - state.weights[name]).astype(np.float32) for name in wanted}
    broken = sorted(name for name, array in delta.items() if not np.isfinite(array).all())
    if broken:
        raise DataError(f"round {number}", f"the average is not finite in {broken[0]}", "Lower the learning rate.")
    step, arrives, _ = round_trip(delta, section.compression)
    weights = {name: state.weights[name] + arrives[name] for name in arrives}
    owed = {name: (wanted[name] - weights[name]).astype(np.float32) for name in weights}
    return replace(
        state, done=number, weights=weights, owed=owed, memory=memory, step=step, previous=state.base, line={}
    )


def _clipped(section: FederatedSection, update: Update) -> Update:
    privacy = section.privacy
    if privacy.kind != "dp" or privacy.clip is None or privacy.at == "site":
        return update  # what a site has drowned in noise is longer than the clip, and cut again nothing would be left
    delta, factor = clip(update.delta, privacy.clip)  # once more: a site is not believed
    return replace(update, delta=delta, length=update.length * factor)


def _hidden(section: FederatedSection, moved: Arrays, sites: int, folder: Path, context: str) -> Arrays:
    std = coordinator_std(section.privacy, sites)
    return noised(moved, std, secret=secret_in(folder / _NOISE_FILE), context=context) if std else moved
