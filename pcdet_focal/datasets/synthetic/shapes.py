"""Shapes of the street scene, built of primitives that ``raycast`` can hit.

Object frame: x ahead, y left, z up, origin in the middle of the object on the ground. A shape reaches its length, width
and height exactly and nothing of it lies outside, so that the box (l, w, h) is a true label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .raycast import CAPSULE, ELLIPSOID, POLYHEDRON

# material: reflectivity 0..1, share of returns lost (light that goes through or is mirrored away)
ASPHALT, PAVEMENT, GRASS, MARKING = (0.24, 0.02), (0.38, 0.02), (0.50, 0.03), (0.85, 0.0)
GLASS, TYRE, METAL, SKIN, FOLIAGE, BARK = (
    (0.10, 0.55),
    (0.10, 0.05),
    (0.45, 0.02),
    (0.55, 0.0),
    (0.45, 0.05),
    (0.30, 0.02),
)
PLATE = (0.99, 0.0)
Material = tuple[float, float]
Plane = tuple[float, float, float, float]


@dataclass
class Shape:
    """A list of primitives; each entry is (kind, size (7), planes, bounds (6), density, opacity, material)."""

    parts: list[tuple] = field(default_factory=list)

    def polyhedron(
        self,
        bounds: tuple[float, ...],
        planes: list[Plane],
        material: Material,
        density: float = 0.0,
        opacity: float = 1.0,
    ) -> None:
        """The axis-aligned box ``bounds`` (x0, y0, z0, x1, y1, z1) cut by more planes (nx, ny, nz, d): n . p <= d, n of
        length 1.
        """
        x0, y0, z0, x1, y1, z1 = bounds
        sides = [
            (1.0, 0.0, 0.0, x1),
            (-1.0, 0.0, 0.0, -x0),
            (0.0, 1.0, 0.0, y1),
            (0.0, -1.0, 0.0, -y0),
            (0.0, 0.0, 1.0, z1),
            (0.0, 0.0, -1.0, -z0),
        ]
        self.parts.append((POLYHEDRON, (0.0,) * 7, sides + planes, bounds, density, opacity, material))

    def ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        material: Material,
        density: float = 0.0,
    ) -> None:
        bounds = tuple(c - r for c, r in zip(centre, radii)) + tuple(c + r for c, r in zip(centre, radii))
        self.parts.append((ELLIPSOID, (*centre, *radii, 0.0), [], bounds, density, 1.0, material))

    def capsule(
        self, start: tuple[float, float, float], end: tuple[float, float, float], radius: float, material: Material
    ) -> None:
        bounds = tuple(min(a, b) - radius for a, b in zip(start, end)) + tuple(
            max(a, b) + radius for a, b in zip(start, end)
        )
        self.parts.append((CAPSULE, (*start, *end, radius), [], bounds, 0.0, 1.0, material))


def _through(x0: float, z0: float, x1: float, z1: float) -> Plane:
    """The plane across the vehicle through two points of its side view; inside is to the right of the way from the
    first to the second.
    """
    nx, nz = -(z1 - z0), x1 - x0
    length = math.hypot(nx, nz)
    return nx / length, 0.0, nz / length, (nx * x0 + nz * z0) / length


def _leaning_sides(half_width: float, z0: float, z1: float, inset: float) -> list[Plane]:
    """Both side faces leaning inwards by ``inset`` between the heights z0 and z1."""
    length = math.hypot(z1 - z0, inset)
    ny, nz = (z1 - z0) / length, inset / length
    return [(0.0, side * ny, nz, ny * half_width + nz * z0) for side in (1.0, -1.0)]


def _cut_corners(half_length: float, half_width: float, front: float, rear: float) -> list[Plane]:
    """Vertical planes that take ``front`` or ``rear`` metres along and half of that across off the corners seen from
    above.
    """
    planes = []
    for end, cut in ((1.0, front), (-1.0, rear)):
        ny = 2.0 / math.sqrt(5.0)
        nx = ny / 2.0
        for side in (1.0, -1.0):
            planes.append((end * nx, side * ny, 0.0, nx * (half_length - cut) + ny * half_width))
    return planes


def _wheels(
    shape: Shape,
    xs: tuple[float, float],
    half_width: float,
    radius: float,
    thickness: float = 0.22,
    opacity: float = 1.0,
    material: Material = TYRE,
) -> None:
    """Wheels as octagonal prisms on the ground at the given x, one on each side (or one in the middle when thickness is
    2 half_width).
    """
    corner = math.sqrt(0.5)
    for x in xs:
        for side in (1.0, -1.0) if thickness < 2.0 * half_width else (0.0,):
            y0 = side * half_width - thickness if side > 0 else -half_width
            slanted = [
                (sx * corner, 0.0, sz * corner, corner * (sx * x + sz * radius) + radius)
                for sx in (1.0, -1.0)
                for sz in (1.0, -1.0)
            ]
            shape.polyhedron(
                (x - radius, y0, 0.0, x + radius, y0 + thickness, 2.0 * radius), slanted, material, opacity=opacity
            )


@dataclass(frozen=True)
class CarModel:
    """Mean length, width, height (metres), the side view's marks as shares of the length from the front, how often it
    is met.
    """

    name: str
    size: tuple[float, float, float]
    bonnet: float  # from the front to the foot of the windscreen
    roof_front: float
    roof_rear: float
    rear_foot: float  # of the rear window
    often: float


CAR_MODELS = (
    CarModel("small", (3.50, 1.58, 1.48), 0.20, 0.42, 0.88, 0.97, 0.26),
    CarModel("hatchback", (3.92, 1.64, 1.48), 0.24, 0.46, 0.84, 0.95, 0.34),
    CarModel("saloon", (4.40, 1.70, 1.43), 0.27, 0.47, 0.72, 0.86, 0.18),
    CarModel("estate", (4.50, 1.72, 1.50), 0.25, 0.45, 0.90, 0.97, 0.12),
    CarModel("offroad", (4.25, 1.74, 1.70), 0.25, 0.42, 0.91, 0.97, 0.10),
)


def car(model: CarModel, length: float, width: float, height: float, paint: Material) -> Shape:
    """Body with a sloping bonnet and cut corners, a glass cabin that leans in, a painted roof, four wheels, a number
    plate at each end.
    """
    shape = Shape()
    half, side = length / 2, width / 2
    belt, floor = 0.60 * height, 0.13 * height

    def at(share: float) -> float:
        return half - share * length

    bonnet_front = 0.44 * height
    planes = [
        _through(at(model.bonnet), belt, half - 0.08, bonnet_front),
        _through(half - 0.08, bonnet_front, half, 0.36 * height),
        _through(half, 0.24 * height, half - 0.10, floor),
        _through(-half + 0.12, floor, -half, 0.27 * height),
        _through(-half, 0.50 * height, -half + 0.06, belt),
    ]
    planes += _cut_corners(half, side, 0.45, 0.25) + _leaning_sides(side, 0.45 * height, belt, 0.03)
    shape.polyhedron((-half, -side + 0.015, floor, half, side - 0.015, belt), planes, paint)
    cabin = [
        _through(at(model.roof_front), height, at(model.bonnet), belt),
        _through(at(model.rear_foot), belt, at(model.roof_rear), height),
    ]
    cabin += _leaning_sides(side - 0.04, belt, height, 0.17)
    roof_start = height - 0.07
    shape.polyhedron((at(model.rear_foot), -side + 0.04, belt, at(model.bonnet), side - 0.04, roof_start), cabin, GLASS)
    shape.polyhedron(
        (at(model.rear_foot), -side + 0.04, roof_start, at(model.bonnet), side - 0.04, height), cabin, paint
    )
    # pillars
    for share in (model.roof_front + 0.02, 0.5 * (model.roof_front + model.roof_rear), model.roof_rear - 0.03):
        pillar = (at(share) - 0.06, -side + 0.035, belt, at(share) + 0.06, side - 0.035, roof_start)
        shape.polyhedron(pillar, _leaning_sides(side - 0.035, belt, height, 0.17), paint)
    _wheels(shape, (half - 0.19 * length, -half + 0.18 * length), side, 0.21 * height)
    for end in (1.0, -1.0):
        x0, x1 = sorted((end * half, end * (half - 0.02)))
        shape.polyhedron((x0, -0.25, 0.27 * height, x1, 0.25, 0.34 * height), [], PLATE)
    return shape


def van(length: float, width: float, height: float, paint: Material) -> Shape:
    """One tall body with a short sloping front, windows at the front, four wheels."""
    shape = Shape()
    half, side, floor = length / 2, width / 2, 0.11 * height
    nose = 0.52 * height
    front = [
        _through(half - 0.26 * length, height, half - 0.09 * length, nose),
        _through(half - 0.09 * length, nose, half, 0.42 * height),
    ]
    planes = front + _cut_corners(half, side, 0.35, 0.10) + _leaning_sides(side, 0.5 * height, height, 0.10)
    shape.polyhedron((-half, -side + 0.015, floor, half, side - 0.015, height), planes, paint)
    glass = [_through(half - 0.26 * length + 0.006, height, half - 0.09 * length + 0.006, nose)]
    shape.polyhedron(
        (half - 0.30 * length, -side + 0.08, nose + 0.05, half - 0.08 * length, side - 0.08, height - 0.12),
        glass,
        GLASS,
    )
    _wheels(shape, (half - 0.17 * length, -half + 0.2 * length), side, 0.15 * height)
    return shape


def pedestrian(
    length: float, width: float, height: float, stride: float, clothes: Material, trousers: Material
) -> Shape:
    """Walking: legs apart by ``stride`` 0..1, arms swinging against them, torso, head."""
    shape = Shape()
    reach = length / 2
    hip, shoulder = 0.50 * height, 0.80 * height
    for side, forward in ((1.0, 1.0), (-1.0, -1.0)):
        step = forward * stride * (reach - 0.12)
        shape.capsule((0.0, side * 0.09, hip), (step, side * 0.10, 0.10), 0.085, trousers)
        shape.capsule((step - 0.03, side * 0.10, 0.06), (step + 0.05, side * 0.10, 0.06), 0.055, TYRE)
        hand = -forward * (reach - 0.05)
        shape.capsule(
            (0.0, side * (width / 2 - 0.05), shoulder - 0.05),
            (0.35 * hand, side * (width / 2 - 0.05), 0.60 * height),
            0.05,
            clothes,
        )
        shape.capsule(
            (0.35 * hand, side * (width / 2 - 0.05), 0.60 * height),
            (hand, side * (width / 2 - 0.06), 0.56 * height),
            0.045,
            SKIN,
        )
    shape.ellipsoid((0.0, 0.0, 0.5 * (hip + shoulder) + 0.02), (0.15, 0.40 * width, 0.22 * height), clothes)
    shape.ellipsoid((0.01, 0.0, height - 0.125), (0.105, 0.085, 0.125), SKIN)
    return shape


def cyclist(length: float, width: float, height: float, clothes: Material, trousers: Material) -> Shape:
    """Two thin half-open wheels, a frame, handlebars as wide as the box, and a rider leaning forward."""
    shape = Shape()
    half = length / 2
    radius = 0.19 * height
    rear, front = -half + radius, half - radius
    _wheels(shape, (front, rear), 0.025, radius, thickness=0.05, opacity=0.45)
    seat, bar = (rear + 0.32, 0.0, 0.52 * height), (front - 0.12, 0.0, 0.60 * height)
    crank = (rear + 0.45, 0.0, 0.17 * height)
    for start, end in (
        ((rear, 0.0, radius), seat),
        (seat, crank),
        (crank, bar),
        ((front, 0.0, radius), bar),
        ((rear, 0.0, radius), crank),
    ):
        shape.capsule(start, end, 0.025, METAL)
    shape.capsule((bar[0], -width / 2 + 0.03, bar[2]), (bar[0], width / 2 - 0.03, bar[2]), 0.03, METAL)
    neck = (seat[0] + 0.22 * height, 0.0, 0.84 * height)
    shape.capsule((seat[0], 0.0, seat[2] + 0.09), (neck[0], 0.0, neck[2] - 0.08), 0.14, clothes)
    shape.ellipsoid((neck[0], 0.0, neck[2] - 0.07), (0.12, 0.36 * width, 0.10), clothes)
    shape.ellipsoid((neck[0] + 0.08, 0.0, height - 0.13), (0.11, 0.09, 0.13), SKIN)
    for side in (1.0, -1.0):
        knee = (seat[0] + 0.30 + 0.06 * side, side * 0.13, 0.42 * height - 0.04 * side)
        shape.capsule((seat[0], side * 0.10, seat[2] + 0.06), knee, 0.075, trousers)
        shape.capsule(knee, (crank[0] + 0.08 * side, side * 0.12, 0.14 * height - 0.06 * side), 0.055, trousers)
        shape.capsule(
            (neck[0], side * (0.36 * width - 0.04), neck[2] - 0.07),
            (bar[0], side * (width / 2 - 0.07), bar[2] + 0.03),
            0.04,
            clothes,
        )
    return shape


def block(length: float, width: float, height: float, material: Material, lift: float = 0.0) -> Shape:
    """A plain box: house front, bin, cabinet, container."""
    shape = Shape()
    shape.polyhedron((-length / 2, -width / 2, lift, length / 2, width / 2, height), [], material)
    return shape


def house(length: float, depth: float, height: float, wall: Material, windows: np.ndarray) -> Shape:
    """A block with glass plates, 1.2 m wide, at the given x of both fronts, so that they are not featureless."""
    shape = block(length, depth, height, wall)
    for x in windows:
        shape.polyhedron((x - 0.6, -depth / 2 - 0.01, 0.9, x + 0.6, depth / 2 + 0.01, 2.1), [], GLASS)
    return shape


def pole(height: float, radius: float, sign: bool) -> Shape:
    """A post, with a traffic sign across the road or without."""
    shape = Shape()
    shape.capsule((0.0, 0.0, radius), (0.0, 0.0, height - radius), radius, METAL)
    if sign:
        shape.polyhedron((-0.02, -0.32, min(height - 0.8, 2.1), 0.02, 0.32, min(height - 0.1, 2.75)), [], PLATE)
    return shape


def tree(height: float, trunk: float, crown: float, density: float) -> Shape:
    """A trunk and a crown that lets some of the light through."""
    shape = Shape()
    shape.capsule((0.0, 0.0, trunk), (0.0, 0.0, 0.6 * height), trunk, BARK)
    shape.ellipsoid((0.0, 0.0, 0.7 * height), (crown, crown, 0.3 * height), FOLIAGE, density)
    return shape


def bush(length: float, width: float, height: float, density: float) -> Shape:
    shape = Shape()
    shape.ellipsoid((0.0, 0.0, 0.45 * height), (length / 2, width / 2, 0.55 * height), FOLIAGE, density)
    return shape


def hedge(length: float, width: float, height: float, density: float) -> Shape:
    shape = Shape()
    shape.polyhedron((-length / 2, -width / 2, 0.0, length / 2, width / 2, height), [], FOLIAGE, density)
    return shape
