"""Lines of a run's record: who took part in a round with what, and how many bytes went which way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from edge_sft.errors import NetworkError
from edge_sft.federated.members import Member, Members


class Tally:
    """Bytes that were sent and received since they were last written down, by node."""

    def __init__(self) -> None:
        self._down: dict[int, int] = {}
        self._up: dict[int, int] = {}

    def down(self, node: int, size: int) -> None:
        """Count what went to a site."""
        self._down[node] = self._down.get(node, 0) + size

    def up(self, node: int, size: int) -> None:
        """Count what came from a site."""
        self._up[node] = self._up.get(node, 0) + size

    def nodes(self) -> set[int]:
        """Return the nodes that something is counted for."""
        return set(self._down) | set(self._up)

    def taken(self, node: int) -> tuple[int, int]:
        """Return a node's bytes down and up, and begin anew."""
        return self._down.pop(node, 0), self._up.pop(node, 0)


def stamp() -> str:
    """Return the time as records have it: UTC, RFC 3339."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def round_line(
    kind: str, run: str, number: int, settled: Mapping[str, Mapping[str, Any]], members: Members, tally: Tally
) -> dict[str, Any]:
    """Return a round's line.

    Args:
        kind: ``round``, or ``repeat`` where the quorum was missed.
        run: The run's name.
        number: The round.
        settled: What came of each site.
        members: Who they are.
        tally: What was sent since the line before; greetings count with the round after them.
    """
    sites: dict[str, dict[str, Any]] = {name: dict(fact) for name, fact in settled.items()}
    for node, why in members.turned_away.items():
        sites.setdefault(members.name_of(node), {"status": "refused", "why": why})
    for name, member in members.known.items():
        row = sites.setdefault(name, {"status": "offline"})
        row.setdefault("status", "offline")
        row |= {"samples": member.samples, "fingerprint": member.fingerprint}
    for node in sorted(tally.nodes()):
        down, up = tally.taken(node)
        row = sites.setdefault(members.name_of(node), {"status": "offline"})
        row |= {"bytes_down": down, "bytes_up": up}
    return {
        "kind": kind,
        "run": run,
        "round": number,
        "time": stamp(),
        "sites": {name: sites[name] for name in sorted(sites)},
        "evaluation": _evaluation(sites),
    }


def final_line(
    member: Member, fact: Mapping[str, Any], *, run: str, number: int, weights: str, tally: Tally
) -> dict[str, Any]:
    """Return the line of a site that has made its own model.

    Args:
        member: The site.
        fact: What came of it.
        run: The run's name.
        number: One more than the run has rounds.
        weights: Digest of the final ones.
        tally: What was sent since the last round's line.
    """
    down, up = tally.taken(member.node)
    return {
        "kind": "final",
        "run": run,
        "round": number,
        "time": stamp(),
        "site": member.name,
        "global": weights,
        "samples": member.splits,
        "fingerprint": member.fingerprint,
        "bytes_down": down,
        "bytes_up": up,
        **fact,
    }


def too_few(
    run: str, where: str, present: list[str], settled: Mapping[str, Mapping[str, Any]], members: Members, quorum: int
) -> NetworkError:
    """Return what is said when a run stops for want of sites: who is there, and what is wrong with each other one."""
    listed = [f"{name}: {fact.get('why', fact.get('status', ''))}" for name, fact in sorted(settled.items())]
    listed += [f"{members.name_of(node)}: {why}" for node, why in members.turned_away.items()]
    whys = "; ".join(item for item in listed if item.partition(":")[0] not in present)
    return NetworkError(
        f"the run {run}",
        f"{where}: {len(present)} of {quorum} needed sites ({', '.join(present) or 'none'})"
        + (f"; {whys}" if whys else ""),
        "Mend those sites, or lower federated.quorum in a new run; started again under its name, this one goes on.",
    )


def lengths(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return how long the updates were that were let in, by site, from the lines of rounds."""
    found: dict[str, list[float]] = {}
    for line in lines:
        for name, fact in line["sites"].items():
            if fact.get("status") == "ok" and "length" in fact:
                found.setdefault(name, []).append(float(fact["length"]))
    return found


def _evaluation(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over sites, weighted by validation samples, of what the round's first weights were worth."""
    rows = [fact["metrics"] for fact in sites.values() if fact.get("metrics", {}).get("before/val/samples", 0) > 0]
    total = sum(row["before/val/samples"] for row in rows)
    names = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {
        name.removeprefix("before/"): sum(row[name] * row["before/val/samples"] for row in rows) / total
        for name in sorted(names)
        if name.startswith("before/val/") and not name.endswith("/samples")
    }
