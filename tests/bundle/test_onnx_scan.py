from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_sft.bundle import keys, reading
from edge_sft.bundle.onnx_scan import find_external_data
from edge_sft.errors import BundleRefused


@pytest.fixture(scope="module")
def onnx() -> ModuleType:
    return pytest.importorskip("onnx", reason="onnx is not installed: that its files are understood is not proved")


def tensor(onnx: ModuleType, *, external: bool, name: str = "w") -> Any:
    made = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    if external:
        made.ClearField("float_data")
        made.data_location = onnx.TensorProto.EXTERNAL
        made.external_data.add(key="location", value="../../etc/passwd")
    return made


def graph(onnx: ModuleType, *nodes: Any, weights: tuple[Any, ...] = ()) -> Any:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    return onnx.helper.make_graph(list(nodes), "g", [x], [x], initializer=list(weights))


def wrapped(onnx: ModuleType, place: str, weight: Any) -> bytes:
    """Put a tensor into one of the places where a model can hold one."""
    make_node, make_graph = onnx.helper.make_node, graph
    constant = make_node("Constant", [], ["c"], value=weight)
    model = onnx.helper.make_model(make_graph(onnx))
    if place == "initializer":
        model.graph.initializer.append(weight)
    elif place == "constant":
        model.graph.node.append(constant)
    elif place == "list":
        node = make_node("Whatever", [], ["c"])
        node.attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(weight)
        model.graph.node.append(node)
    elif place == "subgraph":
        branch = make_graph(onnx, weights=(weight,))
        model.graph.node.append(make_node("If", ["x"], ["y"], then_branch=branch, else_branch=make_graph(onnx)))
    elif place == "graphs":
        node = make_node("Whatever", [], ["c"])
        node.attribute.add(name="many", type=onnx.AttributeProto.GRAPHS).graphs.append(make_graph(onnx, constant))
        model.graph.node.append(node)
    elif place == "sparse":
        model.graph.sparse_initializer.add().indices.CopyFrom(weight)
    elif place == "sparse attribute":
        node = make_node("Whatever", [], ["c"])
        node.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.values.CopyFrom(weight)
        model.graph.node.append(node)
    elif place == "function":
        model.functions.add(name="f", domain="d").node.append(constant)
    elif place == "function default":
        model.functions.add(name="f", domain="d").attribute_proto.add(name="v", type=4).t.CopyFrom(weight)
    elif place == "training":
        model.training_info.add().algorithm.CopyFrom(make_graph(onnx, weights=(weight,)))
    content: bytes = model.SerializeToString()
    return content


PLACES = ["initializer", "constant", "list", "subgraph", "graphs", "sparse", "sparse attribute", "function"]
PLACES += ["function default", "training"]


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(onnx: ModuleType, place: str) -> None:
    assert find_external_data(wrapped(onnx, place, tensor(onnx, external=False))) is None
    assert "external data" in str(find_external_data(wrapped(onnx, place, tensor(onnx, external=True))))


def test_a_location_without_the_flag_counts_too(onnx: ModuleType) -> None:
    odd = tensor(onnx, external=False)
    odd.external_data.add(key="location", value="x.bin")
    assert "external data" in str(find_external_data(wrapped(onnx, "initializer", odd)))


def test_what_is_no_graph_is_told_apart() -> None:
    assert find_external_data(b"") == "is no ONNX graph"
    assert find_external_data(b"\x08\x0a") == "is no ONNX graph"
    assert "no readable ONNX graph" in str(find_external_data(b"\x3a\xff\x01"))
    assert "no readable ONNX graph" in str(find_external_data(b"\x89PNG\r\n\x1a\n"))


def test_nesting_without_end_is_refused() -> None:
    inner = b""
    for _ in range(200):
        for field in (0x32, 0x2A, 0x0A):  # graph of an attribute, attribute of a node, node of a graph
            size = len(inner)
            length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
            inner = bytes([field]) + length + inner
    size = len(inner)
    content = b"\x3a" + bytes([size & 0x7F | 0x80, size >> 7]) + inner
    assert "too deeply" in str(find_external_data(content))


def test_noise_never_crashes_the_walk(onnx: ModuleType) -> None:
    good = bytearray(wrapped(onnx, "subgraph", tensor(onnx, external=False)))
    chance = random.Random(0)
    for _ in range(2000):
        noisy = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        find_external_data(bytes(noisy[: chance.randint(1, len(noisy))]))


def test_a_signed_bundle_with_external_data_is_refused(
    onnx: ModuleType, make: Any, files: dict[str, bytes | Path], private_key: keys.PrivateKey
) -> None:
    reaching = wrapped(onnx, "initializer", tensor(onnx, external=True))
    with pytest.raises(BundleRefused, match=r"fp32\.onnx: keeps tensors in files outside"):
        reading.open_verified(make(files=files | {"fp32.onnx": reaching}), [private_key.public])
