"""What feeds the service manager's watchdog: turns of the agent in which no pipeline hangs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_sft.runtime.agent import Agent
from edge_sft.runtime.pipeline import Pipeline
from edge_sft.runtime.sources.iterator import IteratorSource


def test_a_pipeline_that_hangs_ends_the_feeding(
    tmp_path: Path, configure: Callable[..., Any], fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: list[str] = []
    agent = Agent(
        configure(tmp_path, 1, {"source": {"kind": "files", "path": str(tmp_path)}}),
        sources={"main": IteratorSource([], "main")},
        loaders={"main": fakes.Loader(fakes.Model())},
        notify=facts.append,
    )
    try:
        agent._turn()
        assert facts == ["WATCHDOG=1"]
        monkeypatch.setattr(Pipeline, "stuck", property(lambda self: "infer0 has been at one sample for 11 s"))
        agent._turn()
        assert facts == ["WATCHDOG=1"]
        monkeypatch.undo()
        agent._turn()
        assert facts == ["WATCHDOG=1", "WATCHDOG=1"]
    finally:
        agent.journal.close()
