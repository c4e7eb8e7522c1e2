"""OpenPCDet's own loader and optimiser, in a process of its own: FOLDER has ``ours.pth`` (and the same in spconv 1.x's
layout, ``old.pth``).

Loads them as its train.py does, takes one more step, writes ``theirs.pth`` as its train.py does, and prints what
differed.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import peer_on_cpu  # noqa: F401  (before pcdet)
import torch
from model_data import dataset_like

TOOLS, FOLDER = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, TOOLS)
from easydict import EasyDict  # noqa: E402
from pcdet.config import cfg_from_yaml_file  # noqa: E402
from pcdet.models import build_network  # noqa: E402
from train_utils.optimization import build_optimizer  # noqa: E402
from train_utils.train_utils import checkpoint_state, save_checkpoint  # noqa: E402

LOGGER = logging.getLogger("there")


def new_model():
    cfg = cfg_from_yaml_file(FOLDER / "second.yaml", EasyDict())
    model = build_network(
        model_cfg=cfg.MODEL, num_class=3, dataset=dataset_like(json.loads((FOLDER / "meta.json").read_text()))
    )
    return model, build_optimizer(model, cfg.OPTIMIZATION)


def difference(model, state) -> float:
    own = model.state_dict()
    assert own.keys() == state.keys() and all(own[key].shape == value.shape for key, value in state.items())
    return max(float((own[key] - value).abs().max()) for key, value in state.items() if value.is_floating_point())


expected = torch.load(FOLDER / "ours.pth", weights_only=False)
found = {}
model, _ = new_model()
model.load_params_from_file(str(FOLDER / "ours.pth"), LOGGER, to_cpu=True)
found["weights"] = difference(model, expected["model_state"])
model, _ = new_model()
model.load_params_from_file(str(FOLDER / "old.pth"), LOGGER, to_cpu=True)
found["weights of spconv 1.x"] = difference(model, expected["model_state"])
model, optimizer = new_model()
found["it, epoch"] = model.load_params_with_optimizer(
    str(FOLDER / "ours.pth"), to_cpu=True, optimizer=optimizer, logger=LOGGER
)
optimizer.lr, optimizer.mom = np.float64(0.002), np.cos(0.5)  # numpy's numbers, as its schedule sets them
for index, parameter in enumerate(model.parameters()):
    parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
optimizer.step()
save_checkpoint(checkpoint_state(model, optimizer, 3, 90), FOLDER / "theirs")
print(json.dumps(found))
