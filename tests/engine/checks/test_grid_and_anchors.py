"""What the grid checks call a misfit is what the network's own modules stumble over; overlaps with anchors are those of
all anchors.
"""

import numpy as np
import pytest
import torch
from easydict import EasyDict

from pcdet_focal.engine.checks.anchors import best_overlaps, check_anchors
from pcdet_focal.engine.checks.collect import Boxes
from pcdet_focal.engine.checks.grid import check_divisible, check_network, encoded_height
from pcdet_focal.engine.checks.scans import check_voxels
from pcdet_focal.geometry.boxes import boxes3d_nearest_bev_iou
from pcdet_focal.models.backbones_2d.base_bev_backbone import BaseBEVBackbone
from pcdet_focal.models.backbones_3d.spconv_backbone import VoxelBackBone8x
from pcdet_focal.models.dense_heads.anchor_head_template import AnchorHeadTemplate
from pcdet_focal.ops.rotated_iou import boxes_iou3d
from pcdet_focal.ops.voxelize import voxelize


@pytest.mark.parametrize("cells", [24, 30, 39, 40, 41, 44, 60])
def test_the_height_of_the_encoded_map_is_the_sparse_backbones(cells):
    backbone = VoxelBackBone8x(EasyDict(), input_channels=2, grid_size=np.array([16, 24, cells]))
    batch = {
        "voxel_features": torch.randn(4, 2),
        "batch_size": 1,
        "voxel_coords": torch.tensor(
            [[0, 1, 2, 3], [0, cells // 2, 20, 9], [0, cells - 1, 0, 15], [0, 5, 5, 5]], dtype=torch.int32
        ),
    }
    height, ny, nx = backbone(batch)["encoded_spconv_tensor"].dense().shape[2:]
    assert encoded_height(cells) == height and (ny, nx) == (3, 2)


LEVELS = {
    "second": ([1, 2], [1, 2]),
    "pointpillar": ([2, 2, 2], [1, 2, 4]),
    "half": ([2, 2], [0.5, 1]),
    "one": ([2], [1]),
}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("cells", [64, 60, 62, 63, 57, 32])
def test_a_backbone_stumbles_exactly_where_the_check_says(levels, cells):
    strides, ups = LEVELS[levels]
    config = EasyDict(
        LAYER_NUMS=[0] * len(strides),
        LAYER_STRIDES=strides,
        NUM_FILTERS=[2] * len(strides),
        UPSAMPLE_STRIDES=ups,
        NUM_UPSAMPLE_FILTERS=[2] * len(strides),
    )
    head_stride = round(strides[0] / ups[0])
    model = {
        "MAP_TO_BEV": {"NAME": "PointPillarScatter"},
        "BACKBONE_2D": config,
        "DENSE_HEAD": {"ANCHOR_GENERATOR_CONFIG": [{"feature_map_stride": head_stride}]},
    }
    try:
        out = BaseBEVBackbone(config, 2)({"spatial_features": torch.zeros(1, 2, 64, cells)})["spatial_features_2d"]
        fits = out.shape[3] == cells // head_stride  # as many cells as anchors
    except RuntimeError:
        fits = False
    found = check_network([cells, 64, 1], [0, 0, -3, cells * 0.5, 32, 1], [0.5, 0.5, 4], model)
    assert (not found) == fits
    if found:
        end = float(found[0].change.split(" to ")[1].split(":")[0])
        # the advice helps
        assert not check_network([round(end / 0.5), 64, 1], [0, 0, -3, end, 32, 1], [0.5, 0.5, 4], model)


def test_a_range_that_is_no_whole_number_of_voxels():
    assert not check_divisible([-75.2, -75.2, -2, 75.2, 75.2, 4], [0.1, 0.1, 0.15], "V")
    (found,) = check_divisible([0, -40, -3, 70.45, 40, 1], [0.1, 0.1, 0.1], "V")
    assert "704.500 voxels" in found.what and "upper x of POINT_CLOUD_RANGE to 70.5, which is 705" in found.change


ENTRY = {
    "class_name": "Car",
    "anchor_sizes": [[3.9, 1.6, 1.5], [4.5, 1.8, 1.6]],
    "anchor_rotations": [0, 1.57],
    "anchor_bottom_heights": [-1.7, -1.0],
    "align_center": False,
    "feature_map_stride": 2,
    "matched_threshold": 0.6,
    "unmatched_threshold": 0.45,
}
RANGE = [0, -10, -3, 32, 10, 1]


@pytest.mark.parametrize("align_center", [False, True])
@pytest.mark.parametrize("match_height", [False, True])
def test_the_best_overlap_is_that_of_all_anchors(align_center, match_height):
    random = np.random.RandomState(0)
    boxes = np.column_stack(
        [
            random.uniform([0, -10, -1.5], [32, 10, 0], (40, 3)),
            random.uniform([3, 1.4, 1.3], [5, 2, 1.9], (40, 3)),
            random.uniform(-np.pi, np.pi, 40),
        ]
    )
    entry = {**ENTRY, "align_center": align_center}
    anchors, _ = AnchorHeadTemplate.generate_anchors([entry], np.array([80, 50, 1]), np.array(RANGE, np.float32))
    everyone = anchors[0].reshape(-1, 7).double().numpy()
    wanted = (boxes_iou3d(boxes, everyone) if match_height else boxes3d_nearest_bev_iou(boxes, everyone)).max(axis=1)
    np.testing.assert_allclose(best_overlaps(boxes, entry, [80, 50, 1], RANGE, match_height), wanted, atol=1e-6)


def test_anchors_that_are_the_objects_are_not_complained_of():
    boxes = np.tile(np.array([16.0, 0.2, -0.95, 3.9, 1.6, 1.5, 0.0]), (6, 1))
    own = Boxes(np.array(["a"] * 6), boxes, np.array(["Car"] * 6))
    head = {"ANCHOR_GENERATOR_CONFIG": [ENTRY]}
    (note,) = check_anchors(own, head, [80, 50, 1], RANGE)
    assert note.severity == "note" and note.what.startswith("0% of 6 Car boxes")
    boxes[:, 3:6] = [10, 3, 4]
    boxes[:, 2] = 4.0 / 2 - 1.7
    checks = [
        finding.check for finding in check_anchors(own, head, [80, 50, 1], RANGE) if finding.severity == "warning"
    ]
    assert checks == ["anchor size", "anchor overlap"]


def test_anchors_that_are_too_far_apart_are_said_with_their_distance():
    boxes = np.tile(np.array([16.35, 0.45, -0.95, 0.4, 0.4, 1.5, 0.0]), (6, 1))
    own = Boxes(np.array(["a"] * 6), boxes, np.array(["Car"] * 6))
    entry = {**ENTRY, "anchor_sizes": [[0.4, 0.4, 1.5]], "feature_map_stride": 8}
    found = check_anchors(own, {"ANCHOR_GENERATOR_CONFIG": [entry]}, [80, 50, 1], RANGE)
    (note,) = [finding for finding in found if "too far apart" in finding.what]
    cell = (RANGE[3] - RANGE[0]) / 10
    assert f"anchors every {cell:.2f} m" in note.what


def test_points_lost_to_the_limits_are_those_that_voxelize_leaves_out():
    random = np.random.RandomState(0)
    points = np.column_stack(
        [random.normal(10, 3, 6000), random.normal(0, 3, 6000), random.uniform(-2, 0, 6000)]
    ).astype(np.float32)
    step = {
        "NAME": "transform_points_to_voxels",
        "VOXEL_SIZE": [0.5, 0.5, 4],
        "MAX_POINTS_PER_VOXEL": 4,
        "MAX_NUMBER_OF_VOXELS": {"train": 300},
    }
    _, _, unlimited = voxelize(points, step["VOXEL_SIZE"], RANGE, 100000, 100000)
    _, _, places = voxelize(points, step["VOXEL_SIZE"], RANGE, 4, 100000)
    found = {finding.check: finding for finding in check_voxels({"a": points}, RANGE, step, "train")}
    assert f"up to {len(unlimited)}; {1 - 300 / len(unlimited):.0%} of all voxels" in found["too many voxels"].what
    assert f"lose {1 - places.sum() / unlimited.sum():.0%} of the points" in found["full voxels"].what
    assert found["full voxels"].severity == "warning" and found["too many voxels"].severity == "warning"
    step.update(MAX_POINTS_PER_VOXEL=1000, MAX_NUMBER_OF_VOXELS={"train": len(unlimited)})
    assert not check_voxels({"a": points}, RANGE, step, "train")
