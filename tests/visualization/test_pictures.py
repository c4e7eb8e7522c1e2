"""Pictures: they are written at the expected size, boxes change the pixels where they are, and mistakes are named."""

import base64
import builtins
import json
import re

import numpy as np
import pytest

from pcdet_focal.errors import InputError
from pcdet_focal.visualization import draw_bev, draw_training_curves, write_scene_html
from pcdet_focal.visualization.canvas import DETECTION, GROUND_TRUTH
from pcdet_focal.visualization.inputs import footprints
from pcdet_focal.visualization.reports import smooth
from pcdet_focal.visualization.scene_html import MAX_POINTS

RANGE = [0.0, -20.0, -3.0, 40.0, 20.0, 1.0]


@pytest.fixture()
def scan():
    rng = np.random.default_rng(0)
    return np.column_stack(
        [rng.uniform(0, 40, 2000), rng.uniform(-20, 20, 2000), rng.uniform(-2, 1, 2000), rng.random(2000)]
    ).astype(np.float32)


def pixels(path):
    from matplotlib.image import imread

    return imread(path)


def colour_of(image, colour):
    """(rows, columns) bool: pixels near a colour given as #rrggbb."""
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255.0
    return np.abs(image[..., :3] - rgb).max(axis=-1) < 0.12


def test_bev_has_the_expected_size_and_boxes_change_it(scan, tmp_path):
    boxes = np.array([[10.0, 5.0, -1.0, 4.0, 1.6, 1.5, 0.3, 1.0], [0.0] * 8])
    draw_bev(scan, point_cloud_range=RANGE, path=tmp_path / "plain.png")
    draw_bev(scan, boxes, ["Car", ""], point_cloud_range=RANGE, path=tmp_path / "truth.png")
    draw_bev(
        scan,
        boxes,
        ["Car", ""],
        boxes[:1, :7] + [20.0, -8.0, 0, 0, 0, 0, 0],
        [0.87],
        ["Car"],
        RANGE,
        "frame 1",
        tmp_path / "both.png",
    )
    plain, truth, both = (pixels(tmp_path / f"{name}.png") for name in ("plain", "truth", "both"))
    assert plain.shape == truth.shape == both.shape == (round(13.1 * 120), round(13.6 * 120), 4)
    assert not colour_of(plain, GROUND_TRUTH).any() and not colour_of(plain, DETECTION).any()
    assert colour_of(truth, GROUND_TRUTH).sum() > 200 and not colour_of(truth, DETECTION).any()
    assert colour_of(both, GROUND_TRUTH).sum() > 200 and colour_of(both, DETECTION).sum() > 200
    # the detection stands where its box is: x 30 m of 40, y -3 m of -20 .. 20, on a map of 12 inches
    rows, columns = np.nonzero(colour_of(both, DETECTION))
    column = (0.65 + 12 * 30 / 40) * 120
    row = both.shape[0] - (0.55 + 12 * 17 / 40) * 120
    near = (np.abs(columns - column) < 120 * 12 * 3 / 40) & (np.abs(rows - row) < 120 * 12 * 3 / 40)
    assert near.sum() > 150


def test_bev_takes_tensors_class_numbers_nan_and_nothing(scan, tmp_path):
    import torch

    scan[5, 0] = np.nan
    figure = draw_bev(
        torch.from_numpy(scan),
        torch.ones(2, 8),
        torch.tensor([1, 2]),
        torch.zeros(0, 7),
        torch.zeros(0),
        torch.zeros(0),
        path=tmp_path / "a" / "b.png",
    )
    assert (tmp_path / "a" / "b.png").exists() and "ground truth (2)" in [
        text.get_text() for text in figure.axes[0].get_legend().get_texts()
    ]
    draw_bev(np.zeros((0, 4)), path=tmp_path / "empty.png")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "empty.png"]


def test_footprints_turn_anticlockwise():
    corners = footprints(np.array([[1.0, 2.0, 0.0, 4.0, 2.0, 1.0, np.pi / 2]]))[0]
    np.testing.assert_allclose(corners, [[0.0, 4.0], [2.0, 4.0], [2.0, 0.0], [0.0, 0.0]], atol=1e-12)


def test_wrong_input_is_named(scan, tmp_path):
    with pytest.raises(InputError, match="points"):
        draw_bev(scan[:, :2])
    with pytest.raises(InputError, match="pred_boxes"):
        draw_bev(scan, pred_boxes=np.ones((2, 6)))
    with pytest.raises(InputError, match="3 .*2 "):
        draw_bev(scan, np.ones((2, 7)), ["a", "b", "c"])
    with pytest.raises(InputError, match=r"picture\.xyz"):
        draw_bev(scan, path=tmp_path / "picture.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"picture\.png"):
        draw_bev(scan, path=tmp_path / "file" / "picture.png")


def test_a_missing_matplotlib_says_how_to_install_it(scan, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_bev(scan)


def test_training_curves(tmp_path):
    steps = np.arange(100)
    history = {
        "train/loss": [(int(s), float(2.0 / (1 + s))) for s in steps],
        "meta_data/lr": [(int(s), 1e-3) for s in steps],
    }
    figure = draw_training_curves(history, tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").shape == (round(5.2 * 120), 1080, 4)
    top, bottom = figure.axes
    assert top.get_yscale() == "log" and bottom.get_ylabel() == "learning rate"
    np.testing.assert_allclose(top.lines[0].get_ydata(), 2.0 / (1 + steps))
    draw_training_curves({"loss": [(0, float("nan")), (1, -1.0)]}, tmp_path / "few.png")
    for empty in ({}, {"loss": []}):
        with pytest.raises(InputError, match="history"):
            draw_training_curves(empty)


def test_smoothing_keeps_constants_and_skips_what_is_not_finite():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 10.0), 3.0)
    np.testing.assert_allclose(
        smooth(np.array([np.nan, 1.0, np.inf, 3.0]), 2.0)[1:], [1.0, 1.0, (0.25 * 1.0 + 0.5 * 3.0) / 0.75]
    )
    np.testing.assert_allclose(smooth(np.arange(5.0), 1.0), np.arange(5.0))


def test_scene_page_holds_points_and_boxes_and_loads_nothing(scan, tmp_path):
    boxes = np.array([[10.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.0]])
    path = write_scene_html(
        scan, boxes, boxes, ["</script><b>"], ["Car"], [0.5], tmp_path / "scene.html", title="a <b> c"
    )
    page = path.read_text()
    assert "a &lt;b&gt; c" in page and page.count("</script>") == 1 and not re.search(r"(src|href)=|https?://", page)
    data = json.loads(re.search(r"const data = (.*);\n", page).group(1))
    stored = np.frombuffer(base64.b64decode(data["points"]), "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(stored, scan[:, :3])
    lines = np.frombuffer(base64.b64decode(data["sets"][0]["lines"]), "<f4").reshape(-1, 2, 3)
    lengths = np.linalg.norm(lines[:, 0] - lines[:, 1], axis=1)
    assert sorted(np.round(lengths, 4)) == [1.0] + [1.5] * 4 + [2.0] * 4 + [4.0] * 4
    np.testing.assert_allclose(lines[:12].min(axis=(0, 1)), [8.0, 4.0, -1.75])
    np.testing.assert_allclose(lines[:12].max(axis=(0, 1)), [12.0, 6.0, -0.25])
    assert data["sets"][1]["texts"] == ["Car 0.50"]
    many = np.tile(scan, (40, 1))
    data = json.loads(re.search(r"const data = (.*);\n", write_scene_html(many, path=path).read_text()).group(1))
    assert len(base64.b64decode(data["points"])) == MAX_POINTS * 12 and str(len(many)) in data["note"]
