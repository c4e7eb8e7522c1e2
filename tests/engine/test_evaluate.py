"""Evaluation around a detector whose answers are known, and looking for checkpoints while a run goes on."""

import json
import logging
import pickle
import re

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import nn

from pcdet_focal.config import MissingKeyError, cfg_from_yaml_file
from pcdet_focal.datasets.dataset import DatasetTemplate
from pcdet_focal.engine import checkpoint, evaluate, repeat_eval
from pcdet_focal.errors import InputError

NMS = {
    "MULTI_CLASSES_NMS": False,
    "NMS_TYPE": "nms_gpu",
    "NMS_THRESH": 0.1,
    "NMS_PRE_MAXSIZE": 10,
    "NMS_POST_MAXSIZE": 10,
}
POST_PROCESSING = {
    "RECALL_THRESH_LIST": [0.3, 0.7],
    "SCORE_THRESH": 0.1,
    "EVAL_METRIC": "kitti",
    "OUTPUT_RAW_SCORE": False,
    "NMS_CONFIG": NMS,
}
CFG = EasyDict(
    CLASS_NAMES=["Car", "Cyclist"],
    MODEL={"POST_PROCESSING": POST_PROCESSING},
    DATA_CONFIG={"DATA_SPLIT": {"test": "val"}},
    LOCAL_RANK=0,
)
LOGGER = logging.getLogger("test")


class Frames:
    """Three frames in two batches; the scores are the ones that the data set was asked to judge."""

    class_names = ["Car", "Cyclist"]
    generate_prediction_dicts = staticmethod(DatasetTemplate.generate_prediction_dicts)

    def __init__(self, labelled: bool = True):
        self.labelled, self.judged = labelled, None

    def __len__(self):
        return 3

    def evaluation(self, annos, class_names, eval_metric, output_path):
        self.judged = (annos, class_names, eval_metric)
        return ("the table", {"Car_3d/easy_R40": np.float64(12.5)}) if self.labelled else (None, {})


class Loader:
    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 2

    def __iter__(self):
        yield {"frame_id": np.array(["000", "001"]), "points": np.zeros((4, 5)), "batch_size": 2}
        yield {"frame_id": np.array(["002"]), "points": np.zeros((2, 5)), "batch_size": 1}


class Detector(nn.Module):
    """One box a frame with the weight as its score; of its 2 true boxes 1 is found at IoU 0.3, none at 0.7."""

    def __init__(self):
        super().__init__()
        self.score = nn.Parameter(torch.tensor([0.25]))

    def load_params_from_file(self, filename, logger, pre_trained_path=None):
        self.load_state_dict(torch.load(filename, weights_only=True)["model_state"])

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled() and batch["points"].dtype == torch.float32
        box = {"pred_boxes": torch.zeros(1, 7), "pred_scores": self.score, "pred_labels": torch.tensor([2])}
        count = batch["batch_size"]
        return [box] * count, {"gt": 2 * count, "rcnn_0.3": count, "rcnn_0.7": 0, "roi_0.3": 0, "roi_0.7": 0}


def test_evaluation_collects_judges_and_writes(tmp_path, caplog):
    loader = Loader(Frames())
    with caplog.at_level(logging.INFO, logger="test"):
        figures = evaluate.eval_one_epoch(
            CFG, Detector().train(), loader, 7, LOGGER, tmp_path / "result", measure_time=True
        )
    assert figures == {
        "recall/roi_0.3": 0,
        "recall/rcnn_0.3": 0.5,
        "recall/roi_0.7": 0,
        "recall/rcnn_0.7": 0,
        "Car_3d/easy_R40": 12.5,
    }
    assert json.loads((tmp_path / "result/result.json").read_text()) == figures
    with open(tmp_path / "result/result.pkl", "rb") as file:
        annos = pickle.load(file)
    assert [(anno["frame_id"], anno["name"].tolist(), float(anno["score"][0])) for anno in annos] == [
        (f"00{i}", ["Cyclist"], 0.25) for i in range(3)
    ]
    assert loader.dataset.judged[1:] == (["Car", "Cyclist"], "kitti") and len(loader.dataset.judged[0]) == 3
    told = "\n".join(record.getMessage() for record in caplog.records)
    for figure in (r"recall .*0\.3: 0\.5000 .*6", r"\b1\.00 boxes", r"[\d.]+ ms ", r"epoch 7.*\nthe table"):
        assert re.search(figure, told), figure
    assert sorted(path.name for path in (tmp_path / "result").iterdir()) == ["result.json", "result.pkl"]


def test_frames_without_labels_are_only_collected(tmp_path):
    figures = evaluate.eval_one_epoch(CFG, Detector(), Loader(Frames(labelled=False)), 7, LOGGER, tmp_path)
    assert all(name.startswith("recall/") for name in figures) and (tmp_path / "result.pkl").is_file()


def test_files_of_an_earlier_evaluation_are_written_over(tmp_path):
    class Writing(Frames):
        @staticmethod
        def generate_prediction_dicts(batch, predictions, class_names, output_path):
            for frame in batch["frame_id"]:
                (output_path / f"{frame}.txt").write_text("Car")
            return DatasetTemplate.generate_prediction_dicts(batch, predictions, class_names)

    for _ in range(2):
        evaluate.eval_one_epoch(CFG, Detector(), Loader(Writing()), 7, LOGGER, tmp_path, save_to_file=True)
    assert sorted(path.name for path in (tmp_path / "final_result/data").iterdir()) == ["000.txt", "001.txt", "002.txt"]


def test_settings_are_asked_for_in_time(tmp_path):
    evaluate.check_settings(CFG)
    for section, key in (("", "RECALL_THRESH_LIST"), (".NMS_CONFIG", "NMS_THRESH")):
        content = json.loads(json.dumps({"CLASS_NAMES": ["Car"], "MODEL": {"POST_PROCESSING": POST_PROCESSING}}))
        del (content["MODEL"]["POST_PROCESSING"]["NMS_CONFIG"] if section else content["MODEL"]["POST_PROCESSING"])[key]
        (tmp_path / "a.yaml").write_text(json.dumps(content))
        with pytest.raises(MissingKeyError, match=rf"MODEL\.POST_PROCESSING{section}\.{key}\b"):
            evaluate.check_settings(cfg_from_yaml_file(tmp_path / "a.yaml", EasyDict()))


@pytest.mark.parametrize("thresholds", ["0.1", [0.1], [0.1, 0.2, 0.3], [0.1, "a"], [0.1, None], True, {"Car": 0.1}])
def test_score_thresholds_that_fit_no_class_list(thresholds):
    cfg = EasyDict(json.loads(json.dumps(CFG)))
    cfg.MODEL.POST_PROCESSING.SCORE_THRESH = [0.1, 0]
    evaluate.check_settings(cfg)
    cfg.MODEL.POST_PROCESSING.SCORE_THRESH = thresholds
    with pytest.raises(InputError, match=r"MODEL\.POST_PROCESSING\.SCORE_THRESH"):
        evaluate.check_settings(cfg)


def save(folder, epoch: int, score: float) -> None:
    model = Detector()
    model.score.data.fill_(score)
    checkpoint.save_checkpoint(
        checkpoint.checkpoint_state(model, None, epoch, 10 * epoch), folder / f"checkpoint_epoch_{epoch}"
    )


def test_checkpoints_that_appear_while_waiting_are_evaluated_and_none_twice(tmp_path, monkeypatch):
    ckpt_dir, eval_dir = tmp_path / "ckpt", tmp_path / "eval"
    ckpt_dir.mkdir()
    save(ckpt_dir, 1, 0.1)
    save(ckpt_dir, 2, 0.2)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            save(ckpt_dir, 10, 0.9)

    clock = iter(range(0, 100000, 20))  # seconds: 20 between two looks at it
    monkeypatch.setattr(repeat_eval.time, "sleep", sleep)
    monkeypatch.setattr(repeat_eval.time, "monotonic", lambda: next(clock))
    loader = Loader(Frames())
    results = repeat_eval.repeat_eval_ckpt(
        CFG, Detector(), loader, ckpt_dir, eval_dir, LOGGER, start_epoch=2, max_waiting_mins=2
    )
    assert list(results) == [2, 10] and len(looks) > 3
    assert (eval_dir / "eval_list_val.txt").read_text().split() == ["2", "10"]
    assert float(loader.dataset.judged[0][0]["score"][0]) == pytest.approx(0.9)
    assert repeat_eval.repeat_eval_ckpt(CFG, Detector(), loader, ckpt_dir, eval_dir, LOGGER, start_epoch=1).keys() == {
        1
    }


def test_a_head_with_post_processing_of_its_own_needs_few_settings():
    head = {"NAME": "CenterHead", "POST_PROCESSING": {"SCORE_THRESH": 0.1}}
    evaluate.check_settings(
        EasyDict(MODEL={"DENSE_HEAD": head, "POST_PROCESSING": {"RECALL_THRESH_LIST": [0.3], "EVAL_METRIC": "kitti"}})
    )
    with pytest.raises(KeyError, match="EVAL_METRIC"):
        evaluate.check_settings(EasyDict(MODEL={"DENSE_HEAD": head, "POST_PROCESSING": {"RECALL_THRESH_LIST": [0.3]}}))


def test_a_checkpoint_for_use_must_hold_every_weight(tmp_path):
    save(tmp_path, 1, 0.5)
    model = Detector()
    checkpoint.load_for_use(model, tmp_path / "checkpoint_epoch_1.pth", LOGGER)
    assert float(model.score.detach()) == 0.5
    model.extra = nn.Linear(2, 1)
    with pytest.raises(
        InputError,
        match=r"checkpoint_epoch_1\.pth .*2 .*extra\.weight",
    ):
        checkpoint.load_for_use(model, tmp_path / "checkpoint_epoch_1.pth", LOGGER)
