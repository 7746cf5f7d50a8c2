"""A deploy killed −9, wherever: the old or the new slot serves, never neither, and the next deploy succeeds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_sft import Predictor
from edge_sft.bundle.keys import load_public
from edge_sft.deploy import proving
from edge_sft.deploy.local import deploy
from edge_sft.slots.store import SlotStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")

DEPLOY = """
import sys
from pathlib import Path
from edge_sft.bundle.keys import load_public
from edge_sft.deploy.local import deploy
from edge_sft.profile import DeviceProfile
bundle, root, key, profile = sys.argv[1:]
deploy(Path(bundle), Path(root), profile=DeviceProfile.model_validate_json(profile),
       trusted_keys=[load_public(Path(key))])
"""

# Forks from one warm process; in each child the n-th file operation under the device's folder is its last.
EVERY_STEP = """
import json, os, signal, sys
from pathlib import Path
from edge_sft.bundle.keys import load_public
from edge_sft.deploy import proving
from edge_sft.deploy.local import deploy
from edge_sft.errors import EdgeSftError
from edge_sft.profile import DeviceProfile
from edge_sft.slots.store import SlotStore

old, new, root, key, profile = sys.argv[1:]
root, keys = Path(root).resolve(), [load_public(Path(key))]
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod")

def measured(request, *, timeout_s):
    items = [proving.Measured(variant=v, golden_difference=0.0, p50_ms=1, p95_ms=2) for v in request.variants]
    return proving.Measurements(items, proving.EngineInfo("onnxruntime", "CPUExecutionProvider", "1", 1))

proving.measure = measured

def put(bundle):
    return deploy(Path(bundle), root, profile=DeviceProfile.model_validate_json(profile), trusted_keys=keys).digest

def die_at(step):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in OPERATIONS and str(root) in str(arguments[:2]):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

digests = {"old": put(old)}
results = []
for step in range(1, 500):
    child = os.fork()
    if not child:
        die_at(step)
        put(new)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    try:
        serving = SlotStore(root).verified()
        results.append([step, killed, serving.digest, serving.note])
        after = put(new)
        digests["new"] = after
        assert SlotStore(root).verified().digest == after
        left = sorted(p.name for p in SlotStore(root).directory.iterdir() if p.name.startswith("."))
        assert not left, left
        put(old)
    except EdgeSftError as error:
        results.append([step, killed, "", str(error)])
    if not killed:
        break
print(json.dumps({"digests": digests, "results": results}))
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A device's folder in memory where there is one: kill −9 means the same there and fsync costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder) / "root"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(request: Any, *, timeout_s: float) -> proving.Measurements:
        items = [proving.Measured(variant=name, golden_difference=0.0, p50_ms=1, p95_ms=2) for name in request.variants]
        return proving.Measurements(items, proving.EngineInfo("onnxruntime", "CPUExecutionProvider", "1", 1))

    monkeypatch.setattr(proving, "measure", measured)


def test_killed_before_every_single_file_operation(tmp_path: Path, root: Path, small: ModuleType) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    old, new = (small.plan(seed).write(tmp_path / "out", signer) for seed in range(2))
    arguments = [old, new, root, signer.public_path, small.profile().model_dump_json()]
    done = subprocess.run(
        [sys.executable, "-c", EVERY_STEP, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    results = told["results"]
    assert len(results) > 30
    assert results[-1][1] is False  # the last one ran to its end: no operation was left out
    served = [digest for _, _, digest, _ in results]
    assert set(served) == {told["digests"]["old"], told["digests"]["new"]}, results
    assert all(note is None for *_, note in results), results
    flips = [one != other for one, other in pairwise(served)]
    sys.stdout.write(f"killed before each of {len(results) - 1} file operations\n")
    assert sum(flips) == 1  # old, old, …, old, new, …: one instant makes the difference


@pytest.mark.slow
def test_killed_at_20_random_instants(tmp_path: Path, root: Path, small: ModuleType, quick: None) -> None:
    signer = small.Signer.make(tmp_path / "keys")
    bundles = [small.plan(seed).write(tmp_path / "out", signer) for seed in range(2)]
    profile = small.profile()

    def start(bundle: Path) -> subprocess.Popen[bytes]:
        arguments = [bundle, root, signer.public_path, profile.model_dump_json()]
        return subprocess.Popen([sys.executable, "-c", DEPLOY, *arguments], stderr=subprocess.DEVNULL)

    def put(bundle: Path) -> str:
        return deploy(bundle, root, profile=profile, trusted_keys=[load_public(signer.public_path)]).digest

    begin = time.monotonic()
    assert start(bundles[0]).wait() == 0
    duration = time.monotonic() - begin
    digests = [put(bundle) for bundle in bundles]
    rng = random.Random(20)
    outcomes = []
    for _ in range(20):
        put(bundles[0])
        store = SlotStore(root)
        child = start(bundles[1])
        time.sleep(rng.uniform(0.1, 1.1) * duration)
        child.kill()
        child.wait()
        current = store.current()
        assert current is not None
        with Predictor.from_device(root) as predictor:
            assert predictor.model.digest == current.digest
            assert predictor.predict_image(np.zeros((20, 20, 3), np.uint8)).verdict != "no_decision"
        outcomes.append(digests.index(current.digest))
        assert put(bundles[1]) == digests[1]
        assert store.verified().digest == digests[1]
    old, new = outcomes.count(0), outcomes.count(1)
    sys.stdout.write(f"killed in deploys of {duration:.1f} s: {old} times the old slot served, {new} the new\n")
    assert old >= 5  # otherwise nothing was killed in the middle
