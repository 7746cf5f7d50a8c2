"""The site's side: its answers to the coordinator's four questions. Nothing leaves that the ledger does not name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_sft import __version__
from edge_sft.checkpoint import CheckpointMeta
from edge_sft.federated import outward
from edge_sft.federated.codec import Encoded, decode, encode, round_trip
from edge_sft.federated.keys import digest, others, picked, shared_names
from edge_sft.federated.learner import Arrays, JudgedSplit, Learner
from edge_sft.federated.messages import BASE, FINAL, HELLO, PROTOCOL, ROUND, Opened, Scalar, packed, payload_bytes
from edge_sft.federated.outward import Sayable, sayable
from edge_sft.federated.paired import told
from edge_sft.federated.privacy import clip, noised, secret_in, site_std
from edge_sft.federated.settings import recipe_digest, section_of
from edge_sft.federated.site_store import SiteStore
from edge_sft.federated.vetting import misfit
from edge_sft.federated_section import FederatedSection
from edge_sft.progress import Progress, Silent

if TYPE_CHECKING:
    from flwr.app import RecordDict

MakeLearner = Callable[[str, Path, Path, Progress], Learner]

_NO_HEAD: Final = "0" * 64
_NOISE_FILE: Final = "noise.secret"
_SPLITS: Final[tuple[JudgedSplit, ...]] = ("train", "val", "test")


class _Lacks(Exception):
    """The site does not hold the weights that an update is relative to: an answer, not an error."""


@dataclass(frozen=True)
class Place:
    """Where a site is on this machine: its folder, the name it goes by, its data."""

    directory: Path
    name: str
    data: Path


@dataclass
class _Answer:
    config: dict[str, Scalar] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    encoded: Encoded | None = None


def answer(kind: str, asked: Opened, place: Place, make: MakeLearner, progress: Progress | None = None) -> RecordDict:
    """Answer one of the coordinator's messages; what the site cannot do is said in words and never raised.

    Args:
        kind: The message's type.
        asked: Its content.
        place: The site.
        make: Makes the learner of a recipe (text), data, a folder for caches.
        progress: Told how far the learning is.
    """
    began = time.monotonic()
    try:
        with sayable():
            store = SiteStore(place.directory, asked.text("run"))
    except Sayable as error:  # without a name there is no folder for the run
        return refusal(kind, str(error), place.directory, place.name)
    answers = {HELLO: _hello, BASE: _base, ROUND: _round, FINAL: _final}
    try:
        if kind != HELLO and (store.recipe_digest() or "none") != asked.text("recipe_sha256"):
            made = _Answer({"status": "unknown", "why": f"the run {store.run} was not announced to this site"})
        else:
            made = answers[kind](asked, store, place, make, progress or Silent())
    except Exception as error:  # noqa: BLE001 - whatever it is, its own words would quote the site
        made = _Answer({"status": "refused", "why": outward.words(error, place.directory)})
    made.metrics["seconds"] = time.monotonic() - began
    made.config |= {"site": place.name, "run": store.run, "round": max(0, asked.number("round"))}
    made.config.setdefault("status", "ok")
    return _recorded(kind, made, store)


def refusal(kind: str, why: str, site: Path, name: str) -> RecordDict:
    """Return an answer that is nothing but words, and its line in the ledger. Raises DeviceError: the disk refuses."""
    said: dict[str, Scalar] = {"site": name, "status": "refused", "why": why}
    head = outward.note(site, kind, why, payload_bytes(packed(said | {"chain": _NO_HEAD})))
    return packed(said | {"chain": head})


def _recorded(kind: str, made: _Answer, store: SiteStore) -> RecordDict:
    """Write the ledger's line and put its digest into the answer, so that the coordinator can testify to it."""
    size = payload_bytes(packed(made.config | {"chain": _NO_HEAD}, made.metrics, made.encoded))
    number = made.config["round"]
    head = store.record(
        kind,
        number if isinstance(number, int) else 0,
        size=size,
        words=[*made.config, "chain"],
        metrics=made.metrics,
        encoded=made.encoded,
        said=str(made.config.get("why", "")),
    )
    return packed(made.config | {"chain": head}, made.metrics, made.encoded)


def _hello(asked: Opened, store: SiteStore, place: Place, make: MakeLearner, progress: Progress) -> _Answer:
    theirs, protocol = asked.text("edge_sft"), asked.number("protocol")
    here: dict[str, Scalar] = {"edge_sft": __version__, "protocol": PROTOCOL}
    if protocol != PROTOCOL or theirs != __version__:
        why = (
            f"the coordinator runs edge-sft {theirs or 'of unknown version'} (protocol {protocol}), this site "
            f"{__version__} (protocol {PROTOCOL}): install the same version on both"
        )
        return _Answer({**here, "status": "refused", "why": why})
    recipe = asked.text("recipe")
    with sayable():
        section = section_of(recipe, f"the recipe of the run {store.run}")
    if recipe_digest(recipe) != asked.text("recipe_sha256"):
        raise Sayable(f"the recipe of the run {store.run}", "does not match its SHA-256", "Start the run again.")
    store.open(recipe)
    learner = make(recipe, place.data, store.work, progress)
    shared = shared_names(learner.parts, section.share)
    start = picked(learner.weights(), shared)
    held = store.holds()
    if not held:
        store.save("global", 0, start)
    facts, opening = learner.compatible.facts, learner.opening()
    return _Answer(
        {
            **here,
            "compatible": _json(facts),
            "parts": _json({name: learner.parts[name] for name in shared}),
            "start": digest(start),
            "holds": held or digest(start),
            "fingerprint": learner.fingerprint,
        },
        {f"samples_{split}": float(learner.samples.get(split, 0)) for split in _SPLITS},
        encode(opening, "none") if opening else None,
    )


def _base(asked: Opened, store: SiteStore, place: Place, make: MakeLearner, progress: Progress) -> _Answer:
    """Send the common starting weights: one site does, once, whole."""
    learner, _, shared = _opened(store, place, make, progress)
    return _Answer(encoded=encode(picked(learner.weights(), shared), "none"))


def _round(asked: Opened, store: SiteStore, place: Place, make: MakeLearner, progress: Progress) -> _Answer:
    if section_of(store.recipe() or "").privacy.kind == "secagg":
        raise Sayable(
            "an update of one site",
            "is not sent in this run: its recipe asks for secure aggregation",
            "Whoever runs the coordinator must look at it.",
        )
    return learn(asked, store, place, make, progress)


def learn(asked: Opened, store: SiteStore, place: Place, make: MakeLearner, progress: Progress) -> _Answer:
    """Take the round's weights and learn from them; return the update and what to say of it, not sent yet."""
    number = asked.number("round")
    learner, section, shared = _opened(store, place, make, progress)
    try:
        received = _receive(asked, store, learner, shared, number)
    except _Lacks:
        return _Answer({"status": "need-full", "base": asked.text("base")})
    store.witness(number, asked.text("record"))
    learner.load({**store.before("private", number), **received})
    metrics = _judged(learner, "before", ("val",)) if asked.config.get("evaluate") else {}
    steps = asked.number("steps")
    learnt = learner.train(
        round_number=number,
        rounds=asked.number("rounds"),
        steps=steps if steps > 0 else None,
        proximal=section.mu,
        progress=progress,
    )
    after = learner.weights()
    encoded = _update(section, store, picked(after, shared), received, number)
    store.save("private", number, others(after, shared))
    metrics |= {"num-examples": float(learnt.samples), "loss": float(learnt.loss), "steps": float(learnt.steps)}
    return _Answer({"base": asked.text("base")}, metrics, encoded)


def _update(section: FederatedSection, store: SiteStore, after: Arrays, before: Arrays, number: int) -> Encoded:
    """Return the update as it is sent, and store what rounding it lost. Raises DataError: not finite."""
    bad = sorted(name for name, array in after.items() if not np.isfinite(array).all())
    if bad:
        raise Sayable("what was learnt", f"has NaN or infinite numbers in {bad[0]}", "Lower train.learning_rate.")
    delta = {name: array - before[name] for name, array in after.items()}
    privacy = section.privacy
    if privacy.kind == "secagg":
        return encode(delta, "none")
    if privacy.kind == "dp" and privacy.clip is not None:
        delta, _ = clip(delta, privacy.clip)
        if site_std(privacy):
            context = f"{store.run}|{number}|{digest(before)}"
            delta = noised(delta, site_std(privacy), secret=secret_in(store.site / _NOISE_FILE), context=context)
        return encode(delta, "none")  # what rounding loses must not be sent later: it would pass the clip
    lost = store.before("residual", number)
    owed = {name: array + lost[name] if name in lost else array for name, array in delta.items()}
    encoded, _, residual = round_trip(owed, section.compression)
    store.save("residual", number, residual)
    return encoded


def _receive(asked: Opened, store: SiteStore, learner: Learner, shared: list[str], number: int) -> Arrays:
    """Return the shared weights that a message brings, and store them as of its round.

    Raises:
        _Lacks: The message is relative to weights that are not here.
        DataError: It does not fit this model.
    """
    base, held = asked.text("base"), store.holding(asked.text("base"))
    if held is None:
        if asked.encoded is None:
            raise _Lacks
        with sayable():
            brought = decode(asked.encoded)
        shapes = {name: array.shape for name, array in picked(learner.weights(), shared).items()}
        if not asked.config.get("full"):  # a step need not bring what it leaves as it is
            shapes = {name: shape for name, shape in shapes.items() if name in brought}
        wrong = misfit({name: array.shape for name, array in brought.items()}, shapes)
        if wrong:
            raise Sayable("the coordinator's weights", wrong, "Its run and this site's edge-sft do not fit.")
        if asked.config.get("full"):
            held = brought
        else:
            previous = store.holding(asked.text("previous"))
            if previous is None:
                raise _Lacks
            held = {name: previous[name] + brought[name] if name in brought else previous[name] for name in shared}
        if digest(held) != base:
            raise _Lacks
    store.save("global", number, held)
    return held


def _final(asked: Opened, store: SiteStore, place: Place, make: MakeLearner, progress: Progress) -> _Answer:
    """Take the final weights, make the site's own model, and tell what alone, global and personal are worth here."""
    number = asked.number("round")
    learner, section, shared = _opened(store, place, make, progress)
    try:
        received = _receive(asked, store, learner, shared, number)
    except _Lacks:
        return _Answer({"status": "need-full", "base": asked.text("base")})
    store.witness(number, asked.text("record"))
    learner.load({**store.before("private", number), **received})
    ends = {"personal": store.checkpoint, "global": store.shared}
    made = {"global": learner.checkpoint(store.shared, personal=False, progress=progress)}
    made["personal"] = meta = learner.checkpoint(store.checkpoint, personal=True, progress=progress)
    if section.compare_local:  # the personal model was chosen beside it: it is trained already
        ends["alone"] = store.alone
        made["alone"] = learner.alone(store.alone, progress)
    metrics: dict[str, float] = {}
    for side, done in made.items():
        metrics |= _worth(side, done)
    metrics |= told(ends, learner.groups)
    return _Answer({"base": asked.text("base"), "chosen": str(meta.training.get("chosen", ""))}, metrics)


def _worth(side: str, meta: CheckpointMeta) -> dict[str, float]:
    """Return a checkpoint's numbers by side, split and name."""
    return {
        f"{side}/{split}/{name}": float(value)
        for split, numbers in meta.metrics.items()
        for name, value in numbers.items()
        if np.isfinite(value)
    }


def _opened(
    store: SiteStore, place: Place, make: MakeLearner, progress: Progress
) -> tuple[Learner, FederatedSection, list[str]]:
    recipe = store.recipe() or ""
    section = section_of(recipe, f"the recipe of the run {store.run}")
    learner = make(recipe, place.data, store.work, progress)
    return learner, section, shared_names(learner.parts, section.share)


def _judged(learner: Learner, title: str, splits: tuple[JudgedSplit, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for split in splits:
        judged = learner.judge(split)
        if not judged.samples:
            continue
        numbers = {**judged.numbers, "score": judged.score, "samples": float(judged.samples)}
        found |= {f"{title}/{split}/{name}": float(value) for name, value in numbers.items() if np.isfinite(value)}
    return found


def _json(facts: object) -> str:
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)
