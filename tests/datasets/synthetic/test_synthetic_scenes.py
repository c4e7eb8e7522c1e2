"""The simulator against geometry: angles, planes, occlusion, what is inside which box."""

import math

import numpy as np
import pytest

from pcdet_focal.datasets.synthetic import SyntheticConfig, camera, raycast, sensor, shapes, simulate_frame
from pcdet_focal.datasets.synthetic.kitti_writer import frame_labels
from pcdet_focal.datasets.synthetic.scene import Placed, Street, build_street, flatten
from pcdet_focal.datasets.synthetic.simulator import scan_street

CONFIG = SyntheticConfig(seed=3)
CAR = shapes.CAR_MODELS[1]
PAINT = (0.5, 0.0)


def empty_street(**changes) -> Street:
    values = {
        "ground": np.array([-sensor.HEIGHT, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0]),
        "yaw": 0.0,
        "shift": 0.0,
        "right_edge": -4.0,
        "left_edge": 7.0,
        "crossing": None,
    }
    return Street(**{**values, **changes})


def add_car(street: Street, s: float, d: float, yaw: float = 0.0) -> None:
    size = (3.9, 1.6, 1.5)
    assert street.place("Car", s, d, yaw, size, lambda: shapes.car(CAR, *size, PAINT))


def in_box_frame(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    moved = points - box[:3]
    c, s = math.cos(box[6]), math.sin(box[6])
    return np.stack([moved[:, 0] * c + moved[:, 1] * s, moved[:, 1] * c - moved[:, 0] * s, moved[:, 2]], axis=1)


def test_a_frame_depends_on_seed_and_index_only():
    third = simulate_frame(CONFIG, 3)
    simulate_frame(CONFIG, 0)
    np.random.seed(5)
    again = simulate_frame(SyntheticConfig(seed=3), 3)
    np.testing.assert_array_equal(third.points, again.points)
    assert frame_labels(third) == frame_labels(again)
    for other in (simulate_frame(CONFIG, 4), simulate_frame(SyntheticConfig(seed=4), 3)):
        assert other.points.shape != third.points.shape or not np.array_equal(other.points, third.points)


def test_elevations_are_the_hdl64s_and_all_are_present():
    listed = np.degrees(sensor.ELEVATIONS)
    assert len(listed) == 64 and listed[0] == pytest.approx(2.0) and listed[31] == pytest.approx(-8.3333, abs=1e-3)
    assert listed[32] == pytest.approx(-8.8333, abs=1e-3) and listed[-1] == pytest.approx(-24.3333, abs=1e-3)
    found = []
    for index in range(3):
        points = simulate_frame(CONFIG, index).points.astype(np.float64)
        elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
        nearest = np.abs(elevation[:, None] - listed).argmin(axis=1)
        assert np.abs(elevation - listed[nearest]).max() < 1e-3  # range noise moves a point along its ray only
        found.append(nearest)
    assert len(np.unique(np.concatenate(found))) == 64


def test_a_full_scan_has_kittis_size_and_contains_the_sector():
    full = simulate_frame(SyntheticConfig(seed=3, full_scan=True), 1)
    part = simulate_frame(CONFIG, 1)
    assert 90000 < len(full.points) < 134000 and full.points.dtype == np.float32
    rows = {row.tobytes() for row in full.points}
    same = sum(row.tobytes() in rows for row in part.points) / len(part.points)
    assert same > 0.999
    assert frame_labels(full) == frame_labels(part)
    # the sector holds all that a crop to the image keeps
    cropped = [
        points[camera.in_image(points[:, :3].astype(np.float64), full.calib)] for points in (full.points, part.points)
    ]
    assert abs(len(cropped[0]) - len(cropped[1])) <= 0.001 * len(cropped[0])
    assert 10000 < len(cropped[1]) < 26000


def test_flat_ground_is_hit_where_trigonometry_says():
    frame = scan_street(empty_street(), CONFIG, 0)
    distance = np.linalg.norm(frame.exact, axis=1)
    elevation = np.arcsin(frame.exact[:, 2] / distance)
    np.testing.assert_allclose(distance, sensor.HEIGHT / np.sin(-elevation), rtol=1e-9)
    assert distance.max() <= sensor.MAX_RANGE
    noise = np.linalg.norm(frame.points[:, :3], axis=1) - distance
    assert noise.std() == pytest.approx(0.02, rel=0.05) and abs(noise.mean()) < 0.001


def test_road_slopes_are_balanced_in_every_run_of_frames():
    for seed in range(3):
        slopes = np.array(
            [build_street(SyntheticConfig(seed=seed, slope=0.004), index).ground[1:3] for index in range(80)]
        )
        assert slopes.std() == pytest.approx(0.004, rel=0.12) and np.abs(slopes).max() <= 0.008
        for start in (0, 20, 50):  # the mean of 30 independent ones would have a standard deviation of 0.0007
            assert np.abs(slopes[start : start + 30].mean(axis=0)).max() < 0.0006
        assert abs(np.corrcoef(slopes.T)[0, 1]) < 0.15


def test_the_undulating_ground_is_hit_on_its_surface():
    ground = np.array([-1.74, 0.008, -0.005, 0.03, 0.15, 0.12, 0.4])
    frame = scan_street(empty_street(ground=ground), CONFIG, 0)
    x, y, z = frame.exact.T
    np.testing.assert_allclose(
        z, ground[0] + 0.008 * x - 0.005 * y + 0.03 * np.sin(0.15 * x + 0.12 * y + 0.4), atol=2e-3
    )


@pytest.mark.parametrize("index", range(4))
def test_the_road_plane_in_the_camera_frame_is_the_ground(index):
    frame = simulate_frame(CONFIG, index)
    assert np.linalg.norm(frame.plane[:3]) == pytest.approx(1.0, abs=1e-9) and frame.plane[1] < -0.99
    on_plane = np.array([[x, y, frame.ground @ [1.0, x, y]] for x in (5.0, 40.0) for y in (-8.0, 8.0)])
    np.testing.assert_allclose(
        camera.lidar_to_rect(on_plane, frame.calib) @ frame.plane[:3] + frame.plane[3], 0.0, atol=1e-9
    )
    low = frame.exact[frame.owner == -1]
    height = camera.lidar_to_rect(low, frame.calib) @ frame.plane[:3] + frame.plane[3]
    # most background is ground, nothing is below it
    assert (np.abs(height) < 0.031).mean() > 0.5 and height.min() > -0.035


@pytest.mark.parametrize("index", range(6))
def test_every_hit_on_an_object_is_inside_its_box_and_no_two_objects_overlap(index):
    from shapely.geometry import Polygon

    frame = simulate_frame(CONFIG, index)
    hit_objects = 0
    for number, item in enumerate(frame.objects):
        own = in_box_frame(frame.exact[frame.owner == number], item.box)
        assert (np.abs(own) <= item.box[3:6] / 2 + 1e-6).all()
        hit_objects += len(own) > 0
    assert hit_objects >= 5
    outlines = []
    for item in frame.objects:
        c, s = math.cos(item.box[6]), math.sin(item.box[6])
        l, w = item.box[3] / 2, item.box[4] / 2
        outlines.append(
            Polygon(
                [
                    (item.box[0] + a * c - b * s, item.box[1] + a * s + b * c)
                    for a, b in ((l, w), (l, -w), (-l, -w), (-l, w))
                ]
            )
        )
    for k, outline in enumerate(outlines):
        assert all(outline.distance(other) > 0.1 for other in outlines[k + 1 :])


def test_shapes_reach_the_ends_of_their_boxes():
    """Seen from all sides the hits span length, width and height, so that a detector can learn the box from them."""
    made = {
        "Car": ((3.9, 1.6, 1.5), shapes.car(CAR, 3.9, 1.6, 1.5, PAINT)),
        "Van": ((5.1, 1.9, 2.2), shapes.van(5.1, 1.9, 2.2, PAINT)),
        "Pedestrian": ((0.8, 0.6, 1.7), shapes.pedestrian(0.8, 0.6, 1.7, 0.8, PAINT, PAINT)),
        "Cyclist": ((1.76, 0.6, 1.73), shapes.cyclist(1.76, 0.6, 1.73, PAINT, PAINT)),
    }
    for name, (size, shape) in made.items():
        hits = []
        for yaw in np.arange(0.0, 2 * math.pi, math.pi / 4):
            street = empty_street(ground=np.array([-3.0, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0]))
            base = 0.15 - size[2]  # so that the beams cross the whole height
            street.placed.append(Placed(name, (7.0, 0.0, base, yaw), size, shape))
            frame = scan_street(street, CONFIG, 0)
            box = np.array([7.0, 0.0, base + size[2] / 2, *size, yaw])
            own = in_box_frame(frame.exact[frame.owner == 0], box)
            assert (np.abs(own) <= np.array(size) / 2 + 1e-6).all(), name
            hits.append(own)
        span = np.ptp(np.concatenate(hits), axis=0)
        np.testing.assert_array_less(np.array(size) - 0.1, span, err_msg=name)


def test_a_car_alone_is_fully_visible_and_a_wall_hides_it():
    street = empty_street()
    add_car(street, 20.0, 1.0)
    alone = scan_street(street, CONFIG, 0)
    assert alone.objects[0].visible_share == 1.0 and alone.objects[0].num_points > 150
    (label,) = frame_labels(alone)
    assert label.occlusion == 0 and label.truncation == 0.0

    assert street.place("", 15.0, 1.0, 0.0, (0.3, 6.0, 3.0), lambda: shapes.block(0.3, 6.0, 3.0, PAINT))
    hidden = scan_street(street, CONFIG, 0)
    assert hidden.objects[0].num_points == 0 and hidden.objects[0].visible_rays == 0
    assert hidden.objects[0].alone_rays == alone.objects[0].alone_rays
    (label,) = frame_labels(hidden)
    assert label.name == "DontCare"


def test_a_second_car_behind_the_first_is_partly_hidden():
    street = empty_street()
    add_car(street, 26.0, 1.2)
    before = scan_street(street, CONFIG, 0).objects[0]
    add_car(street, 20.0, 0.2)
    frame = scan_street(street, CONFIG, 0)
    behind, first = frame.objects
    assert first.visible_share == 1.0
    assert 0.0 < behind.visible_share < 0.8 and behind.num_points < before.num_points
    levels = {round(label.location[2]): label.occlusion for label in frame_labels(frame)}
    assert levels[round(20.0 - 0.27)] == 0 and levels[round(26.0 - 0.27)] >= 1


def test_bushes_let_some_rays_through():
    street = empty_street()
    add_car(street, 20.0, 0.0)
    assert street.place("", 15.0, 0.0, 0.0, (1.5, 4.0, 2.4), lambda: shapes.bush(1.5, 4.0, 2.4, 1.0))
    assert 0.1 < scan_street(street, CONFIG, 0).objects[0].visible_share < 0.9


def test_dark_paint_and_grazing_incidence_lose_more_points():
    depth = np.full(20000, 50.0)
    rng = np.random.default_rng(0)
    gauss, flicker, chance = rng.normal(size=20000), rng.normal(size=20000), rng.random(20000)

    def kept(reflectivity: float, cosine: float, scale: float = 1.0) -> float:
        full = np.full(20000, 1.0)
        return sensor.measure(depth * scale, full * cosine, full * reflectivity, full * 0.0, gauss, flicker, chance)[
            2
        ].mean()

    assert kept(0.5, 0.9) > 0.95
    assert kept(0.05, 0.9) > kept(0.05, 0.1) and kept(0.5, 0.05) < kept(0.5, 0.9)
    assert kept(0.1, 0.1, 0.5) > kept(0.1, 0.1, 1.5)


def test_the_ray_caster_finds_what_brute_force_finds():
    """Windows only skip work: every ray against every primitive, one by one in Python, gives the same nearest hits."""
    street = build_street(SyntheticConfig(seed=8, cars=(2, 2), vans=(1, 1), pedestrians=(1, 1), cyclists=(1, 1)), 0)
    arrays = flatten(street)
    arrays["density"][:] = 0.0
    arrays["opacity"][:] = 1.0
    beams, columns, first, step = sensor.ELEVATIONS[::4], 120, -0.7, 1.4 / 120
    chance = np.zeros((len(beams), columns), np.float32)
    ground = street.ground.copy()
    ground[3] = 0.0
    depth, owner, _, _, alone = raycast.cast(
        beams,
        first,
        step,
        int(2 * math.pi / step) + 1,
        ground,
        arrays["poses"],
        arrays["part_start"],
        arrays["kind"],
        arrays["size"],
        arrays["bounds"],
        arrays["plane_start"],
        arrays["planes"],
        arrays["density"],
        arrays["opacity"],
        chance,
        0,
        columns,
        80.0,
    )
    expected = np.full(depth.shape, np.inf)
    expected_alone = np.zeros(len(street.placed), int)
    azimuth = first + step * np.arange(columns)
    up = beams[:, None] + 0.0 * azimuth
    ray = np.stack([np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up)], axis=-1)
    falling = ground[1] * ray[..., 0] + ground[2] * ray[..., 1] - ray[..., 2]
    flat = np.where(falling > 1e-4, -ground[0] / np.where(falling > 1e-4, falling, 1.0), np.inf)
    expected = np.where(flat <= 80.0, flat, np.inf)
    for number, item in enumerate(street.placed):
        x, y, z, yaw = item.pose
        turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
        local, origin = ray @ turn, -np.array([x, y, z]) @ turn
        nearest = np.full(depth.shape, np.inf)
        for kind, size, planes, bounds, _, _, _ in item.shape.parts:
            if kind == raycast.POLYHEDRON:
                sides = np.array(planes)
                toward, gap = local @ sides[:, :3].T, sides[:, 3] - sides[:, :3] @ origin
                with np.errstate(divide="ignore", invalid="ignore"):
                    t = gap / toward
                t_in, t_out = (
                    np.where(toward < 0, t, -np.inf).max(axis=-1),
                    np.where(toward > 0, t, np.inf).min(axis=-1),
                )
                hit = np.where(t_in <= t_out, t_in, np.inf)
            else:  # march through the ball around the primitive in small steps
                middle = (np.array(bounds[:3]) + bounds[3:]) / 2
                radius = np.linalg.norm(np.array(bounds[3:]) - middle)
                towards = local @ (middle - origin)
                hit = np.full(depth.shape, np.inf)
                for b, c in np.argwhere(np.linalg.norm(origin + towards[..., None] * local - middle, axis=-1) < radius):
                    steps = towards[b, c] + np.arange(-radius, radius, 0.003)
                    spots = origin + steps[:, None] * local[b, c]
                    if kind == raycast.ELLIPSOID:
                        inside = (((spots - size[:3]) / size[3:6]) ** 2).sum(axis=1) <= 1.0
                    else:
                        start, axis = np.array(size[:3]), np.array(size[3:6]) - size[:3]
                        along = np.clip((spots - start) @ axis / (axis @ axis), 0.0, 1.0)
                        inside = ((spots - start - along[:, None] * axis) ** 2).sum(axis=1) <= size[6] ** 2
                    if inside.any():
                        hit[b, c] = steps[inside.argmax()]
            nearest = np.minimum(nearest, np.where((hit > 0) & (hit <= 80.0), hit, np.inf))
        expected_alone[number] = np.isfinite(nearest).sum()
        expected = np.minimum(expected, nearest)
    off = np.abs(np.where(np.isfinite(depth), depth, 99.0) - np.where(np.isfinite(expected), expected, 99.0)) > 0.01
    assert off.sum() <= 5 and (owner >= 0).sum() > 150  # the march misses a hit that is thinner than its step
    assert np.abs(alone - expected_alone).max() <= 3
