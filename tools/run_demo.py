"""The whole way in one command: simulate a data set, train a small detector on it, evaluate, draw.

    make demo                  PointPillars, about five minutes on two idle CPU cores
    make demo MODEL=second     SECOND, sparse convolutions; about twice as long
    make demo MODEL=centerpoint  CenterPoint: heat maps in place of anchors

Each step is one of the commands a user would type; it is printed before it runs. A demo that was interrupted goes on
where it stopped.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import _init_path  # noqa: F401

from pcdet_focal.engine import cli
from pcdet_focal.engine.checkpoint import epoch_checkpoints
from pcdet_focal.engine.pictures import read_figures

# about how many seconds simulation, infos, training with evaluation, and drawing take on two idle cores
SECONDS = {"pointpillar": (6, 4, 300, 15), "second": (6, 4, 600, 15), "centerpoint": (6, 4, 600, 15)}


def run(*command: str) -> None:
    print("\n$ python " + " ".join(command), flush=True)
    status = subprocess.run([sys.executable, *command]).returncode
    if status:
        sys.exit(status)


def say_rest(model: str, stages: int, elapsed: float) -> None:
    """How long the rest will take, if this machine is as much slower than an idle one as it was so far."""
    done, rest = sum(SECONDS[model][:stages]), sum(SECONDS[model][stages:])
    print(
        f"\nstage {stages} of 4 done; the rest takes about {rest * max(elapsed / done, 0.5) / 60:.0f} min", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["pointpillar", "second", "centerpoint"], default="pointpillar")
    args = parser.parse_args()
    started = time.monotonic()
    cfg_file = f"cfgs/synthetic_models/{args.model}.yaml"
    run_dir = Path(f"output/synthetic_models/{args.model}/demo")
    pictures = Path("output/demo") if args.model == "pointpillar" else Path(f"output/demo_{args.model}")

    run(
        "-m",
        "pcdet_focal.datasets.synthetic",
        "--root",
        "data/synthetic",
        "--num_train",
        "200",
        "--num_val",
        "50",
        "--seed",
        "0",
    )
    say_rest(args.model, 1, time.monotonic() - started)
    if not Path("data/synthetic/kitti_dbinfos_train.pkl").exists():
        run(
            "-m",
            "pcdet_focal.datasets.kitti.kitti_dataset",
            "create_kitti_infos",
            "cfgs/dataset_configs/synthetic_dataset.yaml",
        )
    say_rest(args.model, 2, time.monotonic() - started)
    run(
        "tools/train.py",
        "--cfg_file",
        cfg_file,
        "--extra_tag",
        "demo",
        "--workers",
        "1",
        "--fix_random_seed",
        "--logger_iter_interval",
        "10",
        "--max_ckpt_save_num",
        "2",
    )
    say_rest(args.model, 3, time.monotonic() - started)
    run("tools/visualize.py", "--cfg_file", cfg_file, "--extra_tag", "demo", "--out", str(pictures))

    last, _ = epoch_checkpoints(run_dir / "ckpt")[-1]
    figures = read_figures(run_dir / "eval" / "eval_with_train" / f"epoch_{last}" / "val")
    print(
        f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. 3-D AP (R40, moderate) on 50 frames it has not "
        "seen:"
    )
    for name in ("Car", "Pedestrian", "Cyclist"):
        print(f"  {name:<11}{figures[f'{name}_3d/moderate_R40']:6.1f}")
    print(
        f"Pictures of scans, boxes and the loss curve: {pictures}/\nCheckpoints, log and TensorBoard files:        "
        f"{run_dir}/"
    )


if __name__ == "__main__":
    cli.run_main(main)
