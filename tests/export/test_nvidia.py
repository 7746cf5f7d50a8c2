"""NVIDIA's real parser and builder, on the CPU: what they take here they take on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_sft.export.variants import ExportResult

GPUS = ("SM86", "SM89", "SM120")  # RTX cards of the Ampere, Ada and Blackwell kind; none of them is needed here


@pytest.fixture(scope="module")
def rtx() -> Any:
    reason = "tensorrt_rtx is not installed: that NVIDIA's parser takes the variants is not proved"
    return pytest.importorskip("tensorrt_rtx", reason=reason)


def parse(rtx: Any, file: Path) -> tuple[Any, list[str]]:
    """Return an engine for the three kinds of RTX card, batch 1 to 8, or None and the parser's complaints."""
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    if not parser.parse(file.read_bytes()):
        return None, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(place) for place in range(network.num_inputs)):
        if tensor.shape[0] == -1:
            profile.set_shape(tensor.name, *[[batch, *list(tensor.shape)[1:]] for batch in (1, 1, 8)])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(GPUS)
    for place, gpu in enumerate(GPUS):
        config.set_compute_capability(getattr(rtx.ComputeCapability, gpu), place)
    engine = builder.build_serialized_network(network, config)
    del parser  # only now: the network uses the parser's memory
    return engine, []


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8-trt"])
def test_the_parser_takes_it_and_the_builder_builds(rtx: Any, exported: ExportResult, variant: str) -> None:
    engine, complaints = parse(rtx, exported.files[variant])  # type: ignore[index]
    assert complaints == []
    assert engine is not None


def test_the_cpu_flavour_is_what_it_refuses(rtx: Any, exported: ExportResult) -> None:
    """The reason for two flavours; when this fails one day, one of them can go."""
    engine, complaints = parse(rtx, exported.files["int8-cpu"])
    assert engine is None
    assert complaints
