"""Running counts across ranks: two processes, each with half of the rows, hold the counts that one process has with all of them."""
import pytest
import torch

from pcdet_focal.losses import EqualizedFocalLoss, EQLV2Loss, GHMC, GHMR, SeesawLoss

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


def two_steps(name, rows):
    make, prediction, target, _ = LOSSES[name]
    module = make()
    values = [module(scale * prediction[rows], target[rows]).detach() for scale in (1.0, 0.8)]
    return {"values": values, **module.state_dict()}


def half(rank, folder):
    torch.set_num_threads(1)  # the threads of the parent did not survive the fork, and waiting for them would not end
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: two_steps(name, slice(6 * rank, 6 * rank + 6)) for name in LOSSES}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("counts")
    processes = [torch.multiprocessing.get_context("fork").Process(target=half, args=(rank, folder)) for rank in range(2)]
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
    torch.testing.assert_close([(one + other) / 2 for one, other in zip(ranks[0][name]["values"], ranks[1][name]["values"])], joint)
