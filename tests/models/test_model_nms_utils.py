"""NMS as the detectors ask for it: classes together, each on its own, with limits of their own."""

import pytest
import torch
from easydict import EasyDict

from pcdet_focal.models.model_utils import model_nms_utils
from pcdet_focal.ops.nms import nms_rotated

CONFIG = EasyDict(NMS_TYPE="nms_gpu", NMS_THRESH=0.1, NMS_PRE_MAXSIZE=60, NMS_POST_MAXSIZE=25)


def problem(count=150, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 9, generator=generator) * torch.tensor([12, 12, 1, 3, 2, 1, 6, 1, 1]) + torch.tensor(
        [0, 0, 0, 1, 1, 1, 0, 0, 0]
    )
    return torch.randperm(count * classes, generator=generator).view(count, classes) / (count * classes), boxes


@pytest.mark.parametrize("threshold", [None, 0.3, 0.9, 2.0])
def test_each_class_is_as_if_it_were_alone(threshold):
    scores, boxes = problem()
    expected = []
    for label in range(3):
        selected, kept = model_nms_utils.class_agnostic_nms(scores[:, label], boxes, CONFIG, threshold)
        own = scores[:, label].argsort(descending=True)[:60]
        own = own if threshold is None else own[scores[own, label] >= threshold]
        assert torch.equal(selected, own[nms_rotated(boxes[own], scores[own, label], 0.1)][:25]) and torch.equal(
            kept, scores[selected, label]
        )
        expected += [(kept, torch.full_like(selected, label), boxes[selected])]
    for got, want in zip(model_nms_utils.multi_classes_nms(scores, boxes, CONFIG, threshold), zip(*expected)):
        assert torch.equal(got, torch.cat(want))
    assert sum(len(kept) for kept, _, _ in expected) > (10 if threshold != 2.0 else -1)


@pytest.mark.parametrize("threshold", [None, 0.3, 2.0])
@pytest.mark.parametrize("most", [1, 60, 1000])
def test_the_gpus_way_to_the_candidates_is_the_cpus(threshold, most):
    scores, _ = problem()
    scores[7, 1] = float("nan")
    if threshold is None:
        scores = scores.nan_to_num()
    want = model_nms_utils._best_of_classes(scores, most, threshold)
    candidates, groups = model_nms_utils._best_of_classes_on_gpu(scores, most, threshold)
    order = groups.argsort(stable=True)
    order = order[groups[order] >= 0]
    assert torch.equal(candidates[order], want[0]) and torch.equal(groups[order], want[1])


def test_limits_of_each_class():
    scores, boxes = problem()
    labels = torch.arange(150) % 3
    limits = EasyDict(NMS_THRESH=[0.1, 0.3, 0.0], NMS_PRE_MAXSIZE=[40, 5, 30], NMS_POST_MAXSIZE=[4, 100, 100])
    for threshold in (None, 0.4, [0.2, 0.5, 0.99]):
        selected, kept = model_nms_utils.class_specific_nms(scores[:, 0], boxes, labels, limits, threshold)
        expected = []
        for label in range(3):
            least = threshold[label] if isinstance(threshold, list) else threshold
            own = torch.nonzero((labels == label) & (scores[:, 0] > (-1 if least is None else least))).view(-1)
            own = own[nms_rotated(boxes[own], scores[own, 0], limits.NMS_THRESH[label], limits.NMS_PRE_MAXSIZE[label])]
            expected += own[: limits.NMS_POST_MAXSIZE[label]].tolist()
        assert selected.tolist() == expected and torch.equal(kept, scores[selected, 0])
        assert len(expected) > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_threshold_for_each_class(dtype):
    scores, boxes = problem()
    scores, boxes = scores.to(dtype), boxes.to(dtype)
    scores[3, 1] = torch.tensor(0.7, dtype=dtype)  # the threshold itself reaches it
    limits = [0.3, 0.7, 0.95]
    every = model_nms_utils.score_thresholds(limits, torch.arange(3))
    for got, parts in zip(
        model_nms_utils.multi_classes_nms(scores, boxes, CONFIG, every),
        zip(
            *(
                [part[labels == 0] for part in (kept, torch.full_like(labels, label), found)]
                for label, limit in enumerate(limits)
                for kept, labels, found in [
                    model_nms_utils.multi_classes_nms(scores[:, label : label + 1], boxes, CONFIG, limit)
                ]
            )
        ),
    ):
        assert torch.equal(got, torch.cat(parts))
    best, labels = scores.max(dim=1)
    kept, _ = model_nms_utils.class_agnostic_nms(best, boxes, CONFIG, model_nms_utils.score_thresholds(limits, labels))
    passing = torch.tensor(limits, dtype=dtype)[labels] <= best
    alone, _ = model_nms_utils.class_agnostic_nms(torch.where(passing, best, -1.0), boxes, CONFIG, 0.0)
    assert torch.equal(kept, alone) and len(kept) > 5 and not passing.all()


def test_the_gpus_way_takes_a_threshold_for_each_class():
    scores, _ = problem()
    limits = torch.tensor([0.3, 0.7, 0.95], dtype=torch.float64)
    want = model_nms_utils._best_of_classes(scores, 60, limits)
    candidates, groups = model_nms_utils._best_of_classes_on_gpu(scores, 60, limits)
    order = groups.argsort(stable=True)
    order = order[groups[order] >= 0]
    assert torch.equal(candidates[order], want[0]) and torch.equal(groups[order], want[1])
