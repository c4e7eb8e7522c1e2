"""Every augmentation function against recorded results of OpenPCDet on real frames, with the numbers it drew."""

import functools

import numpy as np
import pytest
from golden_data import KITTI_SAMPLE, cases, needs_golden, needs_kitti_sample

from pcdet_focal.datasets.augmentor import augmentor_utils as au

pytestmark = needs_golden
EXTRAS = cases("08_training_extras/augmentor_utils.npz")
FRAMES = cases("10_infos/augmentor.npz")
SCENE_CASES = [name for name in FRAMES if not name.startswith("scene_")]
RANGES = {
    "random_local_translation_along_x": [-0.5, 0.5],
    "random_local_translation_along_y": [-0.5, 0.5],
    "random_local_translation_along_z": [-0.3, 0.3],
    "local_rotation": [-0.5, 0.5],
    "local_scaling": [0.9, 1.1],
    "global_frustum_dropout": [0.05, 0.35],
    "local_frustum_dropout": [0.2, 0.6],
}


def scene(name):
    arrays = FRAMES["scene_" + name[-1]]
    return arrays["boxes9" if "_c9_" in name else "boxes7"].copy(), arrays["points"].copy()


def inject(monkeypatch, numbers, function="uniform"):
    """Make ``np.random.<function>`` return the recorded numbers one after the other; the returned list must be empty at
    the end.
    """
    left = list(np.atleast_1d(numbers))
    monkeypatch.setattr(np.random, function, lambda *args, **kwargs: left.pop(0))
    return left


def assert_close(got, recorded):
    assert got.shape == recorded.shape and got.dtype == recorded.dtype
    np.testing.assert_allclose(got, recorded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EXTRAS)
def test_global_transforms_with_a_seed(name):
    case = EXTRAS[name]
    boxes, points = case["gt_boxes"].copy(), case["points"].copy()
    boxes.flags.writeable = points.flags.writeable = False
    np.random.seed(int(case["seed"]))
    if name.startswith("flip"):
        enable = None if "seed" in name else True
        result = getattr(au, f"random_flip_along_{name[5]}")(boxes, points, return_flip=True, enable=enable)
    elif name.startswith("rotation"):
        result = au.global_rotation(
            boxes, points, [-np.pi / 4, np.pi / 4], return_rot=True, noise_rotation=float(case["param"])
        )
        np.random.seed(int(case["seed"]))
        low, high = -0.78539816, 0.78539816
        assert au.global_rotation(boxes, points, [low, high], return_rot=True)[2] == pytest.approx(
            float(case["param"]), abs=1e-6
        )
    else:
        result = au.global_scaling(boxes, points, [0.95, 1.05], return_scale=True)
    assert_close(result[0], case["out_boxes"])
    assert_close(result[1], case["out_points"])
    assert float(result[2]) == pytest.approx(float(case["param"]), rel=1e-12)


@pytest.mark.parametrize(
    "name", [n for n in SCENE_CASES if "out_points" in FRAMES[n] and "pyramid" not in n and "world" not in n]
)
def test_moves_on_real_frames(name, monkeypatch):
    case = FRAMES[name]
    boxes, points = scene(name)
    function = name[: name.index("_c")].replace("_on", "").replace("_off", "")
    if "flip" in name:
        result = getattr(au, function)(boxes, points, enable=bool(case["param"]))
    else:
        left = inject(monkeypatch, case["param"])
        result = getattr(au, function)(boxes, points, RANGES.get(function, [0.0, 1.0]))
        assert not left
    assert_close(result[0], case["out_boxes"])
    assert_close(result[1], case["out_points"])


@pytest.mark.parametrize("name", [n for n in SCENE_CASES if "kept_points_mask" in FRAMES[n]])
def test_frustum_dropout_keeps_the_same_points(name, monkeypatch):
    case = FRAMES[name]
    boxes, points = scene(name)
    function = name[: name.index("_c")]
    left = inject(monkeypatch, case["param"])
    out_boxes, out_points = getattr(au, function)(boxes, points, RANGES[function.rpartition("_")[0]])
    assert not left
    np.testing.assert_array_equal(out_points, points[case["kept_points_mask"]])
    assert_close(out_boxes, case["out_boxes"])


@pytest.mark.parametrize("scene_name", ["s0", "s1"])
def test_local_rotation_turns_the_velocity_where_openpcdet_raises(scene_name, monkeypatch):
    boxes9, points = scene(f"x_c9_{scene_name}")
    case = FRAMES[f"local_rotation_c7_{scene_name}"]
    inject(monkeypatch, case["param"])
    out_boxes, out_points = au.local_rotation(boxes9, points, [-0.5, 0.5])
    assert_close(out_points, case["out_points"])
    assert_close(out_boxes[:, :7], case["out_boxes"])
    turned = (boxes9[:, 7] + 1j * boxes9[:, 8]) * np.exp(1j * case["param"])
    np.testing.assert_allclose(out_boxes[:, 7] + 1j * out_boxes[:, 8], turned, atol=1e-5)


@pytest.mark.parametrize("scene_name", ["s0", "s1"])
def test_points_in_box(scene_name):
    boxes, points = scene(f"x_c7_{scene_name}")
    masks = [au.get_points_in_box(points, box) for box in boxes]
    np.testing.assert_array_equal(
        np.stack([mask for _, mask in masks]), FRAMES[f"get_points_in_box_{scene_name}"]["mask"]
    )
    np.testing.assert_array_equal(masks[0][0], points[masks[0][1]])


@needs_kitti_sample
@pytest.mark.parametrize("scene_name, frame", [("s0", "000010"), ("s1", "000142")])
def test_image_flip(scene_name, frame, monkeypatch):
    from pcdet_focal.geometry.calibration import Calibration

    case = FRAMES[f"random_image_flip_horizontal_{scene_name}"]
    boxes, _ = scene(f"x_c7_{scene_name}")
    before = boxes.copy()
    image = (np.arange(4 * 1242 * 3) % 251 / 250).astype(np.float32).reshape(4, 1242, 3)
    depth = (np.arange(4 * 1242) % 97).astype(np.float32).reshape(4, 1242)
    inject(monkeypatch, [0.75], "random_sample")
    out_image, out_depth, out_boxes = au.random_image_flip_horizontal(
        image, depth, boxes, Calibration(KITTI_SAMPLE / f"training/calib/{frame}.txt")
    )
    np.testing.assert_allclose(out_boxes, case["out_boxes"], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(out_image[0], case["out_image_row0"], rtol=1e-6)
    np.testing.assert_allclose(out_depth[0], case["out_depth_row0"], rtol=1e-6)
    np.testing.assert_array_equal(boxes, before)


@pytest.mark.parametrize("scene_name", ["s0", "s1"])
def test_world_translation(scene_name, monkeypatch):
    from pcdet_focal.datasets.augmentor.data_augmentor import DataAugmentor

    case = FRAMES[f"random_world_translation_c7_{scene_name}"]
    boxes, points = scene(f"x_c7_{scene_name}")
    augmentor = DataAugmentor(
        None, [{"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [0.5, 0.4, 0.2]}], ["Car"]
    )
    left = [np.array([v]) for v in case["param"][0]]
    monkeypatch.setattr(np.random, "normal", lambda *args: left.pop(0))
    result = augmentor.data_augmentor_queue[0]({"gt_boxes": boxes, "points": points})
    assert_close(result["gt_boxes"], case["out_boxes"])
    assert_close(result["points"], case["out_points"])
    assert_close(result["noise_translate"], case["param"])


@pytest.mark.parametrize("scene_name", ["s0", "s1"])
def test_pyramids(scene_name):
    case = FRAMES[f"get_pyramids_{scene_name}"]
    boxes, points = scene(f"x_c7_{scene_name}")
    pyramids = au.get_pyramids(boxes).reshape(-1, 6, 5, 3)
    assert_close(pyramids, case["pyramids"])
    mask = au.points_in_pyramids_mask(points, pyramids)
    recorded = np.unpackbits(case["mask_packed"], axis=0)[: len(points)].astype(bool)
    assert (mask != recorded).sum() <= 2  # points on a face may go either way
    assert np.abs(mask.sum(axis=0) - case["mask_counts"]).max() <= 1


@pytest.mark.parametrize("scene_name", ["s0", "s1"])
@pytest.mark.parametrize(
    "function, arguments",
    [
        ("local_pyramid_dropout", (0.6,)),
        ("local_pyramid_sparsify", (0.7, 8)),
        ("local_pyramid_swap", (0.7, 3)),
    ],
)
def test_pyramid_augmentations(function, arguments, scene_name, monkeypatch):
    case = FRAMES[f"{function}_{scene_name}"]
    boxes, points = scene(f"x_c7_{scene_name}")
    draws = {
        int(key[4:].split("_")[0]): (key.split("_")[1], value) for key, value in case.items() if key.startswith("draw")
    }
    left = [draws[i] for i in range(len(draws))]

    def drawn(kind, *args, **kwargs):
        assert left[0][0] == kind
        return left.pop(0)[1]

    for kind in ("randint", "uniform", "choice"):
        monkeypatch.setattr(np.random, kind, functools.partial(drawn, kind))
    result = getattr(au, function)(boxes, points, *arguments)
    assert not left
    assert_close(result[0], case["out_boxes"])
    assert result[1].dtype == np.float32
    assert result[1].shape == case["out_points"].shape
    # the ratios of OpenPCDet's swap are float32
    np.testing.assert_allclose(result[1], case["out_points"], rtol=1e-5, atol=5e-5)
    if "out_pyramids" in case:
        assert_close(result[2], case["out_pyramids"])
