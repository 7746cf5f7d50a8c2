"""The device half runs where torch cannot be installed; importing it must not even try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVICE_HALF = ["runtime", "slots", "engines", "deploy", "bundle", "machine"]
SINGLE_MODULES = [
    "errors", "task", "prediction", "policy", "preprocess", "profile", "strict_toml", "durable", "progress", "recipe",
]  # fmt: skip
DEVICE_VERBS = ["bench", "deploy", "predict", "devices", "agent", "monitor", "ledger", "broker", "doctor", "schema",
                "bundle", "keys", "main", "console", "paths", "commission"]  # fmt: skip
BLOCKED = ["torch", "torchvision", "onnx", "onnxscript", "flwr", "optimum", "transformers", "safetensors", "sklearn",
           "scipy", "timm"]  # fmt: skip

SCRIPT = """
import importlib, sys
blocked = {blocked!r}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise AssertionError(f"the device half imported {{name}}")
sys.meta_path.insert(0, Refuse())
for name in {names!r}:
    importlib.import_module(name)
loaded = sorted(set(blocked) & set(sys.modules))
assert not loaded, loaded
"""


def device_modules() -> list[str]:
    names = [f"edge_sft.{name}" for name in SINGLE_MODULES] + [f"edge_sft.cli.{verb}" for verb in DEVICE_VERBS]
    for package in DEVICE_HALF:
        for path in sorted((ROOT / "edge_sft" / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            names.append(dotted.removesuffix(".__init__"))
    return names


def test_device_half_imports_with_the_training_stack_blocked() -> None:
    script = SCRIPT.format(blocked=BLOCKED, names=device_modules())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("heavy", ["torch", "cv2", "onnxruntime", "numpy", "paho", "cryptography"])
def test_help_imports_nothing_heavy(heavy: str) -> None:
    script = (
        "import sys; sys.argv = ['edge-sft', '--help']\n"
        "from edge_sft.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"assert {heavy!r} not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_the_documented_ones() -> None:
    import edge_sft

    assert set(edge_sft.__all__) == {
        "Decision", "EdgeSftError", "Envelope", "Policy", "Prediction", "Predictor", "Recipe", "Sample", "Task",
        "__version__",
    }  # fmt: skip
    for name in edge_sft.__all__:
        assert getattr(edge_sft, name) is not None
