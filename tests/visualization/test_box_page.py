"""A page of boxes: as many cells as boxes, the labelled one green and the corrected one red, around the corrected
one.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from pcdet_focal.errors import InputError
from pcdet_focal.visualization import draw_box_page

BOX = np.array([10.0, 5.0, -1.0, 4.0, 1.6, 1.5, 0.3])


def test_each_box_is_drawn_from_above_and_from_the_side(tmp_path):
    points = np.random.RandomState(0).uniform([0, -5, -2], [20, 15, 1], (5000, 3))
    plain = SimpleNamespace(frame_id="000001", name="Car", box=BOX, corrected=None)
    moved = SimpleNamespace(frame_id="000002", name="Car", box=BOX, corrected=BOX + np.array([30.0, 0, 2, 0, 0, 0, 0]))
    figure = draw_box_page(
        [("as labelled", points, plain)] * 3 + [("wrong frame", points, moved)], tmp_path / "page.png"
    )
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    shown = figure.axes
    assert len(shown) == 8 and [axes.get_title(loc="left") for axes in shown if axes.get_title(loc="left")] == [
        "as labelled\nCar in 000001"
    ] * 3 + ["wrong frame\nCar in 000002"]
    above, side = shown[-2:]
    assert np.mean(above.get_xlim()) == pytest.approx(40) and np.mean(above.get_ylim()) == pytest.approx(5)
    assert np.mean(side.get_ylim()) == pytest.approx(1)
    assert [line.get_linestyle() for line in side.lines] == ["-", "--"]
    # from the side the corrected box is as long and high as it is, about its own middle
    along, height = side.lines[1].get_data()
    assert (min(along), max(along)) == pytest.approx((-2, 2)) and (min(height), max(height)) == pytest.approx(
        (0.25, 1.75)
    )


def test_points_of_a_wrong_shape_are_refused():
    with pytest.raises(InputError, match="points"):
        draw_box_page([("x", np.zeros((4, 2)), SimpleNamespace(frame_id="1", name="Car", box=BOX, corrected=None))])
