"""The database sampler against recorded calls of OpenPCDet's on real frames: which objects, which collide, where they
land, which points stay.
"""

import ast
import json
import pickle
import re

import numpy as np
import pytest
from golden_data import GOLDEN, KITTI_SAMPLE, assert_matches_samples, cases, needs_golden, needs_kitti_sample

from pcdet_focal.datasets.augmentor.database_sampler import DataBaseSampler
from pcdet_focal.geometry.calibration import Calibration

pytestmark = [needs_golden, needs_kitti_sample]
RECORDED = cases("10_infos/db_sampler.npz")
CLASSES = ["Car", "Pedestrian", "Cyclist"]
CALLS = [
    "plane_limit",
    "plane_nolimit",
    "noplane",
    "noplane_small_groups",
    "noplane_limit_reached",
    "noplane_extra_width",
    "noplane_empty_scene",
    "plane_missing",
]


def described(name):
    """The arguments of a recorded call, as the page that describes the recorded numbers lists them."""
    line = next(
        text for text in (GOLDEN / "MANIFEST_09_10.md").read_text().splitlines() if text.startswith(f"| {name} |")
    )
    prepare = ast.literal_eval(re.search(r"PREPARE (\{.*?\}), numbers", line).group(1))
    return {
        "frame": re.search(r"frame (\d+)", line).group(1),
        "groups": ast.literal_eval(re.search(r"groups (\[.*?\])", line).group(1)),
        "plane": "USE_ROAD_PLANE True" in line,
        "limit": "LIMIT_WHOLE_SCENE True" in line,
        "seed": int(re.search(r"seed\((\d+)\)", line).group(1)),
        "width": ast.literal_eval(re.search(r"REMOVE_EXTRA_WIDTH (\[.*?\])", line).group(1)),
        "prepare": prepare,
    }


def inside(points, box, margin=0.01):
    """OpenPCDet's CPU rule in float64: 1 cm margin on length and width, none on height."""
    box = np.asarray(box, dtype=np.float64)
    shift = points[:, :3].astype(np.float64) - box[:3]
    turned = (shift[:, 0] + 1j * shift[:, 1]) * np.exp(-1j * box[6])
    return (
        (np.abs(turned.real) < box[3] / 2 + margin)
        & (np.abs(turned.imag) < box[4] / 2 + margin)
        & (np.abs(shift[:, 2]) <= box[5] / 2)
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    root = tmp_path_factory.mktemp("kitti")
    (root / "gt_database").mkdir()
    scans = {}
    content = json.loads((GOLDEN / "10_infos/dbinfos.json").read_text())
    infos = {}
    for name in content["class_order"]:
        infos[name] = []
        for entry in content["dbinfos"][name]:
            frame = entry["image_idx"]
            if frame not in scans:
                scans[frame] = np.fromfile(KITTI_SAMPLE / f"training/velodyne/{frame}.bin", dtype=np.float32).reshape(
                    -1, 4
                )
            box = np.array(entry["box3d_lidar"])
            points = scans[frame][inside(scans[frame], box)].copy()
            assert abs(len(points) - entry["n_points"]) <= 2
            points[:, :3] -= box[:3]
            points.tofile(root / entry["path"])
            infos[name].append(
                {
                    **entry,
                    "box3d_lidar": box,
                    "num_points_in_gt": len(points),
                    "bbox": np.array(entry["bbox"], dtype=np.float32),
                }
            )
    with open(root / "kitti_dbinfos_train.pkl", "wb") as file:
        pickle.dump(infos, file)
    return root


def make_sampler(root, arguments):
    return DataBaseSampler(
        root,
        {
            "NAME": "gt_sampling",
            "USE_ROAD_PLANE": arguments["plane"],
            "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
            "PREPARE": arguments["prepare"],
            "SAMPLE_GROUPS": arguments["groups"],
            "NUM_POINT_FEATURES": 4,
            "DATABASE_WITH_FAKELIDAR": False,
            "REMOVE_EXTRA_WIDTH": arguments["width"],
            "LIMIT_WHOLE_SCENE": arguments["limit"],
        },
        CLASSES,
    )


def make_scene(case, arguments):
    frame = arguments["frame"]
    points = np.fromfile(KITTI_SAMPLE / f"training/velodyne/{frame}.bin", dtype=np.float32).reshape(-1, 4)
    calib = Calibration(KITTI_SAMPLE / f"training/calib/{frame}.txt")
    height, width = json.loads((KITTI_SAMPLE / "image_shapes.json").read_text())[frame]
    pixels, depth = calib.lidar_to_img(points[:, :3])
    points = points[
        (pixels[:, 0] >= 0) & (pixels[:, 0] < width) & (pixels[:, 1] >= 0) & (pixels[:, 1] < height) & (depth >= 0)
    ]
    boxes, names = case.get("in_gt_boxes"), case.get("in_gt_names")
    if boxes is None:  # the call that OpenPCDet did not survive
        boxes, names = RECORDED["noplane"]["in_gt_boxes"], RECORDED["noplane"]["in_gt_names"]
    scene = {
        "points": points,
        "gt_boxes": boxes.copy(),
        "gt_names": names.copy(),
        "gt_boxes_mask": np.ones(len(names), dtype=bool),
        "calib": calib,
    }
    if "road_plane" in case:
        scene["road_plane"] = case["road_plane"]
    return scene


@pytest.mark.parametrize("name", CALLS)
def test_a_recorded_call(name, database, monkeypatch):
    case, arguments = RECORDED[name], described(name)
    sampler = make_sampler(database, arguments)
    for class_name in CLASSES:
        if f"available_{class_name}" in case:
            assert [info["path"] for info in sampler.db_infos[class_name]] == case[f"available_{class_name}"].tolist()
    scene = make_scene(case, arguments)
    before = {key: value.copy() for key, value in scene.items() if isinstance(value, np.ndarray)}
    drawn = []
    permutation = np.random.permutation
    monkeypatch.setattr(np.random, "permutation", lambda n: drawn.append(permutation(n)) or drawn[-1])
    np.random.seed(arguments["seed"])
    result = sampler(scene)

    recorded = [case[key] for key in sorted(key for key in case if re.fullmatch(r"draw\d+_permutation", key))]
    assert len(drawn) == len(recorded)
    for got, wanted in zip(drawn, recorded):
        np.testing.assert_array_equal(got, wanted)
    for key, value in before.items():
        np.testing.assert_array_equal(scene[key], value)
    assert not {"gt_boxes_mask", "road_plane"} & result.keys()
    if name == "plane_missing":  # OpenPCDet raises KeyError; the objects keep their own height
        wanted = [path for c in CLASSES for path in case[f"sampled_{c}"][case[f"valid_{c}"]]]
        assert [f"gt_database/{n}" for n in result["gt_names"][9:]] == [
            re.sub(r"\d+_([A-Za-z]+)_.*", r"\1", p) for p in wanted
        ]
        heights = np.concatenate([case[f"sampled_boxes_{c}"][case[f"valid_{c}"]][:, 2] for c in CLASSES])
        np.testing.assert_allclose(result["gt_boxes"][9:, 2], heights, rtol=1e-6)
        return

    assert result["gt_names"].tolist() == case["out_gt_names"].tolist()
    assert result["gt_boxes"].dtype == np.float32
    np.testing.assert_allclose(result["gt_boxes"], case["out_gt_boxes"], rtol=1e-5, atol=1e-5)
    assert_matches_samples(scene["points"], case, "in_points", rtol=1e-6, atol=1e-6)
    assert_matches_samples(result["points"], case, "out_points", rtol=1e-5, atol=2e-5)
    if "kept_scene_points_packed" in case:
        n_in, n_objects = int(case["n_scene_points_in"]), int(case["n_object_points"])
        kept = np.unpackbits(case["kept_scene_points_packed"])[:n_in].astype(bool)
        np.testing.assert_array_equal(result["points"][n_objects:], scene["points"][kept])
        starts = np.concatenate([[0], np.cumsum(case["db_points_count"])[:-1]])
        first_ten = np.concatenate(
            [result["points"][s : s + min(10, n)] for s, n in zip(starts, case["db_points_count"])]
        )
        np.testing.assert_allclose(first_ten, case["out_object_points_first10_per_object"], rtol=1e-5, atol=1e-5)


def test_filters(database):
    sampler = make_sampler(database, {**described("noplane"), "prepare": {}})
    everything = {name: list(infos) for name, infos in sampler.db_infos.items()}
    # the recorded call left pedestrians alone
    by_points = sampler.filter_by_min_points(sampler.db_infos, ["Car:20", "Cyclist:20"])
    by_level = sampler.filter_by_difficulty(sampler.db_infos, [-1, 2])
    for got, recorded in (
        (by_points, RECORDED["filter_min_points_20"]),
        (by_level, RECORDED["filter_difficulty_-1_2"]),
    ):
        for name in CLASSES:
            assert [info["path"] for info in got[name]] == recorded[name].tolist()
    assert sampler.db_infos == everything  # OpenPCDet's filter_by_min_points changes its argument


@pytest.mark.parametrize("name", [n for n in RECORDED if n.startswith("put_boxes")])
def test_boxes_on_the_road(name):
    case = RECORDED[name]
    before = case["boxes"].copy()
    calib = Calibration(KITTI_SAMPLE / f"training/calib/{name[-6:]}.txt")
    boxes, lowered = DataBaseSampler.put_boxes_on_road_planes(case["boxes"], case["road_plane"], calib)
    np.testing.assert_allclose(boxes, case["out_boxes"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(lowered, case["mv_height"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(case["boxes"], before)


def test_the_first_call_of_a_sequence_draws_the_same(database):
    case, arguments = RECORDED["pointer_5_calls"], described("pointer_5_calls")
    sampler = make_sampler(database, arguments)
    np.random.seed(arguments["seed"])
    for name in CLASSES:
        got = sampler.sample_with_fixed_number(name, sampler.sample_groups[name])
        assert [info["path"] for info in got] == case[f"call0_sampled_{name}"].tolist()
