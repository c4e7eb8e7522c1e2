"""Scans that are what the configuration says are read; others are noticed from their bytes and numbers."""

import numpy as np
import pytest
import tiny_custom

from pcdet_focal.datasets.scans import find_scan, likely_columns, read_scan
from pcdet_focal.errors import InputError

NAMES = ["x", "y", "z", "intensity"]


def scan(columns: int = 4, points: int = 4000) -> np.ndarray:
    """A simulated scan; further columns are a ring, a time and an elongation."""
    xyzi = tiny_custom.frame(0)[0][:points]
    generator = np.random.default_rng(0)
    more = [generator.integers(0, 32, len(xyzi)), np.linspace(0, 0.1, len(xyzi)), generator.random(len(xyzi)) * 3]
    return np.column_stack([xyzi, *more])[:, :columns].astype(np.float32)


def names(columns: int) -> list[str]:
    return ["x", "y", "z", "intensity", "ring", "time", "elongation"][:columns]


def write(tmp_path, points: np.ndarray, name: str = "a.bin"):
    path = tmp_path / name
    np.save(path, points) if path.suffix == ".npy" else points.tofile(path)
    return path


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
@pytest.mark.parametrize("columns", [3, 4, 5, 6, 7])
def test_what_was_written_is_read(tmp_path, suffix, columns):
    points = scan(columns)
    read = read_scan(write(tmp_path, points, f"a{suffix}"), names(columns))
    assert read.dtype == np.float32 and read.flags.writeable
    np.testing.assert_array_equal(read, points)


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
def test_a_scan_may_be_empty(tmp_path, suffix):
    assert read_scan(write(tmp_path, np.zeros((0, 4), np.float32), f"a{suffix}"), NAMES).shape == (0, 4)


@pytest.mark.parametrize("written", [4, 5, 6, 7])
@pytest.mark.parametrize("read", [3, 4, 5, 6])
def test_columns_of_another_number_are_noticed(tmp_path, written, read):
    if written % read == 0:  # half of the columns are not noticed
        return
    points = scan(written)[: 3960 - 3960 % (read * 2)]  # so that the bytes alone do not tell
    path = write(tmp_path, points)
    with pytest.raises(InputError, match=rf"frame 7: .*a\.bin .*{written} columns.*src_feature_list"):
        read_scan(path, names(read), "frame 7: ")


def test_a_scan_of_one_wall_or_few_points_is_not_suspected(tmp_path):
    wall = np.column_stack([np.full(2000, 5.0), np.linspace(-1, 1, 2000), np.tile([0, 1.0], 1000), np.zeros(2000)])
    for points in (wall, np.zeros((3000, 4)), scan()[:90], np.random.default_rng(0).normal(size=(5000, 4))):
        path = write(tmp_path, points.astype(np.float32))
        assert len(read_scan(path, NAMES)) == len(points)
        assert likely_columns(points.astype(np.float32).ravel(), 4) == 4


def test_a_scan_that_is_cut_off(tmp_path):
    path = write(tmp_path, scan())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"a\.bin has 63995 bytes, not a multiple of 16.*cut off"):
        read_scan(path, NAMES)
    path = write(tmp_path, scan(), "a.npy")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"a\.npy is not an array saved by numpy, or is cut off"):
        read_scan(path, NAMES)


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<i4", "<i2"])
def test_numbers_of_another_type(tmp_path, kind):
    path = write(tmp_path, (scan() * (1 if "f" in kind else 100)).astype(kind))
    told = "looks like float64: write" if kind == "<f8" else "no float32 coordinates"
    with pytest.raises(InputError, match=rf"frame 7: the numbers in .*a\.bin.*{told}"):
        read_scan(path, NAMES, "frame 7: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.zeros((3, 5)), r"an array \(3, 5\) of float64; a scan has 4 columns \(x, y, z, intensity"),
        (np.zeros(12, np.float32), r"an array \(12,\)"),
        (np.array([["a"] * 4]), "of <U1"),
        (np.zeros((3, 4), complex), "of complex128"),
        (np.array([{}], dtype=object), "not an array saved by numpy"),
    ],
)
def test_arrays_of_something_else(tmp_path, content, told):
    with pytest.raises(InputError, match=rf"a\.npy.*{told}"):
        read_scan(write(tmp_path, content, "a.npy"), NAMES)


def test_other_files(tmp_path):
    (tmp_path / "b.bin").mkdir()
    (tmp_path / "c.xyz").write_bytes(b"1 2 3")
    np.savez(tmp_path / "d.npz", a=np.zeros(3))
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    for name, told in (
        ("a.bin", "does not exist"),
        ("b.bin", "folder"),
        ("c.xyz", r"c\.xyz: a scan is a \.bin, \.npy, \.pcd, \.ply, \.las or \.laz file"),
        ("d.npy", "several arrays"),
    ):
        with pytest.raises(InputError, match=told):
            read_scan(tmp_path / name, NAMES)


def test_the_first_suffix_that_exists(tmp_path):
    assert find_scan(tmp_path, "000001").name == "000001.bin"
    write(tmp_path, scan(), "000001.pcd")
    assert find_scan(tmp_path, "000001").name == "000001.pcd"
    write(tmp_path, scan(), "000001.npy")
    assert find_scan(tmp_path, "000001").name == "000001.npy"
