"""A secure round over a run's messages: its four exchanges with deadlines, and what became of each site in words.

Who is gone before the masked updates are in is left out, as long as the quorum and the protocol's majority are there;
else nothing is opened, and the round begins anew with everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_sft.errors import DataError, NetworkError
from edge_sft.federated import secure
from edge_sft.federated.codec import encode, from_row
from edge_sft.federated.exchange import Answer, Asked, Clock, Exchange
from edge_sft.federated.learner import Arrays
from edge_sft.federated.members import Members
from edge_sft.federated.messages import HELLO, SECURE, Scalar, packed
from edge_sft.federated.outward import brief
from edge_sft.federated.phase import Phase, finite, mark
from edge_sft.federated.record import Tally
from edge_sft.federated.run_store import State
from edge_sft.federated.vetting import Expected, Shapes, vet_words
from edge_sft.federated_section import FederatedSection

if TYPE_CHECKING:
    from flwr.app import Message

_LIGHT_S: Final = 300.0  # a step without learning; a node may start Python and torch for it
_TITLES: Final = dict(zip(secure.STEPS, ("keys", "shares", "masked update", "opening the sum"), strict=True))


@dataclass
class Steps:
    """The exchanges of one attempt at a secure round; what `secure.mean` asks instead of Flower's Grid.

    Attributes:
        exchange: The run's messages.
        clock: Time.
        members: Who takes part.
        tally: Of bytes.
        phase: Of the round; says in the end what became of whom.
        section: The recipe's.
        run: The run's name.
        recipe_sha256: Of its recipe.
        base: Digest of the weights that the round begins with.
        shapes: Of its weights.
        other: Takes answers to other questions.
        greet: Greets who has come.
        poll_s: Between two looks.
    """

    exchange: Exchange
    clock: Clock
    members: Members
    tally: Tally
    phase: Phase
    section: FederatedSection
    run: str
    recipe_sha256: str
    base: str
    shapes: Shapes
    other: Callable[[Answer], None]
    greet: Callable[[], None]
    poll_s: float

    def ready(self) -> list[str]:
        """Wait until enough sites are there and have nothing else to do, or until the round's deadline."""
        while True:
            for answer in self.exchange.answers():
                self.other(answer)
            self.greet()
            busy, online = self.exchange.busy(), set(self.exchange.online())
            found = [name for name, one in self.members.known.items() if one.node in online and one.node not in busy]
            coming = busy or self.members.expected() or len(found) < len(self.members.known)
            greeting = any(asked.kind == HELLO for asked in self.exchange.pending())
            enough = len(found) >= self.section.quorum and not greeting
            if enough or not coming or self.clock.now() >= self.phase.until:
                self._say_who_is_not_there(set(found), busy)
                return sorted(found)
            self.clock.sleep(self.poll_s)

    def _say_who_is_not_there(self, found: set[str], busy: set[int]) -> None:
        for name, member in self.members.known.items():
            if name not in found and member.node in busy:
                mark(self.phase, name, "busy", "has not answered an earlier question; it is not waited for")
            elif name not in found:
                mark(self.phase, name, "offline", "its node is not connected")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Carry one step to its end: all have answered, or its deadline has passed."""
        waiting: dict[int, Asked] = {}
        stage, replies = "", []
        for message in messages:
            stage, node = secure.stage_of(message.content), message.metadata.dst_node_id
            asked = self._ask(node, message)
            if asked is None:
                self._lost(self.members.name_of(node), stage, "error", "Flower did not take the message")
            else:
                waiting[node] = asked
        deadline = self.section.deadline_s
        until = self.clock.now() + (deadline if stage == secure.MASKED else min(_LIGHT_S, deadline))
        while True:
            for answer in self.exchange.answers():
                if answer.again or waiting.get(answer.asked.node) is not answer.asked:
                    self.other(answer)
                    continue
                del waiting[answer.asked.node]
                if self._good(stage, answer):
                    replies.append(answer.message)
            if not waiting or self.clock.now() >= until:
                break
            self.greet()
            self.clock.sleep(self.poll_s)
        for node, asked in waiting.items():
            why = f"no answer within {self.clock.now() - asked.at:.0f} s; it is not waited for"
            self._lost(self.members.name_of(node), stage, "late", why)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _ask(self, node: int, message: Message) -> Asked | None:
        if "config" not in message.content.config_records:
            plain = packed({"run": self.run, "round": self.phase.number, "recipe_sha256": self.recipe_sha256})
            message.content["config"] = plain["config"]
        asked = self.exchange.ask(node, SECURE, self.phase.number, message.content)
        self.tally.down(node, 0 if asked is None else asked.size)
        return asked

    def _good(self, stage: str, answer: Answer) -> bool:
        """Judge an answer to a step; say what is wrong with it."""
        self.tally.up(answer.asked.node, answer.size)
        name, reply = self.members.name_of(answer.asked.node), answer.content
        if reply is None:
            return self._lost(name, stage, "error", answer.why)
        status = reply.text("status")
        if status == "unknown":  # its folder was lost: it is greeted anew
            self.members.known.pop(name, None)
        if status != "ok":
            return self._lost(name, stage, "refused", brief(reply.text("why")) or f"it answered {brief(status)!r}")
        if not secure.speaks(answer.message.content):
            return self._lost(name, stage, "bad", "its answer is none of a secure round's")
        row = self.phase.settled.setdefault(name, {})
        row |= {"chain": reply.text("chain"), "seconds": round(row.get("seconds", 0.0) + answer.seconds, 3)}
        return stage != secure.MASKED or self._counts(name, answer)

    def _counts(self, name: str, answer: Answer) -> bool:
        """Judge what can be seen of a masked update: what is said beside it, and how many numbers it has."""
        reply, member = answer.content, self.members.known.get(name)
        assert reply is not None
        if member is None:
            return self._lost(name, secure.MASKED, "bad", "it is not among those who take part any more")
        try:
            expected = Expected(self.run, self.phase.number, self.base, self.shapes, name, member.samples)
            loss = vet_words(reply, expected)
        except DataError as error:
            return self._lost(name, secure.MASKED, "bad", error.fact)
        if not secure.fits(answer.message.content, sum(int(np.prod(shape)) for shape in self.shapes.values())):
            return self._lost(name, secure.MASKED, "bad", "its masked update has another size than the model")
        self.phase.settled[name] |= {"status": "ok", "why": "", "metrics": finite(reply.metrics), "loss": loss}
        member.holds = self.base
        if reply.metrics.get("cut", 0) > 0:
            cut = f"{reply.metrics['cut']:.0f} of its numbers are larger than privacy.range and were cut there"
            self.phase.settled[name].setdefault("remarks", []).append(cut)
        return True

    def _lost(self, name: str, stage: str, status: str, why: str) -> bool:
        """Write down that a site is lost at a step. Whose masked update is in stays in: others hold its shares."""
        row = self.phase.settled.setdefault(name, {})
        at = f"step {secure.STEPS.index(stage) + 1} of 4 ({_TITLES[stage]}): {why}"
        if row.get("status") == "ok":
            row.setdefault("remarks", []).append(at)
        else:
            row |= {"status": status, "why": at}
        return False


def secure_step(steps: Steps, state: State, question: Mapping[str, Scalar]) -> tuple[Arrays, list[str]] | str:
    """Try one secure round.

    Args:
        steps: Carries it.
        state: Before the round.
        question: What a site is asked in a plain round.

    Returns:
        How far the mean moves the weights, float32, and whose updates are in it; or why there is none.
    """
    names = steps.ready()
    if len(names) < steps.section.quorum:
        return f"{len(names)} of {steps.section.quorum} needed sites are there"
    nodes = {steps.members.known[name].node: name for name in names}
    whole = encode(state.weights, "none")
    asked = {node: packed({**question, "full": True}, encoded=whole) for node in nodes}
    try:
        found = secure.mean(
            steps,
            asked,
            number=steps.phase.number,
            span=steps.section.privacy.range,
            timeout_s=steps.section.deadline_s,
            least=steps.section.quorum,
        )
    except NetworkError as error:
        for name in names:  # nothing of theirs was opened
            _not_opened(steps.phase.settled.setdefault(name, {}), error.fact)
        return error.fact
    if not np.isfinite(found.mean).all():
        return "the mean is not finite"
    mean: dict[str, Any] = from_row(found.mean.astype(np.float32), steps.shapes)
    return mean, sorted(nodes[node] for node in found.nodes)


def _not_opened(row: dict[str, Any], why: str) -> None:
    at_the_end = f"step {len(secure.STEPS)} of"
    failed = [said for said in row.get("remarks", []) if said.startswith(at_the_end)]
    if failed:
        row |= {"status": "error", "why": failed[-1]}
    elif row.get("status", "ok") == "ok":
        row |= {"status": "unused", "why": f"the sum was not opened: {why}"}
