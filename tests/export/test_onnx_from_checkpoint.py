from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_sft.checkpoint import CheckpointMeta
from edge_sft.errors import BugError, DataError
from edge_sft.export import gating, graph, pictures
from edge_sft.export.onnx_from_checkpoint import LOG, export_fp32
from edge_sft.export.variants import ExportResult

if TYPE_CHECKING:
    from torch import nn


@pytest.fixture(scope="module")
def file(exported: ExportResult) -> Path:
    return exported.files["fp32"]


def test_numbers_equal_torch_at_every_batch_size(
    torch: ModuleType, tiny: nn.Module, meta: CheckpointMeta, file: Path
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    with torch.inference_mode():
        wanted = tiny(torch.from_numpy(images)).numpy()
    shown = pictures.Pictures(images, np.zeros(7, dtype=np.int64), tuple("abcdefg"))
    for batch in (1, 2, 5, 7):
        assert np.abs(gating.infer(file, meta.task, shown, batch=batch) - wanted).max() < 1e-6


def test_the_same_module_gives_the_same_bytes(
    tiny: nn.Module, meta: CheckpointMeta, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert export_fp32(tiny, meta.task, tmp_path).read_bytes() == file.read_bytes()
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]


def test_nothing_of_the_makers_disk_is_in_the_file(exported: ExportResult) -> None:
    for file in exported.files.values():
        content = file.read_bytes()
        for trace in (b"/home", b"/work", b"/usr", b"/tmp", b".py", b"site-packages", b"pkg.torch", b"stack_trace"):
            assert trace not in content, (file.name, trace)


def test_the_graph_is_what_the_bundle_promises(file: Path) -> None:
    import onnx

    model = onnx.load(file)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", graph.OPSET)]
    assert model.graph.node[0].op_type == "Cast"
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert model.producer_name == "edge-sft"


def test_a_failing_exporter_is_one_line_and_a_log(torch: ModuleType, meta: CheckpointMeta, tmp_path: Path) -> None:
    class Branching(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.softmax(image.float().mean((1, 2)) if image.sum() > 3 else image[:, 0, 0].float(), dim=1)

    with pytest.raises(BugError) as caught:
        export_fp32(Branching(), meta.task, tmp_path)
    assert str(tmp_path / LOG) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" in (tmp_path / LOG).read_text()


def test_a_picture_must_be_cast_first(torch: ModuleType, meta: CheckpointMeta, tmp_path: Path) -> None:
    class TransposeFirst(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.softmax(image.permute(0, 3, 1, 2).float().mean((2, 3)), dim=1)

    with pytest.raises(BugError, match="instead of a Cast"):
        export_fp32(TransposeFirst(), meta.task, tmp_path)


def test_weights_that_are_not_finite_are_the_trainings_fault(
    torch: ModuleType, meta: CheckpointMeta, tmp_path: Path
) -> None:
    class Broken(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([1.0, float("nan"), 1.0]))

        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.softmax(image.float().mean((1, 2)) * self.scale, dim=1)

    with pytest.raises(DataError, match="not finite"):
        export_fp32(Broken(), meta.task, tmp_path)


def test_a_module_of_another_task_is_noticed(torch: ModuleType, meta: CheckpointMeta, tmp_path: Path) -> None:
    class TwoClasses(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, image):  # type: ignore[no-untyped-def]
            return torch.softmax(image.float().mean((1, 2))[:, :2], dim=1)

    with pytest.raises(BugError, match="the task says otherwise"):
        export_fp32(TwoClasses(), meta.task, tmp_path)


def test_a_batch_size_is_asked_of_the_cast_not_of_the_picture(
    torch: ModuleType, meta: CheckpointMeta, tmp_path: Path
) -> None:
    """A transformer repeats its class token for every picture; NVIDIA's parsers let uint8 feed a Cast alone."""
    import onnx

    class Token(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.token = torch.nn.Parameter(torch.zeros(1, 1, 3))

        def forward(self, image):  # type: ignore[no-untyped-def]
            patches = image.float().flatten(1, 2)
            return torch.softmax(torch.cat([self.token.expand(image.shape[0], -1, -1), patches], dim=1).mean(1), dim=1)

    model = onnx.load(export_fp32(Token(), meta.task, tmp_path))
    assert "Shape" in {node.op_type for node in model.graph.node}
    assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
