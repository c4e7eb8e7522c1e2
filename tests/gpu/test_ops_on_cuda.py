"""The operations on a GPU against the same operations on the CPU: equal decisions, equal numbers, and no more waiting
than promised.
"""

import warnings

import numpy as np
import pytest
import torch
from model_data import load_cfg

from pcdet_focal.geometry.box_coders import ResidualCoder
from pcdet_focal.models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from pcdet_focal.models.dense_heads.target_assigner.atss_target_assigner import ATSSTargetAssigner
from pcdet_focal.models.dense_heads.target_assigner.axis_aligned_target_assigner import AxisAlignedTargetAssigner
from pcdet_focal.ops.iou3d_nms import iou3d_nms_utils
from pcdet_focal.ops.nms import nms_axis_aligned, nms_rotated
from pcdet_focal.ops.points_in_boxes import count_points_in_boxes, points_in_boxes_index, points_in_boxes_mask
from pcdet_focal.ops.rotated_iou import (
    boxes_aligned_iou3d,
    boxes_aligned_iou_bev,
    boxes_iou3d,
    boxes_iou_bev,
    boxes_overlap_bev,
    paired_iou,
)
from pcdet_focal.ops.scatter import scatter_max, scatter_mean
from pcdet_focal.ops.voxelize import dynamic_voxelize, voxelize

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CONFIG = dict(voxel_size=[0.05, 0.05, 0.1], point_cloud_range=[0, -40, -3, 70.4, 40, 1])


def on_gpu(value):
    if isinstance(value, (list, tuple)):
        return type(value)(on_gpu(v) for v in value)
    return value.cuda() if isinstance(value, torch.Tensor) else value


def assert_same(got, want, **tolerance):
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        got, want = list(got.values()), list(want.values())
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            assert_same(g, w, **tolerance)
        return
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), want, **(tolerance or dict(rtol=0, atol=0)))


def waits(function):
    """How often the host waits for the device in a call after the first, which compiles and fills caches."""
    function()
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return sum("synchronizing" in str(w.message) for w in caught)


def boxes(count, extent=20.0, seed=0, dtype=torch.float32):
    """Some identical, parallel, touching, without size, huge, far away and not finite."""
    rng = np.random.default_rng(seed)
    made = np.concatenate(
        [
            rng.uniform(-extent, extent, (count, 2)),
            rng.uniform(-1, 1, (count, 1)),
            rng.uniform(0.5, 5, (count, 3)),
            rng.uniform(-7, 7, (count, 1)),
        ],
        axis=1,
    )
    made[::7] = made[0]
    made[1::7, 6] = 0
    made[2] = made[1] + [made[1, 3], 0, 0, 0, 0, 0, 0]
    made[3, 3], made[4, 3:5], made[5, 0], made[6, 1], made[8, 6] = 0, 300, 1e30, np.nan, np.inf
    return torch.from_numpy(made).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("counts", [(1, 1), (37, 301), (1000, 1)])
def test_rotated_iou(counts, dtype):
    a, b = (
        boxes(max(count, 10), seed=seed, dtype=torch.float64)[:count].to(dtype) for seed, count in enumerate(counts)
    )
    error = {torch.float64: 1e-11, torch.float32: 1e-6, torch.float16: 1e-3}[dtype]
    tolerance = dict(rtol=error, atol=error)
    for function in (boxes_overlap_bev, boxes_iou_bev, boxes_iou3d):
        assert_same(function(a.cuda(), b.cuda()), function(a, b), **tolerance)
    for function in (boxes_aligned_iou_bev, boxes_aligned_iou3d):
        assert_same(function(a.cuda(), b[:1].expand_as(a).cuda()), function(a, b[:1].expand_as(a)), **tolerance)
    assert waits(lambda: boxes_iou3d(a.cuda(), b.cuda())) <= 2  # the two copies from the host


@pytest.mark.parametrize("space", ["bev", "3d"])
@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_differentiable_iou(kind, space):
    results = []
    for device in ("cpu", "cuda"):
        a, b = (boxes(200, 6, seed, torch.float64).to(device).requires_grad_() for seed in (0, 1))
        value = paired_iou(a, b, kind, space)
        results.append([value, *torch.autograd.grad(value.sum(), (a, b))])
    assert_same(results[1], results[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("count, extent", [(1, 5.0), (64, 5.0), (65, 5.0), (4096, 40.0), (9000, 60.0)])
@pytest.mark.parametrize("nms", [nms_rotated, nms_axis_aligned])
def test_nms(nms, count, extent):
    some, scores = (
        boxes(max(count, 10), extent)[:count],
        torch.from_numpy(np.random.default_rng(2).integers(0, count, count) / count),
    )
    for limits in ({}, dict(pre_maxsize=1000, post_maxsize=100)):
        for thresh in (0.01, 0.5):
            assert_same(nms(some.cuda(), scores.cuda(), thresh, **limits), nms(some, scores, thresh, **limits))
    groups = torch.from_numpy(np.random.default_rng(3).integers(-1, 4, count))
    arguments = [0.01, 0.1, 0.3, 0.7], [None, 500, 100, 64], [50, None, 20, 1], groups
    assert_same(nms(some.cuda(), scores.cuda(), *on_gpu(arguments)), nms(some, scores, *arguments))
    device_some, device_scores, device_groups = on_gpu((some, scores, groups))
    assert waits(lambda: nms(device_some, device_scores, 0.1)) <= 1
    assert waits(lambda: nms(device_some, device_scores, *arguments[:3], device_groups)) <= 1


def test_doors():
    a, b = boxes(20, 5), boxes(20, 5, seed=1)
    for name in ("boxes_iou_bev", "boxes_iou3d_gpu", "boxes_aligned_iou3d_gpu", "paired_boxes_iou3d_gpu"):
        assert_same(
            getattr(iou3d_nms_utils, name)(a.cuda(), b.cuda()),
            getattr(iou3d_nms_utils, name)(a, b),
            rtol=1e-6,
            atol=1e-7,
        )
    assert_same(
        iou3d_nms_utils.nms_gpu(a.cuda(), torch.arange(20.0).cuda(), 0.1)[0],
        iou3d_nms_utils.nms_gpu(a, torch.arange(20.0), 0.1)[0],
    )


def test_points_in_boxes():
    rng = np.random.default_rng(0)
    points, some = (
        torch.from_numpy(rng.normal(0, 8, (2, 3001, 4)).astype(np.float32)),
        torch.stack([boxes(60, 10), boxes(60, 10, seed=1)]),
    )
    some[:, 10:20, 6] = 0
    points[:, :10, :3] = some[:, 10:20, :3] + some[:, 10:20, 3:6] / 2  # on corners
    assert_same(points_in_boxes_index(points.cuda(), some.cuda()), points_in_boxes_index(points, some))
    for function in (points_in_boxes_mask, count_points_in_boxes):
        assert_same(function(points[0].cuda(), some[0].cuda()), function(points[0], some[0]))
    device = on_gpu((points, some))
    assert waits(lambda: points_in_boxes_index(*device)) == 0


def scan(count=60000, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (count, 4)) * [20, 10, 1, 1] + [30, 0, -1, 0]
    points[::997, 1] = np.nan
    points[5::997, 0] = 1e30
    points[7::50, :3] = np.round(points[7::50, :3] / 0.05) * 0.05  # on borders of cells, in float32
    return torch.from_numpy(points.astype(np.float32))


@pytest.mark.parametrize("max_voxels", [100, 16000, 100000])
def test_voxels(max_voxels):
    points = scan()
    assert_same(
        voxelize(points.cuda(), **CONFIG, max_points_per_voxel=5, max_voxels=max_voxels),
        voxelize(points, **CONFIG, max_points_per_voxel=5, max_voxels=max_voxels),
    )
    assert_same(dynamic_voxelize(points.cuda(), **CONFIG), dynamic_voxelize(points, **CONFIG))
    device = points.cuda()
    assert waits(lambda: dynamic_voxelize(device, **CONFIG)) == 0
    assert waits(lambda: voxelize(device, **CONFIG, max_points_per_voxel=5, max_voxels=max_voxels)) <= 1


@pytest.mark.parametrize("function", [scatter_mean, scatter_max])
def test_scatter_is_the_cpus_and_the_same_on_every_run(function):
    src, index = (
        scan()[:, [0, 2, 3]].clone().nan_to_num(),
        torch.from_numpy(np.random.default_rng(1).integers(-1, 200, 60000)),
    )
    src = src.clamp(-100, 100)
    results = []
    for device in ("cpu", "cuda", "cuda"):
        values = src.to(device).requires_grad_()
        out = function(values, index.to(device), 201)
        results.append([out.detach(), torch.autograd.grad((out * out).sum(), values)[0]])
    assert_same(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(results[1], results[2]))
    values, place = src.cuda(), index.cuda()
    assert waits(lambda: function(values, place, 201)) == 0


def head_scene(batch=4, most=30):
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    anchors, _ = AnchorGenerator([0, -40, -3, 70.4, 40, 1], cfg.ANCHOR_GENERATOR_CONFIG).generate_anchors(
        [(176, 200)] * 3
    )
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, (batch, most))
    sizes = np.array([[1, 1, 1], [3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]])[classes]
    made = np.concatenate(
        [
            rng.uniform([0, -40, -1.5], [70, 40, 0], (batch, most, 3)),
            sizes * rng.uniform(0.8, 1.2, (batch, most, 3)),
            rng.uniform(-4, 4, (batch, most, 1)),
            classes[..., None],
        ],
        axis=2,
    )
    made[0, 3] = made[0, 2]
    made[1] = 0
    return cfg, anchors, torch.from_numpy(made).float()


@pytest.mark.parametrize("match_height", [False, True])
def test_axis_aligned_targets(match_height):
    cfg, anchors, gt_boxes = head_scene()
    assigner = AxisAlignedTargetAssigner(cfg, ["Car", "Pedestrian", "Cyclist"], ResidualCoder(), match_height)
    want, device_anchors, device_boxes = assigner.assign_targets(anchors, gt_boxes), on_gpu(anchors), gt_boxes.cuda()
    got = assigner.assign_targets(device_anchors, device_boxes)
    assert_same(got.pop("box_reg_targets"), want.pop("box_reg_targets"), rtol=1e-5, atol=1e-6)
    assert_same(got, want)
    assert waits(lambda: assigner.assign_targets(device_anchors, device_boxes)) == 0


@pytest.mark.parametrize("match_height", [False, True])
def test_atss_targets(match_height):
    _, anchors, gt_boxes = head_scene()
    assigner = ATSSTargetAssigner(9, ResidualCoder(), match_height, anchor_classes=[1, 2, 3])
    want, device_anchors, device_boxes = assigner.assign_targets(anchors, gt_boxes), on_gpu(anchors), gt_boxes.cuda()
    got = assigner.assign_targets(device_anchors, device_boxes)
    assert_same(got.pop("box_reg_targets"), want.pop("box_reg_targets"), rtol=1e-5, atol=1e-6)
    assert_same(got, want)
    assert waits(lambda: assigner.assign_targets(device_anchors, device_boxes)) == 0
