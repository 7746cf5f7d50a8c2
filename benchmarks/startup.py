"""What a device pays before its first decision: install size, time of `--help`, time to the first prediction.

    python benchmarks/startup.py                 # everything; the install needs pip's index or cache
    python benchmarks/startup.py --no-install    # only the times, in this environment

Times are medians of runs interleaved in one go: one round runs every command once, so that a busy machine is busy
for all of them. The first prediction is that of a fresh process: import, open the deployed slot (every file's
SHA-256 is checked), decode one picture, decide; it is set against a bare process that imports onnxruntime.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TRAINING = ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "sklearn", "scipy", "timm", "flwr")

FIRST = """
import sys
from edge_sft import Predictor
with Predictor.from_device({root!r}) as predictor:
    prediction = predictor.predict_image({picture!r})
assert prediction.verdict != "no_decision", prediction.reason
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--no-install", action="store_true", help="skip the fresh environment")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--bundle", type=Path, help="a real .edge file; by default a very small model is made")
    options.add_argument("--key", type=Path, help="its maker's public key")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-sft-startup-") as folder:
        work = Path(folder)
        python = sys.executable if given.no_install else install(work / "device")
        root, picture = deployed(work, given.bundle, given.key)
        times(python, root, picture, given.rounds)


def install(folder: Path) -> str:
    """Install the device half into a fresh environment; print what it weighs."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    before = sizes(packages)
    begin = time.monotonic()
    run([python, "-m", "pip", "install", "--quiet", f"{HERE}[cpu,vision]"], cwd=folder)
    took = time.monotonic() - begin
    grown = {name: size - before.get(name, 0) for name, size in sizes(packages).items()}
    grown = {name: size for name, size in grown.items() if size > 0}
    total = sum(grown.values()) / 1e6
    print(f"device half, pip install edge-sft[cpu,vision]: {total:.0f} MB in {took:.0f} s; most of it:")
    for name, size in sorted(grown.items(), key=lambda item: -item[1])[:8]:
        print(f"  {size / 1e6:7.1f} MB  {name}")
    training = [name for name in TRAINING if (packages / name).exists()]
    print(f"  of the training stack: {', '.join(training) or 'nothing'}")
    return str(python)


def sizes(packages: Path) -> dict[str, int]:
    """Bytes on disk by top folder or file of site-packages (what du counts: blocks of 512)."""
    found: dict[str, int] = {}
    for path in packages.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            size = getattr(status, "st_blocks", 0) * 512 or status.st_size
            top = path.relative_to(packages).parts[0]
            found[top] = found.get(top, 0) + size
    return found


def deployed(work: Path, bundle: Path | None, key: Path | None) -> tuple[Path, Path]:
    """Deploy the bundle with this environment's edge-sft; return the device's folder and a picture."""
    import cv2
    import numpy as np

    picture = work / "picture.jpg"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    if bundle is None:
        spec = importlib.util.spec_from_file_location("small", HERE / "tests" / "contracts" / "small_bundle.py")
        small = importlib.util.module_from_spec(spec)
        sys.modules["small"] = small
        spec.loader.exec_module(small)
        signer = small.Signer.make(work / "keys")
        bundle, key = small.plan().write(work, signer), signer.public_path
    given = ["--key", str(key)] if key else []
    run([sys.executable, "-m", "edge_sft.cli.main", "deploy", str(bundle), "--root", str(work / "root"), *given])
    return work / "root", picture


def times(python: str, root: Path, picture: Path, rounds: int) -> None:
    """Time fresh processes, interleaved; print medians and differences."""
    first = FIRST.format(root=str(root), picture=str(picture))
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "edge-sft --help": [python, "-c", "from edge_sft.cli.main import main; main()", "--help"],
        "import onnxruntime": [python, "-c", "import onnxruntime"],
        "import onnxruntime, cv2": [python, "-c", "import onnxruntime, cv2"],
        "first prediction": [python, "-c", first],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            begin, before = time.perf_counter(), children_s()
            run(command, cwd=root)
            if turn:  # the first round fills the page cache and writes the byte code
                taken[name].append(time.perf_counter() - begin)
                processor[name].append(children_s() - before)
    print(f"\nfresh processes, medians of {rounds} interleaved rounds, Python {run([python, '-V']).split()[1]}:")
    median = {name: statistics.median(values) for name, values in taken.items()}
    for name, values in taken.items():
        used = statistics.median(processor[name])
        details = f"fastest {min(values) * 1000:.0f}, processor time {used * 1000:.0f}"
        print(f"  {median[name] * 1000:7.0f} ms  {name:<24} ({details})")
    over = (median["edge-sft --help"] - median["python -c pass"]) * 1000
    print(f"  --help over python -c pass:               {over:+.0f} ms")
    over = (median["first prediction"] - median["import onnxruntime"]) * 1000
    print(f"  first prediction over import onnxruntime: {over:+.0f} ms")


def children_s() -> float:
    """Processor seconds of all ended children: what a busy machine does not stretch."""
    spent = os.times()
    return spent.children_user + spent.children_system


def run(command: list[object], cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:4]))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
