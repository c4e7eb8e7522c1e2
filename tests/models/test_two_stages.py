"""Second stages are modules that a configuration lists: a toy RoI head behind an anchor head and a CenterHead, and all
eight of OpenPCDet's stages in their order.
"""

import pytest
import tiny_models
import torch
from easydict import EasyDict
from torch import nn

from pcdet_focal.config import MissingKeyError
from pcdet_focal.engine.evaluate import check_settings
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network
from pcdet_focal.ops.rotated_iou import boxes_iou3d
from pcdet_focal.registry import PFES, POINT_HEADS, ROI_HEADS, VFES

SECOND_STAGE = EasyDict(NAME="ToyRoIHead", NUM_ROIS=20)


class ToyRoIHead(nn.Module):
    """Scores the best boxes of the first stage again: one number each from the box, learnt from its overlap."""

    def __init__(self, model_cfg, input_channels, num_class, **kwargs):
        super().__init__()
        self.num_rois, self.score, self.info = model_cfg.NUM_ROIS, nn.Linear(7, 1), {**kwargs, "num_class": num_class}

    def forward(self, batch_dict):
        if "rois" not in batch_dict:  # a CenterHead has left them
            scores, labels = batch_dict["batch_cls_preds"].max(dim=-1)  # (B, N)
            best = scores.topk(self.num_rois, dim=1).indices  # (B, R)
            batch_dict["rois"] = batch_dict["batch_box_preds"].gather(1, best[..., None].expand(-1, -1, 7)).detach()
            batch_dict["roi_labels"] = labels.gather(1, best) + 1
        rois = batch_dict["rois"][..., :7]  # (B, R, 7)
        logits = self.score(rois)
        if self.training:
            iou = torch.stack([boxes_iou3d(r, gt[:, :7]).amax(1) for r, gt in zip(rois, batch_dict["gt_boxes"])])
            self.loss = nn.functional.binary_cross_entropy_with_logits(logits.squeeze(-1), iou)
        batch_dict.update(batch_box_preds=rois, batch_cls_preds=logits, cls_preds_normalized=False)
        batch_dict["has_class_labels"] = True
        return batch_dict

    def get_loss(self, tb_dict=None):
        return self.loss, {**(tb_dict or {}), "rcnn_loss": self.loss.detach()}


@pytest.fixture(autouse=True)
def toys_registered():
    ROI_HEADS.register()(ToyRoIHead)
    yield
    for table, name in (
        (ROI_HEADS, "ToyRoIHead"),
        (PFES, "ToyPFE"),
        (POINT_HEADS, "ToyPointHead"),
        (VFES, "ToyVFE"),
    ):
        table.pop(name, None)


def tiny(name, **sections):
    cfg = tiny_models.load_cfg(name)
    cfg.MODEL.update(sections)
    dataset = tiny_models.tiny_dataset(cfg)
    torch.manual_seed(0)
    net = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=dataset)
    return cfg, tiny_models.calmed(net), tiny_models.tiny_batch(name, cfg, dataset)


@pytest.mark.parametrize("name", ["kitti_models/pointpillar", "waymo_models/centerpoint_pillar_1x"])
def test_a_roi_head_is_trained_and_evaluated_behind_a_first_stage(name):
    cfg, net, batch = tiny(name, ROI_HEAD=SECOND_STAGE)
    assert net.module_list[-1] is net.roi_head and net.roi_head.info["num_class"] == len(cfg.CLASS_NAMES)
    before = {key: value.clone() for key, value in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    losses = []
    net.train()
    for _ in range(2):
        optimizer.zero_grad()
        result, logged, _ = net(dict(batch))
        result["loss"].backward()
        optimizer.step()
        losses.append(logged["rcnn_loss"].item())
        assert result["loss"].item() == pytest.approx(logged["loss_rpn"].item() + losses[-1])
    assert list(logged)[0] == "loss_rpn" and list(logged)[-1] == "rcnn_loss"
    changed = {key.split(".")[0] for key, value in net.named_parameters() if not torch.equal(value, before[key])}
    assert {"dense_head", "roi_head", "vfe"} <= changed and losses[0] != losses[1]

    net.eval()
    if "NMS_CONFIG" not in cfg.MODEL.POST_PROCESSING:  # as a CenterHead alone may leave it out
        with pytest.raises(MissingKeyError, match=r"MODEL\.POST_PROCESSING\."):
            check_settings(cfg)
        cfg.MODEL.POST_PROCESSING.update(tiny_models.load_cfg("kitti_models/pointpillar").MODEL.POST_PROCESSING)
    check_settings(cfg)
    cfg.MODEL.POST_PROCESSING.SCORE_THRESH = 0.0
    with torch.no_grad():
        given = dict(batch)
        found, recall = net(given)
    assert recall["gt"] > 0 and {"roi_0.3", "rcnn_0.3"} <= set(recall)
    for sample, rois, labels, logits in zip(
        found, given["rois"], given["roi_labels"], given["batch_cls_preds"].sigmoid()
    ):
        assert len(sample["pred_boxes"]) > 0
        for box, score, label in zip(sample["pred_boxes"], sample["pred_scores"], sample["pred_labels"]):
            place = (rois[:, :7] == box[:7]).all(dim=-1)  # the label and the new score of the very proposal
            assert label in labels[place] and score in logits[place]


def test_eight_stages_are_built_in_openpcdets_order_and_given_what_theirs_are():
    @PFES.register()
    class ToyPFE(nn.Module):
        def __init__(self, model_cfg, voxel_size, point_cloud_range, num_bev_features, num_rawpoint_features):
            super().__init__()
            self.given = (num_bev_features, num_rawpoint_features)
            self.num_point_features, self.num_point_features_before_fusion = 5, 11

        def forward(self, batch_dict):
            return {**batch_dict, "point_features": batch_dict["spatial_features"].mean(dim=(2, 3))[:, :5]}

    @POINT_HEADS.register()
    class ToyPointHead(nn.Module):
        def __init__(self, model_cfg, input_channels, num_class, predict_boxes_when_training):
            super().__init__()
            self.given = (input_channels, num_class, predict_boxes_when_training)
            self.layer = nn.Linear(5, num_class)

        def forward(self, batch_dict):
            self.loss = self.layer(batch_dict["point_features"]).square().mean()
            return batch_dict

        def get_loss(self, tb_dict=None):
            return self.loss, {**tb_dict, "point_loss": self.loss.detach()}

    _, net, batch = tiny(
        "kitti_models/second",
        PFE={"NAME": "ToyPFE"},
        POINT_HEAD=EasyDict(NAME="ToyPointHead", CLASS_AGNOSTIC=True, USE_POINT_FEATURES_BEFORE_FUSION=True),
        ROI_HEAD=SECOND_STAGE,
    )
    stages = "vfe backbone_3d map_to_bev_module pfe backbone_2d dense_head point_head roi_head".split()
    assert [name for name, _ in net.named_children()] == stages
    assert net.module_list == [getattr(net, name) for name in stages]
    assert net.pfe.given == (256, 4) and net.point_head.given == (11, 1, True)
    assert net.roi_head.info["backbone_channels"] == net.backbone_3d.backbone_channels
    result, logged, _ = net.train()(dict(batch))
    parts = [logged[key].item() for key in ("loss_rpn", "point_loss", "rcnn_loss")]
    assert result["loss"].item() == pytest.approx(sum(parts)) and min(parts) > 0
    assert list(logged)[-2:] == ["point_loss", "rcnn_loss"]


def test_the_3d_backbone_takes_the_width_that_the_encoder_says():
    @VFES.register()
    class ToyVFE(nn.Module):
        def __init__(self, model_cfg, num_point_features, **kwargs):
            super().__init__()
            self.layer = nn.Linear(num_point_features, 7)

        def get_output_feature_dim(self):
            return 7

        def forward(self, batch_dict):
            return {**batch_dict, "voxel_features": self.layer(batch_dict["voxels"].sum(dim=1))}

    _, net, batch = tiny("kitti_models/second", VFE=EasyDict(NAME="ToyVFE"))
    assert net.backbone_3d.conv_input[0].in_channels == 7
    net.train()(dict(batch))[0]["loss"].backward()
    assert net.vfe.layer.weight.grad.abs().sum() > 0


def test_a_detector_without_a_head_cannot_be_trained():
    _, net, batch = tiny("kitti_models/pointpillar")
    net.dense_head = None
    net.module_list.pop()
    with pytest.raises(InputError, match="DENSE_HEAD, POINT_HEAD or ROI_HEAD"):
        net.train()(dict(batch))
