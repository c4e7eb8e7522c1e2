"""Nearest hits of a spinning sensor's rays with ground, convex polyhedra, ellipsoids and capsules (numba, one thread).

All rays start at the origin of the LiDAR frame and lie on a grid (beam, column). An object is a pose and a run of
primitives given in its own frame. Every primitive is tested only with the rays inside its azimuth and elevation window,
so that the cost of a frame is about the number of rays that meet something. All kernels stand in this one file: numba's
cache does not notice a change in another file.
"""

from __future__ import annotations

import math

import numba
import numpy as np

POLYHEDRON, ELLIPSOID, CAPSULE = 0, 1, 2
NOTHING, GROUND = -2, -1  # values of ``owner`` that are no object
_FAR = 1e9


@numba.njit(cache=True, nogil=True)
def _polyhedron(planes, first, last, ox, oy, oz, dx, dy, dz):
    """Entry and exit distance and the cosine at entry; planes are (n, d) rows with n . p <= d inside."""
    enter, leave, cosine = -_FAR, _FAR, 0.0
    for k in range(first, last):
        toward = planes[k, 0] * dx + planes[k, 1] * dy + planes[k, 2] * dz
        gap = planes[k, 3] - planes[k, 0] * ox - planes[k, 1] * oy - planes[k, 2] * oz
        if toward < -1e-12:
            t = gap / toward
            if t > enter:
                enter, cosine = t, -toward
        elif toward > 1e-12:
            t = gap / toward
            if t < leave:
                leave = t
        elif gap < 0.0:
            return _FAR, -_FAR, 0.0
        if enter > leave:
            return _FAR, -_FAR, 0.0
    return enter, leave, cosine


@numba.njit(cache=True, nogil=True)
def _ellipsoid(s, ox, oy, oz, dx, dy, dz):
    """``s`` = centre, radii."""
    qx, qy, qz = (ox - s[0]) / s[3], (oy - s[1]) / s[4], (oz - s[2]) / s[5]
    ex, ey, ez = dx / s[3], dy / s[4], dz / s[5]
    a = ex * ex + ey * ey + ez * ez
    b = qx * ex + qy * ey + qz * ez
    inside = b * b - a * (qx * qx + qy * qy + qz * qz - 1.0)
    if inside <= 0.0:
        return _FAR, -_FAR, 0.0
    root = math.sqrt(inside)
    t = (-b - root) / a
    nx, ny, nz = (qx + t * ex) / s[3], (qy + t * ey) / s[4], (qz + t * ez) / s[5]
    cosine = -(nx * dx + ny * dy + nz * dz) / math.sqrt(nx * nx + ny * ny + nz * nz)
    return t, (-b + root) / a, cosine


@numba.njit(cache=True, nogil=True)
def _capsule(s, ox, oy, oz, dx, dy, dz):
    """``s`` = first end, second end, radius: a cylinder closed by two half spheres."""
    ax, ay, az = s[3] - s[0], s[4] - s[1], s[5] - s[2]
    qx, qy, qz = ox - s[0], oy - s[1], oz - s[2]
    aa = ax * ax + ay * ay + az * az
    ad, aq = ax * dx + ay * dy + az * dz, ax * qx + ay * qy + az * qz
    dq, qq = dx * qx + dy * qy + dz * qz, qx * qx + qy * qy + qz * qz
    a = aa - ad * ad
    b = aa * dq - aq * ad
    c = aa * qq - aq * aq - s[6] * s[6] * aa
    along = -1.0
    t = _FAR
    if a > 1e-12:
        inside = b * b - a * c
        if inside <= 0.0:
            return _FAR, -_FAR, 0.0
        t = (-b - math.sqrt(inside)) / a
        along = (aq + t * ad) / aa
    if along < 0.0 or along > 1.0:  # beside the cylinder: one of the two half spheres, or nothing
        end = 1.0 if along > 1.0 or (a <= 1e-12 and ad < 0.0) else 0.0
        ex, ey, ez = qx - end * ax, qy - end * ay, qz - end * az
        b = ex * dx + ey * dy + ez * dz
        inside = b * b - (ex * ex + ey * ey + ez * ez - s[6] * s[6])
        if inside <= 0.0:
            return _FAR, -_FAR, 0.0
        t = -b - math.sqrt(inside)
        along = end
    nx, ny, nz = qx + t * dx - along * ax, qy + t * dy - along * ay, qz + t * dz - along * az
    cosine = -(nx * dx + ny * dy + nz * dz) / s[6]
    return t, t + 2.0 * s[6], cosine


@numba.njit(cache=True, nogil=True)
def _window(bounds, px, py, pz, cy, sy):
    """Azimuth centre, half width left and right, lowest and highest elevation of a turned box seen from the origin."""
    centre_x, centre_y = 0.5 * (bounds[0] + bounds[3]), 0.5 * (bounds[1] + bounds[4])
    towards = math.atan2(py + centre_x * sy + centre_y * cy, px + centre_x * cy - centre_y * sy)
    left, right, farthest = 0.0, 0.0, 0.0
    for corner in range(4):
        x = bounds[3] if corner & 1 else bounds[0]
        y = bounds[4] if corner & 2 else bounds[1]
        wx, wy = px + x * cy - y * sy, py + x * sy + y * cy
        turn = math.atan2(wy, wx) - towards
        turn -= 2.0 * math.pi * math.floor(turn / (2.0 * math.pi) + 0.5)
        left, right = max(left, turn), max(right, -turn)
        farthest = max(farthest, math.hypot(wx, wy))
    ox, oy = -(px * cy + py * sy), px * sy - py * cy  # the sensor in the object's frame
    gap_x = max(bounds[0] - ox, ox - bounds[3], 0.0)
    gap_y = max(bounds[1] - oy, oy - bounds[4], 0.0)
    nearest = math.hypot(gap_x, gap_y)
    if nearest == 0.0:
        left = right = math.pi
    low, high = pz + bounds[2], pz + bounds[5]
    low_elevation = math.atan2(low, nearest if low < 0.0 else farthest)
    high_elevation = math.atan2(high, nearest if high > 0.0 else farthest)
    return towards, left, right, low_elevation, high_elevation


@numba.njit(cache=True, nogil=True)
def _cast_ground(elevations, first_azimuth, step, ground, max_range, depth, owner, cosine):
    """``ground`` = (z0, slope x, slope y, amplitude, wave x, wave y, phase): z = z0 + slopes . p + amplitude sin(wave .
    p + phase).
    """
    beams, columns = depth.shape
    z0, sx, sy, height, kx, ky, phase = ground[0], ground[1], ground[2], ground[3], ground[4], ground[5], ground[6]
    for beam in range(beams):
        ce, dz = math.cos(elevations[beam]), math.sin(elevations[beam])
        for column in range(columns):
            azimuth = first_azimuth + column * step
            dx, dy = ce * math.cos(azimuth), ce * math.sin(azimuth)
            falling = sx * dx + sy * dy - dz
            if falling < 1e-4:
                continue
            t = -z0 / falling
            if t > 1.5 * max_range:
                continue
            slope_x, slope_y = sx, sy
            for _ in range(3):  # Newton on the undulation, from the plane's hit
                angle = (kx * dx + ky * dy) * t + phase
                wave = height * math.cos(angle)
                slope_x, slope_y = sx + wave * kx, sy + wave * ky
                rate = dz - slope_x * dx - slope_y * dy
                if rate > -1e-4:
                    break
                t -= (t * dz - z0 - t * (sx * dx + sy * dy) - height * math.sin(angle)) / rate
            if 0.0 < t <= max_range:
                depth[beam, column] = t
                owner[beam, column] = GROUND
                facing = (slope_x * dx + slope_y * dy - dz) / math.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)
                cosine[beam, column] = max(facing, 0.0)


@numba.njit(cache=True, nogil=True)
def cast(
    elevations,
    first_azimuth,
    step,
    turn_columns,
    ground,
    poses,
    part_start,
    kind,
    size,
    bounds,
    plane_start,
    planes,
    density,
    opacity,
    chance,
    share_first,
    share_last,
    max_range,
):
    """Nearest hit of every ray of the grid (beam, column).

    Args:
        elevations: (B,) float64 radians, falling
        first_azimuth: azimuth of column 0; column i looks at ``first_azimuth + i * step``
        turn_columns: columns of a full turn (the grid may hold fewer)
        ground: (7,) see ``_cast_ground``
        poses: (n, 4) float64 x, y, z of the object frame's origin in the LiDAR frame, yaw
        part_start: (n + 1,) int64, object k has the primitives part_start[k] .. part_start[k + 1] - 1
        kind: (m,) int64 POLYHEDRON, ELLIPSOID or CAPSULE; ``size`` (m, 7), ``bounds`` (m, 6) lowest and highest corner
            in the object's frame
        plane_start: (m + 1,) int64 into ``planes`` (k, 4)
        density: (m,) mean returns per metre inside the primitive (foliage), 0 for a solid surface
        opacity: (m,) chance that a solid surface stops a ray
        chance: (B, C) float32 uniform numbers, one a ray: what decides about foliage and opacity
        share_first, share_last: columns counted in ``alone``

    Returns:
        depth (B, C) float64 (metres, inf without a hit), owner (B, C) int32 (object, GROUND or NOTHING), part (B, C)
        int32 primitive or -1, cosine (B, C) float32 of the angle of incidence, alone (n,) int64 rays that would hit the
        object if nothing else were there
    """
    beams, columns = chance.shape
    depth = np.full((beams, columns), np.inf)
    owner = np.full((beams, columns), np.int32(NOTHING), np.int32)
    part = np.full((beams, columns), np.int32(-1), np.int32)
    cosine = np.zeros((beams, columns), np.float32)
    objects = poses.shape[0]
    alone = np.zeros(objects, np.int64)
    cos_elevation, sin_elevation = np.cos(elevations), np.sin(elevations)
    cos_azimuth, sin_azimuth = np.empty(columns), np.empty(columns)
    for column in range(columns):
        cos_azimuth[column] = math.cos(first_azimuth + column * step)
        sin_azimuth[column] = math.sin(first_azimuth + column * step)
    _cast_ground(elevations, first_azimuth, step, ground, max_range, depth, owner, cosine)

    # the object's own nearest hits; stamp says for which object an entry was written last, so that nothing has to be
    # cleared
    stamp = np.full((beams, columns), np.int32(-1), np.int32)
    own_depth, own_cosine = np.empty((beams, columns)), np.empty((beams, columns), np.float32)
    own_part = np.empty((beams, columns), np.int32)
    for item in range(objects):
        px, py, pz = poses[item, 0], poses[item, 1], poses[item, 2]
        cy, sy = math.cos(poses[item, 3]), math.sin(poses[item, 3])
        ox, oy, oz = -(px * cy + py * sy), px * sy - py * cy, -pz
        top_beam, end_beam, low_column, high_column = beams, 0, columns, -1
        for p in range(part_start[item], part_start[item + 1]):
            towards, left, right, low, high = _window(bounds[p], px, py, pz, cy, sy)
            start_angle = towards - right - first_azimuth
            start_angle -= 2.0 * math.pi * math.floor(start_angle / (2.0 * math.pi))
            start = int(math.ceil(start_angle / step - 1e-9))
            count = min(int(math.floor((start_angle + left + right) / step + 1e-9)) - start + 1, turn_columns)
            first_beam = 0
            while first_beam < beams and elevations[first_beam] > high + 1e-9:
                first_beam += 1
            last_beam = first_beam
            while last_beam < beams and elevations[last_beam] >= low - 1e-9:
                last_beam += 1
            if last_beam == first_beam or count <= 0:
                continue
            touched = False
            for k in range(count):
                column = (start + k) % turn_columns
                if column >= columns:
                    continue
                touched = True
                low_column, high_column = min(low_column, column), max(high_column, column)
                flat_x = cos_azimuth[column] * cy + sin_azimuth[column] * sy
                flat_y = sin_azimuth[column] * cy - cos_azimuth[column] * sy
                for beam in range(first_beam, last_beam):
                    ce, dz = cos_elevation[beam], sin_elevation[beam]
                    dx, dy = ce * flat_x, ce * flat_y
                    if kind[p] == POLYHEDRON:
                        t, leave, facing = _polyhedron(
                            planes, plane_start[p], plane_start[p + 1], ox, oy, oz, dx, dy, dz
                        )
                    elif kind[p] == ELLIPSOID:
                        t, leave, facing = _ellipsoid(size[p], ox, oy, oz, dx, dy, dz)
                    else:
                        t, leave, facing = _capsule(size[p], ox, oy, oz, dx, dy, dz)
                    if t > max_range or t <= 0.0:
                        continue
                    if density[p] > 0.0 or opacity[p] < 1.0:
                        # another number for every primitive
                        luck = chance[beam, column] + 0.6180339887 * (p - part_start[item])
                        luck -= math.floor(luck)
                        if density[p] > 0.0:
                            t -= math.log(1.0 - luck) / density[p]
                            facing = 0.35 + 0.6 * luck
                            if t > leave or t > max_range:
                                continue
                        elif luck > opacity[p]:
                            continue
                    if stamp[beam, column] != item or t < own_depth[beam, column]:
                        stamp[beam, column] = item
                        own_depth[beam, column], own_cosine[beam, column], own_part[beam, column] = t, facing, p
            if touched:
                top_beam, end_beam = min(top_beam, first_beam), max(end_beam, last_beam)
        for beam in range(top_beam, end_beam):
            for column in range(low_column, high_column + 1):
                if stamp[beam, column] != item:
                    continue
                if share_first <= column < share_last:
                    alone[item] += 1
                if own_depth[beam, column] < depth[beam, column]:
                    depth[beam, column], owner[beam, column] = own_depth[beam, column], item
                    part[beam, column], cosine[beam, column] = own_part[beam, column], own_cosine[beam, column]
    return depth, owner, part, cosine, alone
