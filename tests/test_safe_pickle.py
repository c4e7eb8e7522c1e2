"""Info pickles load whatever numpy wrote them, and nothing in them runs."""

import collections
import os
import pickle

import numpy as np
import pytest

from pcdet_focal.errors import InputError
from pcdet_focal.safe_pickle import load_pickle

CONTENT = {
    "Car": [
        {
            "name": np.str_("Car"),
            "path": "gt_database/000001_Car_0.bin",
            "box3d_lidar": np.arange(7.0),
            "num_points_in_gt": np.int64(12),
            "difficulty": 0,
            "bbox": np.arange(4, dtype=np.float32)[::2],
            "names": np.array(["Car", "Van"]),
            "flags": np.array([True]),
            "mixed": np.array([1, "a"], dtype=object),
            "transposed": np.asfortranarray(np.ones((3, 2), dtype=np.float32)),
            "tuple": (1, 2.5, None, b"bytes", {3}, 1 + 2j),
        }
    ],
    "ordered": collections.OrderedDict(a=1),
}


def same(a, b):
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b and type(a) is type(b)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_round_trip(tmp_path, protocol):
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    assert same(load_pickle(str(path)), CONTENT)


@pytest.mark.parametrize("written, here", [(b"numpy.core", b"numpy._core"), (b"numpy._core", b"numpy.core")])
# module names are plain lines in these, so the other numpy's file can be written here
@pytest.mark.parametrize("protocol", [0, 2])
def test_files_of_either_numpy(tmp_path, written, here, protocol):
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol).replace(here + b".", written + b"."))
    assert (written + b".multiarray") in path.read_bytes()
    assert same(load_pickle(path), CONTENT)


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "evil, named",
    [
        (Runs(os.system, "exit 3"), "system"),
        (Runs(eval, "1"), "eval"),
        (Runs(getattr, "a", "upper"), "getattr"),
        (Runs(np.load, "x"), "numpy.*load"),
        (Runs(pytest.raises, ValueError), "raises"),
    ],
)
def test_nothing_else_is_let_through(tmp_path, evil, named):
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps([evil]))
    with pytest.raises(InputError, match=rf"infos\.pkl.*{named}"):
        load_pickle(path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(InputError, match="nowhere.pkl"):
        load_pickle(tmp_path / "nowhere.pkl")
    whole = pickle.dumps(CONTENT)
    path = tmp_path / "infos.pkl"
    for content in (b"", b"not a pickle", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="infos.pkl"):
            load_pickle(path)
