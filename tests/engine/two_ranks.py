"""What each of two processes does in test_distributed.py: torchrun two_ranks.py WORKPLACE. Rank 0 writes what it saw to
WORKPLACE/seen.pt.
"""

import os
import sys
from pathlib import Path

import tiny_kitti
import torch
import torch.distributed as dist
from torch import nn

from pcdet_focal.datasets import build_dataloader
from pcdet_focal.engine import cli
from pcdet_focal.engine.distributed import broadcast_from_rank0, get_dist_info, merge_results_dist
from pcdet_focal.engine.train import Trainer
from pcdet_focal.models import build_network, model_fn_decorator
from pcdet_focal.utils import commu_utils

CFG_FILE = "cfgs/tiny_models/tiny.yaml"


def gathered(tensor: torch.Tensor) -> list[torch.Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def train() -> dict:
    """tools/train.py as torchrun starts it; returns the weights that each rank ends with and the frames it trained
    on.
    """
    trainers, step, frames = [], Trainer._step, []

    def watched(self, batch):
        trainers[:] = [self]
        frames.append([int(frame) for frame in batch["frame_id"]])
        return step(self, batch)

    Trainer._step = watched
    tiny_kitti.tool("train").main(
        ["--cfg_file", CFG_FILE, "--launcher", "pytorch", "--epochs", "1", "--workers", "0", "--fix_random_seed"]
    )
    Trainer._step = step
    all_frames = [None] * dist.get_world_size()
    dist.all_gather_object(all_frames, frames)
    # repeat_eval_ckpt has loaded rank 0's checkpoint into the bare model since, which shares its weights: compare the
    # optimisers' moments as well
    state = trainers[0].optimizer.state_dict()["state"]
    return {"moments": gathered(flat(entry["exp_avg"] for entry in state.values())), "frames": all_frames}


def gradients() -> dict:
    """The gradient of one step: each rank its own frame, and rank 0 alone with the joint batch; batch norm with fixed
    statistics.
    """
    rank, world_size = get_dist_info()
    args = tiny_kitti.tool("train").build_parser().parse_args(["--cfg_file", CFG_FILE])
    cfg = cli.load_config(args)
    dataset, _, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 1, dist=True, workers=0, training=True, seed=7)
    torch.manual_seed(rank)  # different weights: the wrapper must send rank 0's to all

    def network() -> nn.Module:
        return build_network(model_cfg=cfg.MODEL, num_class=3, dataset=dataset)

    def gradient(model: nn.Module, indices: list[int]) -> torch.Tensor:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        loss, _, _ = model_fn_decorator()(model, dataset.collate_batch(dataset.__getitems__(indices)))
        loss.backward()
        return flat(p.grad for p in model.parameters())

    shared = nn.parallel.DistributedDataParallel(network())
    alone = network()
    alone.load_state_dict(shared.module.state_dict())
    weights = gathered(flat(alone.parameters()))
    return {
        "weights": weights,
        "shared": gathered(gradient(shared, [rank])),
        "joint": gradient(alone, list(range(world_size))),
    }


def main(workplace: str) -> None:
    os.chdir(workplace)
    seen = {"train": train(), "gradients": gradients()}
    rank, _ = get_dist_info()
    seen["broadcast_from_rank0"] = broadcast_from_rank0({"rank": rank})
    seen["reduced"] = [
        commu_utils.all_reduce(torch.tensor([rank + 1.0]), **how) for how in ({}, {"average": True}, {"op": "max"})
    ]
    seen["gathered"] = [
        commu_utils.all_gather(f"rank {rank}"),
        commu_utils.average_reduce_value(10.0 * rank),
        commu_utils.get_world_size(),
    ]
    joined = [
        commu_utils.reduce_dict({"b": torch.tensor(rank + 1.0), "a": torch.tensor(10.0 * rank)}, average=average)
        for average in (True, False)
    ]
    seen["joined"] = [{key: value.item() for key, value in values.items()} for values in joined]
    seen["in a row"] = commu_utils.concat_all_gather(torch.full((2, 1), float(rank)))
    commu_utils.synchronize()
    seen["merged"] = merge_results_dist([["a", "c", "e"], ["b", "d"]][rank], 5)
    if rank == 0:
        torch.save(seen, Path("seen.pt"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    cli.run_main(main, sys.argv[1])
