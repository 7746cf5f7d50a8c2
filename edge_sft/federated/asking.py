"""What the coordinator asks: the words of each question, and the starting weights, which one site must send."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edge_sft import __version__
from edge_sft.errors import DataError
from edge_sft.federated.codec import decode
from edge_sft.federated.keys import digest
from edge_sft.federated.learner import Arrays
from edge_sft.federated.messages import BASE, PROTOCOL, Scalar, packed
from edge_sft.federated.settings import recipe_digest

if TYPE_CHECKING:
    from edge_sft.federated.exchange import Clock, Exchange
    from edge_sft.federated.members import Member
    from edge_sft.federated.record import Tally
    from edge_sft.federated.run_store import State
    from edge_sft.federated_section import FederatedSection


def greeting(run: str, recipe: str) -> dict[str, Scalar]:
    """Return what a node is told of a run, when it is asked who it is."""
    return {
        "edge_sft": __version__,
        "protocol": PROTOCOL,
        "run": run,
        "recipe": recipe,
        "recipe_sha256": recipe_digest(recipe),
    }


def question(
    run: str, recipe: str, section: FederatedSection, state: State, number: int, record: str
) -> dict[str, Scalar]:
    """Return the words of a round's question, or of the last one, after all rounds.

    ``record`` is the head of the run's record so far, which every site keeps: the coordinator's witnesses.
    """
    return {
        "run": run,
        "recipe_sha256": recipe_digest(recipe),
        "round": number,
        "rounds": section.rounds,
        "base": state.base,
        "previous": state.previous,
        "full": False,
        "steps": section.steps or 0,
        "proximal": section.mu,
        "record": record,
        "evaluate": (number - 1) % section.evaluate_every == 0,
    }


def starting_weights(
    member: Member,
    run: str,
    recipe: str,
    *,
    exchange: Exchange,
    clock: Clock,
    tally: Tally,
    deadline_s: float,
    poll_s: float,
    say: Callable[[str], None],
) -> Arrays | None:
    """Ask a site for the starting weights that all have; None, and why is said, when they do not come or are others."""
    asked = exchange.ask(member.node, BASE, 0, packed({"run": run, "recipe_sha256": recipe_digest(recipe)}))
    tally.down(member.node, 0 if asked is None else asked.size)
    until = clock.now() + deadline_s
    while asked is not None and clock.now() < until:
        for answer in exchange.answers():
            tally.up(answer.asked.node, answer.size)
            if answer.asked is not asked:
                continue  # whoever came meanwhile is greeted again
            if answer.content is None or answer.content.encoded is None:
                told = "" if answer.content is None else answer.content.text("why")
                say(f"{member.name} sent no starting weights: {answer.why or told or 'none came'}")
                return None
            try:
                weights = decode(answer.content.encoded)
            except DataError as error:
                say(f"{member.name} sent no starting weights: {error.fact}")
                return None
            if digest(weights) == member.start:
                return weights
            say(f"{member.name} sent other starting weights than it said")
            return None
        clock.sleep(poll_s)
    return None
