"""Nothing phones home: what our libraries would collect or send by default is off before they are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is missing: that its telemetry is off is not proved")
VARIABLE = "ORT_DISABLE_TELEMETRY"


def left_behind(script: str, home: Path) -> list[str]:
    """Run a script with an empty home and return the files it left there."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE and not key.startswith("XDG_")}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment | {"HOME": str(home)})
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_onnx_runtime_makes_no_device_id_and_no_queue_of_events(tmp_path: Path) -> None:
    assert left_behind("import edge_sft, onnxruntime", tmp_path) == []


def test_what_the_user_said_stands(tmp_path: Path) -> None:
    script = f"import os; os.environ[{VARIABLE!r}] = '0'; import edge_sft; assert os.environ[{VARIABLE!r}] == '0'"
    left_behind(script, tmp_path)
