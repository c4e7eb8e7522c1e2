"""Anchor weights and one-hot targets from labels, by hand."""
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.losses import PerSampleNormalizer, anchor_weights_from_labels, one_hot_from_labels

LABELS = torch.tensor([[0, 1, 2, -1, 1], [0, 0, -1, 0, 0]], dtype=torch.int32)


def test_weights_by_hand():
    before = LABELS.clone()
    cls_weights, reg_weights, num_positives = anchor_weights_from_labels(LABELS)
    third = 1 / 3
    torch.testing.assert_close(cls_weights, torch.tensor([[third, third, third, 0, third], [1, 1, 0, 1, 1]]), rtol=1e-7, atol=0)
    torch.testing.assert_close(reg_weights, torch.tensor([[0, third, third, 0, third], [0, 0, 0, 0, 0]]), rtol=1e-7, atol=0)
    assert num_positives.tolist() == [3, 0]
    assert torch.equal(LABELS, before)


def test_positive_and_negative_weights_by_hand():
    cls_weights, reg_weights, _ = anchor_weights_from_labels(LABELS, pos_cls_weight=3.0, neg_cls_weight=1.5)
    torch.testing.assert_close(cls_weights, torch.tensor([[0.5, 1, 1, 0, 1], [1.5, 1.5, 0, 1.5, 1.5]]), rtol=1e-7, atol=0)
    assert reg_weights.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("labels", [LABELS.long(), LABELS.float(), LABELS.to(torch.int8)])
def test_any_label_type(labels):
    for got, expected in zip(anchor_weights_from_labels(labels), anchor_weights_from_labels(LABELS)):
        assert torch.equal(got, expected)
    assert torch.equal(one_hot_from_labels(labels, 3), one_hot_from_labels(LABELS, 3))


def test_types_of_the_results():
    cls_weights, reg_weights, num_positives = anchor_weights_from_labels(LABELS, dtype=torch.float64)
    assert (cls_weights.dtype, reg_weights.dtype, num_positives.dtype) == (torch.float64, torch.float64, torch.int64)
    assert one_hot_from_labels(LABELS, 3, torch.float16).dtype == torch.float16


def test_positives_are_counted_exactly_beyond_what_half_precision_or_bytes_hold():
    labels = torch.ones(1, 70_001, dtype=torch.int8)
    assert anchor_weights_from_labels(labels)[2].tolist() == [70_001]


def test_one_hot_by_hand():
    assert one_hot_from_labels(LABELS[:1], 2).tolist() == [[[0, 0], [1, 0], [0, 1], [0, 0], [1, 0]]]


def test_one_class_takes_every_positive_and_leaves_the_labels_alone():
    labels = torch.tensor([[0, 1, 2, 3, -1]])
    assert one_hot_from_labels(labels, 1).tolist() == [[[0], [1], [1], [1], [0]]]
    assert labels.tolist() == [[0, 1, 2, 3, -1]]


def test_label_above_the_classes_is_an_error():
    with pytest.raises(InputError, match="label 4 .*num_class=3"):
        one_hot_from_labels(torch.tensor([[0, 4]]), 3)


def test_labels_of_another_shape_are_an_error():
    with pytest.raises(InputError, match=r"\(5,\)"):
        anchor_weights_from_labels(LABELS[0])


def test_no_anchors():
    cls_weights, reg_weights, num_positives = anchor_weights_from_labels(torch.zeros(2, 0, dtype=torch.int32))
    assert cls_weights.shape == reg_weights.shape == (2, 0) and num_positives.tolist() == [0, 0]
    assert one_hot_from_labels(torch.zeros(2, 0, dtype=torch.int32), 3).shape == (2, 0, 3)


def test_another_normaliser_can_take_the_place():
    class BySampleSize(PerSampleNormalizer):
        def divisor(self, num_positives, dtype=torch.float32):
            return torch.full_like(num_positives, 5, dtype=dtype)

    cls_weights, reg_weights, _ = anchor_weights_from_labels(LABELS, normalizer=BySampleSize())
    assert cls_weights.max().item() == reg_weights.max().item() == pytest.approx(0.2)


def test_reduce_divides_by_the_batch():
    assert PerSampleNormalizer().reduce(torch.full((4, 10, 3), 0.5)).item() == pytest.approx(15.0)
