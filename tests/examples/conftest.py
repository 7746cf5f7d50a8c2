from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(path: Path) -> ModuleType:
    """Load a file as a module, once."""
    key = f"edge_sft_examples_{path.stem}"
    if key not in sys.modules:
        spec = spec_from_file_location(key, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


@pytest.fixture(scope="session")
def small() -> ModuleType:
    pytest.importorskip("onnx", reason="onnx is not installed: nothing was run from a bundle")
    return load(Path(__file__).parent.parent / "contracts" / "small_bundle.py")


@pytest.fixture(scope="session")
def unpack() -> ModuleType:
    return load(EXAMPLES / "python" / "unpack.py")


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """examples/node with its packages, installed there once (node_modules is ignored by git)."""
    folder = EXAMPLES / "node"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not installed: the Node.js examples were not run")
    wanted = ("ajv", "mqtt", "onnxruntime-node")
    if all((folder / "node_modules" / name).is_dir() for name in wanted):
        return folder
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install here, so the Node.js examples were not run: {done.stderr.strip()[-200:]}")
    return folder
