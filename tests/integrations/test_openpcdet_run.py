"""Scripts that say ``import pcdet``, run on this package, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_kitti
from openpcdet import copy_tools, needs_openpcdet, run

SAME_MODULES = """
import pickle, sys
import pcdet, pcdet.ops.iou3d_nms.iou3d_nms_utils as nms
from pcdet.utils import box_utils, common_utils
from pcdet.config import cfg
from pcdet.models.detectors.second_net import SECONDNet
from pcdet.datasets import DatasetTemplate
import pcdet_focal, pcdet_focal.utils.box_utils, pcdet_focal.config, pcdet_focal.models.detectors, pcdet_focal.datasets
assert pcdet is pcdet_focal and pcdet.utils is pcdet_focal.utils and box_utils is pcdet_focal.utils.box_utils
assert cfg is pcdet_focal.config.cfg and nms.__name__ == "pcdet_focal.ops.iou3d_nms.iou3d_nms_utils"
assert SECONDNet is pcdet_focal.models.detectors.SECONDNet and DatasetTemplate is pcdet_focal.datasets.DatasetTemplate
import pcdet.utils.loss_utils as loss_utils  # the second name first
import pcdet_focal.utils.loss_utils as ours
assert loss_utils is ours is sys.modules["pcdet.utils.loss_utils"]
for name, module in list(sys.modules.items()):  # one object a module, and it knows itself by its first name
    if name == "pcdet" or name.startswith("pcdet."):
        real = "pcdet_focal" + name[5:]
        assert sys.modules[real] is module and module.__name__ == real and module.__spec__.name == real, name
        assert module.__package__ in (real, real.rpartition(".")[0])
assert pickle.loads(b"cpcdet.utils.loss_utils\\nWeightedSmoothL1Loss\\n.") is ours.WeightedSmoothL1Loss
try:
    from pcdet.models import roi_heads
except ImportError as error:
    missing = str(error)
try:
    import pcdet.models.roi_heads
except ModuleNotFoundError as error:
    missing_too = error.name
import importlib.util
assert importlib.util.find_spec("pcdet.models.roi_heads") is None
print("fine", missing_too)
"""


def test_pcdet_is_pcdet_focal_module_by_module(tmp_path):
    (tmp_path / "script.py").write_text(SAME_MODULES)
    done = run(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "fine pcdet.models.roi_heads\n"


def test_a_script_finds_what_python_would_give_it(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/_init_path.py").write_text("import sys\nsys.path.insert(0, '../')\n")
    (tmp_path / "tools/script.py").write_text(
        "'What it does.'\nimport _init_path, json, sys, pickle, __main__\n"
        "class Kept: pass\n"
        "def typed(x: int): pass\n"
        "print(json.dumps([sys.argv, __name__, __file__, __main__.Kept is Kept, "
        "type(pickle.loads(pickle.dumps(Kept()))) is Kept, sys.path[1], __doc__,\n"
        "                  str(typed.__annotations__), type(__builtins__).__name__, __spec__, __package__]))\n"
        "sys.exit(3)\n"
    )
    given = ["tools/script.py", "--set", "A.B", "1"]
    done, plain = (
        run(tmp_path, *given),
        subprocess.run([sys.executable, *given], cwd=tmp_path, capture_output=True, text=True),
    )
    assert done.returncode == plain.returncode == 3
    assert json.loads(done.stdout) == json.loads(plain.stdout)
    assert json.loads(done.stdout)[:2] == [given, "__main__"]


@pytest.mark.parametrize(
    "text",
    ["import pcdet\n\n\ndef f():\n    return 1 / 0\n\n\nf()\n", "import json\nx = = 1\n", "raise KeyboardInterrupt\n"],
)
def test_tracebacks_and_exit_status_are_pythons_own(tmp_path, text):
    (tmp_path / "script.py").write_text(text)
    (tmp_path / "pcdet.py").write_text("")  # for plain Python
    done = run(tmp_path, "script.py")
    plain = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == plain.returncode != 0
    told = done.stderr[done.stderr.index("Traceback" if "Traceback" in plain.stderr else "  File") :]
    assert told == plain.stderr


def test_a_module_that_is_not_here_is_named_with_the_page_that_lists_what_is(tmp_path):
    (tmp_path / "script.py").write_text("from pcdet.models.roi_heads import PVRCNNHead\n")
    done = run(tmp_path, "script.py")
    assert done.returncode == 1
    assert (
        "ModuleNotFoundError: No module named 'pcdet.models.roi_heads'" in done.stderr
        and "docs/from_openpcdet.md" in done.stderr
    )


@pytest.mark.slow
def test_mistakes_of_the_command_itself(tmp_path):
    assert run(tmp_path).returncode == 2
    done = run(tmp_path, "nowhere.py")
    assert done.returncode == 1 and "nowhere.py" in done.stderr and done.stderr.count("\n") == 1


def test_alias_comes_too_late_after_the_real_one(tmp_path):
    (tmp_path / "pcdet").mkdir()
    (tmp_path / "pcdet/__init__.py").write_text("")
    (tmp_path / "late.py").write_text(
        f"import sys\nsys.path[:0] = [{str(tiny_kitti.REPOSITORY)!r}]\nimport pcdet\nfrom "
        "pcdet_focal.integrations.openpcdet import alias\n"
        "from pcdet_focal.errors import InputError\ntry:\n    alias()\nexcept InputError as error:\n    print(error)\n"
        "del sys.modules['pcdet']\nalias(); alias()\nimport pcdet\nprint(pcdet.__name__, len([f for f in "
        "sys.meta_path if hasattr(f, 'alias')]))\n"
    )
    done = subprocess.run([sys.executable, "late.py"], cwd=tmp_path, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert str(tmp_path / "pcdet") in first and second == "pcdet_focal 1"


# ---- OpenPCDet's own tools, as they lie in its repository
# --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """OpenPCDet's tools folder as in a checkout, with a small configuration."""
    folder = tmp_path_factory.mktemp("openpcdet")
    copy_tools(folder)
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0
    tiny_kitti.write_config(folder / "tools/cfgs/tiny_models/tiny.yaml", content)
    for visual in ("open3d", "mayavi"):  # demo.py's pictures: not this package's business
        (folder / f"tools/{visual}.py").write_text("")
    (folder / "tools/visual_utils/open3d_vis_utils.py").write_text(
        "def draw_scenes(**kwargs):\n    print('drawn', sorted(kwargs))\n"
    )
    return folder


@needs_openpcdet  # test.py: tests/test_docs_from_openpcdet.py
@pytest.mark.slow
def test_openpcdets_train_and_demo_run_unmodified(checkout):
    common, path = ["--cfg_file", "cfgs/tiny_models/tiny.yaml", "--workers", "0"], [checkout / "no_waiting"]
    done = run(
        checkout / "tools",
        "train.py",
        *common,
        "--fix_random_seed",
        "--num_epochs_to_eval",
        "1",
        "--set",
        "OPTIMIZATION.LR",
        "0.002",
        path=path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    output = checkout / "output/tiny_models/tiny/default"
    assert sorted(path.name for path in (output / "ckpt").iterdir()) == [
        "checkpoint_epoch_1.pth",
        "checkpoint_epoch_2.pth",
    ]
    assert (
        "Car AP_R40@0.70, 0.70, 0.70" in done.stdout
        and (output / "eval/eval_with_train/epoch_2/val/result.pkl").exists()
    )
    assert "Start training tiny_models/tiny(default)" in done.stdout

    resumed = run(checkout / "tools", "train.py", *common, "--epochs", "3", "--num_epochs_to_eval", "1", path=path)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "epoch 2, iteration 6" in resumed.stdout and (output / "ckpt/checkpoint_epoch_3.pth").exists()

    scan = next((tiny_kitti.dataset() / "training/velodyne").glob("*.bin"))
    shown = run(
        checkout / "tools",
        "demo.py",
        *common[:2],
        "--ckpt",
        output / "ckpt/checkpoint_epoch_2.pth",
        "--data_path",
        scan,
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "drawn ['points', 'ref_boxes', 'ref_labels', 'ref_scores']" in shown.stdout
