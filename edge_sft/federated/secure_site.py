"""A site's answers in a secure round: keys, shares, its masked update, and the help to open the sum of all.

Each of the four leaves with a line in the ledger. A site helps to open one sum a round: the difference of two sums over
other sites is a single site's update.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_sft import durable
from edge_sft.federated import outward, secure
from edge_sft.federated.client import MakeLearner, Place, learn, refusal
from edge_sft.federated.codec import Encoded
from edge_sft.federated.messages import SECURE, Opened, Scalar, packed, payload_bytes
from edge_sft.federated.outward import Sayable, sayable
from edge_sft.federated.settings import section_of
from edge_sft.federated.site_store import SiteStore
from edge_sft.progress import Progress, Silent

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict

_CONFIG: Final = "config"
_HERE: Final = "edge-sft"  # beside Flower's own state of the protocol
_OPENED: Final = "opened.json"
_NO_HEAD: Final = "0" * 64


def answer(
    message: Message, asked: Opened, context: Context, place: Place, make: MakeLearner, progress: Progress | None = None
) -> RecordDict:
    """Answer one of the four messages of a secure round; what the site refuses is said in words and never raised.

    Args:
        message: Flower's.
        asked: Its words and weights.
        context: Flower's; it keeps the site's keys between the messages.
        place: The site.
        make: Makes the learner of a recipe (text), data, a folder for caches.
        progress: Told how far the learning is.
    """
    kind = f"{SECURE}.{secure.stage_of(message.content) or 'unknown'}"
    try:
        with sayable():
            store = SiteStore(place.directory, asked.text("run"))
    except Sayable as error:
        return refusal(kind, str(error), place.directory, place.name)
    layout: list[bytes] = []
    try:
        if (store.recipe_digest() or "none") != asked.text("recipe_sha256"):
            content = packed({"status": "unknown", "why": f"the run {store.run} was not announced to this site"})
        else:
            content = _step(message, asked, context, store, place, make, progress or Silent(), layout)
    except Exception as error:  # noqa: BLE001 - whatever it is, its own words would quote the site
        content = packed({"status": "refused", "why": outward.words(error, place.directory)})
    said = dict(content.config_records.get(_CONFIG, {})) | {"site": place.name, "run": store.run}
    said |= {"round": max(0, asked.number("round"))}
    return _recorded(kind, content, {"status": "ok", **said}, store, layout)


def _step(
    message: Message,
    asked: Opened,
    context: Context,
    store: SiteStore,
    place: Place,
    make: MakeLearner,
    progress: Progress,
    layout: list[bytes],
) -> RecordDict:
    section = section_of(store.recipe() or "")
    if section.privacy.kind != "secagg":
        raise Sayable("a secure round", "is no part of this run: its recipe does not ask for it", "Look at the recipe.")

    def learnt(_: Message) -> tuple[NDArray[np.float32], RecordDict]:
        began = time.monotonic()
        made = learn(asked, store, place, make, progress)
        if made.encoded is None:
            raise Sayable("the weights of the round", "do not have the digest that they were announced with", "")
        row = np.frombuffer(made.encoded.codes.tobytes(), "<f4")
        layout.append(made.encoded.layout)
        made.metrics["cut"] = float(np.count_nonzero(np.abs(row) > section.privacy.range))
        made.metrics["seconds"] = time.monotonic() - began
        return row, packed(made.config, made.metrics)

    stage = secure.stage_of(message.content)
    if stage == secure.MASKED:
        _remember(context, asked)
    if stage == secure.OPENING:
        _open_once(store, context, secure.opens_for(message.content))
    return secure.answer(message, context, learnt).content


def _remember(context: Context, asked: Opened) -> None:
    from flwr.app import ConfigRecord

    context.state[_HERE] = ConfigRecord({"round": asked.number("round"), "base": asked.text("base")})


def _open_once(store: SiteStore, context: Context, nodes: list[int]) -> None:
    """Write down whose sum is opened before helping to. Raises Sayable: of this update another sum was opened."""
    here: Any = context.state.config_records.get(_HERE, {})
    path, key = store.folder / _OPENED, f"{here.get('round', 0)} {here.get('base', '')}"
    known: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if known.get(key, nodes) != nodes:
        raise Sayable(
            f"the sum of round {here.get('round', 0)}",
            "was opened before over other sites, and the difference of the two would be one site's update",
            "Bring those sites back that were in it, or start a new run.",
        )
    if key not in known:
        durable.write_text(path, json.dumps({**known, key: nodes}) + "\n")


def _recorded(
    kind: str, content: RecordDict, said: dict[str, Any], store: SiteStore, layout: list[bytes]
) -> RecordDict:
    """Write the ledger's line and put its digest into the answer."""
    from flwr.app import ConfigRecord

    words: dict[str, Scalar] = dict(said)
    content[_CONFIG] = ConfigRecord({**words, "chain": _NO_HEAD})
    row = secure.masked_row(content)
    codes = np.frombuffer(b"" if row is None else row.astype("<u4").tobytes(), dtype=np.uint8)
    metrics = list(content.metric_records["metrics"]) if "metrics" in content.metric_records else []
    head = store.record(
        kind,
        int(said["round"]),
        size=payload_bytes(content),
        words=[*words, "chain", *secure.told(content)],
        metrics=metrics,
        encoded=Encoded(codes, layout[0], "none") if row is not None and layout else None,
        said=str(said.get("why", "")),
    )
    content[_CONFIG] = ConfigRecord({**words, "chain": head})
    return content
