"""A process with torch-pointcloud: python torch_pointcloud_outputs.py MODEL FOLDER, from weights.pth and voxels.npz to
outputs.npz, all anchors' boxes and class logits.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch_pointcloud.models import pointpillars  # noqa: F401  (registers the models)
from torch_pointcloud.models._registry import create_model

name, folder = sys.argv[1], Path(sys.argv[2])
model = create_model(name, task="detection").eval()
state = torch.load(folder / "weights.pth", weights_only=True)["model_state"]
missing, unexpected = model.load_state_dict(state, strict=False)
if unexpected or any("num_batches" not in key and not key.endswith("indices") for key in missing):
    sys.exit(f"missing {missing}, unexpected {unexpected}")
arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / "voxels.npz").items()}
coords = arrays["voxel_coords"].long()
with torch.no_grad():
    out = model(arrays["voxels"], coords[:, 1:], arrays["voxel_num_points"].long(), coords[:, 0])
logits = out["batch_cls"] if "batch_cls" in out else torch.cat([part.amax(dim=-1) for part in out["cls"]], dim=1)
np.savez(folder / "outputs.npz", boxes=out["batch_box"].numpy(), logits=logits.numpy())
