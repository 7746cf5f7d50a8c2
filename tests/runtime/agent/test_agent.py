"""The whole agent against a real broker, with really deployed small models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sft.runtime.agent import Agent


def test_a_watched_folder_becomes_decisions(
    tmp_path: Path,
    broker: Any,
    listen: Callable[..., Any],
    deploy: Callable[..., Any],
    configure: Callable[..., Any],
    running: Callable[..., Any],
    write_picture: Callable[..., Path],
    eventually: Callable[..., Any],
) -> None:
    root, pictures = tmp_path / "root", tmp_path / "pictures"
    deploy(root)
    pictures.mkdir()
    heard = listen(broker.port)
    source = {"kind": "folder", "path": pictures, "after": "move"}
    trigger = {"kind": "filename", "pattern": r"^(?P<part_id>P\d+)"}
    agent = Agent(configure(root, broker.port, {"source": source, "trigger": trigger}))
    end = running(agent)
    for number in range(5):
        write_picture(pictures / f"P{number}.png", colour=40 * number)
    eventually(lambda: len(heard.predictions()) == 5)
    assert [one.part_id for one in heard.predictions()] == [f"P{number}" for number in range(5)]
    assert [one.seq for one in heard.envelopes()] == list(range(5))
    assert all(one.verdict in ("ok", "nok") and one.model is not None for one in heard.predictions())
    eventually(lambda: heard.said("metrics") and heard.said("metrics")[-1]["counts"].get("decisions") == 5)
    state = eventually(lambda: heard.state() if heard.state().get("last_decision_age_s") is not None else None)
    assert (state["online"], state["status"], state["model"]["name"]) == (True, "running", "small")
    eventually(lambda: len(list((pictures / "done").iterdir())) == 5)
    assert any(event["kind"] == "deployed" for event in heard.said("event"))
    end()
    eventually(lambda: heard.state()["online"] is False)
    late = listen(broker.port)
    eventually(lambda: [m for m in late.messages if m[0].endswith("/device/state")])
    _, body, retained = next(m for m in late.messages if m[0].endswith("/device/state"))
    assert retained
    assert json.loads(body)["online"] is False
