"""Weights by name: the hub's cache, and names of torch-pointcloud."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_kitti
import torch

from pcdet_focal import Detector, hub
from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.detector import _dataset_of
from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint, save_safetensors
from pcdet_focal.errors import InputError
from pcdet_focal.hub import HUB_MODELS
from pcdet_focal.models import build_network
from pcdet_focal.models.model_utils.checkpoint_files import read_checkpoint
from pcdet_focal.models.model_utils.torch_pointcloud import names_there, own_name, with_names_there
from pcdet_focal.ops.sparse_conv import SparseConvolution

# {model: names of the tensors of torch-pointcloud 0.0.18, in the order of its state_dict, counters left out}
NAMES = json.loads((Path(__file__).parent / "recorded/torch_pointcloud_names.json").read_text())
PEER = os.environ.get("PCDET_FOCAL_TORCH_POINTCLOUD", "")  # a folder that has it and what it imports
ROOT = Path(__file__).parents[1]
INSTALLED = importlib.util.find_spec("torch_pointcloud") is not None


def network(name: str):
    cfg = cfg_from_yaml_file(HUB_MODELS[name].config, Config())
    torch.manual_seed(0)
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), _dataset_of(cfg)).eval()
    for module in net.modules():
        if hasattr(module, "running_var"):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
        if isinstance(module, SparseConvolution):
            module.weight.data *= 4  # else nothing of the sparse layers is left in the outputs
    return net


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of the hub, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache: Path, name: str, state: dict) -> None:
    """A file of weights as the hub's client leaves it: blobs, a snapshot of the revision, and refs."""
    model = HUB_MODELS[name]
    folder = cache / f"models--{model.repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / model.revision
    for part in (folder / "blobs", folder / "refs", snapshot):
        part.mkdir(parents=True)
    blob = save_safetensors({"model_state": state}, folder / "blobs/0123.safetensors")
    (snapshot / hub.FILE).symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs/main").write_text(model.revision)


@pytest.mark.parametrize("name", HUB_MODELS)
def test_names_of_torch_pointcloud_and_back(name):
    own = [key for key, value in network(name).state_dict().items() if value.is_floating_point()]
    assert [own_name(there) for there in NAMES[name]] == own
    there = names_there(own)
    assert [there[key] for key in own] == NAMES[name]


def test_a_detector_by_name(cache):
    name = "pointpillars.kitti.openpcdet"
    net = network(name)
    put(cache, name, with_names_there(net.state_dict()))
    detector = Detector.load(name, device="cpu")
    assert detector.class_names == ["Car", "Pedestrian", "Cyclist"]
    detector.model.dense_head.decode_above = None  # all anchors, scores of random weights are low
    scan = sorted((tiny_kitti.dataset() / "training/velodyne").iterdir())[0]
    plain = Detector(net, detector.cfg)
    found, wanted = (each._network([each._prepare(scan)])[0] for each in (detector, plain))
    for key in ("batch_cls_preds", "batch_box_preds"):
        torch.testing.assert_close(found[key], wanted[key], rtol=0, atol=1e-4)


def test_the_cache_of_the_environment_is_used_and_the_licence_said_once(tmp_path):
    pytest.importorskip("huggingface_hub")
    name = "second.kitti.openpcdet"
    put(tmp_path / "hub", name, {"a": torch.ones(1)})
    code = f"import logging; logging.basicConfig(level='INFO'); from pcdet_focal.hub import download; NAME = {name!r}"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment = {key: value for key, value in environment.items() if key not in ("HF_HUB_CACHE", "HF_XET_CACHE")}
    command = [sys.executable, "-c", f"{code}; download(NAME); print(download(NAME))"]
    done = subprocess.run(command, check=True, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path) and done.stdout.strip().endswith(hub.FILE)
    assert done.stderr.count("licence Apache-2.0") == 1


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_weights_that_do_not_all_fit_are_refused(cache, damage):
    name = "pointpillars.kitti.openpcdet"
    state = with_names_there(network(name).state_dict())
    kernel = state.pop("backbone.blocks.0.1.conv.weight")
    put(cache, name, state if damage == "missing" else {**state, "backbone.blocks.0.1.conv.weight": kernel[:1]})
    with pytest.raises(
        InputError, match=r"lacks 1 weights of this model, for example backbone_2d\.blocks\.0\.1\.weight"
    ):
        Detector.load(name, device="cpu")


@pytest.mark.parametrize("axes", [(1, 2, 3, 4, 0), (1, 2, 3, 0, 4)], ids=["RSCK", "RSKC"])
@pytest.mark.parametrize("name", [name for name in HUB_MODELS if "second" in name])
def test_kernels_of_older_spconv_are_written_in_spconv_2s_layout(name, axes):
    own = network(name).state_dict()
    old = {key: value.permute(axes) if value.dim() == 5 else value for key, value in own.items()}
    there = with_names_there(old)
    for key, value in with_names_there(own).items():
        assert torch.equal(there[key], value), key


def test_multihead_weights_get_their_class_numbers(cache):
    name = "pointpillars-multihead.nuscenes.openpcdet"
    net = network(name)
    state = with_names_there(net.state_dict())
    labels_there = {key for key in state if "head_label_indices" in key}
    assert len(labels_there) == 6  # torch-pointcloud refuses a file without them; here they may lack
    put(cache, name, {key: value for key, value in state.items() if key not in labels_there})
    loaded = Detector.load(name, device="cpu").model.state_dict()
    for key, value in net.state_dict().items():
        if "backbone_2d" not in key and "dense_head" not in key:  # those are folded
            assert torch.equal(loaded[key], value), key
    labels = [key for key in net.state_dict() if "head_label_indices" in key]
    assert labels and all(torch.equal(loaded[key], net.state_dict()[key]) for key in labels)


def test_what_cannot_be_had_is_one_sentence(cache, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="is not in the cache of the Hugging Face hub and cannot be fetched; fetch it"):
        hub.download("second.kitti.openpcdet")
    with pytest.raises(InputError, match=r"no weights second\.kitti; did you mean second\.kitti\.openpcdet\?"):
        hub.download("second.kitti")
    with pytest.raises(InputError, match="no checkpoint second.kitty.openpcdet; did you mean second.kitti"):
        Detector.load("second.kitty.openpcdet")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'need the package huggingface_hub: pip install "pcdet_focal\[hub\]"'):
        hub.download("second.kitti.openpcdet")


def test_conversion_there_and_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network("second.kitti.openpcdet")
    save_checkpoint(checkpoint_state(net, epoch=3), "own.pth")
    convert = tiny_kitti.tool("convert_checkpoint").main
    convert(["own.pth", "there.safetensors", "--layout", "torch-pointcloud"])
    there = read_checkpoint("there.safetensors")["model_state"]
    assert {key for key, value in there.items() if value.is_floating_point()} == set(NAMES["second.kitti.openpcdet"])
    convert(["there.safetensors", "back.pth"])
    back = read_checkpoint("back.pth")["model_state"]
    own = net.state_dict()
    assert own.keys() - back.keys() == {"global_step"} and all(torch.equal(back[key], own[key]) for key in back)


@pytest.mark.slow
@pytest.mark.skipif(
    not (PEER or INSTALLED), reason="no torch-pointcloud: set PCDET_FOCAL_TORCH_POINTCLOUD to a folder that has it"
)
@pytest.mark.parametrize("name", HUB_MODELS)
def test_boxes_and_scores_are_those_of_torch_pointcloud(name, tmp_path):
    net = network(name)
    save_checkpoint({"model_state": with_names_there(net.state_dict())}, tmp_path / "weights.pth")
    scan = np.fromfile(sorted((tiny_kitti.dataset() / "training/velodyne").iterdir())[0], np.float32).reshape(-1, 4)
    detector = Detector(net, cfg_from_yaml_file(HUB_MODELS[name].config, Config()))
    columns = len(detector.feature_names)
    batch, _ = detector._network([detector._prepare(np.pad(scan, ((0, 0), (0, columns - 4))))])
    voxels = {key: batch[key].numpy() for key in ("voxels", "voxel_coords", "voxel_num_points")}
    np.savez(tmp_path / "voxels.npz", **voxels)
    script = Path(__file__).with_name("torch_pointcloud_outputs.py")
    environment = {**os.environ, "PYTHONPATH": PEER} if PEER else None
    subprocess.run([sys.executable, script, name, tmp_path], check=True, env=environment)
    theirs = np.load(tmp_path / "outputs.npz")
    logits = batch["batch_cls_preds"]
    if isinstance(logits, list):
        logits = torch.cat([part.amax(dim=-1) for part in logits], dim=1)
    np.testing.assert_allclose(logits.numpy(), theirs["logits"], atol=1e-4)
    np.testing.assert_allclose(batch["batch_box_preds"].numpy(), theirs["boxes"], atol=1e-4)
    # the outputs do depend on the layer that is farthest from them
    assert np.abs(theirs["logits_of_another_first_layer"] - theirs["logits"]).max() > 1e-3
