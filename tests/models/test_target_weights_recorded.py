"""The weights that target assignment gives the losses, against those of mmdetection's dense heads (recorded runs on
images).
"""

import json

import numpy as np
import pytest
import torch
from golden_data import record

from pcdet_focal.geometry.box_coders import ResidualCoder
from pcdet_focal.models.dense_heads.target_assigner.atss_target_assigner import ATSSTargetAssigner
from pcdet_focal.ops.anchor_targets import AssignmentRules, assign_anchor_targets

RECORDED = record("11_loss_zoo/mmdet_dense_head_targets.npz")


def recorded(case):
    with np.load(RECORDED) as data:
        arrays = {key[len(case) + 1 :]: data[key] for key in data.files if key.startswith(case + "_")}
        record = next(r for r in json.loads(data["index"].item()) if r["case"] == case)
    return arrays, record


def as_boxes(corners, *more):
    """Rectangles x1, y1, x2, y2 as unturned boxes of height 1: (N, 4) -> (N, 7 + more)."""
    corners = torch.from_numpy(corners).double()
    centre, size, zero = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2], corners[:, :1] * 0
    return torch.cat([centre, zero, size, zero + 1, zero, *more], dim=1)


def inside(arrays, record, image):
    """Which anchors mmdetection looks at: all, or with ``allowed_border`` those that the image holds."""
    border, (height, width), anchors = (
        record["train_cfg"]["allowed_border"],
        record["img_shapes"][image],
        arrays["anchors"],
    )
    if border < 0:
        return arrays[f"valid_flags_{image}"]
    held = (anchors[:, :2] >= -border).all(1) & (anchors[:, 2] < width + border) & (anchors[:, 3] < height + border)
    return arrays[f"valid_flags_{image}"] & held


@pytest.mark.parametrize("case", ["retina_basic", "retina_posw_border"])
@pytest.mark.parametrize("image", [0, 1])
def test_overlap_thresholds(case, image):
    """mmdetection's anchors take boxes of any class, so here all are of one. ``retina_ignore`` has regions to ignore,
    which do not exist here.
    """
    arrays, record = recorded(case)
    looked_at, assigner = inside(arrays, record, image), record["train_cfg"]["assigner"]
    anchors = as_boxes(arrays["anchors"][looked_at]).view(1, 1, -1, 1, 1, 7)
    corners = arrays[f"gt_bboxes_{image}"]
    boxes = as_boxes(corners, torch.ones(len(corners), 1, dtype=torch.float64))
    rules = AssignmentRules((1,), (assigner["pos_iou_thr"],), (assigner["neg_iou_thr"],), ResidualCoder())
    out = assign_anchor_targets([anchors], boxes[None], rules)
    weights = np.zeros(looked_at.shape)
    weights[looked_at] = out["label_weights"][0]
    positive_weight = max(record["train_cfg"]["pos_weight"], 1)
    positive = arrays["labels"][image] < record["background"]
    np.testing.assert_array_equal(
        np.where(positive, positive_weight * weights, weights), arrays["label_weights"][image]
    )
    box_weights = np.zeros((len(looked_at), 4))
    box_weights[looked_at] = out["bbox_weights"][0, :, :4]
    np.testing.assert_array_equal(box_weights, arrays["bbox_weights"][image])
    assert 0 < (weights == 0).sum() < len(weights) and positive.sum() > 2


@pytest.mark.parametrize("case", ["atss_basic", "atss_empty_gt"])
def test_atss_ignores_nothing(case):
    """In mmdetection a box's threshold spans the levels of the pyramid, in OpenPCDet one set of anchors, so the
    positives are not comparable.
    """
    arrays, record = recorded(case)
    levels = torch.split(as_boxes(arrays["anchors"]), record["num_level_anchors"])
    sets = [level.view(1, *shape, 1, 1, 7) for level, shape in zip(levels, record["featmap_sizes"])]
    for image in (0, 1):
        labels = torch.from_numpy(arrays[f"gt_labels_{image}"]).double()[:, None] + 1
        boxes = as_boxes(arrays[f"gt_bboxes_{image}"], labels)
        out = ATSSTargetAssigner(9, ResidualCoder()).assign_targets(sets, boxes[None])
        np.testing.assert_array_equal(out["label_weights"][0], arrays["label_weights"][image])
        background = out["box_cls_labels"][0] == 0
        assert (out["bbox_weights"][0][background] == 0).all() and (out["bbox_weights"][0][~background] == 1).all()
        assert (~background).sum() >= len(boxes)
