"""Detectors made quick for evaluation give the boxes of the plain ones."""

import copy

import pytest
import tiny_models
import torch
from torch import nn

from pcdet_focal.engine import inference
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network

MODELS = [
    "kitti_models/pointpillar",
    "kitti_models/second",
    "kitti_models/second_multihead",
    "kitti_models/pillarnet",
    "waymo_models/centerpoint",
    "waymo_models/second + with_residual_map",
    "nuscenes_models/cbgs_dyn_pp_centerpoint",
    "nuscenes_models/cbgs_pp_multihead",
]


def model_and_batch(name: str, dtype=torch.float64):
    cfg = tiny_models.load_cfg(name)
    dataset = tiny_models.tiny_dataset(cfg)
    torch.manual_seed(0)
    net = tiny_models.calmed(build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset)).to(dtype).eval()
    batch = tiny_models.tiny_batch(name, cfg, dataset)
    return net, {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in batch.items()
    }


@torch.no_grad()
def detections(net, batch):
    found, recall = net({key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()})
    return found, recall


@pytest.mark.parametrize("name", MODELS)
def test_boxes_are_the_plain_models_and_it_stays_as_it_was(name):
    net, batch = model_and_batch(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    prepared = inference.prepare_for_inference(net)
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    dense = [prepared.backbone_2d, prepared.dense_head]
    assert not any(isinstance(module, nn.BatchNorm2d) for part in dense for module in part.modules())
    (found, recall), (wanted, wanted_recall) = detections(prepared, batch), detections(net, batch)
    assert sum(len(sample["pred_boxes"]) for sample in wanted) and recall == wanted_recall
    for ours, plain in zip(found, wanted, strict=True):
        for key in ("pred_boxes", "pred_scores", "pred_labels"):
            torch.testing.assert_close(ours[key], plain[key], rtol=0, atol=1e-8)
    net.train()
    loss = net({key: value.clone() if torch.is_tensor(value) else value for key, value in batch.items()})[0]["loss"]
    loss.backward()
    inference.prepare_for_inference(net)  # what the heads keep of the step is not copied
    net.train().load_state_dict(before)
    assert detections(net.eval(), batch)[1] == wanted_recall
    assert prepared.dataset is net.dataset


def test_boxes_that_cannot_reach_the_threshold_are_not_decoded():
    net, batch = model_and_batch("kitti_models/pointpillar")
    prepared = inference.prepare_for_inference(net)
    given = []
    handle = prepared.dense_head.register_forward_hook(lambda module, _, batch_dict: given.append(dict(batch_dict)))
    detections(prepared, batch)
    handle.remove()
    (batch_dict,) = given
    scores = batch_dict["batch_cls_preds"].sigmoid().amax(dim=-1)
    assert batch_dict["batch_index"].tolist() == sorted(batch_dict["batch_index"].tolist())
    thresh = net.model_cfg.POST_PROCESSING.SCORE_THRESH
    assert len(scores) == len(batch_dict["batch_box_preds"]) and scores.min() > 0.99 * thresh
    net.dense_head(plain := {**batch, **{k: batch_dict[k] for k in ("spatial_features_2d", "batch_size")}})
    assert (plain["batch_cls_preds"].sigmoid().amax(dim=-1) >= thresh).sum() == (scores >= thresh).sum()


@pytest.mark.parametrize(
    "name", ["kitti_models/pointpillar", "waymo_models/centerpoint", "kitti_models/second_multihead"]
)
def test_bfloat16_moves_boxes_little(name):
    net, batch = model_and_batch(name, torch.float32)
    prepared = inference.prepare_for_inference(net, "bfloat16")
    assert all(m.weight.dtype == torch.bfloat16 for m in prepared.backbone_2d.modules() if isinstance(m, nn.Conv2d))
    outputs = []
    for model in (net, prepared):
        handle = model.dense_head.register_forward_hook(lambda module, *_: outputs.append(module.forward_ret_dict))
        for sample in detections(model, batch)[0]:
            assert sample["pred_boxes"].dtype == sample["pred_scores"].dtype == torch.float32
        handle.remove()

    def tensors(value):
        if torch.is_tensor(value):
            yield value.float()
        elif isinstance(value, (dict, list, tuple)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    for plain, short in zip(tensors(outputs[0]), tensors(outputs[1]), strict=True):
        assert (plain - short).abs().max() <= 0.03 * plain.abs().max()


class OwnNeck(nn.Module):
    """A module of another package; whatever it does inside is its own."""

    def __init__(self, base):
        super().__init__()
        self.base, self.num_bev_features = base, base.num_bev_features

    def forward(self, batch_dict):
        return self.base(batch_dict)


def test_modules_of_other_packages_stay_as_they_are():
    net, batch = model_and_batch("kitti_models/pointpillar")
    wanted, _ = detections(net, batch)
    net.backbone_2d = OwnNeck(net.backbone_2d)
    net.module_list[-2] = net.backbone_2d
    prepared = inference.prepare_for_inference(net, "auto")
    assert any(isinstance(module, nn.BatchNorm2d) for module in prepared.backbone_2d.modules())
    found, _ = detections(prepared, batch)
    for ours, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours["pred_boxes"], plain["pred_boxes"], rtol=0, atol=1e-8)
    with pytest.raises(InputError, match="bfloat16 needs a BACKBONE_2D and DENSE_HEAD of this package"):
        inference.prepare_for_inference(net, "bfloat16")
    with pytest.raises(InputError, match="precision 'half'; it can be float32, bfloat16, auto"):
        inference.prepare_for_inference(net, "half")


@pytest.mark.parametrize("threshold, least", [(0.0, None), (None, None), (1.0, None), (-0.1, None), ([0.3, 0.2], 0.2)])
def test_a_threshold_that_excludes_no_box_or_every_box_changes_nothing(threshold, least):
    net, batch = model_and_batch("kitti_models/pointpillar")
    net.model_cfg.POST_PROCESSING.SCORE_THRESH = [*threshold, 0.4] if isinstance(threshold, list) else threshold
    prepared = inference.prepare_for_inference(net)
    assert prepared.dense_head.decode_above == least
    for ours, plain in zip(detections(prepared, batch)[0], detections(net, batch)[0], strict=True):
        torch.testing.assert_close(ours["pred_boxes"], plain["pred_boxes"], rtol=0, atol=1e-8)


def test_a_detector_of_another_package_gets_the_boxes_of_all_anchors():
    net, batch = model_and_batch("kitti_models/pointpillar")
    seen = []

    class OwnDetector(type(net)):
        def post_processing(self, batch_dict):
            seen.append((batch_dict["batch_box_preds"].shape, "batch_index" in batch_dict))
            return super().post_processing(batch_dict)

    net.__class__ = OwnDetector
    detections(inference.prepare_for_inference(net), batch)
    detections(net, batch)
    assert seen[0] == seen[1] and seen[0][0][0] == batch["batch_size"]


def test_auto_goes_by_the_processor(monkeypatch):
    net, _ = model_and_batch("kitti_models/pointpillar", torch.float32)
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(inference, "has_bfloat16", lambda has=has: has)
        prepared = inference.prepare_for_inference(copy.deepcopy(net), "auto")
        assert prepared.backbone_2d.blocks[0][1].weight.dtype == dtype


@pytest.mark.parametrize("transpose", [False, True])
def test_folding_is_the_convolution_and_the_norm(transpose):
    torch.manual_seed(0)
    conv = (nn.ConvTranspose2d if transpose else nn.Conv2d)(3, 5, 2, stride=2, bias=transpose)
    layers = nn.Sequential(conv, nn.BatchNorm2d(5, eps=1e-3), nn.ReLU(), nn.BatchNorm2d(5)).double()
    for norm in (layers[1], layers[3]):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias), nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    layers.eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = layers(x)
        inference.fold_batch_norm(layers)
        assert isinstance(layers[1], nn.Identity) and isinstance(layers[3], nn.BatchNorm2d)  # no convolution before it
        torch.testing.assert_close(layers(x), wanted)
