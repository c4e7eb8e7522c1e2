"""One frame: the street, the rays, what the sensor reports, and what is known about every object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import camera, raycast, sensor
from .config import SyntheticConfig
from .scene import Street, build_street, flatten, ground_material


@dataclass
class SceneObject:
    """A labelled class's object.

    box: (7,) float64 x, y, z, l, w, h, heading (LiDAR frame, metres, centre, radians anticlockwise from +x)
    alone_rays: rays of the camera's sector that would meet it if nothing else were there; visible_rays: those that do
    meet it
    num_points: its points in the scan that lie in the image
    """

    name: str
    box: np.ndarray
    alone_rays: int
    visible_rays: int
    num_points: int

    @property
    def visible_share(self) -> float:
        return self.visible_rays / self.alone_rays if self.alone_rays else 0.0


@dataclass
class Frame:
    """points (N, 4) float32 x, y, z (LiDAR frame, metres), intensity 0..1; exact (N, 3) float64 the same points without
    range noise; owner (N,) int32 index into ``objects``, -1 for everything else; calib: KITTI's matrices; plane (4,)
    the road in the rectified camera frame; ground (3,) the same plane as z0, slope x, slope y in the LiDAR frame."""

    points: np.ndarray
    exact: np.ndarray
    owner: np.ndarray
    objects: list[SceneObject]
    calib: dict[str, np.ndarray]
    plane: np.ndarray
    ground: np.ndarray


def simulate_frame(config: SyntheticConfig, index: int) -> Frame:
    """Frame ``index`` of the endless sequence that ``config`` stands for; it depends on nothing but the two. See
    ``scan_street``.
    """
    return scan_street(build_street(config, index), config, index)


def scan_street(street: Street, config: SyntheticConfig, index: int) -> Frame:
    """What the sensor sees of ``street``, with the noise of frame ``index``.

    Points come beam by beam from the top, each beam anticlockwise. Without ``full_scan`` they are those of the camera's
    sector, equal to the same rays of the full scan as long as nothing behind the sensor reaches into the sector.
    """
    arrays = flatten(street)
    rng = np.random.default_rng([config.seed, index, 2])
    first, count, azimuth = sensor.columns(config.full_scan, phase := float(rng.random()))
    front_first, front_count, _ = sensor.columns(False, phase)
    share_first = front_first - first
    grid = (len(sensor.ELEVATIONS), sensor.TURN_COLUMNS)
    # Numbers are drawn for the whole turn and then cut, so that a ray has the same ones whatever is cast.
    cut = slice(first, first + count)
    luck, chance = (rng.random(grid, dtype=np.float32)[:, cut] for _ in range(2))
    gauss, flicker = (rng.standard_normal(grid, dtype=np.float32)[:, cut] for _ in range(2))

    depth, owner, part, cosine, alone = raycast.cast(
        sensor.ELEVATIONS,
        azimuth,
        sensor.AZIMUTH_STEP,
        sensor.TURN_COLUMNS,
        street.ground,
        arrays["poses"],
        arrays["part_start"],
        arrays["kind"],
        arrays["size"],
        arrays["bounds"],
        arrays["plane_start"],
        arrays["planes"],
        arrays["density"],
        arrays["opacity"],
        np.ascontiguousarray(luck),
        share_first,
        share_first + front_count,
        sensor.MAX_RANGE,
    )

    visible = owner[:, share_first : share_first + front_count]
    visible = np.bincount(visible[visible >= 0], minlength=len(street.placed))
    hit = owner != raycast.NOTHING
    rays = sensor.directions(azimuth + np.arange(count) * sensor.AZIMUTH_STEP)[hit]  # (M, 3)
    depth, owner, part, cosine = depth[hit], owner[hit], part[hit], cosine[hit]
    exact = rays * depth[:, None]
    on_ground = owner == raycast.GROUND
    reflectivity, loss = np.empty(len(depth)), np.empty(len(depth))
    reflectivity[on_ground], loss[on_ground] = ground_material(street, exact[on_ground, 0], exact[on_ground, 1])
    reflectivity[~on_ground], loss[~on_ground] = (
        arrays["reflectivity"][part[~on_ground]],
        arrays["loss"][part[~on_ground]],
    )
    measured, intensity, returned = sensor.measure(
        depth, cosine, reflectivity, loss, gauss[hit], flicker[hit], chance[hit]
    )
    points = np.concatenate([rays * measured[:, None], intensity[:, None]], axis=1)[returned].astype(np.float32)
    exact, owner = exact[returned], owner[returned]

    calib = camera.calibration()
    labelled = np.array([item.name != "" for item in street.placed], bool)
    number = np.where(labelled, np.cumsum(labelled) - 1, -1)
    owner = (
        np.where(owner >= 0, number[owner], -1).astype(np.int32) if len(number) else np.full(len(owner), -1, np.int32)
    )
    owners = owner[owner >= 0]
    seen = np.bincount(
        owners[camera.in_image(points[owner >= 0, :3].astype(np.float64), calib)], minlength=int(labelled.sum())
    )
    objects = []
    for k in np.flatnonzero(labelled):
        item = street.placed[k]
        x, y, z, yaw = item.pose
        box = np.array([x, y, z + item.size[2] / 2, *item.size, (yaw + np.pi) % (2 * np.pi) - np.pi])
        objects.append(SceneObject(item.name, box, int(alone[k]), int(visible[k]), int(seen[len(objects)])))
    ground = street.ground[:3].copy()
    return Frame(points, exact, owner, objects, calib, camera.plane_to_rect(tuple(ground), calib), ground)
