"""Whether what a run left behind fits together: its record's chain, its weights, and what sites wrote down themselves.

A chain alone proves little to its own keeper, who could write it anew. But every answer of a site carries the digest
of its ledger's newest line, which the coordinator writes into its record: a witness of each site's ledger. And every
question of the coordinator carries the digest of its record's newest line, which the sites keep: the witnesses of the
record, but for the lines after the last question (of how sites ended).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edge_sft.errors import DataError
from edge_sft.federated import chain
from edge_sft.federated.report_facts import ROUNDS, Run, read
from edge_sft.report.wording import count

LEDGER = "ledger.jsonl"
RECORD = "record.jsonl"


@dataclass(frozen=True)
class Verdict:
    """One thing that was looked at, whether it holds, and what was found, in words."""

    thing: str
    holds: bool
    words: str


def verify(directory: Path, ledgers: Sequence[Path] = ()) -> list[Verdict]:
    """Verify a run directory, or a site's.

    Args:
        directory: A run's folder, or a site's (then its ledger is followed).
        ledgers: Ledgers that sites handed over, to be held against the run's record, or sites' whole folders: then
            the record is also held against what those sites were told of it. Those of simulated sites, which lie in
            the run's folder, are found.

    Raises:
        DataError: It is neither, or a ledger that was named does not exist.
    """
    if (directory / LEDGER).is_file() and not (directory / ROUNDS).exists():
        return [_chain(directory / LEDGER), *map(_chain, sorted(directory.glob(f"runs/*/{RECORD}")))]
    run = read(directory)
    ledgers = [path / LEDGER if path.is_dir() else path for path in ledgers]
    missing = next((path for path in ledgers if not path.is_file()), None)
    if missing is not None:
        raise DataError(str(missing), "does not exist", f"Give a site's {LEDGER}.")
    found = [_chain(directory / ROUNDS), *_weights(directory, run)]
    for path in [*sorted(directory.glob(f"**/{LEDGER}")), *ledgers]:
        found += [_chain(path), _witnessed(path, run)]
        kept = path.parent / "runs" / run.name / RECORD
        if kept.is_file():
            found += [_chain(kept), _remembered(kept, directory / ROUNDS)]
    return found


def _chain(path: Path) -> Verdict:
    record = chain.check(path)
    words = (
        record.broken
        or f"{count(len(record.records), 'line')}, each follows from the one before; head {record.head[:16]}"
    )
    return Verdict(str(path), record.holds, words)


def _weights(directory: Path, run: Run) -> list[Verdict]:
    """Hold the final weights against the digest in the record."""
    path = directory / "result" / "global.safetensors"
    last = next((one for one in reversed(run.attempts) if one.done), None)
    if not path.is_file() or last is None:
        return []
    from edge_sft.federated.keys import digest
    from edge_sft.federated.weights_file import read as read_weights

    made = digest(read_weights(path)[0])
    same = made == last.weights
    words = f"the weights that round {last.number} recorded" if same else f"not the weights of round {last.number}"
    return [Verdict(str(path), same, f"{words} ({made[:16]})")]


def _witnessed(path: Path, run: Run) -> Verdict:
    """Look up in a ledger every line that the run's record says that site had written."""
    there = {sha256(line).hexdigest() for line in path.read_bytes().split(b"\n")[:-1]}
    said = {site: heads for site in run.sites if (heads := _heads(run, site))}
    if not said:
        return Verdict(str(path), True, "not held against the record, which names no line of any ledger")
    site = max(said, key=lambda name: len(said[name] & there))
    lost = len(said[site] - there)
    if lost == len(said[site]):
        return Verdict(str(path), False, "no site of this run answered with a line of it")
    if lost:
        return Verdict(
            str(path), False, f"{count(lost, 'line')} that {site} had written when it answered are not in it"
        )
    return Verdict(str(path), True, f"has every line that {site}'s {count(len(said[site]), 'answer')} named")


def _remembered(kept: Path, record: Path) -> Verdict:
    """Look up in the record every head of it that a site was told while the run went on."""
    there = {sha256(line).hexdigest() for line in record.read_bytes().split(b"\n")[:-1]} if record.is_file() else set()
    told = {str(line.get("head")) for line in chain.check(kept).records}
    lost = len(told - there)
    if lost:
        return Verdict(
            str(record), False, f"written anew: {count(lost, 'line')} of it that a site was told of ({kept}) are gone"
        )
    return Verdict(str(record), True, f"has {count(len(told), 'line')} that a site was told of ({kept})")


def _heads(run: Run, site: str) -> set[str]:
    """Return the digests of its ledger that a site sent with its answers."""
    found = [one.sites[site].chain for one in run.attempts if site in one.sites]
    return {head for head in [*found, run.ends[site].chain if site in run.ends else ""] if head}
