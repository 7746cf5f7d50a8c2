"""The coordinator's loop: greet, ask, wait until an explicit deadline, vet, average, store; again.

Flower carries the messages and averages; who is waited for, what is let in and where to go on after a crash is decided
here. Each round ends with its state on disk, and everything that decides the weights goes by sites' names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from edge_sft import __version__
from edge_sft.errors import DataError, NetworkError
from edge_sft.federated.asking import greeting, question, starting_weights
from edge_sft.federated.averaging import advanced, stepped
from edge_sft.federated.beginning import first_state
from edge_sft.federated.codec import Encoded, encode
from edge_sft.federated.exchange import Answer, Clock, Exchange
from edge_sft.federated.learner import Compatible
from edge_sft.federated.members import Member, Members
from edge_sft.federated.messages import FINAL, HELLO, ROUND, SECURE, Scalar, packed
from edge_sft.federated.outward import brief
from edge_sft.federated.phase import Phase, Waiting, finite, mark
from edge_sft.federated.record import Tally, final_line, lengths, round_line, too_few
from edge_sft.federated.run_store import RunStore, State
from edge_sft.federated.secure_rounds import Steps, secure_step
from edge_sft.federated.settings import recipe_digest
from edge_sft.federated.vetting import Expected, bounded, outliers, vet
from edge_sft.federated_section import FederatedSection

ATTEMPTS: Final = 3
_GREETING_S: Final = 120.0  # a node that is asked who it is starts Python, torch and reads its data


class Coordinator:
    """One run's loop.

    Args:
        store: The run's folder.
        section: The recipe's ``[federated]``.
        exchange: Messages over Flower's Grid.
        clock: Time.
        names: Returns the names of approved nodes as of now; None = sites name themselves (a simulation).
        app: SHA-256 of the app that runs, for the record; "" where it is not known.
        say: Told what happens, one sentence at a time.
        waiting: How long what is waited for.
    """

    def __init__(
        self,
        store: RunStore,
        section: FederatedSection,
        exchange: Exchange,
        clock: Clock,
        *,
        names: Callable[[], Mapping[int, str] | None],
        app: str,
        say: Callable[[str], None],
        waiting: Waiting,
    ) -> None:
        self._store, self._section, self._exchange, self._clock = store, section, exchange, clock
        self._recipe = store.recipe()
        self._names, self._members = names, Members(names())
        self._app, self._say, self._waiting = app, say, waiting
        self._tally = Tally()
        self._lengths: dict[str, list[float]] = {}

    def run(self) -> State:
        """Run what is left of the run.

        Returns:
            The state after the last round.

        Raises:
            NetworkError: Too few sites; the run goes on from its last round when it is started again.
            DataError: The state is damaged, or a strategy cannot average.
        """
        state = self._store.load()
        if state is not None:
            self._members.reference = Compatible(state.facts)
            self._say(f"goes on after round {state.done} of {self._section.rounds}")
        self._lengths = lengths(self._store.lines("round"))
        self._gather()
        state = state or self._begin()
        while state.done < self._section.rounds:
            state = self._round(state)
        self._finish(state)
        return state

    # greeting

    def _gather(self) -> None:
        """Meet the sites. Raises NetworkError: fewer than the quorum came before the deadline."""
        began = self._clock.now()
        phase = Phase(HELLO, 0, began + self._section.deadline_s)
        while True:
            self._take_answers(phase, None)
            self._greet()
            enough = len(self._members.known) >= self._section.quorum
            patient = self._members.expected() and self._clock.now() < began + self._waiting.join_s
            if enough and not patient and not self._exchange.pending():
                break
            if self._clock.now() >= phase.until or self._nobody_else(patient):
                break
            self._clock.sleep(self._waiting.poll_s)
        for name, why in self._members.settle().items():
            self._say(f"{name} is turned away: {why}")
        if len(self._members.known) < self._section.quorum:
            raise self._too_few("greeting", sorted(self._members.known), {})

    def _nobody_else(self, patient: object) -> bool:
        """Whether everyone there was turned away: waiting brings nobody."""
        online = self._exchange.online()
        waits = self._exchange.pending() or self._members.strangers(online) or patient or self._members.expected()
        return bool(online) and not waits

    def _greet(self) -> None:
        """Greet who is there and was not met, also sites that were approved while the run goes on."""
        online, busy = self._exchange.online(), self._exchange.busy()
        for name, why in self._members.renamed(self._names(), online).items():
            self._say(f"{name} {why}")
        for node in self._members.strangers(online):
            if node not in busy:
                hello = greeting(self._store.run, self._recipe)
                asked = self._exchange.ask(node, HELLO, 0, packed(hello))
                self._tally.down(node, 0 if asked is None else asked.size)

    def _begin(self) -> State:
        """Get the common starting weights from one site; the others have said the same digest of them."""
        for name in sorted(self._members.known):
            member = self._members.known[name]
            weights = starting_weights(
                member,
                self._store.run,
                self._recipe,
                exchange=self._exchange,
                clock=self._clock,
                tally=self._tally,
                deadline_s=self._section.deadline_s,
                poll_s=self._waiting.poll_s,
                say=self._say,
            )
            if weights is not None:
                facts, quorum = dict(member.facts), self._section.quorum
                state = first_state(weights, member.parts, facts, self._members, self._recipe, quorum, self._say)
                self._store.save(state)
                return state
        raise NetworkError(
            f"the run {self._store.run}", "no site sent the starting weights that it names", "Look at the sites' logs."
        )

    # rounds

    def _round(self, state: State) -> State:
        number = state.done + 1
        secret = self._section.privacy.kind == "secagg"
        phase = Phase(SECURE if secret else ROUND, number, 0.0)
        for attempt in range(1, ATTEMPTS + 1):
            phase.until = self._clock.now() + self._section.deadline_s
            after, here = (self._secretly if secret else self._openly)(phase, state)
            if after is not None:
                return self._advanced(phase, state, after, attempt, here)
            line = round_line("repeat", self._store.run, number, phase.settled, self._members, self._tally)
            self._store.note(line)
            self._say(f"round {number} has {len(here)} of {self._section.quorum} updates: it is repeated")
        raise self._too_few(f"round {number}", here, phase.settled)

    def _openly(self, phase: Phase, state: State) -> tuple[State | None, list[str]]:
        """Return the state after a plain round, None without a quorum, and whose updates are in."""
        phase.asked = set(phase.updates)
        self._ask_all(phase, state)
        self._leave_out(phase)
        here = sorted(phase.updates)
        return (self._average(phase, state) if len(here) >= self._section.quorum else None), here

    def _secretly(self, phase: Phase, state: State) -> tuple[State | None, list[str]]:
        """Return the state after a secure round, None when nothing was opened, and whose updates are in."""
        phase.settled = {}
        steps = Steps(
            exchange=self._exchange,
            clock=self._clock,
            members=self._members,
            tally=self._tally,
            phase=phase,
            section=self._section,
            run=self._store.run,
            recipe_sha256=recipe_digest(self._recipe),
            base=state.base,
            shapes={key: array.shape for key, array in state.weights.items()},
            other=lambda answer: self._take(phase, None, answer),
            greet=self._greet,
            poll_s=self._waiting.poll_s,
        )
        found = secure_step(steps, state, self._question(phase, state))
        if isinstance(found, str):
            self._say(f"round {phase.number}: {found}")
            return None, sorted(name for name, fact in phase.settled.items() if fact.get("status") == "unused")
        moved, names = found
        return stepped(self._section, state, moved, state.memory), names

    def _ask_all(self, phase: Phase, state: State) -> None:
        """Ask every site there is, until all have answered or the deadline has passed."""
        while True:
            self._take_answers(phase, state)
            self._greet()
            busy = self._exchange.busy()
            online = set(self._exchange.online())
            for name in sorted(set(self._members.known) - phase.asked):
                member = self._members.known[name]
                if member.node in online and member.node not in busy:
                    self._ask(phase, state, member)
            if self._ended(phase):
                break
            self._clock.sleep(self._waiting.poll_s)
        for asked in self._exchange.pending():
            name = self._members.name_of(asked.node)
            same = asked.kind == phase.kind and asked.round == phase.number
            what = "this round" if same else f"round {asked.round}"
            why = f"no answer to {what} within {self._clock.now() - asked.at:.0f} s; it is not waited for"
            mark(phase, name, "late" if same else "busy", why)
        for name in set(self._members.known) - set(phase.asked):
            mark(phase, name, "offline", "its node is not connected")

    def _question(self, phase: Phase, state: State) -> dict[str, Scalar]:
        head = self._store.head()
        return question(self._store.run, self._recipe, self._section, state, phase.number, head)

    def _ended(self, phase: Phase) -> bool:
        if self._clock.now() >= phase.until:
            return True
        pending = self._exchange.pending()
        mine = [one for one in pending if one.kind == phase.kind and one.round == phase.number]
        greeting = [one for one in pending if one.kind == HELLO and self._clock.now() < one.at + _GREETING_S]
        if mine or greeting:
            return False
        enough = len(phase.updates) >= self._section.quorum and not self._too_long(phase)
        waited_for = set(self._members.known) - phase.asked or self._members.expected() or pending
        return enough or not waited_for or self._clock.now() >= phase.patient_until

    def _ask(self, phase: Phase, state: State, member: Member) -> None:
        config = self._question(phase, state)
        encoded: Encoded | None = None
        if member.name in phase.whole or member.holds not in {state.base, state.previous} or not member.holds:
            config["full"], encoded = True, encode(state.weights, "none")
        elif member.holds != state.base:
            encoded = state.step
        asked = self._exchange.ask(member.node, phase.kind, phase.number, packed(config, encoded=encoded))
        phase.asked.add(member.name)
        if asked is None:
            phase.settled[member.name] = {"status": "error", "why": "Flower did not take the message"}
        else:
            self._tally.down(member.node, asked.size)
            phase.settled.get(member.name, {}).pop("status", None)

    # answers

    def _take_answers(self, phase: Phase, state: State | None) -> None:
        for answer in self._exchange.answers():
            self._take(phase, state, answer)

    def _take(self, phase: Phase, state: State | None, answer: Answer) -> None:
        """Take an answer: to a greeting, to this question, or to an earlier one."""
        self._tally.up(answer.asked.node, answer.size)
        name = self._members.name_of(answer.asked.node)
        if answer.again:
            self._remark(phase, name, f"answered twice to {answer.asked.kind}: the second is ignored")
        elif answer.asked.kind == HELLO:
            self._meet(answer)
        elif answer.asked.kind != phase.kind or answer.asked.round != phase.number or state is None:
            why = f"late: its answer to round {answer.asked.round} came after {answer.seconds:.0f} s and is ignored"
            self._remark(phase, name, why)
            self._now_holds(name, answer)
        elif name not in self._members.known:
            self._remark(phase, name, "does not take part any more: its answer is ignored")
        else:
            self._settle(phase, state, name, answer)

    def _meet(self, answer: Answer) -> None:
        node = answer.asked.node
        if answer.content is None:
            self._members.turned_away[node] = why = answer.why
        else:
            why = self._members.meet(node, answer.content)
        name = self._members.name_of(node)
        self._say(f"{name} is turned away: {why}" if why else f"{name} takes part")

    def _settle(self, phase: Phase, state: State, name: str, answer: Answer) -> None:
        """Judge a site's answer to this round's question."""
        reply = answer.content
        fact: dict[str, Any] = {"seconds": round(answer.seconds, 3)}
        status = "error" if reply is None else reply.text("status") or "bad"
        if reply is None:
            fact |= {"status": "error", "why": answer.why}
        elif status == "need-full" and name not in phase.whole:
            phase.whole.add(name)
            phase.asked.discard(name)
            return
        elif status == "unknown":  # its folder was lost: it is greeted anew
            del self._members.known[name]
            phase.asked.discard(name)
            return
        elif status != "ok":
            fact |= {"status": "refused", "why": brief(reply.text("why")) or f"it answered {brief(status)!r}"}
        else:
            fact |= {"status": "ok", "chain": reply.text("chain"), "metrics": finite(reply.metrics)}
            if reply.text("chosen"):
                fact["chosen"] = reply.text("chosen")
            self._now_holds(name, answer)
            if phase.kind == ROUND:
                fact |= self._let_in(phase, state, name, answer)
        phase.settled[name] = {**phase.settled.get(name, {}), **fact}
        if fact["status"] != "ok":
            self._say(f"{name}, round {phase.number}: {fact['status']}: {fact['why']}")

    def _let_in(self, phase: Phase, state: State, name: str, answer: Answer) -> dict[str, Any]:
        shapes = {key: array.shape for key, array in state.weights.items()}
        samples = self._members.known[name].samples
        expected = Expected(self._store.run, phase.number, state.base, shapes, name, samples)
        try:
            assert answer.content is not None
            update = vet(answer.content, expected)
        except DataError as error:
            return {"status": "bad", "why": error.fact}
        phase.updates[name] = update
        return {"loss": update.loss, "length": update.length}

    def _leave_out(self, phase: Phase) -> None:
        for name in set(phase.updates) - set(self._members.known):
            del phase.updates[name]
            phase.settled[name] |= {"status": "refused", "why": "it was revoked"}
        for name, why in self._too_long(phase).items():
            del phase.updates[name]
            phase.settled[name] |= {"status": "bad", "why": why}
            self._say(f"{name}, round {phase.number}: bad: {why}")

    def _too_long(self, phase: Phase) -> dict[str, str]:
        """Return whose update is absurdly long. With differential privacy the clip sees to it instead: one site's
        length must not decide whether others are in."""
        if self._section.privacy.kind == "dp":
            return {}
        return outliers(list(phase.updates.values()), self._section.outlier, self._lengths)

    def _remark(self, phase: Phase, name: str, why: str) -> None:
        phase.settled.setdefault(name, {}).setdefault("remarks", []).append(why)
        self._say(f"{name}: {why}")

    def _now_holds(self, name: str, answer: Answer) -> None:
        member = self._members.known.get(name)
        if member is not None and answer.content is not None and answer.content.text("status") == "ok":
            member.holds = answer.content.text("base")

    def _average(self, phase: Phase, state: State) -> State:
        updates = [phase.updates[name] for name in sorted(phase.updates)]
        if self._section.privacy.kind != "dp":
            updates, said = bounded(updates, self._section.outlier)
            for name, why in said.items():
                self._remark(phase, name, why)
        return advanced(self._section, state, updates, run=self._store.run, folder=self._store.folder)

    def _advanced(self, phase: Phase, state: State, after: State, attempt: int, here: list[str]) -> State:
        """Store the state after a round with the record's line of it."""
        line = round_line("round", self._store.run, phase.number, phase.settled, self._members, self._tally) | {
            "app_sha256": self._app,
            "edge_sft": __version__,
            "strategy": self._section.strategy,
            "attempt": attempt,
            "base": state.base,
            "global": after.base,
        }
        after = replace(after, line=line)
        self._store.save(after)
        self._lengths = lengths(self._store.lines("round"))
        self._say(f"round {phase.number} of {self._section.rounds}: {', '.join(here)}")
        return after

    # the end

    def _finish(self, state: State) -> None:
        """Hand out the final weights; each site that has made its own model of them is noted at once."""
        done = {str(line["site"]) for line in self._store.lines("final")}
        number = self._section.rounds + 1
        # a site learns as long again as in all rounds together, and once more alone
        now = self._clock.now()
        phase = Phase(FINAL, number, now + self._section.deadline_s * number, now + self._waiting.join_s)
        phase.asked = set(done)
        self._ask_all(phase, state)
        for name in sorted(set(phase.settled) - done):
            fact = phase.settled[name]
            if fact.get("status") == "ok" and name in self._members.known:
                member, run = self._members.known[name], self._store.run
                self._store.note(
                    final_line(member, fact, run=run, number=number, weights=state.base, tally=self._tally)
                )
            else:
                self._say(f"{name} has no model of its own yet: {fact.get('why', '')}; start the run again for it")

    def _too_few(self, where: str, present: list[str], settled: Mapping[str, Mapping[str, Any]]) -> NetworkError:
        return too_few(self._store.run, where, present, settled, self._members, self._section.quorum)
