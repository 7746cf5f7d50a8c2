"""What leaves a site when something fails there: fixed words, a line in the ledger, nothing that an error quotes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="no Flower: that a site's failures leave without what they quote is not proved")

from edge_sft.errors import BugError, DataError, DeviceError, NetworkError, UserError
from edge_sft.federated import chain, outward
from edge_sft.federated.messages import FINAL, HELLO, ROUND, packed

from . import plants

SECRETS = ("/srv/plant/line-3", "weld_porosity", "operator_7")
QUOTING = f"{SECRETS[0]}/labels.csv: column {SECRETS[1]!r} has the value {SECRETS[2]!r}"


def failing(place: str, error: BaseException) -> Any:
    """A learner that fails at one place."""

    class Fails(plants.Toy):
        def train(self, **named: Any) -> Any:
            if place == "train":
                raise error
            return super().train(**named)

        def checkpoint(self, *args: Any, **named: Any) -> Any:
            if place == "checkpoint":
                raise error
            return super().checkpoint(*args, **named)

    def make(recipe: str, data: Path, work: Path, progress: Any) -> plants.Toy:
        if "plant-c" not in str(data):
            return plants.Toy(data)
        if place == "make":
            raise error
        return Fails(data)

    return make


ERRORS = [
    (UserError(SECRETS[0], QUOTING, "x"), "the recipe or the site's settings"),
    (DataError(SECRETS[0], QUOTING, f"Look at {SECRETS[0]}"), "its data, or what it keeps of the run, cannot be used"),
    (DeviceError(SECRETS[0], QUOTING), "its machine refuses"),
    (NetworkError(SECRETS[0], QUOTING), "its network fails"),
    (BugError(SECRETS[0], QUOTING), "its program failed (BugError)"),
    (OSError(28, "No space left on device", SECRETS[0]), "its machine refuses"),
    (KeyError(QUOTING), "its program failed (KeyError)"),
]


@pytest.mark.parametrize(("error", "words"), ERRORS, ids=lambda one: type(one).__name__)
def test_a_failure_is_told_without_what_it_quotes(error: Exception, words: str, tmp_path: Path) -> None:
    said = outward.words(error, tmp_path)
    assert said.startswith(words)
    assert not any(secret in said for secret in SECRETS)
    kept = (tmp_path / outward.ERRORS).read_text()
    reference = said.rpartition(" ")[2]
    assert reference in kept
    assert SECRETS[0] in kept, "at the site all of it can be read"


def test_what_speaks_of_the_coordinators_own_words_is_said(tmp_path: Path) -> None:
    with pytest.raises(outward.Sayable) as caught, outward.sayable():
        raise UserError("the run friday", "has no rounds", "Give it some.")
    assert outward.words(caught.value, tmp_path) == "the run friday: has no rounds. Give it some."
    assert not (tmp_path / outward.ERRORS).exists()


def test_a_sites_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    (tmp_path / outward.ERRORS).write_text("x" * ((1 << 20) + 1))
    outward.words(DataError("a", "b"), tmp_path)
    assert (tmp_path / outward.ERRORS).stat().st_size < 200
    assert (tmp_path / "errors.log.1").exists()


@pytest.mark.parametrize(("place", "kind"), [("make", HELLO), ("train", ROUND), ("checkpoint", FINAL)])
@pytest.mark.parametrize("error", [DataError(SECRETS[0], QUOTING), KeyError(QUOTING)], ids=["known", "unknown"])
def test_nothing_of_it_reaches_the_coordinator(place: str, kind: str, error: Exception, tmp_path: Path) -> None:
    """Every byte that a whole run brings to the coordinator, and every file that it writes, is looked through."""
    many = plants.Plants(tmp_path, plants.recipe(rounds=1), make=failing(place, error))
    came: list[bytes] = []

    def listens(asked: Any, reply: Any) -> list[Any]:
        came.append(everything(reply))
        return [reply]

    many.run(many.grid(interfere=listens))
    files = [path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    told = "\n".join(many.said)
    for secret in SECRETS:
        assert not any(secret.encode() in one for one in [*came, *files, told.encode()])
    assert ("node 13" if place == "make" else "plant-c") in told, "who it is is not known before it is greeted"
    ledger = chain.check(tmp_path / "sites" / "plant-c" / "ledger.jsonl")
    assert ledger.holds
    line = next(one for one in ledger.records if one["kind"] == kind)
    assert line["said"] in told, "the ledger has the very words that left"
    assert sum("said" in one for one in ledger.records) >= 1
    assert all("said" not in one for name in ("plant-a", "plant-b") for one in records(tmp_path, name))


def records(root: Path, name: str) -> tuple[dict[str, Any], ...]:
    return chain.check(root / "sites" / name / "ledger.jsonl").records


def everything(message: Any) -> bytes:
    """A message as bytes, with all its parts."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    return b"".join(one.deflate() for one in get_all_nested_objects(message).values())


def test_a_node_that_is_no_site_says_so_without_its_path(tmp_path: Path) -> None:
    from flwr.app import Context, Message, RecordDict

    from edge_sft.federated.app import make_client_app

    folder = tmp_path / SECRETS[1]
    context = Context(run_id=1, node_id=5, node_config={"site-dir": str(folder)}, state=RecordDict(), run_config={})
    asked = Message(packed({"run": "first"}), 5, HELLO)
    asked.metadata.__dict__["_message_id"] = "7"
    reply = make_client_app(plants.make)(asked, context)
    said = str(reply.content.config_records["config"]["why"])
    assert said.startswith("the recipe or the site's settings")
    assert SECRETS[1].encode() not in everything(reply)


def test_a_question_that_cannot_be_read_gets_a_line_too(tmp_path: Path) -> None:
    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

    from edge_sft.federated.app import make_client_app

    site = plants.write_site(tmp_path / "a", "a", 1)
    context = Context(run_id=1, node_id=5, node_config={"site-dir": str(site)}, state=RecordDict(), run_config={})
    content = RecordDict({"arrays": ArrayRecord({"strange": Array(np.zeros(2))})})
    for kind, run in ((HELLO, "first"), (ROUND, "../../etc")):
        asked = Message(content if run == "first" else packed({"run": run}), 5, kind)
        asked.metadata.__dict__["_message_id"] = "7"
        reply = make_client_app(plants.make)(asked, context)
        line = chain.check(site / "ledger.jsonl").records[-1]
        assert (line["kind"], line["said"]) == (kind, reply.content.config_records["config"]["why"])
    assert "no folder's" in line["said"]


def test_what_others_say_is_cut_to_a_line() -> None:
    assert outward.brief("a\n\tb\x1b[31m  c") == "a b [31m c"
    assert len(outward.brief("x" * 5000)) == 400
    assert (
        outward.flowers(7)
        == "the app is not on that site's invite (Flower's error 7); the site's own node.log says more"
    )
    assert outward.flowers(99).startswith("it failed (Flower's error 99)")
