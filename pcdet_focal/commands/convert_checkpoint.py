"""Write a checkpoint's weights as .safetensors, or those of a .safetensors file as a .pth that OpenPCDet loads.

    pcdet-focal convert-checkpoint output/kitti_models/second/default/ckpt/checkpoint_epoch_80.pth second.safetensors
    pcdet-focal convert-checkpoint second.safetensors second.pth

Weights of torch-pointcloud get OpenPCDet's names; --layout torch-pointcloud gives them those of torch-pointcloud.
Epoch, iteration, version and configuration go along, an optimiser's state does not. Without --force a file that is
there is not overwritten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine import cli
from ..engine.checkpoint import save_checkpoint, save_safetensors
from ..errors import InputError
from ..models.model_utils.checkpoint_loading import read_checkpoint
from ..models.model_utils.torch_pointcloud import with_names_there, with_own_names


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("source", help="checkpoint, .pth or .safetensors")
    parser.add_argument("target", help="file to write; its ending says the format")
    parser.add_argument(
        "--layout",
        choices=("own", "torch-pointcloud"),
        default="own",
        help="names of the weights in the target: OpenPCDet's, as here, or those of torch-pointcloud",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the target")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    writers = {".safetensors": save_safetensors, ".pth": save_checkpoint}
    target = Path(args.target)
    if target.suffix not in writers:
        raise InputError(f"{target}: a checkpoint to write ends in {' or '.join(writers)}")
    if target.exists() and not args.force:
        raise InputError(f"{target} is there already; --force overwrites it")
    content = read_checkpoint(args.source)
    state = with_own_names(content["model_state"])
    if args.layout == "torch-pointcloud":
        state = with_names_there(state)
    content["model_state"] = state
    writers[target.suffix]({**content, "optimizer_state": None}, target)
    print(
        f"{target}: {len(content['model_state'])} weights, epoch {content.get('epoch')}, iteration {content.get('it')}"
    )
