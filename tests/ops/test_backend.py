"""The choice of the backend, and what happens without numba."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pcdet_focal.errors import InputError
from pcdet_focal.ops.backend import choose_backend
from pcdet_focal.ops.iou3d_nms import iou3d_nms_utils
from pcdet_focal.ops.rotated_iou import boxes_iou_bev


@pytest.mark.parametrize(
    "forced, device, has_cuda, chosen",
    [
        (None, "cpu", False, "cpu"),
        (None, "cuda:0", True, "cuda"),
        (None, "cuda:0", False, "reference"),
        ("", "cpu", False, "cpu"),
        ("reference", "cpu", False, "reference"),
        ("reference", "cuda", True, "reference"),
        ("cpu", "cpu", False, "cpu"),
        ("CPU", "cuda", True, "cpu"),
        ("cuda", "cpu", True, "cpu"),
    ],
)
def test_choice(monkeypatch, forced, device, has_cuda, chosen):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("pcdet_focal.ops.backend._can_import", lambda package: True)
    if forced is None:
        monkeypatch.delenv("PCDET_FOCAL_BACKEND", raising=False)
    else:
        monkeypatch.setenv("PCDET_FOCAL_BACKEND", forced)
    assert choose_backend(device, "nms", has_cuda) == chosen


def test_triton_interpreter_takes_host_data(monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("pcdet_focal.ops.backend._can_import", lambda package: True)
    assert choose_backend("cpu", "nms", has_cuda=True) == "cuda"


def test_forcing_a_backend_that_a_room_lacks_warns(monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "cuda")
    with pytest.warns(RuntimeWarning, match="operation_without_kernels has no cuda backend"):
        assert choose_backend("cuda:0", "operation_without_kernels") == "reference"


def test_a_backend_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("PCDET_FOCAL_BACKEND", "gpu")
    with pytest.raises(InputError, match="PCDET_FOCAL_BACKEND .*'gpu'.*reference, cpu, cuda"):
        choose_backend("cpu", "nms")


def test_without_numba_the_reference_serves_with_one_warning():
    program = """
import sys, warnings
sys.modules["numba"] = None  # importing it raises ImportError
import numpy as np
from pcdet_focal.ops.nms import nms_rotated
from pcdet_focal.ops.points_in_boxes import count_points_in_boxes
from pcdet_focal.ops.rotated_iou import boxes_iou_bev
from pcdet_focal.ops.voxelize import voxelize
boxes = np.array([[0, 0, 0, 2, 2, 2, 0], [1, 0, 0, 2, 2, 2, 0]], dtype=np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert abs(boxes_iou_bev(boxes, boxes)[0, 1] - 1 / 3) < 1e-6
    assert nms_rotated(boxes, np.array([0.1, 0.2]), 0.3).tolist() == [1]
    assert count_points_in_boxes(boxes[:, :3], boxes).tolist() == [2, 2]
    assert voxelize(boxes[:, :3], [1, 1, 1], [0, 0, 0, 4, 4, 4], 5, 5)[1].tolist() == [[0, 0, 0], [0, 0, 1]]
messages = [str(w.message) for w in caught if "numba cannot be imported" in str(w.message)]
assert len(messages) == 1, caught
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=Path(__file__).resolve().parents[2])


def test_arguments_of_the_wrong_kind():
    box = np.zeros((1, 7), dtype=np.float32)
    with pytest.raises(InputError):
        boxes_iou_bev(box, torch.from_numpy(box))
    with pytest.raises(InputError, match="boxes_a .*list"):
        boxes_iou_bev([[0.0] * 7], box)
    with pytest.raises(InputError, match="boxes_b .*torch.int64"):
        boxes_iou_bev(box, box.astype(np.int64))
    with pytest.raises(InputError, match=r"boxes_a .*\(1, 6\)"):
        boxes_iou_bev(box[:, :6], box)
    with pytest.raises(InputError, match=r"boxes_a .*\(7,\)"):
        boxes_iou_bev(box[0], box)


def test_read_only_and_reversed_arrays_are_accepted_and_left_alone():
    boxes = np.array([[0, 0, 0, 2, 2, 2, 0], [1, 0, 0, 2, 2, 2, 0]], dtype=np.float64)[::-1]
    boxes.flags.writeable = False
    before = boxes.copy()
    np.testing.assert_allclose(boxes_iou_bev(boxes, boxes), [[1, 1 / 3], [1 / 3, 1]])
    np.testing.assert_array_equal(boxes, before)


def test_door_of_iou3d_nms():
    assert set(iou3d_nms_utils.__all__) == {
        "boxes_bev_iou_cpu",
        "boxes_iou_bev",
        "boxes_iou3d_gpu",
        "boxes_aligned_iou3d_gpu",
        "paired_boxes_iou3d_gpu",
        "nms_gpu",
        "nms_normal_gpu",
    }
    a = torch.tensor([[0, 0, 0, 2, 2, 2, 0.0], [5, 5, 0, 2, 2, 2, 0.0]])
    b = torch.tensor([[0, 1, 1, 2, 2, 2, 0.0], [5, 5, 0, 2, 2, 2, 0.0]])
    assert torch.allclose(iou3d_nms_utils.boxes_bev_iou_cpu(a, b), torch.tensor([[1 / 3, 0], [0, 1]]))
    assert torch.allclose(iou3d_nms_utils.boxes_iou3d_gpu(a, b), torch.tensor([[1 / 7, 0], [0, 1]]))
    assert torch.allclose(iou3d_nms_utils.boxes_aligned_iou3d_gpu(a, b), torch.tensor([[1 / 7], [1]]))
    assert torch.allclose(iou3d_nms_utils.paired_boxes_iou3d_gpu(a, b), torch.tensor([1 / 7, 1]))
    boxes, scores = torch.cat([a, b]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    keep, nothing = iou3d_nms_utils.nms_gpu(boxes, scores, 0.2, NMS_TYPE="nms_gpu", NMS_POST_MAXSIZE=1)
    assert keep.tolist() == [3, 2] and nothing is None
    assert iou3d_nms_utils.nms_normal_gpu(boxes, scores, 0.2, NMS_TYPE="nms_normal_gpu")[0].tolist() == [3, 2]
    assert iou3d_nms_utils.nms_normal_gpu(boxes, scores, 0.2, pre_maxsize=1)[0].tolist() == [3]
