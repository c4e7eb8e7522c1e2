"""Overlap of two rotated rectangles by separating axes, for numba code."""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True)
def rectangles_apart(x, y, length_a, width_a, cos_a, sin_a, length_b, width_b, cos_b, sin_b, margin):
    """Whether rectangle b is at least about ``margin`` metres away from rectangle a; touching rectangles are 0 apart.

    Two convex shapes are apart exactly if the normal of one of their sides separates them.

    Args:
        x, y: centre of b less centre of a.
        length_a, width_a: whole sides. cos_a, sin_a: of the heading. The same for b.
    """
    c, s = abs(cos_a * cos_b + sin_a * sin_b), abs(cos_a * sin_b - sin_a * cos_b)  # of the angle between them
    return (
        abs(x * cos_a + y * sin_a) >= (length_a + length_b * c + width_b * s) / 2 + margin
        or abs(y * cos_a - x * sin_a) >= (width_a + length_b * s + width_b * c) / 2 + margin
        or abs(x * cos_b + y * sin_b) >= (length_b + length_a * c + width_a * s) / 2 + margin
        or abs(y * cos_b - x * sin_b) >= (width_b + length_a * s + width_a * c) / 2 + margin
    )
