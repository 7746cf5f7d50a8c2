from __future__ import annotations

import sys
from collections.abc import Iterator
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
shared("engine")
shared("pretended")
shared("window_bundle")
shared("dense_bundles")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return shared("small_bundle")


@pytest.fixture(scope="session")
def windows() -> ModuleType:
    return shared("window_bundle")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pretended driver's file."""
    return Path(shared("pretended").compiled(tmp_path_factory.mktemp("driver")))


@pytest.fixture
def nvidia(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A pretended `tensorrt` on a pretended GPU, in this process; `nvidia._CUDA` is the driver."""
    import ctypes

    from edge_sft.engines.nvidia import cuda

    module, library = shared("pretended").loaded(driver)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(cuda, "_load", lambda: ctypes.CDLL(library._name))
    for name in ("FAKE_TRT", "FAKE_CUDA_NONE", "FAKE_CUDA_NAME"):
        monkeypatch.delenv(name, raising=False)
    module.deserialized.clear()
    for name in ("fake_fail_capture", "fake_alive"):
        ctypes.c_int.in_dll(library, name).value = 0
    yield module
    ctypes.c_size_t.in_dll(library, "fake_room").value = 1 << 40  # other folders' tests share this process's driver


class Seal:
    """A device's key."""

    def __init__(self, folder: Path) -> None:
        from edge_sft.bundle import keys

        self._key = keys.load_private(keys.generate(folder, "device").private)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        return self._key.public.verifies(signature, message)


@pytest.fixture
def seal(tmp_path: Path) -> Seal:
    return Seal(tmp_path / "device-key")


@pytest.fixture
def other_seal(tmp_path: Path) -> Seal:
    return Seal(tmp_path / "another-key")


@pytest.fixture(scope="session")
def dense() -> ModuleType:
    return shared("dense_bundles")
