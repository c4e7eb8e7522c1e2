"""OpenPCDet's trained weights by name, from the Hugging Face hub, where the project torch-pointcloud publishes them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError, nearest_or_all

logger = logging.getLogger("pcdet_focal")
FILE = "model.safetensors"
_said: set[str] = set()


@dataclass(frozen=True)
class HubModel:
    """A file of weights on the hub.

    Attributes:
        repository, revision: on the hub; the revision is a commit, so that the weights never change.
        config: the configuration of this package. dataset: what it was trained on.
        figures: as the source states them; not measured here. licence: of the weights, as the source declares it.
    """

    repository: str
    revision: str
    config: str
    dataset: str
    figures: str
    licence: str = "Apache-2.0"


HUB_MODELS = {
    "pointpillars.kitti.openpcdet": HubModel(
        "torch-pointcloud/pointpillars.kitti.openpcdet",
        "caf39bd441409bdd2997d3099cc524ac451ff06d",
        "kitti_models/pointpillar.yaml",
        "KITTI",
        "AP Car 77.35, Pedestrian 52.39, Cyclist 62.74",
    ),
    "second.kitti.openpcdet": HubModel(
        "torch-pointcloud/second.kitti.openpcdet",
        "257ec23dfb951b12756786fcdaba9792cb3916a0",
        "kitti_models/second.yaml",
        "KITTI",
        "AP Car 78.63, Pedestrian 52.98, Cyclist 67.16",
    ),
    "pointpillars-multihead.nuscenes.openpcdet": HubModel(
        "torch-pointcloud/pointpillars-multihead.nuscenes.openpcdet",
        "88e9d39251f75b29eb369826c84199d4d3dcd438",
        "nuscenes_models/cbgs_pp_multihead.yaml",
        "nuScenes",
        "mAP 44.34, NDS 57.08",
    ),
    "second-multihead.nuscenes.openpcdet": HubModel(
        "torch-pointcloud/second-multihead.nuscenes.openpcdet",
        "6a4c25305663b26a75079a835505c4fe6e9ea652",
        "nuscenes_models/cbgs_second_multihead.yaml",
        "nuScenes",
        "mAP 50.75, NDS 61.89",
    ),
}


def download(name: str) -> Path:
    """The file of a model of ``HUB_MODELS``: from the hub's cache on this machine, else fetched into it.

    huggingface_hub's own settings hold (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, ...). Source and licence are logged, once a
    process.

    Raises:
        InputError: there is no such model, the package huggingface_hub is not installed, or the file is neither in the
            cache nor can be fetched.
    """
    if name not in HUB_MODELS:
        raise InputError(f"there are no weights {name}; {nearest_or_all(name, HUB_MODELS)}")
    model = HUB_MODELS[name]
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError('weights by name need the package huggingface_hub: pip install "pcdet_focal[hub]"') from error
    try:
        path = Path(hf_hub_download(model.repository, FILE, revision=model.revision))
    except Exception as error:  # of the network, of the hub, of the cache
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise InputError(
            f"{name} ({FILE} of {model.repository}) is not in the cache of the Hugging Face hub and cannot be fetched; "
            "fetch it where there is a network, without HF_HUB_OFFLINE, or copy the cache folder (HF_HOME) from such a "
            f"machine ({reason})"
        ) from error
    if name not in _said:
        _said.add(name)
        logger.info("%s: weights of %s, licence %s", name, model.repository, model.licence)
    return path
