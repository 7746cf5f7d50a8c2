from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sft.models.sensors.normalise import Normaliser

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "cmapss"


def rows(name: str) -> np.ndarray:
    path = DATA / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here: the condition lookup is not proved on real flights")
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",", skiprows=1, usecols=range(2, 26))


def test_every_row_of_fd002_is_compared_with_flights_like_it():
    learn, fly = rows("train_FD002"), rows("test_FD002")
    altitude = np.array([0, 10, 20, 25, 35, 42])  # NASA's six conditions, in thousands of feet
    normaliser = Normaliser.fit(
        learn.astype(np.float32), np.ones(learn.shape, np.float32), conditions=(0, 1, 2), clusters=6
    )
    assert normaliser.centres.shape[0] == 6
    for part in (learn, fly):
        want = np.abs(part[:, :1] - altitude).argmin(axis=1)
        with torch.no_grad():
            window = torch.from_numpy(part.astype(np.float32))[None]
            found = normaliser.condition(window, torch.ones_like(window))[0].numpy()
        pairs = set(zip(want.tolist(), found.tolist(), strict=True))
        assert len(pairs) == 6, "a row went to another condition than its like"
