"""Two processes on one machine, through torchrun and gloo: they share the frames, hold the same weights and evaluate
every frame once.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_kitti
import torch

from pcdet_focal.engine import distributed
from pcdet_focal.errors import InputError

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(what rank 0 wrote, the working directory, what was printed)."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    workplace = tmp_path_factory.mktemp("two_ranks")
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0  # a detector of one epoch is sure of nothing
    tiny_kitti.write_config(workplace / "cfgs/tiny_models/tiny.yaml", content)
    path = os.pathsep.join(
        [str(tiny_kitti.REPOSITORY), str(tiny_kitti.REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(SCRIPT),
            str(workplace),
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return torch.load(workplace / "seen.pt", weights_only=False), workplace, done.stdout


@pytest.mark.slow
def test_the_ranks_share_each_epochs_frames(run):
    seen, _, _ = run
    first, second = ([frame for batch in batches for frame in batch] for batches in seen["train"]["frames"])
    assert [len(batch) for batch in seen["train"]["frames"][0]] == [2, 1]  # 5 frames for two: 3 each, batches of 2
    assert len(first) == len(second) == 3
    assert sorted(set(first + second)) == list(range(tiny_kitti.NUM_TRAIN))  # all of them, one twice


@pytest.mark.slow
def test_the_ranks_take_the_same_steps(run):
    seen, _, _ = run
    one, other = seen["train"]["moments"]
    assert torch.equal(one, other) and one.abs().max() > 0


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_the_joint_batch(run):
    seen, _, _ = run
    assert torch.equal(*seen["gradients"]["weights"])
    one, other = seen["gradients"]["shared"]
    assert torch.equal(one, other)
    assert (one - seen["gradients"]["joint"]).norm() < 1e-5 * one.norm()


@pytest.mark.slow
def test_evaluation_has_every_frame_once_in_order_and_the_results_of_one_process(run, monkeypatch, capsys):
    _, workplace, printed = run
    together = workplace / "output/tiny_models/tiny/default/eval/eval_with_train/epoch_1/val/result.pkl"
    with open(together, "rb") as file:
        annos = pickle.load(file)
    # an odd number: one rank has one twice
    frames = [f"{tiny_kitti.NUM_TRAIN + place:06d}" for place in range(tiny_kitti.NUM_VAL)]
    assert [anno["frame_id"] for anno in annos] == frames
    assert printed.count("Car AP@0.70, 0.70, 0.70:") == 1  # rank 0 alone reports

    monkeypatch.chdir(workplace)
    tiny_kitti.tool("test").main(["--cfg_file", "cfgs/tiny_models/tiny.yaml", "--workers", "0", "--eval_tag", "alone"])
    with open(workplace / "output/tiny_models/tiny/default/eval/epoch_1/val/alone/result.pkl", "rb") as file:
        alone = pickle.load(file)
    assert [anno["frame_id"] for anno in alone] == frames
    for one, other in zip(annos, alone):
        assert len(one["score"]) > 10
        np.testing.assert_allclose(one["score"], other["score"], rtol=1e-5)
        np.testing.assert_allclose(one["boxes_lidar"], other["boxes_lidar"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_objects_travel_between_the_ranks(run):
    seen, _, _ = run
    assert seen["broadcast_from_rank0"] == {"rank": 0}
    assert [tensor.tolist() for tensor in seen["reduced"]] == [[3.0], [1.5], [2.0]]
    assert seen["gathered"] == [["rank 0", "rank 1"], 5.0, 2]
    assert seen["joined"] == [{"a": 5.0, "b": 1.5}, {"a": 10.0, "b": 3.0}]
    assert seen["in a row"].tolist() == [[0.0], [0.0], [1.0], [1.0]]
    assert seen["merged"] == ["a", "b", "c", "d", "e"]


def test_one_process_alone():
    assert distributed.get_dist_info() == (0, 1) and len(distributed.get_dist_info(return_gpu_per_machine=True)) == 3
    assert distributed.merge_results_dist([1, 2, 3], 2, tmpdir="unused") == [1, 2]
    assert distributed.broadcast_from_rank0("x") == "x"
    assert (
        distributed.all_gather("x") == ["x"]
        and distributed.average_reduce_value(3.0) == 3.0
        and distributed.is_main_process()
    )
    assert distributed.all_reduce(torch.tensor([2.0])).tolist() == [2.0]
    assert distributed.reduce_dict({"a": torch.tensor(2.0)}) == {"a": torch.tensor(2.0)}
    with pytest.raises(ValueError, match="max"):
        distributed.all_reduce(torch.tensor([2.0]), op="max", average=True)


def test_a_launcher_outside_its_surroundings_says_how_to_start(monkeypatch):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="torchrun --nproc_per_node"):
        distributed.init_dist_pytorch(18888, 0)
    with pytest.raises(InputError, match="srun"):
        distributed.init_dist_slurm(18888, 0)


def test_a_process_ends_with_its_last_words_and_does_not_wait_for_a_thread():
    program = (
        "import atexit, threading, time\nfrom pcdet_focal.engine.cli import _end_process\n"
        "threading.Thread(target=time.sleep, args=(100,)).start()\n"
        "atexit.register(print, 'closed')\nprint('done')\n_end_process()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout.split()) == (0, ["done", "closed"])
