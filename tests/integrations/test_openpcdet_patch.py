"""This package's losses inside an OpenPCDet: a small stand-in with its names and formulas, and the real one where a
checkout is at hand.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_kitti
import torch
from anchor_head_case import CONFIG, outcome, predictions
from openpcdet import needs_openpcdet, peer_folder
from openpcdet_stand_in import write_stand_in

from pcdet_focal.errors import InputError
from pcdet_focal.integrations import openpcdet
from pcdet_focal.utils import loss_utils


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package ``pcdet`` that can be imported; it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield write_stand_in(tmp_path)
    openpcdet.unpatch()
    for name in [name for name in sys.modules if name == "pcdet" or name.startswith("pcdet.")]:
        del sys.modules[name]


def new_head():
    from types import SimpleNamespace

    from pcdet.models.dense_heads.anchor_head_template import AnchorHeadTemplate

    return AnchorHeadTemplate(CONFIG, 3, predictions()[0], SimpleNamespace(code_size=7))


def test_the_heads_loss_is_the_same_number_before_and_after(stand_in):
    before = new_head()
    plain = outcome(before)
    names = openpcdet.patch()
    assert "pcdet.utils.loss_utils.SigmoidFocalClassificationLoss" in names
    assert (
        "pcdet.models.dense_heads.anchor_head_template.get_cls_layer_loss" in names
        and len(names) == len(loss_utils.__all__) + 3
    )
    after = new_head()
    assert (
        type(after.cls_loss_func) is loss_utils.SigmoidFocalClassificationLoss
        and type(after.reg_loss_func) is loss_utils.WeightedSmoothL1Loss
    )
    for head in (after, before):  # ``before`` has the stand-in's own loss modules, and goes the way of one-hot targets
        torch.testing.assert_close(outcome(head), plain, rtol=1e-5, atol=1e-7)
    _, parts = after.get_loss()
    assert all(torch.is_tensor(part) and not part.requires_grad for part in parts.values())
    openpcdet.unpatch()
    torch.testing.assert_close(outcome(after), plain, rtol=1e-5, atol=1e-7)  # built while patched


def test_a_patched_head_reads_this_packages_loss_entries(stand_in):
    with openpcdet.patched():
        CONFIG.LOSS_CONFIG.CLS_LOSS = {"NAME": "GHMC"}
        try:
            head = new_head()
            head.forward_ret_dict = predictions()[1]
            assert type(head.cls_loss_func).__name__ == "HeadClassificationLoss" and head.get_loss()[0].isfinite()
        finally:
            CONFIG.LOSS_CONFIG.pop("CLS_LOSS")


def test_everything_comes_back_and_twice_is_once(stand_in):
    from pcdet.models.dense_heads.anchor_head_template import AnchorHeadTemplate
    from pcdet.utils import loss_utils as theirs

    before, class_before = dict(vars(theirs)), dict(vars(AnchorHeadTemplate))
    openpcdet.unpatch()  # nothing to undo
    assert openpcdet.patch() == openpcdet.patch()
    assert theirs.SigmoidFocalClassificationLoss is loss_utils.SigmoidFocalClassificationLoss
    with openpcdet.patched():
        pass
    assert theirs.L1Loss is loss_utils.L1Loss  # was patched before the block
    openpcdet.unpatch()
    assert dict(vars(theirs)) == before and dict(vars(AnchorHeadTemplate)) == class_before
    with pytest.raises(ZeroDivisionError), openpcdet.patched():
        assert theirs.L1Loss is loss_utils.L1Loss
        1 / 0
    assert dict(vars(theirs)) == before and dict(vars(AnchorHeadTemplate)) == class_before


def test_without_an_openpcdet_or_with_another_version_nothing_is_changed(stand_in):
    path = stand_in / "utils/loss_utils.py"
    path.write_text(path.read_text().replace("L1Loss", "SmoothedLoss"))
    with pytest.raises(
        InputError,
        match=r"OpenPCDet 0\.6.* pcdet\.utils\.loss_utils\.L1Loss, "
        r"pcdet\.utils\.loss_utils\.WeightedL1Loss",
    ):
        openpcdet.patch()
    from pcdet.utils import loss_utils as theirs

    assert theirs.SigmoidFocalClassificationLoss is not loss_utils.SigmoidFocalClassificationLoss
    for name in [name for name in sys.modules if name.split(".")[0] == "pcdet"]:
        del sys.modules[name]
    (stand_in / "utils/loss_utils.py").unlink()
    with pytest.raises(
        InputError,
        match=r"patch\(\).* pcdet\.utils\.loss_utils",
    ):
        openpcdet.patch()


def test_pcdet_that_is_this_package_is_refused(tmp_path):
    script = "from pcdet_focal.integrations.openpcdet import alias, patch\nalias()\npatch()\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tiny_kitti.REPOSITORY, capture_output=True, text=True)
    assert re.search(r"InputError: patch\(\): .*pcdet_focal", done.stderr)


@needs_openpcdet
def test_the_real_heads_loss_is_the_same_number_before_and_after():
    script = Path(__file__).with_name("real_openpcdet.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, peer_folder() / "tools"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(tiny_kitti.REPOSITORY), str(tiny_kitti.REPOSITORY / "tests"), str(peer_folder())]
            ),
        },
    )
    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout.splitlines()[-1])) < 1e-5
