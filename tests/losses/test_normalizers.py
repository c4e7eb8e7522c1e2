"""Anchor weights and one-hot targets from labels, and who divides, by hand."""

import numpy as np
import pytest
import torch
from golden_data import record

from pcdet_focal.errors import InputError
from pcdet_focal.losses import (
    PerSampleNormalizer,
    anchor_weights_from_labels,
    build_head_classification_loss,
    build_normalizer,
    normalizers,
    one_hot_from_labels,
    positive_rows,
)

LABELS = torch.tensor([[0, 1, 2, -1, 1], [0, 0, -1, 0, 0]], dtype=torch.int32)


def test_weights_by_hand():
    before = LABELS.clone()
    cls_weights, reg_weights, num_positives = anchor_weights_from_labels(LABELS)
    third = 1 / 3
    torch.testing.assert_close(
        cls_weights, torch.tensor([[third, third, third, 0, third], [1, 1, 0, 1, 1]]), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(
        reg_weights, torch.tensor([[0, third, third, 0, third], [0, 0, 0, 0, 0]]), rtol=1e-7, atol=0
    )
    assert num_positives.tolist() == [3, 0]
    assert torch.equal(LABELS, before)


def test_positive_and_negative_weights_by_hand():
    cls_weights, reg_weights, _ = anchor_weights_from_labels(LABELS, pos_cls_weight=3.0, neg_cls_weight=1.5)
    torch.testing.assert_close(
        cls_weights, torch.tensor([[0.5, 1, 1, 0, 1], [1.5, 1.5, 0, 1.5, 1.5]]), rtol=1e-7, atol=0
    )
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


# Two samples of two classes; the second has one object.
TWO = torch.tensor([[1, 2, 0, 0, -1], [0, 2, 0, 0, 0]])


def losses_of(normalizer, elementwise, labels):
    weights, _, _ = anchor_weights_from_labels(labels, normalizer=normalizer, dtype=torch.float64)
    return normalizer.reduce(elementwise * weights)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("per_sample", ((1 + 2 + 3 + 4) / 2 + (6 + 7 + 8 + 9 + 10) / 1) / 2),
        ("batch", (10 + 40) / 3),
        ("global", (10 + 40) / 3),
        ("none", 50),
        ({"NAME": "ema", "START": 7, "MOMENTUM": 0.5}, 50 / 5),
    ],
)
def test_what_each_divides_by_by_hand(name, expected):
    elementwise = torch.arange(1, 11, dtype=torch.float64).view(2, 5)
    assert losses_of(build_normalizer(name), elementwise, TWO).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["batch", "global", "none", "ema", "per_sample"])
def test_without_positives_the_divisor_is_at_least_one(name):
    divisor = build_normalizer(name).divisor(torch.zeros(3, dtype=torch.int64), torch.float64)
    assert divisor.shape == (3,) and divisor.dtype == torch.float64 and (divisor >= 1).all()


def test_per_sample_does_not_see_how_often_the_objects_of_a_sample_are_repeated_and_batch_does():
    generator = torch.Generator().manual_seed(0)
    elementwise = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 1, 0, 0, 2], [0, 2, 0, 0, 0]])
    nothing = torch.full((5,), -1)

    def repeated(times):  # the second sample's anchors, each `times` times; the first is filled up with ignored ones
        more = times - 1
        return (
            torch.cat([elementwise, torch.stack([torch.zeros(5), elementwise[1]]).repeat(1, more)], dim=1),
            torch.cat([labels, torch.stack([nothing, labels[1]]).repeat(1, more)], dim=1),
        )

    def second_samples_share(normalizer, times):
        loss, weights = (
            repeated(times)[0],
            anchor_weights_from_labels(repeated(times)[1], normalizer=normalizer, dtype=torch.float64)[0],
        )
        return normalizer.average((loss * weights)[1].sum(), 2).item()

    alone = second_samples_share(PerSampleNormalizer(), 1)
    for times in (2, 5):
        assert second_samples_share(PerSampleNormalizer(), times) == pytest.approx(alone, rel=1e-12)
        once = losses_of(PerSampleNormalizer(), elementwise, labels).item()
        assert losses_of(PerSampleNormalizer(), *repeated(times)).item() == pytest.approx(once)
        sums = elementwise.sum(dim=1).tolist()
        assert losses_of(build_normalizer("batch"), *repeated(times)).item() == pytest.approx(
            (sums[0] + times * sums[1]) / (3 + times), rel=1e-12
        )
    # the repeated sample's share of the batch's loss grows with its objects
    assert second_samples_share(build_normalizer("batch"), 5) > 1.5 * second_samples_share(build_normalizer("batch"), 1)


def test_global_gives_the_mean_over_ranks_the_gradient_of_one_process(monkeypatch):
    logits = torch.tensor([[0.3, -1.0, 0.2], [0.5, 2.0, -0.7]], dtype=torch.float64)
    labels = torch.tensor([[1, 1, 1], [0, 2, 0]])

    def gradient(normalizer, rows):
        x = logits[rows].clone().requires_grad_()
        losses_of(normalizer, torch.nn.functional.softplus(x), labels[rows]).backward()
        return x.grad

    together = gradient(build_normalizer("batch"), slice(0, 2))
    monkeypatch.setattr(normalizers.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(normalizers.distributed, "get_world_size", lambda: 2)
    # 3 on one rank, 1 on the other
    monkeypatch.setattr(normalizers, "sum_over_ranks", lambda count: torch.full_like(count, 4))
    # DistributedDataParallel's mean
    apart = torch.cat([gradient(build_normalizer("global"), slice(r, r + 1)) for r in (0, 1)]) / 2
    torch.testing.assert_close(apart, together, rtol=1e-12, atol=0)


def test_ema_follows_the_recorded_runs():
    with np.load(record("11_loss_zoo/ema_normalizer.npz")) as recorded:
        names = [key[: -len("_num_pos")] for key in recorded.files if key.endswith("_num_pos")]
        assert len(names) == 6
        for name in names:
            _, _, start, momentum = name.split("_")
            ema = build_normalizer({"NAME": "ema", "START": float(start), "MOMENTUM": float(momentum)})
            got = [ema.divisor(torch.tensor([int(n), 0]), torch.float64)[0].item() for n in recorded[f"{name}_num_pos"]]
            np.testing.assert_allclose(got, recorded[f"{name}_normalizer"], rtol=1e-12)
        head_loss = build_head_classification_loss(
            {"NAME": "FocalLoss", "NORMALIZER": "ema"}, "CLS_LOSS", 1.0, num_class=4
        )
        for k in range(4):
            logits = torch.from_numpy(recorded[f"retina_{k}_logits"])[None].requires_grad_()
            labels = (torch.from_numpy(recorded[f"retina_{k}_labels"])[None] + 1) % 5  # theirs: background is 4
            loss, logged = head_loss(logits, labels)
            loss.backward()
            assert logged["rpn_cls_normalizer"].item() == pytest.approx(
                float(recorded[f"retina_{k}_normalizer"]), rel=1e-6
            )
            assert loss.item() == pytest.approx(float(recorded[f"retina_{k}_loss"]), rel=1e-5)
            np.testing.assert_allclose(logits.grad[0].numpy(), recorded[f"retina_{k}_grad"], rtol=1e-5, atol=1e-7)


def test_ema_is_saved_keeps_its_digits_and_rests_in_evaluation():
    ema = build_normalizer("ema")
    ema.divisor(torch.tensor([50]))
    assert ema.running.item() == pytest.approx(95, rel=1e-15)
    assert ema.half().running.dtype == torch.float64 and ema.float().running.item() == pytest.approx(95, rel=1e-15)
    again = build_normalizer("ema")
    again.load_state_dict(ema.state_dict())
    assert (
        again.divisor(torch.tensor([50]), torch.float64).item()
        == ema.divisor(torch.tensor([50]), torch.float64).item()
        == pytest.approx(90.5)
    )
    assert ema.eval().divisor(torch.tensor([1000])).item() == pytest.approx(
        90.5
    ) and ema.running.item() == pytest.approx(90.5)


def test_positive_rows_take_every_normaliser():
    for name in ("per_sample", "batch", "global", "none"):
        rows, weights = positive_rows(TWO, normalizer=build_normalizer(name), dtype=torch.float64)
        dense = anchor_weights_from_labels(TWO, normalizer=build_normalizer(name), dtype=torch.float64)[1].flatten()
        torch.testing.assert_close(weights, dense[rows], rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "cfg, message",
    [
        (
            "batches",
            r"X\.NORMALIZER: 'batches' .*batch",
        ),
        (
            {"NAME": "ema", "MOMENTUN": 0.5},
            r"X\.NORMALIZER\.MOMENTUN: .*\bMOMENTUM\b",
        ),
        ({"NAME": "ema", "MOMENTUM": 1.0}, r"X\.NORMALIZER: .*momentum=1\.0"),
        ({"NAME": "ema", "START": 0}, r"X\.NORMALIZER: .*start=0"),
        ({"NAME": "batch", "START": 1}, r"X\.NORMALIZER\.START: batch"),
        (3, r"X\.NORMALIZER: 3\b"),
    ],
)
def test_mistakes_are_named_with_their_key_path(cfg, message):
    with pytest.raises(InputError, match=message):
        build_normalizer(cfg, "X.NORMALIZER")
