"""Detectors, built from the MODEL section of a configuration, and the glue between a data loader's batch and a
detector.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import torch
from torch import nn

from .detectors import build_detector

ModelReturn = namedtuple("ModelReturn", ["loss", "tb_dict", "disp_dict"])


def build_network(model_cfg, num_class: int, dataset) -> nn.Module:
    """Build the detector that ``model_cfg.NAME`` names.

    Args:
        model_cfg: the MODEL section of a configuration.
        num_class: number of classes.
        dataset: anything with ``class_names``, ``point_feature_encoder.num_point_features``, ``grid_size`` (x, y, z),
            ``voxel_size``, ``point_cloud_range`` and ``depth_downsample_factor``.
    """
    return build_detector(model_cfg=model_cfg, num_class=num_class, dataset=dataset)


def load_data_to_device(batch_dict: dict, device: torch.device | str) -> None:
    """Turn the numeric arrays of a collated batch into tensors on ``device``, in the dictionary itself.

    Floating arrays become float32; integers (``voxel_coords``, ``voxel_num_points``, ``image_shape``) stay integers.
    Arrays of text or objects (``frame_id``, ``calib``) stay as they are.
    """
    for key, value in batch_dict.items():
        if isinstance(value, torch.Tensor):
            batch_dict[key] = value.to(device)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            batch_dict[key] = torch.from_numpy(value).float().to(device)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "iu" and key not in ("frame_id", "metadata"):
            batch_dict[key] = torch.from_numpy(value.astype(np.int64) if value.dtype.kind == "u" else value).to(device)


def load_data_to_gpu(batch_dict: dict) -> None:
    """OpenPCDet's name: :func:`load_data_to_device` with the current CUDA device, or the CPU where there is none."""
    load_data_to_device(batch_dict, "cuda" if torch.cuda.is_available() else "cpu")


def model_fn_decorator():
    """The function that a training loop calls: (model, batch_dict) -> ModelReturn(loss, tb_dict, disp_dict)."""

    def model_func(model: nn.Module, batch_dict: dict) -> ModelReturn:
        load_data_to_device(batch_dict, next(model.parameters()).device)
        ret_dict, tb_dict, disp_dict = model(batch_dict)
        getattr(model, "module", model).update_global_step()
        return ModelReturn(ret_dict["loss"].mean(), tb_dict, disp_dict)

    return model_func
