from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sft.bundle import keys, manifest, writing
from edge_sft.preprocess import Preprocess
from edge_sft.task import image_classification

# ModelProto{ir_version: 10, graph: GraphProto{name: "g"}}: the smallest thing that is a graph
TINY_GRAPH = b"\x08\x0a\x3a\x03\x12\x01g"


@pytest.fixture
def private_key(tmp_path: Path) -> keys.PrivateKey:
    return keys.load_private(keys.generate(tmp_path / "keys").private)


@pytest.fixture
def draft() -> manifest.Draft:
    return manifest.Draft(
        name="screws",
        version="1.2.3",
        created_at="2026-01-31T12:00:00.000Z",
        made_by="edge-sft 0.1.0",
        task=image_classification(("good", "bad"), ("good",), 32, 32),
        preprocess=Preprocess(height=32, width=32),
        variants=(manifest.VariantEntry(variant="fp32", file="fp32.onnx", golden_tolerance=1e-4),),
        dataset_fingerprint="d" * 64,
        weights_sha256="a" * 64,
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes | Path]:
    graph = tmp_path / "fp32.onnx"
    graph.write_bytes(TINY_GRAPH)
    return {"fp32.onnx": graph, "golden.npz": b"golden", "policy.json": b"{}", "recipe.toml": b"name = 'x'\n"}


@pytest.fixture
def make(
    tmp_path: Path, draft: manifest.Draft, files: dict[str, bytes | Path], private_key: keys.PrivateKey
) -> Callable[..., Path]:
    """Write a bundle, with some of its parts exchanged."""

    def write(
        draft: manifest.Draft = draft,
        files: dict[str, bytes | Path] = files,
        key: keys.PrivateKey = private_key,
        out: Path = tmp_path / "out",
    ) -> Path:
        return writing.write_bundle(out, draft, files, key)

    return write
