from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_sft.federated.learners.kept_features import kept
from edge_sft.training.sensors.features import Table


def table(value: float) -> Table:
    return Table(
        np.full((3, 2), value, np.float32),
        np.array([1.0, np.nan, 3.0]),
        np.arange(3),
        np.arange(3.0),
        np.zeros(3, np.int64),
    )


def never() -> Table:
    raise AssertionError("it lies there")


def test_it_is_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "work" / "features.npz"
    first = kept(path, "a", lambda: table(1))
    again = kept(path, "a", never)
    for name in ("features", "life", "run", "end", "group"):
        assert getattr(again, name).tobytes() == getattr(first, name).tobytes()
        assert getattr(again, name).dtype == getattr(first, name).dtype
    assert [one.name for one in path.parent.iterdir()] == ["features.npz"]


@pytest.mark.parametrize("harm", ["other key", "torn", "no archive", "empty"])
def test_what_does_not_fit_is_made_anew(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    kept(path, "b" if harm == "other key" else "a", lambda: table(1))
    whole = path.read_bytes()
    if harm != "other key":
        path.write_bytes({"torn": whole[: len(whole) // 2], "no archive": b"x" * 99, "empty": b""}[harm])
    assert kept(path, "a", lambda: table(2)).features[0, 0] == 2
    assert kept(path, "a", never).features[0, 0] == 2


def test_without_room_on_the_disk_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file in the folder's place")
    assert kept(tmp_path / "work" / "features.npz", "a", lambda: table(1)).features[0, 0] == 1
