"""Sums across ranks: two processes, each with half of the rows, hold the counts, and get the gradients, that one
process has with all of them.
"""

import pytest
import torch

from pcdet_focal.losses import GHMC, GHMR, EQLV2Loss, EqualizedFocalLoss, SeesawLoss, build_head_classification_loss

torch.manual_seed(14)
LOGITS = torch.randn(12, 5) * 2
LABELS = torch.randint(0, 4, (12,))
CODES = torch.randn(12, 4) * 0.05
LOSSES = {  # make, prediction, target, and what the counts of two ranks are divided by those of one
    "seesaw": (lambda: SeesawLoss(num_classes=3, return_dict=False), LOGITS, LABELS, 1),
    "eql v2": (lambda: EQLV2Loss(num_classes=4), LOGITS, LABELS, 1),
    "equalized focal": (lambda: EqualizedFocalLoss(5), LOGITS, LABELS, 1),
    "ghm-c": (lambda: GHMC(momentum=0.5), LOGITS, LABELS, 0.5),
    "ghm-r": (lambda: GHMR(momentum=0.5), CODES, torch.zeros(12, 4), 0.5),
}

HEAD_LOSSES = ("SigmoidFocalClassificationLoss", "BinaryCrossEntropyLoss")


def two_steps(name, rows):
    make, prediction, target, _ = LOSSES[name]
    module = make()
    values = [module(scale * prediction[rows], target[rows]).detach() for scale in (1.0, 0.8)]
    return {"values": values, **module.state_dict()}


HEAD_LOGITS, HEAD_LABELS = (
    torch.randn(4, 6, 3),
    torch.tensor([[1, 2, 3, 0, 0, -1], [1, 1, 1, 2, 2, 0], [0, 0, 3, 0, 0, 0], [0, 0, 0, 0, 0, -1]]),
)


def head_gradient(name, normalizer, rows):
    """Of a head's classification loss by the logits of some samples."""
    logits = HEAD_LOGITS[rows].clone().requires_grad_()
    loss, logged = build_head_classification_loss(
        {"NAME": name, "NORMALIZER": normalizer}, "CLS_LOSS", 1.0, num_class=3
    )(logits, HEAD_LABELS[rows])
    loss.backward()
    return logits.grad, logged["rpn_cls_normalizer"]


def half(rank, folder):
    torch.set_num_threads(1)  # the threads of the parent did not survive the fork, and waiting for them would not end
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {name: two_steps(name, slice(6 * rank, 6 * rank + 6)) for name in LOSSES}
    results.update({name: head_gradient(name, "global", slice(2 * rank, 2 * rank + 2)) for name in HEAD_LOSSES})
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("counts")
    processes = [
        torch.multiprocessing.get_context("fork").Process(target=half, args=(rank, folder)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        code = process.exitcode
        process.kill()  # nothing to kill unless it hangs
        assert code == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_both_ranks_hold_the_counts_of_the_joint_batch(ranks, name):
    joint, factor = two_steps(name, slice(None)), LOSSES[name][3]
    for key, buffer in joint.items():
        if key == "values":
            continue
        assert torch.equal(ranks[0][name][key], ranks[1][name][key])
        torch.testing.assert_close(ranks[0][name][key], buffer * factor if key == "acc_sum" else buffer)


@pytest.mark.parametrize("name", ["eql v2", "equalized focal", "ghm-c", "ghm-r"])
def test_the_mean_of_the_ranks_is_the_loss_of_the_joint_batch(ranks, name):
    """As DistributedDataParallel averages gradients; seesaw divides by each rank's own positives."""
    joint = two_steps(name, slice(None))["values"]
    torch.testing.assert_close(
        [(one + other) / 2 for one, other in zip(ranks[0][name]["values"], ranks[1][name]["values"])], joint
    )


@pytest.mark.parametrize("name", HEAD_LOSSES)
def test_the_global_normalizer_gives_the_mean_of_the_ranks_the_gradient_of_the_joint_batch(ranks, name):
    """DistributedDataParallel averages gradients; the ranks have 8 and 1 positives, so that each by itself would divide
    by something else.
    """
    joint, divisor = head_gradient(name, "batch", slice(None))
    apart = torch.cat([rank[name][0] for rank in ranks]) / 2
    torch.testing.assert_close(apart, joint)
    assert divisor == 9 and not torch.allclose(head_gradient(name, "batch", slice(2, 4))[0] / 2, joint[2:])
