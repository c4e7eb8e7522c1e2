"""A spinning 64-beam sensor after the HDL-64E: where its rays point, and what it reports of a hit."""

from __future__ import annotations

import math

import numpy as np

HEIGHT = 1.73  # metres above the ground
MAX_RANGE = 80.0
TURN_COLUMNS = 2083  # firings a turn: 0.1728 degrees apart, about KITTI's
AZIMUTH_STEP = 2.0 * math.pi / TURN_COLUMNS
FRONT_HALF_ANGLE = math.radians(43.0)  # holds the camera's image, whose edges are at 40.2 and 41.2 degrees
RANGE_SIGMA = 0.02

# Two blocks of 32 beams, from the top: 1/3 degree apart down to -8.33, then 1/2 degree apart down to -24.33.
ELEVATIONS = np.radians(np.concatenate([2.0 - np.arange(32) / 3.0, -8.0 - 5.0 / 6.0 - np.arange(32) / 2.0]))


def columns(full_scan: bool, phase: float) -> tuple[int, int, float]:
    """First column, number of columns and azimuth of the first one, for a full turn or for the camera's sector.

    Column j of a turn looks at ``-pi + (j + phase) * AZIMUTH_STEP``; the sector is a part of the same grid, so both see
    the same rays.
    """
    if full_scan:
        return 0, TURN_COLUMNS, -math.pi + phase * AZIMUTH_STEP
    first = math.ceil((math.pi - FRONT_HALF_ANGLE) / AZIMUTH_STEP - phase)
    last = math.floor((math.pi + FRONT_HALF_ANGLE) / AZIMUTH_STEP - phase)
    return first, last - first + 1, -math.pi + (first + phase) * AZIMUTH_STEP


def directions(azimuths: np.ndarray) -> np.ndarray:
    """Unit vectors (64, C, 3) float64 of all beams at the azimuths (C,) in radians."""
    ce, se = np.cos(ELEVATIONS)[:, None], np.sin(ELEVATIONS)[:, None]
    return np.stack(
        [ce * np.cos(azimuths), ce * np.sin(azimuths), np.broadcast_to(se, (len(ELEVATIONS), len(azimuths)))], axis=-1
    )


def measure(
    depth: np.ndarray,
    cosine: np.ndarray,
    reflectivity: np.ndarray,
    loss: np.ndarray,
    gauss: np.ndarray,
    flicker: np.ndarray,
    chance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the sensor reports of M hits.

    Args:
        depth: (M,) metres; ``cosine`` of the angle of incidence; ``reflectivity`` 0..1 and ``loss`` 0..1 of the surface
            (glass loses much)
        gauss: (M,) normal numbers for the range, ``flicker`` (M,) normal numbers for the intensity, ``chance`` (M,)
            uniform numbers

    Returns:
        measured range (M,), intensity (M,) in 0..1 in steps of 0.01 like KITTI's, returned (M,) bool
    """
    # A Lambertian surface sends back reflectivity * cos / r^2; the receiver's gain makes up for the range except far
    # away and at grazing angles.
    signal = reflectivity * np.maximum(cosine, 0.02) * (60.0 / np.maximum(depth, 8.0)) ** 2
    returned = chance < (1.0 - loss) * 0.99 * (1.0 - np.exp(-signal / 0.01))
    measured = depth + RANGE_SIGMA * np.clip(gauss, -3.0, 3.0)
    intensity = reflectivity * (0.35 + 0.65 * cosine) * np.exp(-depth / 150.0) * (1.0 + 0.12 * flicker)
    return measured, np.round(np.clip(intensity, 0.0, 0.99), 2), returned
