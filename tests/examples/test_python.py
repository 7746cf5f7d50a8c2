from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from edge_sft import Predictor

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_embedding_prints_what_the_predictor_decides(small: ModuleType, tmp_path: Path) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    bundle = small.plan().write(tmp_path, signer)
    names = [str(tmp_path / f"{index}.png") for index in range(3)]
    for name, image in zip(names, small.pictures(3, 16, seed=5), strict=True):
        cv2.imwrite(name, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    script = EXAMPLES / "python" / "embed.py"
    command = [sys.executable, str(script), str(bundle), str(signer.public_path), *names]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    with Predictor.from_bundle(bundle, public_key=signer.public_path) as predictor:
        for name, line in zip(names, printed, strict=True):
            expected = predictor.predict_image(name)
            path, verdict, label, score, *_ = line.split()
            assert (path, verdict, label) == (name, expected.verdict, expected.label)
            assert float(score) == pytest.approx(expected.score, abs=1e-6)


def test_unpacking_keeps_every_number(small: ModuleType, unpack: ModuleType, tmp_path: Path) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    bundle = small.plan().write(tmp_path, signer)
    out = unpack.unpack(bundle, signer.public_path, tmp_path / "out")
    images = np.frombuffer((out / "in-image.bin").read_bytes(), dtype=np.uint8).reshape(8, 16, 16, 3)
    assert (images == small.pictures(8, 16)).all()
    expected = np.frombuffer((out / "out-probabilities.bin").read_bytes(), dtype=np.float32).reshape(8, 3)
    assert np.array_equal(small.run((out / "model.onnx").read_bytes(), images), expected)


def test_unpacking_an_absent_variant_says_which_there_are(
    small: ModuleType, unpack: ModuleType, tmp_path: Path
) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    bundle = small.plan().write(tmp_path, signer)
    with pytest.raises(SystemExit, match="no variant 'int8-cpu'; it holds fp32"):
        unpack.unpack(bundle, signer.public_path, tmp_path / "out", "int8-cpu")
