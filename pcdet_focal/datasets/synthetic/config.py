"""What can be asked of the simulator."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True)
class SyntheticConfig:
    """What to simulate. The same config and index always give the same frame.

    Counts are (fewest, most) of the objects tried ahead of the sensor, some of them beside the image or hidden; with
    ``full_scan`` about as many stand behind it. ``full_scan`` casts all 360 degrees instead of the camera's sector.
    """

    seed: int = 0
    full_scan: bool = False
    cars: tuple[int, int] = (9, 18)
    vans: tuple[int, int] = (0, 2)
    pedestrians: tuple[int, int] = (3, 9)
    cyclists: tuple[int, int] = (2, 5)
    slope: float = 0.004  # standard deviation of the road plane's slopes (a quarter of a degree: 20 cm at 50 m)
    undulation: float = 0.03  # greatest height of the ground above that plane, metres

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed {self.seed} of the synthetic data must be 0 or more.")
        for name in ("cars", "vans", "pedestrians", "cyclists"):
            limits = tuple(getattr(self, name))
            if len(limits) != 2 or not 0 <= limits[0] <= limits[1]:
                raise InputError(
                    f"{name} {limits} of the synthetic data must be (fewest, most) with 0 <= fewest <= most."
                )
        # steeper, and the ground hides itself, which the ray caster does not model
        for name, maximum in (("slope", 0.03), ("undulation", 0.1)):
            if not 0.0 <= getattr(self, name) <= maximum:
                raise InputError(f"{name} {getattr(self, name)} of the synthetic data must be from 0 to {maximum}.")
