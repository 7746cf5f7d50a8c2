"""Pictures learnt by three plants together: one plant's own model, exported, gated, signed, deployed, deciding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("flwr", reason="no Flower: that a federated picture model reaches a device is not proved")
pytest.importorskip("torch", reason="no torch: that a federated picture model reaches a device is not proved")

from edge_sft.bundle.keys import load_public
from edge_sft.bundle.reading import open_verified

ROOT = Path(__file__).parents[2]
RECIPE = """name = "caps"
[task]
labels = ["good", "scratch"]
ok = ["good"]
[data]
path = "caps"
manifest = "caps/parts.csv"
[image]
size = 64
[train]
steps = 6
[export]
variants = ["fp32", "int8-cpu"]
calibration_pictures = 16
[federated]
rounds = 2
share = "head"
"""


def pictures(folder: Path) -> None:
    """Caps of three lines of different light, named by a manifest that leaves the splitting to us."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,label,group"]
    for number in range(96):
        label = ("good", "scratch")[number % 2]
        image = np.full((64, 64, 3), 50 + 20 * (number % 3), np.uint8)
        cv2.circle(image, (32, 32), 24, (170, 180, 175), -1)
        if label == "scratch":
            start, way = rng.integers(20, 40, 2), rng.integers(-15, 16, 2)
            cv2.line(image, tuple(map(int, start)), tuple(map(int, start + way)), (30, 30, 30), 2)
        noisy = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.png"), noisy)
        rows.append(f"{number:03d}.png,{label},part-{number // 2}")
    (folder / "parts.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_from_three_plants_pictures_to_decisions_of_one(tmp_path: Path) -> None:
    def edge_sft(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edge_sft.cli.main", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"EDGE_SFT_KEYS": str(tmp_path / "keys"), "EDGE_SFT_ROOT": str(tmp_path / "device")}
    pictures(tmp_path / "caps")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    edge_sft("federate", "simulate", "recipe.toml", "--sites", "3", "--partition", "by=dirichlet(5)")
    edge_sft("keys", "init")
    site = "runs/caps/sites/site-2"
    edge_sft("site", "export", "--dir", site, "--out", "bundle")
    made = tmp_path / "bundle" / "caps-0.1.0.edge"
    edge_sft("bundle", "verify", str(made))
    manifest = open_verified(made, [load_public(tmp_path / "keys" / "default.pub.pem")]).manifest
    assert "fp32" in {one.variant for one in manifest.variants}
    assert {gate.variant for gate in manifest.gates} == {"fp32", "int8-cpu"}
    assert "serving: caps 0.1.0" in edge_sft("deploy", str(made), "--to", "local")
    own = sorted(str(path) for path in (tmp_path / site / "data").rglob("*.png"))
    said = edge_sft("predict", str(made), *own, "--json")
    decided = [json.loads(line) for line in said.splitlines()]
    assert len(decided) == len(own) > 10
    assert {one["verdict"] for one in decided} <= {"ok", "nok", "uncertain"}
