"""Where the recorded numbers of other implementations and the real KITTI frames are, and how to read them.

``tests/recorded`` has what was recorded from generated inputs. The frames of KITTI, which have a licence of their own,
and what was recorded on them are not part of this repository. They are looked for in the folder that the environment
variable PCDET_FOCAL_SHARED names, else in ``shared`` beside the repository; tests that need them skip where it is
absent.
"""

import os
from pathlib import Path

import numpy as np
import pytest

RECORDED = Path(__file__).parent / "recorded"
SHARED = Path(os.environ.get("PCDET_FOCAL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
GOLDEN = SHARED / "golden"
KITTI_SAMPLE = SHARED / "kitti_sample"

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="what was recorded on KITTI's frames is not here")
needs_kitti_sample = pytest.mark.skipif(not KITTI_SAMPLE.is_dir(), reason="the real KITTI frames are not here")


def record(relative_path: str) -> Path:
    """A recorded file: of this repository where it is part of it, else of those beside it, which may be absent."""
    path = RECORDED / relative_path
    return path if path.exists() else GOLDEN / relative_path


def cases(relative_path: str) -> dict[str, dict[str, np.ndarray]]:
    """{case: {array name: value}} of one recorded ``.npz`` (its arrays are called ``<case>__<array>``); {} where it is
    absent.
    """
    return cases_of(record(relative_path))


def cases_of(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The same of a file by its path."""
    found: dict[str, dict[str, np.ndarray]] = {}
    if not path.exists():
        return found
    with np.load(path) as data:
        for key in data.files:
            case, name = key.split("__", 1)
            found.setdefault(case, {})[name] = data[key]
    return found


def assert_matches_samples(array, case: dict, name: str, rtol: float, atol: float) -> None:
    """Compare a big array with its recorded shape, finite sum and sampled values (``<name>__shape``, ``__sum``,
    ``__idx``, ``__val``).
    """
    array = np.asarray(array)
    assert tuple(array.shape) == tuple(case[f"{name}__shape"]), (
        f"{name}: shape {array.shape}, recorded {tuple(case[f'{name}__shape'])}"
    )
    flat = array.reshape(-1)
    np.testing.assert_allclose(
        flat[case[f"{name}__idx"].astype(np.int64)], case[f"{name}__val"], rtol=rtol, atol=atol, err_msg=name
    )
    absolute = float(case[f"{name}__abssum"])
    np.testing.assert_allclose(
        flat.astype(np.float64).sum(),
        float(case[f"{name}__sum"]),
        atol=max(rtol * absolute, atol),
        rtol=0,
        err_msg=f"{name} sum",
    )
