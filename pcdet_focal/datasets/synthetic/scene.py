"""A street around the sensor: what stands where.

The road runs along ``s`` (ahead) and ``d`` (left) of its own frame, a little turned and shifted against the sensor; the
sensor drives in the right lane. What lies ahead is drawn from one stream of random numbers and what lies behind from
another, so that a frame's front is the same whether or not the back is wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numba
import numpy as np

from ...geometry.rectangles import rectangles_apart
from . import shapes
from .config import SyntheticConfig
from .sensor import HEIGHT

AHEAD = 72.0  # metres that the street is furnished for
LANE = 3.5
_BACK_START = -8.0


@dataclass
class Placed:
    """A shape at its place: ``pose`` x, y, z (metres, LiDAR frame, on the ground) and yaw; ``size`` l, w, h."""

    name: str  # KITTI's class, or "" for what has no label
    pose: tuple[float, float, float, float]
    size: tuple[float, float, float]
    shape: shapes.Shape


@numba.njit(cache=True, nogil=True)
def _overlaps(footprint, others, margin):
    """Whether a rectangle (x, y, half length, half width, cos, sin) comes nearer than about ``margin`` to one of
    ``others`` (n, 6).
    """
    for k in range(others.shape[0]):
        other = others[k]
        dx, dy = other[0] - footprint[0], other[1] - footprint[1]
        reach = footprint[2] + footprint[3] + other[2] + other[3] + margin
        if dx * dx + dy * dy > reach * reach:
            continue
        if not rectangles_apart(
            dx,
            dy,
            2 * footprint[2],
            2 * footprint[3],
            footprint[4],
            footprint[5],
            2 * other[2],
            2 * other[3],
            other[4],
            other[5],
            margin,
        ):
            return True
    return False


@dataclass
class Street:
    """The ground, the road on it and what has been placed so far."""

    ground: np.ndarray  # (7,) see raycast._cast_ground
    yaw: float
    shift: float  # d of the road frame's origin: metres to the left of the sensor
    right_edge: float  # d of the kerbs
    left_edge: float
    crossing: float | None  # s of a crossing road's middle
    placed: list[Placed] = field(default_factory=list)
    footprints: np.ndarray = field(default_factory=lambda: np.zeros((128, 6)))
    taken: int = 0

    def height(self, x: float, y: float) -> float:
        z0, sx, sy, wave, kx, ky, phase = self.ground
        return float(z0 + sx * x + sy * y + wave * math.sin(kx * x + ky * y + phase))

    def place(
        self, name: str, s: float, d: float, yaw: float, size: tuple[float, float, float], build, margin: float = 0.25
    ) -> bool:
        """Put ``build()`` at (s, d) of the road frame, turned by ``yaw`` against it, unless something is there
        already.
        """
        x = s * math.cos(self.yaw) - (d + self.shift) * math.sin(self.yaw)
        y = s * math.sin(self.yaw) + (d + self.shift) * math.cos(self.yaw)
        turn = yaw + self.yaw
        footprint = np.array([x, y, size[0] / 2, size[1] / 2, math.cos(turn), math.sin(turn)])
        if _overlaps(footprint, self.footprints[: self.taken], margin):
            return False
        if self.taken == len(self.footprints):
            self.footprints = np.concatenate([self.footprints, np.zeros_like(self.footprints)])
        self.footprints[self.taken] = footprint
        self.taken += 1
        if name != "sensor":
            self.placed.append(Placed(name, (x, y, self.height(x, y), turn), size, build()))
        return True

    def is_on_crossing(self, s: float, margin: float = 0.0) -> bool:
        return self.crossing is not None and abs(s - self.crossing) < 4.0 + margin


def _reflecting(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    return float(rng.uniform(low, high)), 0.02


def _paint(rng: np.random.Generator) -> tuple[float, float]:
    """Most paints are middling; one car in six is black and answers badly."""
    return (float(rng.uniform(0.04, 0.10)), 0.10) if rng.random() < 0.16 else (float(rng.uniform(0.2, 0.75)), 0.02)


def _jitter(rng: np.random.Generator, size: tuple[float, float, float], spread: float) -> tuple[float, float, float]:
    l, w, h = (
        float(v) for v in np.asarray(size) * (1.0 + np.clip(rng.normal(0.0, spread, 3), -2.5 * spread, 2.5 * spread))
    )
    return round(l, 2), round(w, 2), round(h, 2)  # KITTI's labels have centimetres


_CAR_SHARES = np.cumsum([model.often for model in shapes.CAR_MODELS])


def _add_car(street: Street, rng: np.random.Generator, s: float, d: float, yaw: float) -> bool:
    model = shapes.CAR_MODELS[min(int(np.searchsorted(_CAR_SHARES, rng.random())), len(shapes.CAR_MODELS) - 1)]
    size, paint = _jitter(rng, model.size, 0.025), _paint(rng)
    return street.place("Car", s, d, yaw, size, lambda: shapes.car(model, *size, paint))


def _add_van(street: Street, rng: np.random.Generator, s: float, d: float, yaw: float) -> bool:
    size, paint = _jitter(rng, (5.1, 1.9, 2.2), 0.06), _paint(rng)
    return street.place("Van", s, d, yaw, size, lambda: shapes.van(*size, paint))


def _add_pedestrian(street: Street, rng: np.random.Generator, s: float, d: float, yaw: float) -> bool:
    size = _jitter(rng, (0.8, 0.6, 1.73), 0.06)
    stride, clothes, trousers = float(rng.uniform(0.3, 1.0)), _reflecting(rng, 0.15, 0.7), _reflecting(rng, 0.1, 0.4)
    return street.place("Pedestrian", s, d, yaw, size, lambda: shapes.pedestrian(*size, stride, clothes, trousers))


def _add_cyclist(street: Street, rng: np.random.Generator, s: float, d: float, yaw: float) -> bool:
    size = _jitter(rng, (1.76, 0.6, 1.73), 0.04)
    clothes, trousers = _reflecting(rng, 0.15, 0.7), _reflecting(rng, 0.1, 0.4)
    return street.place("Cyclist", s, d, yaw, size, lambda: shapes.cyclist(*size, clothes, trousers))


def _vehicle_place(street: Street, rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """s, d and yaw of a car that drives, is parked along the road, crosses it, or stands in a yard."""
    s = float(rng.uniform(low, high))
    kind = rng.random()
    wobble = float(rng.normal(0.0, 0.03))
    if kind < 0.16:  # ahead, in the sensor's lane
        return s, float(rng.normal(0.0, 0.25)), wobble
    if kind < 0.36:  # coming towards it
        return s, LANE + float(rng.normal(0.0, 0.25)), math.pi + wobble
    if kind < 0.52 and street.crossing is not None:
        way = float(rng.choice([-1.0, 1.0]))
        return street.crossing + way * 1.75, float(rng.uniform(-22.0, 24.0)), way * math.pi / 2 + wobble
    if kind < 0.84:  # parked along a kerb, some the wrong way round
        right = rng.random() < 0.5
        edge = street.right_edge + 1.05 if right else street.left_edge - 1.05
        reverse = rng.random() < 0.2
        return s, edge + float(rng.normal(0.0, 0.08)), (0.0 if right != reverse else math.pi) + wobble
    right = rng.random() < 0.5  # in a yard beside the road
    d = street.right_edge - float(rng.uniform(4.6, 7.5)) if right else street.left_edge + float(rng.uniform(4.6, 7.5))
    return s, d, float(rng.choice([-1.0, 1.0])) * math.pi / 2 + float(rng.normal(0.0, 0.12))


def _furnish(street: Street, rng: np.random.Generator, config: SyntheticConfig, low: float, high: float) -> None:
    """Houses, then road users, then the rest between ``low`` and ``high`` along the road."""
    for side, edge in ((-1.0, street.right_edge), (1.0, street.left_edge)):
        s = low + float(rng.uniform(-6.0, 0.0)) if low > 0 else low
        while s < high:  # house fronts with gaps; none on the crossing road
            length, depth, tall = (
                float(rng.uniform(7.0, 18.0)),
                float(rng.uniform(5.0, 9.0)),
                float(rng.uniform(3.5, 9.0)),
            )
            length = min(length, high - s)
            middle, d = s + length / 2, edge + side * (float(rng.uniform(9.0, 12.0)) + depth / 2)
            wall = _reflecting(rng, 0.25, 0.6)
            windows = np.arange(-length / 2 + 1.5, length / 2 - 1.0, 3.2)
            if length > 4.0 and rng.random() < 0.75 and not street.is_on_crossing(middle, 4.0 + length / 2):
                street.place(
                    "", middle, d, 0.0, (length, depth, tall), lambda: shapes.house(length, depth, tall, wall, windows)
                )
            s += length + float(rng.choice([0.0, 3.0, 8.0]))

    def count(limits: tuple[int, int]) -> int:
        return int(rng.integers(limits[0], limits[1] + 1))

    near, span = (6.0, min(high, 66.0)) if low > 0 else (low, high)
    for add, limits in ((_add_van, config.vans), (_add_car, config.cars)):
        for _ in range(count(limits)):
            for _ in range(6):
                if add(street, rng, *_vehicle_place(street, rng, near, span)):
                    break
    for _ in range(count(config.cyclists)):
        for _ in range(6):
            right = rng.random() < 0.5
            d = street.right_edge + 0.7 if right else street.left_edge - 0.7
            if rng.random() < 0.3:  # outside the parked cars
                d += 1.9 if right else -1.9
            s = near + (min(span, 50.0) - near) * float(rng.random())
            if _add_cyclist(
                street,
                rng,
                s,
                d + float(rng.normal(0.0, 0.2)),
                (0.0 if right else math.pi) + float(rng.normal(0.0, 0.12)),
            ):
                break
    for _ in range(count(config.pedestrians)):
        for _ in range(6):
            side = float(rng.choice([-1.0, 1.0]))
            edge = street.left_edge if side > 0 else street.right_edge
            s, d = near + (min(span, 48.0) - near) * float(rng.random()), edge + side * float(rng.uniform(0.5, 3.4))
            yaw = float(rng.choice([0.0, math.pi])) + float(rng.normal(0.0, 0.25))
            if rng.random() < 0.15:  # crossing the road
                d = float(rng.uniform(street.right_edge, street.left_edge))
                yaw = float(rng.choice([-1.0, 1.0])) * math.pi / 2 + float(rng.normal(0.0, 0.2))
            if _add_pedestrian(street, rng, s, d, yaw):
                break
    # posts and trees along the kerb, gardens behind the pavement
    for side, edge in ((-1.0, street.right_edge), (1.0, street.left_edge)):
        s = low + float(rng.uniform(1.0, 8.0))
        while s < high:
            if not street.is_on_crossing(s, 1.0):
                tall, radius, sign = (
                    float(rng.uniform(2.2, 6.0)),
                    float(rng.uniform(0.04, 0.09)),
                    bool(rng.random() < 0.4),
                )
                if rng.random() < 0.35:
                    tall, radius = float(rng.uniform(5.0, 8.0)), float(rng.uniform(0.10, 0.22))
                    crown, density = float(rng.uniform(1.2, 2.2)), float(rng.uniform(0.4, 1.0))
                    street.place(
                        "",
                        s,
                        edge + side * 0.6,
                        0.0,
                        (2 * radius, 2 * radius, tall),
                        lambda: shapes.tree(tall, radius, crown, density),
                    )
                else:
                    wide = 0.64 if sign else 2 * radius
                    street.place(
                        "", s, edge + side * 0.5, 0.0, (2 * radius, wide, tall), lambda: shapes.pole(tall, radius, sign)
                    )
            s += float(rng.uniform(7.0, 16.0))
        for _ in range(int(rng.integers(5, 12))):
            s, d, kind = float(rng.uniform(low, high)), edge + side * float(rng.uniform(3.9, 8.0)), rng.random()
            if street.is_on_crossing(s, 4.0):
                continue
            density = float(rng.uniform(1.5, 5.0))
            if kind < 0.45:
                size = (float(rng.uniform(0.8, 3.0)), float(rng.uniform(0.8, 1.8)), float(rng.uniform(0.7, 2.0)))
                street.place("", s, d, float(rng.uniform(-1.0, 1.0)), size, lambda: shapes.bush(*size, density))
            elif kind < 0.7:
                size = (float(rng.uniform(2.0, 8.0)), float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.8, 1.8)))
                street.place("", s, d, 0.0, size, lambda: shapes.hedge(*size, 3.0 * density))
            else:  # bins, cabinets, low walls
                size = (float(rng.uniform(0.4, 2.6)), float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.7, 1.6)))
                grey = _reflecting(rng, 0.15, 0.5)
                street.place("", s, d, float(rng.normal(0.0, 0.1)), size, lambda: shapes.block(*size, grey))


def _spread_normal(seed: int, index: int) -> np.ndarray:
    """(2,) normal numbers, cut at 2, spread evenly over any run of neighbouring frames (Kronecker sequences).

    Fifty independent draws may well have a mean that tilts a whole validation split against the training split.
    """
    start = np.random.default_rng([seed, 0]).random(2)
    spread = np.clip(
        (start + index * np.array([(math.sqrt(5.0) - 1.0) / 2.0, math.sqrt(2.0) - 1.0])) % 1.0, 1e-6, 1.0 - 1e-6
    )
    return np.clip([NormalDist().inv_cdf(float(u)) for u in spread], -2.0, 2.0)


def build_street(config: SyntheticConfig, index: int) -> Street:
    """The scene of frame ``index``."""
    rng = np.random.default_rng([config.seed, index, 0])
    slopes = config.slope * _spread_normal(config.seed, index)
    wave, wave_yaw = 2.0 * math.pi / rng.uniform(22.0, 45.0), rng.uniform(0.0, 2.0 * math.pi)
    ground = np.array(
        [
            0.0,
            slopes[0],
            slopes[1],
            config.undulation * rng.uniform(0.2, 1.0),
            wave * math.cos(wave_yaw),
            wave * math.sin(wave_yaw),
            rng.uniform(0.0, 2.0 * math.pi),
        ]
    )
    ground[0] = -HEIGHT - ground[3] * math.sin(ground[6])  # the sensor stands HEIGHT above the ground right below it
    parking = rng.random(2) < 0.8
    crossing = float(rng.uniform(20.0, 45.0)) if rng.random() < 0.4 else None
    street = Street(
        ground,
        float(np.clip(rng.normal(0.0, 0.03), -0.08, 0.08)),
        float(rng.normal(0.0, 0.3)),
        -LANE / 2 - (2.1 if parking[0] else 0.3),
        1.5 * LANE + (2.1 if parking[1] else 0.3),
        crossing,
    )
    street.place("sensor", -0.3, -street.shift, -street.yaw, (5.5, 2.4, 1.7), None)
    _furnish(street, rng, config, 2.0, AHEAD)
    if config.full_scan:
        street.crossing = None  # it lies ahead; nothing more may be put there
        _furnish(street, np.random.default_rng([config.seed, index, 1]), config, -AHEAD, _BACK_START)
        street.crossing = crossing
    return street


def flatten(street: Street) -> dict[str, np.ndarray]:
    """The arrays that ``raycast.cast`` takes, and ``reflectivity`` and ``loss`` of every primitive; objects out of
    range are left in.
    """
    parts = [part for item in street.placed for part in item.shape.parts]
    planes = [plane for part in parts for plane in part[2]]
    return {
        "poses": np.array([item.pose for item in street.placed]).reshape(-1, 4),
        "part_start": np.cumsum([0] + [len(item.shape.parts) for item in street.placed]),
        "kind": np.array([part[0] for part in parts], np.int64),
        "size": np.array([part[1] for part in parts]).reshape(-1, 7),
        "bounds": np.array([part[3] for part in parts]).reshape(-1, 6),
        "plane_start": np.cumsum([0] + [len(part[2]) for part in parts]),
        "planes": np.array(planes).reshape(-1, 4),
        "density": np.array([part[4] for part in parts], np.float64),
        "opacity": np.array([part[5] for part in parts], np.float64),
        "reflectivity": np.array([part[6][0] for part in parts], np.float64),
        "loss": np.array([part[6][1] for part in parts], np.float64),
    }


def ground_material(street: Street, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reflectivity and loss of the ground at (x, y): road with dashed markings, pavement, grass."""
    s = x * math.cos(street.yaw) + y * math.sin(street.yaw)
    d = y * math.cos(street.yaw) - x * math.sin(street.yaw) - street.shift
    materials = np.array([shapes.ASPHALT, shapes.MARKING, shapes.PAVEMENT, shapes.GRASS])
    beside = np.maximum(street.right_edge - d, d - street.left_edge)
    which = np.where(beside <= 0.0, 0, np.where(beside < 3.7, 2, 3))
    which[(np.abs(d - LANE / 2) < 0.08) & (np.mod(s, 6.0) < 3.0)] = 1
    if street.crossing is not None:
        which[np.abs(s - street.crossing) < 4.0] = 0
    return materials[which, 0], materials[which, 1]
