"""A process with torch-pointcloud: python torch_pointcloud_outputs.py MODEL FOLDER, from weights.pth and voxels.npz to
outputs.npz, all anchors' boxes and class logits; the logits again with the first layer's weights in reverse.

Sparse convolutions run with spconv's native algorithm, which is there on a CPU, but for biases only in training mode.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from spconv.pytorch import ConvAlgo
from spconv.pytorch.conv import SparseConvolution
from torch_pointcloud.models import pointpillars, second  # noqa: F401  (they register the models)
from torch_pointcloud.models._registry import create_model
from torch_pointcloud.utils.state_dict import load_state_dict

name, folder = sys.argv[1], Path(sys.argv[2])
model = create_model(name, task="detection").eval()
state = torch.load(folder / "weights.pth", weights_only=True)["model_state"]
load_state_dict(model, state, source="weights.pth")
for module in model.modules():
    if isinstance(module, SparseConvolution):
        module.algo = ConvAlgo.Native
        module.train()
arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / "voxels.npz").items()}
coords = arrays["voxel_coords"].long()


def outputs() -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = model(arrays["voxels"], coords[:, 1:], arrays["voxel_num_points"].long(), coords[:, 0])
    logits = out["batch_cls"] if "batch_cls" in out else torch.cat([part.amax(dim=-1) for part in out["cls"]], dim=1)
    return out["batch_box"].numpy(), logits.numpy()


boxes, logits = outputs()
first = next(value for value in model.parameters() if value.dim() > 1)
first.data = first.data.flatten().flip(0).view_as(first)
np.savez(folder / "outputs.npz", boxes=boxes, logits=logits, logits_of_another_first_layer=outputs()[1])
