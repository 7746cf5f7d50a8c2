from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


def shared(name: str) -> ModuleType:
    """Load tests/contracts/<name>.py, once, under a name that no test folder can shadow."""
    key = f"edge_sft_tests_{name}"
    if key not in sys.modules:
        spec = spec_from_file_location(key, Path(__file__).parent.parent / "contracts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


shared("small_bundle")
shared("dense_bundles")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return shared("small_bundle")


@pytest.fixture(scope="session")
def dense() -> ModuleType:
    return shared("dense_bundles")
