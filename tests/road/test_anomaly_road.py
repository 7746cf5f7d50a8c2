"""Good pictures in, a signed bundle out that decides: anomaly detection down the whole road."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from edge_sft import recipe
from edge_sft.bundle.keys import generate, load_private
from edge_sft.bundle.manifest import GOLDEN
from edge_sft.cli import kinds
from edge_sft.data.reader import open_dataset
from edge_sft.errors import DataError
from edge_sft.export.bundling import bundle_from_checkpoint
from edge_sft.progress import Silent
from edge_sft.slots.predictor import Predictor

RECIPE = """
name = "plates"
[task]
kind = "anomaly"
labels = ["good", "hole"]
ok = ["good"]
[data]
path = "pictures"
[image]
size = 64
[model]
weights = "random"
[anomaly]
examples = 16
[policy]
false_reject_rate = 0.1
[export]
variants = ["fp32", "fp16"]
calibration_pictures = 8
"""


def draw(folder: Path, side: str, label: str, count: int) -> None:
    """Plates with a grating; a hole is a dark disc somewhere."""
    rng = np.random.default_rng(len(side) * 100 + len(label))
    (folder / side / label).mkdir(parents=True)
    for index in range(count):
        grating = 120 + 40 * np.sin(np.arange(80) / 5 + rng.normal(0, 0.2))[None, :]
        picture = (grating + rng.normal(0, 6, (80, 80))).clip(0, 255).astype(np.uint8)
        if label == "hole":
            cv2.circle(picture, rng.integers(15, 65, 2).tolist(), 8, 10, -1)
        cv2.imwrite(str(folder / side / label / f"{index:03d}.png"), picture)


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    for side, good, bad in (("train", 24, 1), ("val", 12, 6), ("test", 6, 6)):
        draw(tmp_path / "pictures", side, "good", good)
        draw(tmp_path / "pictures", side, "hole", bad)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_from_pictures_to_a_bundle(plates: Path, tmp_path: Path) -> None:
    loaded = recipe.load(plates)
    dataset = open_dataset(loaded)
    out = tmp_path / "run"
    meta = kinds.fit(loaded, dataset, out, recipe_text=plates.read_text(), progress=Silent())
    assert meta.metrics["val"]["auroc"] > 0.8
    assert kinds.fit(loaded, dataset, out, recipe_text=plates.read_text(), progress=Silent()) == meta
    exported = kinds.export(loaded, out, dataset, out / "export", Silent())
    gates = {gate.variant: gate for gate in exported.gates}
    assert gates["fp32"].passed
    assert gates["fp16"].passed, gates["fp16"].note
    assert gates["fp32"].measure == "AUROC"
    # a program that knows nothing of memories gets the bundle's own
    for variant, file in exported.files.items():
        session = onnxruntime.InferenceSession(str(file))
        with np.load(exported.golden.parent / GOLDEN) as golden:
            assert set(golden.files) >= {"in/image", f"out/{variant}/score", f"out/{variant}/anomaly_map"}
            (score,) = session.run(["score"], {"image": golden["in/image"]})
            np.testing.assert_allclose(score, golden[f"out/{variant}/score"], rtol=1e-3, atol=1e-3)
    page = kinds.report(loaded, meta, out, exported, lambda name: None)
    assert "anomaly detection" in page
    keys = generate(tmp_path / "keys")
    bundle = bundle_from_checkpoint(out, exported, tmp_path, load_private(keys.private), page)
    with Predictor.from_bundle(bundle, public_key=keys.public) as predictor:
        good = predictor.predict_image(tmp_path / "pictures/test/good/000.png")
        hole = predictor.predict_image(tmp_path / "pictures/test/hole/000.png")
    assert good.score is not None
    assert hole.score is not None
    assert hole.verdict == "nok"
    assert hole.score > good.score
    assert hole.marks


def test_too_few_good_pictures_for_the_rate_are_refused(plates: Path, tmp_path: Path) -> None:
    plates.write_text(RECIPE.replace("false_reject_rate = 0.1", "false_reject_rate = 0.01"))
    loaded = recipe.load(plates)
    with pytest.raises(DataError, match="needs at least 99 good pictures; with 24 at best 4 %"):
        kinds.fit(loaded, open_dataset(loaded), tmp_path / "run", recipe_text="", progress=Silent())
