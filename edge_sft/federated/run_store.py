"""What the coordinator keeps of a run: one file from which it goes on, and the record of rounds.

    <runs>/<run>/recipe.toml        what is learnt
                 state.safetensors  the weights, what rounding owes them, the strategy's memory; replaced each round
                 rounds.jsonl       who took part in which round with what; hash-chained
                 result/            the final weights, the recipe, federated.json

The state holds the record's line of its round, so that a kill between the two loses no line and writes none twice.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_sft import durable
from edge_sft.errors import DataError, UserError
from edge_sft.federated import chain, weights_file
from edge_sft.federated.codec import Encoded
from edge_sft.federated.keys import digest
from edge_sft.federated.learner import Arrays, Part
from edge_sft.federated.site_store import check_run_name
from edge_sft.federated.strategies import Memory
from edge_sft.federated_section import Compression

STATE: Final = "state.safetensors"
ROUNDS: Final = "rounds.jsonl"
RESULT: Final = "result"
WEIGHTS: Final = "global.safetensors"
FACTS: Final = "federated.json"
RECIPE: Final = "recipe.toml"
STOPPED: Final = "stopped.txt"


@dataclass(frozen=True)
class State:
    """Where a run is after a round.

    Attributes:
        done: Rounds that are finished.
        weights: The shared weights that every site holds, or will: what the next round begins with.
        owed: What rounding kept from them so far, float32; it is in the next round's broadcast.
        parts: What each weight is.
        facts: What all sites have in common (`Compatible`).
        memory: The strategy's.
        step: The encoded update from the round before to ``weights``; None before the first.
        previous: Digest of the weights that ``step`` is relative to.
        line: The record's line of round ``done``.
    """

    done: int
    weights: Arrays
    owed: Arrays
    parts: dict[str, Part]
    facts: dict[str, str]
    memory: Memory = field(default_factory=Memory)
    step: Encoded | None = None
    previous: str = ""
    line: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Digest of the weights that the next round begins with."""
        return digest(self.weights)


class RunStore:
    """A run's folder at the coordinator."""

    def __init__(self, runs: Path, run: str) -> None:
        self.run = check_run_name(run)
        self.folder = runs / run

    @classmethod
    def create(cls, runs: Path, run: str, recipe: str) -> RunStore:
        """Begin a run, or return the one that was begun with the same recipe.

        Raises:
            UserError: The run exists with another recipe.
        """
        store = cls(runs, run)
        path = store.folder / RECIPE
        if not path.is_file():
            durable.write_text(path, recipe)
        elif path.read_text(encoding="utf-8") != recipe:
            raise UserError(f"the run {run}", "was begun with another recipe", "Give this one another name: --name")
        return store

    def recipe(self) -> str:
        """Return the run's recipe. Raises UserError: there is no such run."""
        path = self.folder / RECIPE
        if not path.is_file():
            raise UserError(f"the run {self.run}", f"is not known in {self.folder.parent}", "Start it with its recipe.")
        return path.read_text(encoding="utf-8")

    def save(self, state: State) -> None:
        """Replace the state, then write its round's line into the record. Raises DeviceError."""
        weights_file.write(self.folder / STATE, _arrays(state), _facts(state))
        self._settle(state)

    def load(self) -> State | None:
        """Return where the run was left; None when no round began. Raises DataError: damaged."""
        path = self.folder / STATE
        if not path.is_file():
            return None
        durable.sweep(self.folder)
        state = _state(*weights_file.read(path))
        self._settle(state)
        return state

    def note(self, line: Mapping[str, Any]) -> None:
        """Write a line that belongs to no round's state into the record (a repeated round, a site's end)."""
        chain.append(self.folder / ROUNDS, line)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Return the record's lines of a kind. Raises DataError: the chain is broken."""
        found = chain.check(self.folder / ROUNDS)
        if not found.holds:
            raise DataError(str(self.folder / ROUNDS), found.broken, "The record was changed; do not rely on this run.")
        return [line for line in found.records if line.get("kind") == kind]

    def head(self) -> str:
        """Return the SHA-256 (hex) of the record's last line; "" without lines."""
        return chain.check(self.folder / ROUNDS).head

    def stopped(self, why: str) -> None:
        """Leave a note of why the run stopped, for who looks at its folder; "" takes it away. Raises DeviceError."""
        if why:
            durable.write_text(self.folder / STOPPED, why + "\n")
        else:
            (self.folder / STOPPED).unlink(missing_ok=True)

    def write_result(self, weights: Arrays, facts: Mapping[str, Any]) -> Path:
        """Write the final weights and what is to be known about them; federated.json last. Raises DeviceError."""
        import json

        out = self.folder / RESULT
        weights_file.write(out / WEIGHTS, dict(weights))
        durable.write_text(out / RECIPE, self.recipe())
        durable.write_text(out / FACTS, json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        return out

    def _settle(self, state: State) -> None:
        if state.line and all(line["round"] != state.done for line in self.lines("round")):
            self.note(state.line)


def _arrays(state: State) -> dict[str, NDArray[Any]]:
    groups: dict[str, Mapping[str, NDArray[Any]]] = {
        "weights": state.weights,
        "owed": state.owed,
        "first": state.memory.first,
        "second": state.memory.second,
    }
    arrays = {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}
    return arrays if state.step is None else arrays | {"step": state.step.codes}


def _facts(state: State) -> dict[str, Any]:
    step = state.step
    return {
        "done": state.done,
        "parts": state.parts,
        "compatible": state.facts,
        "previous": state.previous,
        "line": state.line,
        "layout": "" if step is None else base64.b64encode(step.layout).decode(),
        "encoding": "none" if step is None else step.encoding,
    }


def _state(arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> State:
    def group(title: str) -> dict[str, NDArray[Any]]:
        return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{title}/")}

    encoding: Compression = facts["encoding"]
    step = None
    if "step" in arrays:
        step = Encoded(arrays["step"].astype(np.uint8), base64.b64decode(facts["layout"]), encoding)
    return State(
        done=int(facts["done"]),
        weights=group("weights"),
        owed=group("owed"),
        parts=facts["parts"],
        facts=facts["compatible"],
        memory=Memory(group("first"), group("second")),
        step=step,
        previous=facts["previous"],
        line=facts["line"],
    )
