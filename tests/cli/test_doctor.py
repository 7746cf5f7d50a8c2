from __future__ import annotations

from pathlib import Path

import pytest

from edge_sft.cli import doctor


def test_both_runtimes_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0")
    finding = doctor.onnx_runtime()
    assert finding.health == "bad"
    assert "both" in finding.fact
    assert "uninstall" in finding.remedy


def test_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: None)
    assert doctor.onnx_runtime().health == "bad"
    assert doctor.training_stack().health == "note"


def test_dead_battery_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 3600.0)
    assert doctor.clock().health == "bad"


def test_here() -> None:
    assert doctor.python_version().health == "good"
    assert doctor.onnx_runtime().health == "good"
    assert doctor.opencv().health == "good"


def test_disk_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert "MB free" in doctor.disk(tmp_path / "a" / "b").fact


@pytest.mark.parametrize(
    ("broker", "word"),
    [("127.0.0.1:1", "cannot be reached"), ("127.0.0.1:x", "HOST:PORT"), ("no.such.host.invalid", "no")],
)
def test_broker_that_is_not_there(broker: str, word: str) -> None:
    finding = doctor.reachable(broker)
    assert finding.health == "bad"
    assert word in finding.fact
