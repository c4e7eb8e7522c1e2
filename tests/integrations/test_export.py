"""A PointPillars with its post-processing as a graph: traced and exported, with eager's boxes on other scans too."""

import functools

import pytest
import torch
from tiny_models import calmed, load_cfg, tiny_batch, tiny_dataset

from pcdet_focal.errors import InputError
from pcdet_focal.integrations.export import VOXELS, TensorDetector
from pcdet_focal.models import build_network
from pcdet_focal.ops.nms import descending, nms_axis_aligned, nms_rotated

MODELS = ["kitti_models/pointpillar", "waymo_models/centerpoint_pillar_1x", "nuscenes_models/cbgs_pp_multihead"]


@functools.cache
def detector(name: str) -> tuple[TensorDetector, list[tuple[torch.Tensor, ...]]]:
    """A small model of random weights, and the tensors of three scans with different numbers of voxels."""
    cfg = load_cfg(name)
    dataset = tiny_dataset(cfg)
    net = calmed(build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)).float()
    scans = []
    for number, count in enumerate((300, 251, 300)):
        batch = tiny_batch(f"{name} {number}", cfg, dataset)
        first = (batch["voxel_coords"][:, 0] == 0).nonzero().flatten()[:count]
        voxels, num_points, coords = (batch[key][first] for key in VOXELS)
        scans.append((voxels.float(), num_points, coords))
    return TensorDetector(net), scans


def assert_same_boxes(graph, name: str) -> None:
    model, scans = detector(name)
    shapes = set()
    with torch.no_grad():
        for tensors in scans:
            for got, want in zip(graph(*tensors), model(*tensors)):
                assert torch.equal(got, want)
            shapes.add(want.shape)
    assert len(shapes) > 1 and (0,) not in shapes  # the number of boxes is no constant of the graph


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", MODELS)
def test_traced(name):
    model, scans = detector(name)
    with torch.no_grad():
        graph = torch.jit.trace(model, scans[0], check_trace=False)
    assert_same_boxes(graph, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exported(name):
    model, scans = detector(name)
    num_voxels = torch.export.Dim("num_voxels", min=2, max=40000)
    with torch.no_grad():
        program = torch.export.export(model, scans[0], dynamic_shapes={"tensors": ({0: num_voxels},) * 3})
    assert_same_boxes(program.module(), name)
    operators = {str(node.target) for node in program.graph.nodes}
    assert "pcdet_focal.nms.default" in operators and "aten.sort.default" in operators
    assert not {"aten.sort.stable", "aten.argsort.stable"} & operators


def test_the_wrapper_says_what_it_takes():
    model, scans = detector(MODELS[0])
    with pytest.raises(InputError, match=r"3 tensors \(voxels, voxel_num_points, voxel_coords\), not 2"):
        model(*scans[0][:2])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("suppress", [nms_rotated, nms_axis_aligned])
def test_equal_scores_keep_their_order_in_a_graph(suppress):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 7, generator=generator) * torch.tensor([20, 20, 1, 3, 2, 1, 6.0])
    scores = (torch.rand(200, generator=generator) * 5).round()  # six values

    def function(boxes, scores):
        return descending(scores), suppress(boxes, scores, 0.1, pre_maxsize=150, post_maxsize=60)

    traced = torch.jit.trace(function, (boxes[:50], scores[:50].flip(0)), check_trace=False)
    for got, want in zip(traced(boxes, scores), function(boxes, scores)):
        assert torch.equal(got, want)
