"""The Triton kernels of the rooms of ``pcdet_focal.ops``: right in the interpreter, and compiled for GPUs that are not here."""
import pytest
from ops_triton import INTERPRETED, run_in_interpreter

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(INTERPRETED, reason="this process interprets Triton already")

# room: the cases of its tests that take no more than a few programs; the interpreter needs about 30 ms for each
ROOMS = {
    "rotated_iou": "closed_forms or heights or large_coordinates or tiny or not_finite or further_columns or symmetric or moving or pairs or every_backend",
    "points_in_boxes": "recorded or faces or heading or first_box or not_a_number or empty or batch or moves",
    "nms": "by_hand or survivors or equal or touching or only or pre_maxsize or post_maxsize or 65 or axis_aligned or empty",
}


@pytest.mark.parametrize("room", ROOMS)
def test_in_the_interpreter(room):
    assert run_in_interpreter(f"tests/ops/{room}", f"cuda and ({ROOMS[room]})") >= 8
