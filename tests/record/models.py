"""OpenPCDet's models on the small grids of ``tests/tiny_models.py``, in float64: losses, gradients, detections."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from pcdet_focal.ops.iou3d_nms import iou3d_nms_utils as exact


def _scatter_mean(src: Tensor, index: Tensor, dim: int = 0) -> Tensor:
    groups = int(index.max()) + 1
    total = src.new_zeros(groups, *src.shape[1:]).index_add(0, index, src)
    return total / torch.bincount(index, minlength=groups).view(-1, *[1] * (src.dim() - 1)).to(src.dtype)


def _scatter_max(src: Tensor, index: Tensor, dim: int = 0) -> tuple[Tensor, None]:
    groups = int(index.max()) + 1
    where = index.view(-1, 1).expand_as(src)
    return src.new_full((groups, src.shape[1]), -torch.inf).scatter_reduce(0, where, src, "amax"), None


def _stay_double(self: Tensor, *args) -> Tensor:
    return self if self.is_floating_point() else self.double()


def record(out: Path) -> None:
    """Write tiny_models.json into ``out``; after ``peer.open_checkout``."""
    import tiny_models
    import torch_scatter
    from pcdet.models import build_network
    from pcdet.ops.iou3d_nms import iou3d_nms_utils

    torch_scatter.scatter_mean, torch_scatter.scatter_max = _scatter_mean, _scatter_max
    for name in ("boxes_iou_bev", "boxes_iou3d_gpu", "paired_boxes_iou3d_gpu", "nms_gpu", "nms_normal_gpu"):
        setattr(iou3d_nms_utils, name, getattr(exact, name))
    torch.Tensor.float, torch.cuda.FloatTensor = _stay_double, torch.DoubleTensor  # type: ignore[method-assign]
    made = {}
    for name in tiny_models.recorded():
        try:
            cfg = tiny_models.load_cfg(name)
            dataset = tiny_models.tiny_dataset(cfg)
            net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)
            for module in net.modules():
                if isinstance(vars(module).get("anchors"), list):
                    module.anchors = [anchors.double() for anchors in module.anchors]
            made[name] = tiny_models.measure(tiny_models.calmed(net), tiny_models.tiny_batch(name, cfg, dataset))
        except Exception as error:
            print(f"{name}: not made: {type(error).__name__}: {str(error)[:100]}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "tiny_models.json").write_text(json.dumps(made))
