"""OpenPCDet's box functions, coders, anchors, overlaps, NMS and post-processing on the recorded boxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from .heads import anchors
from .peer import changed, config, exact_overlaps, greedy
from .replay import Given, replay

FOLDERS = ["03_geometry"]
# case of box_utils.npz: the function, where it is not called as the case, and arguments after those recorded
FUNCTIONS = {
    "aligned_bev_boxes": "boxes3d_lidar_to_aligned_bev_boxes",
    "aligned_bev_boxes_edges": "boxes3d_lidar_to_aligned_bev_boxes",
    "fakelidar_to_lidar": "boxes3d_kitti_fakelidar_to_lidar",
    "lidar_to_fakelidar": "boxes3d_kitti_lidar_to_fakelidar",
    "corners3d_kitti_camera": "boxes3d_to_corners3d_kitti_camera",
}
NMS = {"NMS_TYPE": "nms_gpu", "NMS_THRESH": 0.1, "NMS_PRE_MAXSIZE": 100, "NMS_POST_MAXSIZE": 20}
BY_CLASS = {"NMS_THRESH": [0.1, 0.3, 0.5], "NMS_PRE_MAXSIZE": [100, 50, 80], "NMS_POST_MAXSIZE": [30, 30, 30]}
SCORES = {
    "class_agnostic": 0.3,
    "class_agnostic_nothresh": None,
    "class_agnostic_none_pass": 2.0,
    "multi_classes": 0.4,
    "class_specific": 0.2,
}
POST_PROCESSING = {
    "raw_score": {"OUTPUT_RAW_SCORE": True},
    "post10": {"NMS_CONFIG.NMS_POST_MAXSIZE": 10, "NMS_CONFIG.NMS_THRESH": 0.2},
    "multi_class_nms_nonlist": {"NMS_CONFIG.MULTI_CLASSES_NMS": True},
}
MEAN_SIZE = [[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]]


def record(recorded: Path, out: Path) -> None:
    replay(recorded / FOLDERS[0], out / FOLDERS[0], lambda file, *case: globals()[f"_{file}"](*case))


def _box_utils(case: str, given: Given) -> dict:
    from pcdet.ops.roiaware_pool3d import roiaware_pool3d_utils
    from pcdet.utils import box_utils, common_utils

    name, options = FUNCTIONS.get(case, case), {}
    if case.startswith("limit_period"):
        *_, offset, period = case.split("_")
        name = "limit_period"
        options = {"offset": float(offset), "period": np.pi if period == "3.142" else 2 * np.pi}
    elif case.startswith("mask_outside"):
        name, center = "mask_boxes_outside_range_numpy", case.endswith("center")
        options = {"min_num_corners": 1 if center else int(case[-1]), "use_center_to_filter": center}
    elif case == "enlarge_box3d":
        options = {"extra_width": (0.2, 0.4, 0.6)}
    modules = (box_utils, common_utils, roiaware_pool3d_utils)
    function = next(getattr(module, name) for module in modules if hasattr(module, name))
    if case == "get_voxel_centers":
        function = partial(function, downsample_times=4, voxel_size=[0.05, 0.05, 0.1])
        return {"out": function(given["coords"], point_cloud_range=given["range"])}
    *names, result = sorted(given, key=lambda key: (key != "points", list(given).index(key)))
    arguments = [given[key].numpy() if name.endswith(("numpy", "camera")) else given[key] for key in names]
    return {result: function(*arguments, **options)}


def _box_coders(case: str, given: Given) -> dict:
    from pcdet.utils import box_coder_utils

    if case.startswith("Previous"):
        return {"decoded": getattr(box_coder_utils, case).decode_torch(given["codes"], given["anchors"])}
    if case.startswith("point"):
        mean = {"use_mean_size": True, "mean_size": MEAN_SIZE} if case == "point_mean" else {"use_mean_size": False}
        coder, names = box_coder_utils.PointResidualCoder(**mean), ("points", "classes")
    else:
        options = {"code_size": 9 if "code9" in case else 7, "encode_angle_by_sincos": "sincos" in case}
        coder, names = box_coder_utils.ResidualCoder(**options), ("anchors",)
    codes = coder.encode_torch(given["boxes"], *given.some(*names).values())
    made = {"codes": codes, "decoded": coder.decode_torch(codes, *given.some(*names).values())}
    if "codes_bn" in given:
        made["decoded_bn"] = coder.decode_torch(given["codes_bn"], given["anchors_bn"])
    return made


def _anchors(case: str, given: Given) -> dict:
    made = anchors(case)
    boxes = made.pop("anchors")
    parts = {f"class{n}": part for n, part in enumerate(boxes)}
    for name, part in {"concat": torch.cat(boxes, dim=-3).view(-1, 7), **parts}.items():
        flat = part.double().view(-1)
        numbers = {"sum": flat.sum(), "abssum": flat.abs().sum(), "min": flat.min(), "max": flat.max()}
        numbers |= {"mean": flat.mean(), "n_nonfinite": (~flat.isfinite()).sum(), "shape": part.shape}
        numbers["val"] = part.view(-1)[given[f"{name}__idx"].long()]
        made |= {f"{name}__{key}": value for key, value in numbers.items()}
    return made


def _rotated_iou(case: str, given: Given) -> dict:
    from pcdet.ops.iou3d_nms import iou3d_nms_utils as peer

    a, b = given["a"], given["b"]
    overlap = exact_overlaps(a[:, [0, 1, 3, 4, 6]].numpy(), b[:, [0, 1, 3, 4, 6]].numpy())
    high, low = ([x[:, 2] + sign * x[:, 5] / 2 for x in (a.double(), b.double())] for sign in (1, -1))
    height = (torch.minimum(*_outer(*high)) - torch.maximum(*_outer(*low))).clamp(min=0).numpy()
    made = {
        "bev_iou_peer": peer.boxes_bev_iou_cpu(a, b),
        "iou3d_peer": peer.boxes_iou3d_gpu(a, b),
        "overlap_exact": overlap,
        "bev_iou_exact": _iou(overlap, a[:, 3:5], b[:, 3:5]),
        "iou3d_exact": _iou(overlap * height, a[:, 3:6], b[:, 3:6]),
    }
    if len(a) == len(b):
        made |= {"aligned_iou3d": peer.boxes_aligned_iou3d_gpu(a, b), "paired_iou3d": peer.paired_boxes_iou3d_gpu(a, b)}
    return made


def _outer(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return a[:, None], b[None]


def _iou(overlap: np.ndarray, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return overlap / (sum(_outer(a.double().prod(1), b.double().prod(1))).numpy() - overlap)


def _nms(case: str, given: Given) -> dict:
    from easydict import EasyDict
    from pcdet.models.model_utils import model_nms_utils
    from pcdet.ops.iou3d_nms import iou3d_nms_utils

    boxes, scores = given["boxes"], given["scores"]
    if case not in SCORES:
        threshold = given["thresh"]
        order = scores.argsort(descending=True)
        flat = boxes[order][:, [0, 1, 3, 4, 6]].numpy()
        exact = _iou(exact_overlaps(flat, flat), *2 * [boxes[order, 3:5]])
        kept = torch.zeros(len(boxes), dtype=torch.int64)
        return {
            "keep": iou3d_nms_utils.nms_gpu(boxes, scores, threshold)[0],
            "keep_normal": iou3d_nms_utils.nms_normal_gpu(boxes, scores, threshold)[0],
            "keep_exact": order[kept[: greedy(exact, kept, threshold)]],
        }
    function = getattr(model_nms_utils, case.split("_no")[0] + "_nms")
    limits = EasyDict(BY_CLASS if case == "class_specific" else NMS)
    made = function(scores, boxes, *given.some("labels").values(), limits, SCORES[case])
    names = ("out_scores", "out_labels", "out_boxes") if case == "multi_classes" else ("selected", "selected_scores")
    return dict(zip(names, made))


def _post_processing(case: str, given: Given) -> dict:
    from pcdet.models.detectors.detector3d_template import Detector3DTemplate as Peer

    cfg = config("second").MODEL
    changed(cfg.POST_PROCESSING, POST_PROCESSING.get(case))
    batch = given.some("batch_box_preds", "batch_cls_preds", "gt_boxes")
    batch |= {"batch_size": len(batch["batch_box_preds"]), "cls_preds_normalized": False}
    detector = SimpleNamespace(model_cfg=cfg, num_class=3, generate_recall_record=Peer.generate_recall_record)
    found, _ = Peer.post_processing(detector, batch)
    return {f"pred{n}_{key[5:]}": value for n, sample in enumerate(found) for key, value in sample.items()}
