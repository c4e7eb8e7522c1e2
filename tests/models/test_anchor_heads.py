"""The anchor head against recorded runs: anchors, targets, losses and gradients, decoding, post-processing."""

import copy

import numpy as np
import pytest
import torch
from easydict import EasyDict
from golden_data import assert_matches_samples, cases
from model_data import load_cfg

from pcdet_focal.errors import InputError
from pcdet_focal.geometry.box_coders import ResidualCoder
from pcdet_focal.models.dense_heads import AnchorHeadSingle
from pcdet_focal.models.dense_heads.anchor_head_template import AnchorHeadTemplate
from pcdet_focal.models.dense_heads.target_assigner.anchor_generator import AnchorGenerator
from pcdet_focal.models.dense_heads.target_assigner.axis_aligned_target_assigner import AxisAlignedTargetAssigner
from pcdet_focal.models.detectors import Detector3DTemplate
from pcdet_focal.models.model_utils import model_nms_utils

NAMES = ["Car", "Pedestrian", "Cyclist"]
RANGE = np.array([0, -40, -3, 70.4, 40, 1], np.float32)


def make_head(grid=(64, 48, 40), num_class=3, yaml_name="second", **overrides):
    cfg = load_cfg(yaml_name).MODEL.DENSE_HEAD
    for key, value in overrides.items():
        node, *rest = key.split("__")
        if rest:
            cfg[node][rest[0]] = value
        else:
            cfg[node] = value
    return AnchorHeadSingle(cfg, 8, num_class, NAMES, np.array(grid), RANGE, predict_boxes_when_training=False)


LOSS_OVERRIDES = {
    "code_weights": {
        "LOSS_CONFIG__LOSS_WEIGHTS": EasyDict(
            cls_weight=2.0, loc_weight=0.7, dir_weight=0.3, code_weights=[1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 0.25]
        )
    },
    "reg_l1": {"LOSS_CONFIG__REG_LOSS_TYPE": "WeightedL1Loss"},
    "no_dir": {"USE_DIRECTION_CLASSIFIER": None},
    "dir_offset0_bins3": {"DIR_OFFSET": 0.0, "NUM_DIR_BINS": 3},
}


@pytest.mark.parametrize(
    "name, case",
    cases("02_anchor_head_loss/anchor_head_single_loss.npz").items() or [pytest.param("", {}, marks=pytest.mark.skip)],
)
def test_losses_and_gradients(name, case):
    _, height, width, channels = case["cls_preds"].shape
    head = make_head((width * 8, height * 8, 40), num_class=channels // 6, **LOSS_OVERRIDES.get(name, {}))
    preds = {
        key: torch.from_numpy(case[key]).requires_grad_()
        for key in ("cls_preds", "box_preds", "dir_cls_preds")
        if key in case
    }
    labels = torch.from_numpy(case["box_cls_labels"])
    head.forward_ret_dict = {
        **preds,
        "box_cls_labels": labels,
        "box_reg_targets": torch.from_numpy(case["box_reg_targets"]),
    }
    cls_loss, _ = head.get_cls_layer_loss()
    box_loss, parts = head.get_box_reg_layer_loss()
    loss, logged = head.get_loss()
    loss.backward()
    assert cls_loss.item() == pytest.approx(float(case["cls_loss"]), rel=1e-5)
    assert box_loss.item() == pytest.approx(float(case["box_loss"]), rel=1e-5)
    assert loss.item() == pytest.approx(float(case["rpn_loss"]), rel=1e-5)
    assert float(logged["rpn_loss_loc"]) == pytest.approx(float(case["loc_loss"]), rel=1e-5)
    assert ("rpn_loss_dir" in parts) == ("dir_cls_preds" in case)
    if "dir_cls_preds" in case:
        assert float(logged["rpn_loss_dir"]) == pytest.approx(float(case["dir_loss"]), rel=1e-5)
    for key, recorded in (("cls_preds", "grad_cls"), ("box_preds", "grad_box"), ("dir_cls_preds", "grad_dir")):
        if key in preds:
            np.testing.assert_allclose(preds[key].grad.numpy(), case[recorded], rtol=1e-4, atol=1e-8, err_msg=key)
    np.testing.assert_array_equal(labels.numpy(), case["box_cls_labels"])  # OpenPCDet overwrites them for one class


@pytest.mark.parametrize("name", ["second", "pointpillar"])
def test_anchors_are_the_recorded_ones_to_the_last_bit(name):
    case = cases("03_geometry/anchors.npz")[name]
    config = load_cfg(name).MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG
    sizes = [case["grid_size"][:2] // c["feature_map_stride"] for c in config]
    anchors, per_location = AnchorGenerator(case["range"], config).generate_anchors(sizes)
    assert per_location == case["num_per_loc"].tolist()
    for i, value in enumerate(anchors):
        assert_matches_samples(value.numpy(), case, f"class{i}", rtol=0, atol=0)


@pytest.mark.parametrize("cells, half_width", [(546, 75.2), (272, 74.88), (543, 74.88), (590, 74.88), (1, 10.0)])
@pytest.mark.parametrize("align_center", [True, False])
def test_a_row_has_as_many_anchors_as_cells(cells, half_width, align_center):
    config = [
        {
            "anchor_sizes": [[1, 1, 2]],
            "anchor_rotations": [0],
            "anchor_bottom_heights": [-1],
            "align_center": align_center,
        }
    ]
    (anchors,), _ = AnchorGenerator([-half_width] * 2 + [-1] + [half_width] * 2 + [1], config).generate_anchors(
        [(cells, cells)]
    )
    assert anchors.shape == (1, cells, cells, 1, 1, 7)
    x = anchors[0, 0, :, 0, 0, 0].numpy()
    step = 2 * half_width / cells
    want = (
        -half_width + step * (np.arange(cells) + 0.5)
        if align_center
        else np.linspace(-half_width, half_width, cells)
        if cells > 1
        else [-half_width]
    )
    np.testing.assert_allclose(x, want, atol=2e-5)
    assert (anchors[..., 2] == 0).all()  # bottom -1 plus half of the height 2


def test_anchors_follow_the_module_and_are_not_saved():
    head = make_head()
    assert not any("anchors" in key for key in head.state_dict())
    assert all(a.dtype == torch.float64 for a in head.double().anchors)
    assert all(a.device.type == "meta" for a in head.to("meta").anchors)


def recorded_targets(name, case):
    yaml_name = "pointpillar" if name == "pointpillar" else "second"
    cfg = copy.deepcopy(load_cfg(yaml_name).MODEL.DENSE_HEAD)
    if name == "second_multihead":
        cfg.USE_MULTIHEAD = True
        for config in cfg.ANCHOR_GENERATOR_CONFIG:  # that file's anchors stand lower
            config["anchor_bottom_heights"] = [-1.6]
    if name == "norm_by_num_examples":
        cfg.TARGET_ASSIGNER_CONFIG.NORM_BY_NUM_EXAMPLES = True
    anchors_case = cases("03_geometry/anchors.npz")[yaml_name]
    sizes = [anchors_case["grid_size"][:2] // c["feature_map_stride"] for c in cfg.ANCHOR_GENERATOR_CONFIG]
    anchors, _ = AnchorGenerator(anchors_case["range"], cfg.ANCHOR_GENERATOR_CONFIG).generate_anchors(sizes)
    assigner = AxisAlignedTargetAssigner(cfg, NAMES, ResidualCoder())
    return assigner.assign_targets(anchors, torch.from_numpy(case["gt_boxes"]))


@pytest.mark.filterwarnings("ignore:TARGET_ASSIGNER_CONFIG.NORM_BY_NUM_EXAMPLES")
@pytest.mark.parametrize(
    "name, case",
    cases("03_targets/axis_aligned_target_assigner.npz").items() or [pytest.param("", {}, marks=pytest.mark.skip)],
)
def test_target_assignment(name, case):
    out = recorded_targets(name, case)
    labels = out["box_cls_labels"].numpy()
    where = np.nonzero(labels > 0)
    np.testing.assert_array_equal(np.stack(where), [case["pos_b"], case["pos_idx"]])
    np.testing.assert_array_equal(labels[where], case["pos_label"])
    np.testing.assert_array_equal(np.stack(np.nonzero(labels < 0)), [case["ign_b"], case["ign_idx"]])
    np.testing.assert_allclose(out["box_reg_targets"].numpy()[where], case["pos_reg_targets"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["reg_weights"].numpy()[where], case["reg_weights_pos"], rtol=1e-5)
    assert out["box_reg_targets"].abs().sum().item() == pytest.approx(float(case["reg_targets_abssum_total"]), rel=1e-5)
    assert out["box_cls_labels"].dtype == torch.int32


def test_positive_fraction_samples_what_it_says():
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    cfg.TARGET_ASSIGNER_CONFIG.update(POS_FRACTION=0.5, SAMPLE_SIZE=16)
    anchors = torch.zeros(400, 7)
    anchors[:, 0] = torch.arange(400) * 0.05
    anchors[:, 3:6] = torch.tensor([3.9, 1.6, 1.56])
    gt = anchors[100:101].clone()
    torch.manual_seed(0)
    labels = AxisAlignedTargetAssigner(cfg, NAMES, ResidualCoder()).assign_targets_single(
        anchors, gt, torch.tensor([1], dtype=torch.int32)
    )["box_cls_labels"]
    assert (labels > 0).sum() == 8 and (labels == 0).sum() == 8
    assert (labels[60:140] > 0).sum() == 8  # from among the true positives
    far = (anchors[:, 0] - gt[0, 0]).abs() > 3.9
    assert (labels[far] <= 0).all() and (labels[~far] != 0).sum() > 0


def test_anchors_of_other_classes_learn_background():
    cfg = load_cfg("second").MODEL.DENSE_HEAD
    cfg.ANCHOR_GENERATOR_CONFIG[1]["class_name"] = "Tram"  # in the place of Pedestrian
    with pytest.warns(
        UserWarning, match=r"ANCHOR_GENERATOR_CONFIG: Tram not in CLASS_NAMES \(Car, Pedestrian, Cyclist"
    ):
        head = AnchorHeadSingle(cfg, 8, 3, NAMES, np.array((64, 48, 40)), RANGE, predict_boxes_when_training=False)
    place = head.anchors[1].reshape(-1, 7)[60, :7]
    boxes = torch.stack([torch.cat([place, torch.tensor([label])]) for label in (1.0, 2.0, 3.0)])[None]
    labels = head.assign_targets(boxes)["box_cls_labels"].view(1, -1, 3, 2)  # cells, classes of anchors, rotations
    assert (labels[..., 1, :] <= 0).all()
    with pytest.raises(InputError, match=r"ANCHOR_GENERATOR_CONFIG: none of its classes \(Car, Tram, Cyclist\)"):
        AnchorHeadSingle(cfg, 8, 1, ["Bus"], np.array((64, 48, 40)), RANGE, predict_boxes_when_training=False)


def test_unknown_names_in_the_head_are_refused_with_their_key_path():
    with pytest.raises(InputError, match=r"BOX_CODER: 'ResidualCodr' .*ResidualCoder"):
        make_head(TARGET_ASSIGNER_CONFIG__BOX_CODER="ResidualCodr")
    with pytest.raises(InputError, match=r"TARGET_ASSIGNER_CONFIG\.NAME"):
        make_head(TARGET_ASSIGNER_CONFIG__NAME="Nearest")
    with pytest.raises(InputError, match=r"LOSS_CONFIG\.REG_LOSS_TYPE"):
        make_head(LOSS_CONFIG__REG_LOSS_TYPE="SmoothL1")


def test_head_helpers_and_decoding():
    recorded = cases("02_anchor_head_loss/helpers.npz")
    case = {k: torch.from_numpy(v) for k, v in recorded["add_sin_difference"].items()}
    out1, out2 = AnchorHeadTemplate.add_sin_difference(case["boxes1"], case["boxes2"])
    torch.testing.assert_close(out1, case["out1"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out2, case["out2"], rtol=1e-5, atol=1e-6)
    for name, offset, bins in (
        ("0.7854_b2", np.pi / 4, 2),
        ("0.7854_b4", np.pi / 4, 4),
        ("0.0000_b2", 0.0, 2),
        ("0.0000_b4", 0.0, 4),
    ):
        case = {k: torch.from_numpy(v) for k, v in recorded[f"dir_target_off{name}"].items()}
        for one_hot, key in ((True, "one_hot"), (False, "index")):
            got = AnchorHeadTemplate.get_direction_target(
                case["anchors"], case["reg_targets"], one_hot=one_hot, dir_offset=offset, num_bins=bins
            )
            torch.testing.assert_close(got, case[key])
    for name in ("generate_predicted_boxes", "generate_predicted_boxes_nodir"):
        case = {k: torch.from_numpy(v) for k, v in recorded[name].items()}
        scores, boxes = make_head().generate_predicted_boxes(
            2, case["cls_preds"], case["box_preds"], case.get("dir_cls_preds")
        )
        torch.testing.assert_close(scores, case["batch_cls_preds"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(boxes, case["batch_box_preds"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["default", "raw_score", "post10", "none_pass"])
def test_post_processing(name):
    case = cases("03_geometry/post_processing.npz")[name]
    cfg = load_cfg("second").MODEL
    if name == "raw_score":
        cfg.POST_PROCESSING.OUTPUT_RAW_SCORE = True
    if name == "post10":
        cfg.POST_PROCESSING.NMS_CONFIG.update(NMS_POST_MAXSIZE=10, NMS_THRESH=0.2)
    found, recall = run_post_processing(cfg, case)
    for i, sample in enumerate(found):
        np.testing.assert_array_equal(sample["pred_labels"].numpy(), case[f"pred{i}_labels"])
        np.testing.assert_array_equal(sample["pred_boxes"].numpy(), case[f"pred{i}_boxes"])
        np.testing.assert_allclose(sample["pred_scores"].numpy(), case[f"pred{i}_scores"], rtol=1e-6)
    assert (
        recall
        == {
            "default": {"gt": 8, "roi_0.3": 0, "rcnn_0.3": 7, "roi_0.5": 0, "rcnn_0.5": 7, "roi_0.7": 0, "rcnn_0.7": 7},
            "raw_score": {
                "gt": 4,
                "roi_0.3": 0,
                "rcnn_0.3": 3,
                "roi_0.5": 0,
                "rcnn_0.5": 3,
                "roi_0.7": 0,
                "rcnn_0.7": 3,
            },
            "post10": {"gt": 4, "roi_0.3": 0, "rcnn_0.3": 0, "roi_0.5": 0, "rcnn_0.5": 0, "roi_0.7": 0, "rcnn_0.7": 0},
            "none_pass": {
                "gt": 8,
                "roi_0.3": 0,
                "rcnn_0.3": 0,
                "roi_0.5": 0,
                "rcnn_0.5": 0,
                "roi_0.7": 0,
                "rcnn_0.7": 0,
            },
        }[name]
    )


def run_post_processing(model_cfg, case):
    class Shell:  # post_processing needs these attributes of a detector and no weights
        generate_recall_record = staticmethod(Detector3DTemplate.generate_recall_record)
        _class_agnostic_nms = staticmethod(Detector3DTemplate._class_agnostic_nms)
        _multi_class_nms = Detector3DTemplate._multi_class_nms

    shell = Shell()
    shell.model_cfg, shell.num_class = model_cfg, 3
    batch = {"batch_size": len(case["batch_box_preds"]), "cls_preds_normalized": False}
    batch.update(
        {k: torch.from_numpy(case[k]) for k in ("batch_box_preds", "batch_cls_preds", "gt_boxes") if k in case}
    )
    return Detector3DTemplate.post_processing(shell, batch)


def test_multi_class_post_processing_of_one_tensor_keeps_each_class_on_its_own():
    case = cases("03_geometry/post_processing.npz")["multi_class_nms_nonlist"]  # OpenPCDet stops with an assertion here
    cfg = load_cfg("second").MODEL
    cfg.POST_PROCESSING.NMS_CONFIG.MULTI_CLASSES_NMS = True
    (found,), _ = run_post_processing(cfg, case)
    scores = torch.from_numpy(case["batch_cls_preds"][0]).sigmoid()
    for label in (1, 2, 3):
        selected, kept = model_nms_utils.class_agnostic_nms(
            scores[:, label - 1],
            torch.from_numpy(case["batch_box_preds"][0]),
            cfg.POST_PROCESSING.NMS_CONFIG,
            cfg.POST_PROCESSING.SCORE_THRESH,
        )
        mine = found["pred_labels"] == label
        torch.testing.assert_close(found["pred_scores"][mine], kept)
        torch.testing.assert_close(found["pred_boxes"][mine], torch.from_numpy(case["batch_box_preds"][0])[selected])


NMS = EasyDict(NMS_TYPE="nms_gpu", NMS_THRESH=0.1, NMS_PRE_MAXSIZE=100, NMS_POST_MAXSIZE=20)


def test_nms_helpers():
    recorded = cases("03_geometry/nms.npz")
    for name, threshold in (
        ("class_agnostic", 0.3),
        ("class_agnostic_nothresh", None),
        ("class_agnostic_none_pass", 2.0),
    ):
        case = recorded[name]
        selected, scores = model_nms_utils.class_agnostic_nms(
            torch.from_numpy(case["scores"]), torch.from_numpy(case["boxes"]), NMS, threshold
        )
        np.testing.assert_array_equal(selected.numpy(), case["selected"])
        np.testing.assert_array_equal(scores.numpy(), case["selected_scores"])
    case = recorded["multi_classes"]
    scores, labels, boxes = model_nms_utils.multi_classes_nms(
        torch.from_numpy(case["scores"]), torch.from_numpy(case["boxes"]), NMS, 0.4
    )
    np.testing.assert_array_equal(scores.numpy(), case["out_scores"])
    np.testing.assert_array_equal(labels.numpy(), case["out_labels"])
    np.testing.assert_array_equal(boxes.numpy(), case["out_boxes"])
    case = recorded["class_specific"]
    tensors = [torch.from_numpy(case[k]) for k in ("scores", "boxes", "labels")]
    limits = EasyDict(NMS_THRESH=[0.1, 0.3, 0.5], NMS_PRE_MAXSIZE=[100, 50, 80], NMS_POST_MAXSIZE=[500, 500, 500])
    selected, _ = model_nms_utils.class_specific_nms(*tensors, limits, 0.2)
    # recorded without the limit after NMS, which OpenPCDet ignores
    np.testing.assert_array_equal(selected.numpy(), case["selected"])
    limits.NMS_POST_MAXSIZE = [30, 30, 30]
    limited, _ = model_nms_utils.class_specific_nms(*tensors, limits, 0.2)
    assert torch.bincount(tensors[2][limited]).tolist() == [30, 30, 30]
    empty, _ = model_nms_utils.class_specific_nms(*tensors, limits, 5.0)
    assert empty.shape == (0,)
