"""Detector and segmenter as networks: shapes, decoding, export, what they refuse, loading what was saved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_sft.errors import UserError
from edge_sft.models import dense
from edge_sft.models.dense.detector import DetectionHead
from edge_sft.recipe import Recipe

pytest.importorskip("onnx", reason="onnx is not installed: the export is not looked at")


def recipe(kind: str, *, size: object = 64, backbone: str = "efficientnet_lite0", **sections: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "toy",
            "task": {"kind": kind, "labels": ["hole", "scratch"]},
            "data": {"path": "."},
            "image": {"size": size},
            "model": {"backbone": backbone, "weights": "random"},
            **sections,
        }
    )


KINDS = {
    "boxes": recipe("detection"),
    "small boxes, an odd size": recipe("detection", size=(52, 76), detection={"small": True, "most": 300}),
    "outlines": recipe("segmentation"),
    "fine outlines of a mobilenet": recipe("segmentation", backbone="mobilenet_v3_large", segmentation={"fine": True}),
}


@pytest.mark.parametrize("given", KINDS.values(), ids=list(KINDS))
def test_answers_have_the_tasks_shapes_and_export_as_they_are(given, tmp_path):
    import onnx
    import onnxruntime

    from edge_sft.export import operators
    from edge_sft.export.onnx_from_checkpoint import export_fp32

    torch.manual_seed(0)
    network, task = dense.build(given)[0], dense.task_of(given)
    with torch.no_grad():
        for part in network.parameters():  # an untrained head says the same everywhere: ties are no test
            part.add_(0.02 * torch.randn_like(part))
    file = export_fp32(network, task, tmp_path)
    assert operators.complaints(onnx.load(file)) == []
    shape = [3, *task.inputs[0].shape[1:]]
    pictures = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    told = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": pictures})
    with torch.no_grad():
        wanted = network(torch.from_numpy(pictures))
    for spec, one, other in zip(task.outputs, told, wanted, strict=True):
        assert spec.accepts(one.shape)
        assert str(one.dtype) == spec.dtype
        if spec.name != "labels":
            assert one == pytest.approx(other.numpy(), abs=2e-2 if spec.name == "boxes" else 1e-4)


def test_nvidias_parser_takes_the_decoding(tmp_path):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: the parser is not asked")
    from edge_sft.export.onnx_from_checkpoint import export_fp32

    given = KINDS["boxes"]
    file = export_fp32(dense.build(given)[0], dense.task_of(given), tmp_path)
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    taken = parser.parse(file.read_bytes())
    assert taken, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    del parser


def head(**peaks: float) -> tuple[DetectionHead, tuple[torch.Tensor, ...]]:
    """A head of 2 labels on 4 x 4 places of 8 pixels, and raw answers with peaks at ``lyx``."""
    one = DetectionHead(8, 2, stride=8, size=(32, 32), most=10)
    heat = torch.full((1, 2, 4, 4), -20.0)
    for place, value in peaks.items():
        label, y, x = map(int, place.lstrip("p"))
        heat[0, label, y, x] = value
    return one, (heat, torch.zeros(1, 4, 4, 4), torch.full((1, 1, 4, 4), 20.0))


def test_peaks_become_boxes_in_falling_order():
    one, raw = head(p011=1.0, p133=3.0)
    boxes, scores, labels = one.answers(raw)
    assert labels[0, :2].tolist() == [1, 0]
    assert boxes[0, 0].tolist() == [20, 20, 32, 32]  # centre 28, one cell to each side, cut at the picture's edge
    assert boxes[0, 1].tolist() == [4, 4, 20, 20]
    assert scores[0, 0] ** 2 == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item(), abs=1e-4)
    assert (scores[0, 2:] < 1e-3).all()


def test_neighbours_of_a_peak_are_no_objects():
    one, raw = head(p011=3.0, p012=2.9, p021=2.0)
    assert (one.answers(raw)[1][0] > 0.1).sum() == 1


def test_doubles_fade_and_other_labels_do_not():
    one = DetectionHead(8, 2, stride=8, size=(64, 64), most=10)
    heat = torch.full((1, 2, 8, 8), -20.0)
    heat[0, 0, 3, 2], heat[0, 0, 3, 4], heat[0, 1, 3, 5], heat[0, 0, 0, 7] = 3.0, 2.0, 1.0, 0.5
    sides = torch.full((1, 4, 8, 8), 1.5)  # 4.5 cells to each side: they lie on each other
    sides[0, :, 0, 7] = -1.0
    _, scores, labels = one.answers((heat, sides, torch.full((1, 1, 8, 8), 20.0)))
    alone = torch.sigmoid(torch.tensor([3.0, 1.0, 0.5, 2.0])).sqrt()
    assert labels[0, :4].tolist() == [0, 1, 0, 0]
    assert scores[0, :3].tolist() == pytest.approx(alone[:3].tolist(), abs=1e-4)
    assert scores[0, 3] < 0.6 * alone[3]
    assert (scores[0].diff() <= 0).all()


def test_fewer_places_than_boxes_are_padded():
    one = DetectionHead(8, 1, stride=8, size=(16, 16), most=10)
    answers = one.answers((torch.zeros(2, 1, 2, 2), torch.zeros(2, 4, 2, 2), torch.zeros(2, 1, 2, 2)))
    assert [tuple(part.shape) for part in answers] == [(2, 10, 4), (2, 10), (2, 10)]
    assert (answers[1][:, 4:] == 0).all()
    assert answers[2].dtype == torch.int32


def test_sizes_that_cannot_be_cut_into_places_are_refused():
    with pytest.raises(UserError, match=r"Take 104|Take 56"):
        dense.task_of(recipe("detection", size=(100, 100)))
    assert dense.task_of(recipe("detection", size=(100, 100), detection={"small": True})).outputs[0].shape[1] == 100


def test_a_backbone_in_one_piece_is_refused():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="1/8, 1/16, 1/32 of the picture"):
        dense.build(recipe("detection", backbone="timm/resnet10t"))
