"""Every bundle that must not run is refused in one clear line, and the old slot goes on serving."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from edge_sft import Predictor
from edge_sft.bundle import container
from edge_sft.bundle.reading import open_verified
from edge_sft.deploy.local import deploy
from edge_sft.errors import BundleRefused, EdgeSftError
from edge_sft.profile import Budgets
from edge_sft.slots.store import SlotStore


@dataclass
class Line:
    """A device on which the bundle of seed 0 serves."""

    small: ModuleType
    signer: Any
    root: Path
    out: Path
    digest: str

    def deploy(self, bundle: Path, **changes: Any) -> Any:
        given = {"profile": self.small.profile(), "trusted_keys": [self.signer.public], **changes}
        return deploy(bundle, self.root, **given)

    def bundle(self, seed: int = 1, **changes: Any) -> Path:
        return Path(self.small.plan(seed, **changes).write(self.out, self.signer))

    def assert_old_serves(self) -> None:
        store = SlotStore(self.root)
        assert store.generation() == 1
        assert sorted(path.name for path in store.directory.iterdir()) == ["a", "current.json", "deploy.lock"]
        with Predictor.from_device(self.root) as predictor:
            assert predictor.model.digest == self.digest
            assert predictor.predict_image(np.zeros((20, 20, 3), np.uint8)).verdict != "no_decision"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, small: ModuleType) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    made = Line(small, small.Signer.make(folder / "keys"), folder / "root", folder / "out", "")
    made.digest = made.deploy(made.bundle(seed=0)).digest
    yield made
    made.assert_old_serves()


def refused(line: Line, bundle: Path, **changes: Any) -> str:
    with pytest.raises(BundleRefused) as caught:
        line.deploy(bundle, **changes)
    line.assert_old_serves()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def contents(bundle: Path, signer: Any) -> dict[str, bytes]:
    verified = open_verified(bundle, [signer.public])
    names = ["manifest.json", "manifest.sig", *(entry.name for entry in verified.manifest.files)]
    return {name: verified.read(name) for name in names}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    members = container.lay_out([(name, len(body), zlib.crc32(body)) for name, body in files.items()])
    body = b"".join(member.header + files[member.name] for member in members)
    path.write_bytes(body + container.directory(members))
    return path


def re_signed(line: Line, path: Path, change: Callable[[dict[str, Any]], None], **more: bytes) -> Path:
    files = contents(line.bundle(), line.signer)
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    files["manifest.json"] = json.dumps(manifest).encode()
    files["manifest.sig"] = line.signer.private.sign(files["manifest.json"])
    return packed(path, {**files, **more})


@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_byte(line: Line, tmp_path: Path, seed: int) -> None:
    body = bytearray(line.bundle().read_bytes())
    rng = np.random.default_rng(seed)
    body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
    bundle = tmp_path / "flipped.edge"
    bundle.write_bytes(body)
    refused(line, bundle)


def test_wrong_key(line: Line, tmp_path: Path) -> None:
    other = line.small.Signer.make(tmp_path / "keys", "stranger")
    text = refused(line, line.small.plan(1).write(tmp_path, other))
    assert "none of the trusted keys" in text


def test_unknown_schema(line: Line, tmp_path: Path) -> None:
    bundle = re_signed(line, tmp_path / "new.edge", lambda manifest: manifest.update(schema_version=2))
    assert "schema_version 2" in refused(line, bundle)


@pytest.mark.parametrize("name", ["../evil.onnx", "/etc/evil", "a\\..\\evil", "C:evil"])
def test_path_traversal(line: Line, tmp_path: Path, name: str) -> None:
    bundle = packed(tmp_path / "tricky.edge", {**contents(line.bundle(), line.signer), name: b"x"})
    assert "without folders" in refused(line, bundle)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.999])
def test_truncated_zip(line: Line, tmp_path: Path, share: float) -> None:
    body = line.bundle().read_bytes()
    bundle = tmp_path / "cut.edge"
    bundle.write_bytes(body[: int(len(body) * share)])
    refused(line, bundle)


def test_extra_file(line: Line, tmp_path: Path) -> None:
    bundle = packed(tmp_path / "more.edge", {**contents(line.bundle(), line.signer), "setup.py": b"x"})
    assert "setup.py" in refused(line, bundle)


@pytest.mark.parametrize("name", ["proof.json", "site-policy.json"])
def test_a_signed_file_that_only_the_device_writes(line: Line, name: str) -> None:
    assert "only a device writes" in refused(line, line.bundle(extra={name: b"{}"}))


def test_nan_outputs(line: Line) -> None:
    expected = line.small.run(line.small.graph(), line.small.pictures(8, 16))
    bundle = line.bundle(graphs={"fp32": line.small.graph(nan=True)}, golden={"fp32": expected})
    assert "NaN" in refused(line, bundle)


def test_golden_samples_that_are_nan_themselves_prove_nothing(line: Line) -> None:
    assert "NaN" in refused(line, line.bundle(graphs={"fp32": line.small.graph(nan=True)}))


def test_another_model_than_the_golden_samples_came_from(line: Line) -> None:
    expected = line.small.run(line.small.graph(seed=7), line.small.pictures(8, 16))
    assert "golden outputs differ" in refused(line, line.bundle(golden={"fp32": expected}))


def test_decisions_that_flip_within_the_tolerance(line: Line) -> None:
    expected = line.small.run(line.small.graph(seed=1), line.small.pictures(8, 16))
    turned = np.roll(expected, 1, axis=1)
    assert "decides" in refused(line, line.bundle(golden={"fp32": turned}, tolerance=2.0))


def test_too_slow_for_its_profile(line: Line) -> None:
    strict = line.small.profile(budgets=Budgets(latency_p95_ms=0.01, memory_mb=1000))
    text = refused(line, line.bundle(), profile=strict)
    assert "too slow: p95" in text
    assert "0.01 ms" in text


def test_too_slow_for_the_policy(line: Line) -> None:
    rule = line.small.plan().policy_or_default().model_copy(update={"deadline_ms": 0.01})
    assert "deadline is 0.01 ms" in refused(line, line.bundle(policy=rule))


def test_too_much_memory(line: Line) -> None:
    rich = line.small.profile(budgets=Budgets(latency_p95_ms=1000, memory_mb=0.5))
    text = refused(line, line.bundle(graphs={"fp32": line.small.graph(seed=1, swell=5_000_000)}), profile=rich)
    assert "MB of memory" in text


def test_external_data(line: Line) -> None:
    model = onnx.load_from_string(line.small.graph())
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location="/etc/passwd")
    model.graph.initializer[0].ClearField("raw_data")
    expected = line.small.run(line.small.graph(), line.small.pictures(8, 16))
    text = refused(line, line.bundle(graphs={"fp32": model.SerializeToString()}, golden={"fp32": expected}))
    assert "external" in text or "outside" in text


@pytest.mark.parametrize(
    ("labels", "ok"),
    [(("good", "dent", "scratch"), ("good",)), (("good", "scratch"), ("good",)), (("good", "scratch", "dent"), ())],
    ids=["another order", "fewer", "other good labels"],
)
def test_wrong_task_for_the_policy(line: Line, labels: tuple[str, ...], ok: tuple[str, ...]) -> None:
    graph = line.small.graph(labels=len(labels))
    text = refused(line, line.bundle(labels=labels, ok=ok, graphs={"fp32": graph}))
    assert "--policy" in text


def test_a_given_policy_for_another_task(line: Line, tmp_path: Path) -> None:
    rule = line.small.plan(labels=("x", "y"), ok=("x",)).policy_or_default()
    path = tmp_path / "policy.json"
    path.write_text(rule.model_dump_json())
    assert "was made for the labels" in refused(line, line.bundle(), policy=path)


def test_a_bundle_whose_own_policy_does_not_fit(line: Line) -> None:
    rule = line.small.plan(labels=("x", "y"), ok=("x",)).policy_or_default()
    assert "policy.json" in refused(line, line.bundle(policy=rule))


def test_no_variant_that_the_profile_permits(line: Line) -> None:
    assert "permits int8-trt" in refused(line, line.bundle(), profile=line.small.profile(variants=("int8-trt",)))


@pytest.mark.parametrize("golden", [b"", b"PK nonsense", b"half"])
def test_unreadable_golden_samples(line: Line, golden: bytes) -> None:
    assert "golden.npz" in refused(line, line.bundle(extra={"golden.npz": golden}))


def test_a_model_with_another_input_than_its_task_says(line: Line) -> None:
    graph = line.small.graph(size=20)
    expected = line.small.run(line.small.graph(), line.small.pictures(8, 16))
    assert "takes 'image'" in refused(line, line.bundle(graphs={"fp32": graph}, golden={"fp32": expected}))


def test_a_file_that_is_not_there(line: Line, tmp_path: Path) -> None:
    with pytest.raises(EdgeSftError, match="does not exist"):
        line.deploy(tmp_path / "none.edge")


def test_the_command_says_it_in_one_line(line: Line) -> None:
    bundle = line.bundle()
    body = bytearray(bundle.read_bytes())
    body[len(body) // 2] ^= 1
    bundle.write_bytes(body)
    key = ["--key", line.signer.public_path]
    done = subprocess.run(
        [sys.executable, "-m", "edge_sft.cli.main", "deploy", bundle, "--root", line.root, *key],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == BundleRefused.exit_code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout
