"""A good synthetic data set in the layout of custom data, configurations that fit it, and each mistake that
check_dataset must find in it.
"""

from pathlib import Path

import numpy as np
import tiny_kitti

from pcdet_focal.config import Config, cfg_from_yaml_file

FRAMES = 8


def turn(points, boxes, angle):
    """The frame turned about the sensor, anticlockwise: streets of every direction."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points[:, :2] = points[:, :2] @ rotation.T
    boxes[:, :2] = boxes[:, :2] @ rotation.T
    boxes[:, 6] = (boxes[:, 6] + angle + np.pi) % (2 * np.pi) - np.pi
    return points, boxes


def good(index, points, boxes, names):
    points, boxes = turn(points, boxes, 0.4 + 0.7 * index)
    return points, boxes, names


def config(root: Path, model: str = "pointpillar") -> Config:
    """cfgs/custom_models/<model>.yaml with the simulated sensor's range and ground."""
    cfg = cfg_from_yaml_file(tiny_kitti.REPOSITORY / f"cfgs/custom_models/{model}.yaml", Config())
    cfg.DATA_CONFIG.DATA_PATH = str(root)
    cfg.DATA_CONFIG.POINT_CLOUD_RANGE = [-76.8, -76.8, -4, 76.8, 76.8, 2]
    for entry in cfg.MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG:
        entry["anchor_bottom_heights"] = [-1.7]
    return cfg


def voxels(cfg: Config) -> dict:
    return cfg.DATA_CONFIG.DATA_PROCESSOR[-1]


def on_boxes(change):
    """Labels whose boxes ``change(boxes)`` returns."""

    def mistake(index, points, boxes, names):
        points, boxes, names = good(index, points, boxes, names)
        return points, change(boxes), names

    return mistake


def on_points(change):
    def mistake(index, points, boxes, names):
        points, boxes, names = good(index, points, boxes, names)
        return change(points), boxes, names

    return mistake


def on_names(change):
    def mistake(index, points, boxes, names):
        points, boxes, names = good(index, points, boxes, names)
        return points, boxes, [change(name) for name in names]

    return mistake


def columns(*picked, bottom=0.0, heading=(1.0, 0.0)):
    """x, y, z taken from columns (a minus turns it round; 'x' is '+x'); then z moved by ``bottom`` heights; heading = a
    * heading + b.
    """

    def change(boxes):
        source = {"x": boxes[:, 0], "y": boxes[:, 1], "z": boxes[:, 2] + bottom * boxes[:, 5]}
        out = boxes.copy()
        for axis, name in enumerate(picked):
            out[:, axis] = -source[name[1:]] if name[0] == "-" else source[name]
        out[:, 6] = heading[0] * boxes[:, 6] + heading[1]
        return out

    return change


def sparse(mistake):
    """The same with every twelfth point."""

    def change(*frame):
        points, boxes, names = mistake(*frame)
        return points[::12], boxes, names

    return change


def swap_sizes(boxes):
    return boxes[:, [0, 1, 2, 4, 3, 5, 6]]


def every(number, boxes, change):
    boxes = boxes.copy()
    boxes[::number] = change(boxes[::number])
    return boxes


def with_empty_boxes(index, points, boxes, names):
    points, boxes, names = good(index, points, boxes, names)
    ghosts = boxes[:5] + np.array([0, 0, 8.0, 0, 0, 0, 0])  # in the air
    ghosts[:, 2] = 1.2
    ghosts[:, :2] *= -1  # behind the sensor, where it does not look
    return points, np.concatenate([boxes, ghosts]), names + names[:5]


def twice(index, points, boxes, names):
    points, boxes, names = good(index, points, boxes, names)
    return points, np.concatenate([boxes, boxes[:1] + 0.02]), names + names[:1]


def with_nan(points):
    points = points.copy()
    points[::100, 0] = np.nan
    return points


def many_vehicles(index, points, boxes, names):
    points, boxes, names = good(index, points, boxes, names)
    kept = [i for i, name in enumerate(names) if name != "Cyclist" or (index == 0 and names.index("Cyclist") == i)]
    return points, boxes[kept], [names[i] for i in kept]


def scaled_intensity(points):
    points = points.copy()
    points[:, 3] = np.round(points[:, 3] * 255)
    return points


def y_up(index, points, boxes, names):
    """Points and labels both: only the flat direction of the scene tells."""
    points, boxes, names = good(index, points, boxes, names)
    return points[:, [1, 2, 0, 3]], boxes[:, [1, 2, 0, 3, 4, 5, 6]], names


# mistake -> (change of the frames, the check that names it, what it must say to change)
DATA_MISTAKES = {
    "bottom-centred": (on_boxes(columns("x", "y", "z", bottom=-0.5)), "z origin", r"write z \+ dz/2"),
    "top-centred": (on_boxes(columns("x", "y", "z", bottom=0.5)), "z origin", r"write z - dz/2"),
    "heights from the ground": (
        on_boxes(lambda boxes: boxes + np.array([0, 0, 1.73, 0, 0, 0, 0])),
        "z offset",
        r"add -1\.[67]\d to z of every",
    ),
    "camera frame": (
        on_boxes(columns("-y", "-z", "x", bottom=-0.5, heading=(-1, -np.pi / 2))),
        "wrong frame",
        r"z_camera, -x_camera, -y_camera \+ dz/2",
    ),
    "camera frame, centred": (
        on_boxes(columns("-y", "-z", "x", heading=(-1, -np.pi / 2))),
        "wrong frame",
        r"z_camera, -x_camera, -y_camera;",
    ),
    "y up": (on_boxes(columns("-y", "z", "x")), "wrong frame", r"z_old, -x_old, y_old"),
    "y ahead": (
        on_boxes(columns("-y", "x", "z", heading=(1, np.pi / 2))),
        "wrong frame",
        r"y_old, -x_old, z_old; heading = heading_old - pi/2",
    ),
    "left-handed": (
        on_boxes(columns("x", "-y", "z", heading=(-1, 0))),
        "wrong frame",
        r"y = -y_old; heading = -heading_old",
    ),
    "left-handed, few beams": (
        sparse(on_boxes(columns("x", "-y", "z", heading=(-1, 0)))),
        "wrong frame",
        r"y = -y_old; heading = -heading_old",
    ),
    "all y up": (y_up, "z is not up", r"turn points and labels so that z is up: .*z_old, x_old, y_old"),
    "heading sign": (on_boxes(columns("x", "y", "z", heading=(-1, 0))), "heading sign", r"write -heading"),
    "heading clockwise from y": (
        on_boxes(columns("x", "y", "z", heading=(-1, np.pi / 2))),
        "heading convention",
        r"write pi/2 - heading",
    ),
    "heading from y": (
        on_boxes(columns("x", "y", "z", heading=(1, np.pi / 2))),
        "heading off by 90 degrees",
        r"write heading - pi/2",
    ),
    "heading in degrees": (
        on_boxes(columns("x", "y", "z", heading=(180 / np.pi, 0))),
        "heading in degrees",
        r"heading \* pi / 180",
    ),
    "length and width swapped": (on_boxes(swap_sizes), "length and width swapped", r"swap dx and dy"),
    "height, width, length": (
        on_boxes(lambda boxes: boxes[:, [0, 1, 2, 5, 4, 3, 6]]),
        "order of sizes",
        r"length width height",
    ),
    "some swapped": (
        on_boxes(lambda boxes: every(5, boxes, swap_sizes)),
        "boxes across their objects",
        r"dx and dy of these may be swapped",
    ),
    "empty boxes": (with_empty_boxes, "boxes without points", r"FILTER_MIN_POINTS_IN_GT: 1"),
    "twice": (twice, "duplicate labels", r"one box an object"),
    "another spelling": (
        on_names(lambda name: name.lower()),
        "class names",
        r"write Vehicle in the labels, or vehicle in CLASS_NAMES",
    ),
    "another class": (
        on_names(lambda name: {"Vehicle": "Truck"}.get(name, name)),
        "class names",
        r"add Truck to CLASS_NAMES, MAP_CLASS_TO_KITTI",
    ),
    "a rare class": (many_vehicles, "class imbalance", r"'Cyclist:15' to SAMPLE_GROUPS"),
    "NaN points": (on_points(with_nan), "NaN points", r"DROP_NONFINITE_POINTS: True"),
    "intensity to 255": (on_points(scaled_intensity), "intensity range", r"points\[:, 3\] / 255"),
    "half of the frames without labels": (
        lambda i, points, boxes, names: good(i, points, boxes, names) if i < 3 else (points, boxes[:0], []),
        "frames without objects",
        r"ALLOW_EMPTY_FRAMES: True",
    ),
    "millimetres": (on_points(lambda points: points * np.float32([1000, 1000, 1000, 1])), "units", r"/= 1000"),
    "no labels": (
        lambda i, points, boxes, names: (points, boxes[:0], []),
        "no labels",
        r"x y z dx dy dz heading class",
    ),
}
