"""What a run directory tells: read once into plain values, whatever state the run is in.

Read leniently, unlike everything that decides: a run that is still going, that failed, or that another version wrote
must show as much as there is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from edge_sft import strict_toml
from edge_sft.errors import DataError
from edge_sft.federated import chain

ROUNDS = "rounds.jsonl"
RESULT = "result/federated.json"
WEIGHTS = "result/global.safetensors"
STOPPED = "stopped.txt"  # why the run stopped, in words

State = Literal["finished", "stopped", "going"]
Taking = Literal["in", "late", "out", "lost", "absent"]

# What a site's round came to, by the words that may stand in the record.
_TAKING: dict[str, Taking] = {
    **dict.fromkeys(("in", "ok", "used", "kept"), "in"),
    **dict.fromkeys(("late", "busy", "deadline", "timeout"), "late"),
    **dict.fromkeys(("lost", "offline", "error"), "lost"),
}
SIDES = ("alone", "global", "personal", "central", "before")
SPLITS = ("train", "val", "test")
_ATTEMPTS = 3  # after as many misses of the quorum the coordinator gives a round up


@dataclass(frozen=True)
class SiteRound:
    """One site in one round; ``numbers`` maps ``split/name`` to what the weights it was sent do there."""

    taking: Taking
    why: str = ""
    samples: float = 0.0
    loss: float | None = None
    norm: float | None = None
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    seconds: float = 0.0
    fingerprint: str = ""
    chain: str = ""
    remarks: tuple[str, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """One line of the record; a round without global weights was repeated."""

    number: int
    time: str
    sites: dict[str, SiteRound]
    weights: str

    @property
    def done(self) -> bool:
        """Whether the round gave new weights."""
        return bool(self.weights)


@dataclass(frozen=True)
class Gap:
    """A difference of two sides on the same samples, with its 95 % interval; more is better."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class SiteResult:
    """What a site ended with: ``numbers`` by side, split and name; ``gaps`` by ``personal-alone`` (…) and split."""

    samples: dict[str, float]
    numbers: dict[str, dict[str, dict[str, float]]]
    gaps: dict[str, dict[str, Gap]]
    chosen: str


@dataclass(frozen=True)
class Run:
    """A federated run, as its directory tells it.

    Attributes:
        name: The run's name.
        state: Whether it finished, stopped before the end, or goes on (or was killed).
        why: Why it stopped, in words.
        options: The recipe's ``[federated]``, as written.
        recipe: The recipe's own name.
        attempts: The record's lines that are rounds, in order.
        ends: By site, how it was handed the final weights.
        results: By site, from the end of the run.
        cross: Model of (row) on data of (column): one number each.
        score: The number to compare by, as the run named it; "" = choose.
        model_bytes: All weights that learn as float32; 0 = unknown.
        chain: The record's hash chain.
        versions: Versions of edge-sft that wrote the record.
        apps: SHA-256 of the Flower app that ran.
    """

    name: str
    state: State
    why: str
    options: dict[str, Any]
    recipe: str
    attempts: tuple[Round, ...]
    ends: dict[str, SiteRound]
    results: dict[str, SiteResult]
    cross: dict[str, dict[str, float]]
    score: str
    model_bytes: float
    chain: chain.Chain
    versions: tuple[str, ...]
    apps: tuple[str, ...]

    @property
    def rounds(self) -> tuple[Round, ...]:
        """For each round number what it came to in the end: the last attempt."""
        return tuple(dict(sorted({one.number: one for one in self.attempts}.items())).values())

    @property
    def done(self) -> int:
        """How many rounds gave new weights."""
        return sum(one.done for one in self.rounds)

    @property
    def planned(self) -> int:
        """How many rounds there were to be."""
        wanted = self.options.get("rounds", 3)
        return wanted if isinstance(wanted, int) else 3

    @property
    def sites(self) -> list[str]:
        """Every site that the record names, by name."""
        return sorted({*self.results, *(name for one in self.attempts for name in one.sites)})

    def taking(self, site: str, one: Round) -> SiteRound:
        """What a site did in a round; absent where the record does not name it."""
        return one.sites.get(site, SiteRound("absent"))


def read(directory: Path) -> Run:
    """Read a run directory.

    Raises:
        DataError: There is neither a record nor a recipe: it is no run.
    """
    record = chain.check(directory / ROUNDS)
    recipe = _recipe(directory / "recipe.toml")
    if not record.records and not recipe:
        raise DataError(
            str(directory),
            f"is no federated run: neither {ROUNDS} nor recipe.toml is in it",
            "Give the folder that `edge-sft federate run` or `federate simulate` made.",
        )
    result = _json(directory / RESULT)
    attempts = tuple(found for line in record.records if (found := _round(line)) is not None)
    finals = {str(line["site"]): line for line in record.records if line.get("kind") == "final" and line.get("site")}
    entries = {**finals, **_mapping(result.get("sites"))}
    state, why = _state(result, attempts, _text(directory / STOPPED))
    return Run(
        name=str(
            result.get("run") or next((line["run"] for line in record.records if line.get("run")), directory.name)
        ),
        state=state,
        why=why,
        options={**_mapping(recipe.get("federated")), **_mapping(result.get("federated"))},
        recipe=str(recipe.get("name") or ""),
        attempts=attempts,
        ends={name: _site_round(line, {}) for name, line in sorted(finals.items())},
        results={name: _result(_mapping(entry)) for name, entry in sorted(entries.items())},
        cross=_cross(result, str(result.get("score") or "")),
        score=str(result.get("score") or ""),
        model_bytes=_number(_mapping(result.get("weights")).get("bytes"))
        or 4.0 * _number(result.get("parameters"))
        or _tensors_bytes(directory / WEIGHTS),
        chain=record,
        versions=_distinct(record.records, "edge_sft", "edge_sft_version", "version"),
        apps=_distinct(record.records, "app_sha256", "app"),
    )


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Walk nested mappings of numbers: ``a/b/c`` and the number. What is no finite number is passed over."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{prefix}/{name}" if prefix else str(name))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield prefix, float(value)


def _state(result: dict[str, Any], attempts: tuple[Round, ...], stopped: str) -> tuple[State, str]:
    if result:
        done = result.get("status", "finished") in ("finished", "done", "ok")
        return "finished" if done else "stopped", str(result.get("why") or "")
    if stopped:
        return "stopped", stopped
    last = attempts[-_ATTEMPTS:]
    if len(last) == _ATTEMPTS and len({one.number for one in last}) == 1 and not any(one.done for one in last):
        return "stopped", f"round {last[-1].number} had too few usable updates, {_ATTEMPTS} times in a row"
    return "going", ""


def _round(line: dict[str, Any]) -> Round | None:
    number, sites = line.get("round"), _mapping(line.get("sites"))
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or not sites:
        return None  # other lines of the record: the start, the end
    weights = line.get("global", line.get("global_sha256", ""))
    judged = _mapping(line.get("evaluation"))
    return Round(
        number=number,
        time=str(line.get("time") or ""),
        sites={name: _site_round(_mapping(entry), _mapping(judged.get(name))) for name, entry in sorted(sites.items())},
        weights=weights if isinstance(weights, str) else "",
    )


def _site_round(entry: dict[str, Any], judged: dict[str, Any]) -> SiteRound:
    numbers = {}
    for path, value in [*flat(entry), *flat(judged)]:
        parts = path.split("/")
        at = next((i for i, part in enumerate(parts[:-1]) if part in SPLITS), None)
        if at is not None:
            numbers["/".join(parts[at:])] = value
    loss, norm, said = entry.get("loss"), entry.get("length", entry.get("norm")), entry.get("remarks")
    return SiteRound(
        taking=_TAKING.get(str(entry.get("status", "")).lower(), "out"),
        why=str(entry.get("why") or ""),
        samples=_number(entry.get("samples", entry.get("num-examples"))),
        loss=_number(loss) if loss is not None else None,
        norm=_number(norm) if norm is not None else None,
        bytes_up=_number(entry.get("bytes_up")),
        bytes_down=_number(entry.get("bytes_down")),
        seconds=_number(entry.get("seconds")),
        fingerprint=str(entry.get("fingerprint") or ""),
        chain=str(entry.get("chain") or ""),
        remarks=tuple(str(one) for one in said) if isinstance(said, list) else (),
        numbers=numbers,
    )


def _result(entry: dict[str, Any]) -> SiteResult:
    numbers: dict[str, dict[str, dict[str, float]]] = {}
    gaps: dict[tuple[str, str], dict[str, float]] = {}
    for path, value in flat({name: inner for name, inner in entry.items() if name != "samples"}):
        parts = path.split("/")
        side = next((i for i, part in enumerate(parts) if part in SIDES), None)
        split = next((i for i, part in enumerate(parts) if part in SPLITS), None)
        if side is not None and split is not None and split > side and len(parts) > split + 1:
            numbers.setdefault(parts[side], {}).setdefault(parts[split], {})["/".join(parts[split + 1 :])] = value
        pair = next((part for part in parts if _is_pair(part)), "")
        if pair and parts[-1] in ("difference", "low", "high"):
            gaps.setdefault((pair, "" if split is None else parts[split]), {})[parts[-1]] = value
    return SiteResult(
        samples=_samples(entry, numbers),
        numbers=numbers,
        gaps=_gaps(gaps),
        chosen=str(entry.get("chosen") or ""),
    )


def _gaps(given: Mapping[tuple[str, str], dict[str, float]]) -> dict[str, dict[str, Gap]]:
    """Sort them by pair and split; one that names no split is of the test split."""
    found: dict[str, dict[str, Gap]] = {}
    for (pair, split), numbers in given.items():
        if len(numbers) == len(fields(Gap)):
            found.setdefault(pair, {})[split or "test"] = Gap(**numbers)
    return found


def _samples(entry: dict[str, Any], numbers: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    given = {split: value for split, value in flat(entry.get("samples")) if split in SPLITS}
    given |= {split: _number(entry[f"samples_{split}"]) for split in SPLITS if f"samples_{split}" in entry}
    judged = {
        split: found["samples"] for side in numbers.values() for split, found in side.items() if "samples" in found
    }
    return {**judged, **given}


def _is_pair(part: str) -> bool:
    one, dash, other = part.partition("-")
    return bool(dash) and one in SIDES and other in SIDES


def _cross(result: dict[str, Any], score: str) -> dict[str, dict[str, float]]:
    given = _mapping(result.get("cross_site", result.get("cross")))
    matrix: dict[str, dict[str, float]] = {}
    for model, row in sorted(given.items()):
        for data, cell in sorted(_mapping(row).items()):
            found = dict(flat(cell))
            value = found.get("", next((v for path, v in found.items() if path.split("/")[-1] == score), None))
            value = found.get("score") if value is None else value
            if value is not None:
                matrix.setdefault(model, {})[data] = value
    return matrix


def _recipe(path: Path) -> dict[str, Any]:
    try:
        return strict_toml.peek(path)
    except (OSError, ValueError):
        return {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): inner for name, inner in value.items()} if isinstance(value, Mapping) else {}


def _number(value: Any) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else 0.0


def _distinct(records: tuple[dict[str, Any], ...], *names: str) -> tuple[str, ...]:
    found = [str(line[name]) for line in records for name in names if isinstance(line.get(name), str) and line[name]]
    return tuple(dict.fromkeys(found))


def _tensors_bytes(path: Path) -> float:
    """Size of a safetensors file's tensors by its header alone; 0 where there is none."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, 100_000_000)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return float(max(ends, default=0))
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return 0.0
