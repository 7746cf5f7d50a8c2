from __future__ import annotations

import ctypes
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.deploy import proving
from edge_sft.deploy.local import deploy
from edge_sft.errors import BundleRefused
from edge_sft.profile import Budgets, DeviceProfile
from edge_sft.slots import proof as proofs
from edge_sft.slots.store import SlotStore


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
shared("pretended")


@pytest.fixture(scope="session")
def windows() -> ModuleType:
    return shared("window_bundle")


@pytest.fixture(scope="session")
def ssh_lab() -> ModuleType:
    return shared("ssh_lab")


@pytest.fixture(scope="session")
def ssh_cuts() -> ModuleType:
    return shared("ssh_cuts")


@pytest.fixture(scope="session")
def small() -> ModuleType:
    return shared("small_bundle")


BUDGETS = Budgets(latency_p95_ms=5000, memory_mb=4000)  # of other tests


class Watch:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, title: str, total: int) -> None:
        self.lines.append(title)

    def advance(self, units: int = 1, note: str = "") -> None:
        self.lines.append(note)


class Jetson:
    """A device whose NVIDIA parts are pretended, for this process and for those it starts."""

    def __init__(self, small: ModuleType, folder: Path) -> None:
        self.small, self.root, self.out = small, folder / "root", folder / "out"
        self.signer = small.Signer.make(folder / "keys")
        self.watch = Watch()
        self.measure = proving.measure  # the real one

    def profile(self, **changes: Any) -> DeviceProfile:
        given = {"engine": "tensorrt", "variants": ("fp16", "fp32"), "budgets": BUDGETS, **changes}
        return self.small.profile(**given)  # type: ignore[no-any-return]

    def bundle(self, seed: int = 0) -> Path:
        """Hold an `fp16` whose graph has a weight named "square", and an fp32 that has not."""
        graphs = {"fp16": self.small.graph(seed=seed, work=1), "fp32": self.small.graph(seed=seed)}
        return Path(self.small.plan(seed, graphs=graphs, version=f"1.0.{seed}").write(self.out, self.signer))

    def deploy(self, bundle: Path, **changes: Any) -> proofs.Proof:
        given = {"profile": self.profile(), "trusted_keys": [self.signer.public], "progress": self.watch, **changes}
        return deploy(bundle, self.root, **given)

    def serves(self) -> str:
        """Let a model serve that needs no engine; returns its digest."""
        return self.deploy(self.bundle(), profile=self.small.profile(variants=("fp32",))).digest

    def refuses(self, bundle: Path, **changes: Any) -> str:
        """Deploy what must be refused; what served before still does. Returns why, in one line."""
        before = SlotStore(self.root).current()
        with pytest.raises(BundleRefused) as caught:
            self.deploy(bundle, **changes)
        assert SlotStore(self.root).current() == before
        text = str(caught.value)
        assert "\n" not in text
        return text

    def engines(self, kind: str = "plan") -> list[Path]:
        return sorted((self.root / "engines").glob(f"*.{kind}"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pretended = sys.modules["edge_sft_tests_pretended"]
    return Path(pretended.compiled(tmp_path_factory.mktemp("driver")))


@pytest.fixture
def jetson(tmp_path: Path, small: ModuleType, driver: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    from edge_sft.engines.nvidia import cuda

    pretended = sys.modules["edge_sft_tests_pretended"]
    for name, value in pretended.environment(driver).items():
        monkeypatch.setenv(name, value)
    module, library = pretended.loaded(driver)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(cuda, "_load", lambda: ctypes.CDLL(library._name))
    made = Jetson(small, tmp_path)
    monkeypatch.setattr(proving, "measure", passed)
    return made


def passed(request: Any, *, timeout_s: float) -> proving.Measurements:
    """Pass every variant unmeasured: what is built, and what not, is the matter here."""
    items = [
        proving.Measured(variant=name, golden_difference=0.0, golden_tolerance=1.0, p50_ms=1, p95_ms=2, runs=30)
        for name in request.variants
    ]
    return proving.Measurements(items, proving.EngineInfo("tensorrt", "TensorRT", "10.3.0", 1))
