"""The wheel, installed outside the checkout the way a device installs it, also on the oldest supported Python."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def oldest_python() -> str | None:
    """Find a Python 3.10, on the PATH or among pyenv's."""
    found = shutil.which("python3.10")
    candidates = [Path(found)] if found else []
    candidates += sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))
    for candidate in candidates:
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment as a device has it."""
    python = oldest_python()
    if python is None:
        pytest.skip("no Python 3.10 on this machine: the oldest supported Python is not proved")
    home = tmp_path_factory.mktemp("device")
    run(python, "-m", "venv", home / "venv", cwd=home)
    binaries = home / "venv" / "bin"
    run(binaries / "python", "-m", "pip", "install", "-q", f"{wheel}[cpu,vision]", cwd=home)
    return binaries


def test_wheel_holds_only_the_package(wheel: Path) -> None:
    listed = run(sys.executable, "-m", "zipfile", "-l", wheel, cwd=wheel.parent)
    tops = {line.split("/")[0] for line in listed.splitlines()[1:]}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edge_sft"}
    assert "edge_sft/_data/devices/x86-cpu.toml" in listed
    assert "edge_sft/py.typed" in listed
    app = {line.split()[0] for line in listed.splitlines() if line.startswith("edge_sft/_data/federation/")}
    assert {Path(name).name for name in app} == {"pyproject.toml", "__init__.py", "client_app.py", "server_app.py"}


def test_installed_wheel_lists_profiles(device: Path, tmp_path: Path) -> None:
    assert "x86-cpu" in run(device / "edge-sft", "devices", "list", cwd=tmp_path)


def test_device_environment_has_no_training_stack(device: Path, tmp_path: Path) -> None:
    script = (
        "import importlib.util as u, sys; import edge_sft; "
        "assert 'site-packages' in edge_sft.__file__, edge_sft.__file__; "
        "print([n for n in ('torch','torchvision','onnx','safetensors','sklearn','scipy') if u.find_spec(n)])"
    )
    assert run(device / "python", "-c", script, cwd=tmp_path).strip() == "[]"


def test_device_half_imports_on_the_oldest_python(device: Path, tmp_path: Path) -> None:
    script = (
        "import importlib, pkgutil, edge_sft\n"
        "for half in ('runtime', 'slots', 'engines', 'deploy', 'bundle'):\n"
        "    package = importlib.import_module(f'edge_sft.{half}')\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "from edge_sft import Predictor\n"
        "print('imported')"
    )
    assert run(device / "python", "-c", script, cwd=tmp_path).strip() == "imported"


@pytest.fixture(scope="module")
def coordinator(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has the wheel, and the libraries of this one; not the checkout.

    A path in a .pth file is added without following the .pth files that lie there: an editable install stays out.
    """
    if importlib.util.find_spec("flwr") is None:
        pytest.skip("Flower is not installed: the app in the wheel is not proved")
    home = tmp_path_factory.mktemp("coordinator")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    run(sys.executable, "-m", "zipfile", "-e", wheel, packages, cwd=home)
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def test_the_app_in_the_wheel_is_the_checkout_s_bit_by_bit(coordinator: Path, tmp_path: Path) -> None:
    """Sites pin this digest: a coordinator from a wheel and one from the sources must send the same app."""
    from edge_sft.federated.app import app_sha256

    script = (
        "import edge_sft; from edge_sft.federated.app import app_directory, app_sha256; "
        "assert 'site-packages' in edge_sft.__file__, edge_sft.__file__; "
        "assert '_data' in str(app_directory()), app_directory(); "
        "print(app_sha256())"
    )
    assert run(coordinator, "-c", script, cwd=tmp_path).strip() == app_sha256()
