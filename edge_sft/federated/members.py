"""Who takes part: nodes are greeted, get their site's name, and are turned away in words where they do not fit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from edge_sft import __version__
from edge_sft.errors import DataError
from edge_sft.federated.codec import decode
from edge_sft.federated.learner import Arrays, Compatible, Part
from edge_sft.federated.messages import PROTOCOL, Opened
from edge_sft.federated.outward import brief

_PARTS = ("body", "norm", "bias", "head")


@dataclass
class Member:
    """A site that takes part.

    Attributes:
        name: The site's.
        node: Flower's id of it.
        samples: Training samples: its weight.
        splits: Samples by split.
        fingerprint: Of its data.
        facts: What must be the same at all sites; the starting weights' digest is among it.
        start: Digest of the shared weights it would start from.
        holds: Digest of the newest shared weights that it has.
        parts: What each shared weight is.
        opening: What it told of its data for the common starting weights (`Learner.opening`).
    """

    name: str
    node: int
    samples: int
    splits: dict[str, int]
    fingerprint: str
    facts: dict[str, str]
    start: str
    holds: str
    parts: dict[str, Part]
    opening: Arrays = field(default_factory=dict)


@dataclass
class Members:
    """Everyone who was greeted.

    Attributes:
        names: The names that the coordinator gave to nodes; None = a site's own word is taken (a simulation).
        reference: What all sites have in common, once that is settled.
        known: Those who take part, by name.
        turned_away: Why others do not, by node.
    """

    names: Mapping[int, str] | None
    reference: Compatible | None = None
    known: dict[str, Member] = field(default_factory=dict)
    turned_away: dict[int, str] = field(default_factory=dict)

    def strangers(self, online: list[int]) -> list[int]:
        """Return the nodes that were neither let in nor turned away."""
        met = {member.node for member in self.known.values()} | set(self.turned_away)
        return [node for node in online if node not in met]

    def renamed(self, names: Mapping[int, str] | None, online: Collection[int]) -> dict[str, str]:
        """Take the approvals as of now, and forget who was turned away and left: mended, it is greeted anew.

        Returns:
            Who takes part no more, with why: its approval was withdrawn.
        """
        self.turned_away = {node: why for node, why in self.turned_away.items() if node in online}
        self.names = names
        if names is None:
            return {}
        gone = [member for member in self._sorted() if names.get(member.node) != member.name]
        for member in gone:
            del self.known[member.name]
        return {member.name: "takes part no more: it was revoked" for member in gone}

    def expected(self) -> set[str]:
        """Return the names that were approved and not met yet."""
        return set() if self.names is None else set(self.names.values()) - set(self.known) - self._away_names()

    def at(self, node: int) -> Member | None:
        """Return who sits at a node."""
        return next((member for member in self.known.values() if member.node == node), None)

    def name_of(self, node: int) -> str:
        """Return what to call a node, also one that was not let in."""
        member = self.at(node)
        given = None if self.names is None else self.names.get(node)
        return member.name if member else given or f"node {node}"

    def meet(self, node: int, reply: Opened) -> str:
        """Let a node in, or return why not."""
        why = self._why_not(node, reply)
        if why:
            self.turned_away[node] = why
            return why
        member = _member(node, reply)
        if isinstance(member, str):
            self.turned_away[node] = member
            return member
        if self.reference is not None:
            different = self.reference.differences(Compatible(member.facts))
            if different:
                self.turned_away[node] = f"does not fit the others ({'; '.join(different)})"
                return self.turned_away[node]
        self.known[member.name] = member
        return ""

    def settle(self) -> dict[str, str]:
        """Make what most sites have in common the reference; return who is turned away for it, with why."""
        if self.reference is None:
            counted = Counter(_key(one) for one in self._sorted())
            most = max(counted.values(), default=0)
            chosen = next((one for one in self._sorted() if counted[_key(one)] == most), None)
            if chosen is None:
                return {}
            self.reference = Compatible(chosen.facts)
        gone = {}
        for member in self._sorted():
            different = self.reference.differences(Compatible(member.facts))
            if different:
                gone[member.name] = f"does not fit the others ({'; '.join(different)})"
                self.turned_away[member.node] = gone[member.name]
                del self.known[member.name]
        return gone

    def _sorted(self) -> list[Member]:
        return [self.known[name] for name in sorted(self.known)]

    def _away_names(self) -> set[str]:
        return {self.names[node] for node in self.turned_away if self.names and node in self.names}

    def _why_not(self, node: int, reply: Opened) -> str:
        name, theirs, protocol = reply.text("site"), reply.text("edge_sft"), reply.number("protocol")
        if reply.text("status") != "ok":
            return brief(reply.text("why")) or "it refused and did not say why"
        if protocol != PROTOCOL or theirs != __version__:
            return (
                f"it runs edge-sft {theirs or 'of unknown version'} (protocol {protocol}), the coordinator "
                f"{__version__} (protocol {PROTOCOL}): install the same version on both"
            )
        if self.names is not None and self.names.get(node) != name:
            return f"it calls itself {name!r}; its key belongs to {self.names.get(node, 'no approved site')!r}"
        there = self.known.get(name)
        if there is not None and there.node != node and self.names is None:
            return f"another node takes part as {name!r} already"
        return ""


def _key(member: Member) -> str:
    return json.dumps(member.facts, sort_keys=True)


def _member(node: int, reply: Opened) -> Member | str:
    """Return who answered, or what is wrong with the answer."""
    splits = {
        split: int(reply.metrics[f"samples_{split}"])
        for split in ("train", "val", "test")
        if 0 <= reply.metrics.get(f"samples_{split}", -1) < 2**53
    }
    try:
        facts, parts = json.loads(reply.text("compatible")), json.loads(reply.text("parts"))
    except ValueError:
        return "its greeting cannot be read"
    if not isinstance(facts, dict) or not isinstance(parts, dict) or not set(parts.values()) <= set(_PARTS):
        return "its greeting does not say what its weights are"
    if splits.get("train", 0) < 1:
        return "it has no training samples"
    try:
        opening = {} if reply.encoded is None else decode(reply.encoded)
    except DataError as error:
        return f"what it tells of its data {error.fact}"
    return Member(
        name=reply.text("site"),
        node=node,
        samples=splits["train"],
        splits=splits,
        fingerprint=reply.text("fingerprint"),
        facts={**{str(key): str(value) for key, value in facts.items()}, "starting weights": reply.text("start")[:16]},
        start=reply.text("start"),
        holds=reply.text("holds"),
        parts=parts,
        opening=opening,
    )
