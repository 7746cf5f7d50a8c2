"""A device that may be slow is given the time its budget allows for: the proof's limit is no budget of its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.deploy import proving
from edge_sft.deploy.local import deploy
from edge_sft.errors import BundleRefused
from edge_sft.profile import Budgets


@pytest.mark.parametrize(("budget_ms", "limit_s"), [(100.0, 120.0), (60_000.0, 6000.0)])
def test_the_limit_grows_with_the_budget(
    budget_ms: float, limit_s: float, tmp_path: Path, small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def measure(request: Any, *, timeout_s: float) -> proving.Measurements:
        given.append(timeout_s)
        return proving.Measurements([proving.Measured(variant=name, trouble="not asked") for name in request.variants])

    monkeypatch.setattr(proving, "measure", measure)
    signer = small.Signer.make(tmp_path / "keys")
    bundle = Path(small.plan(0).write(tmp_path / "out", signer))
    budgets = Budgets(latency_p95_ms=budget_ms, memory_mb=100.0)
    profile = small.profile().model_copy(update={"budgets": budgets, "variants": ("fp32",)})
    with pytest.raises(BundleRefused, match="not asked"):
        deploy(bundle, tmp_path / "root", profile=profile, trusted_keys=[signer.public])
    assert given == [limit_s]
