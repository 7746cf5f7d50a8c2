from __future__ import annotations

from pathlib import Path

import pytest

from edge_sft import durable
from edge_sft.errors import DeviceError


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    durable.write_text(target, "old")
    with pytest.raises(RuntimeError), durable.replacing(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here: the message for a full disk is not proved")
    error = durable.disk_error(tmp_path, OSError(28, "No space left on device"))
    assert isinstance(error, DeviceError)
    assert "full" in str(error)
