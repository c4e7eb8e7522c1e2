"""Scans of other programs: .ply, .las and .laz."""

import sys

import numpy as np
import pytest

from pcdet_focal.datasets.scans import read_scan
from pcdet_focal.errors import InputError

NAMES = ["x", "y", "z", "intensity"]
POINTS = np.random.default_rng(0).uniform(0, 50, (300, 4)).round(2).astype(np.float32)


def write_ply(path, text=False, byte_order="<", names=NAMES):
    plyfile = pytest.importorskip("plyfile")
    vertices = np.zeros(len(POINTS), [(name, "f8" if name == "x" else "f4") for name in names])
    for column, name in enumerate(names):
        vertices[name] = POINTS[:, column]
    element = plyfile.PlyElement.describe(vertices, "vertex")
    plyfile.PlyData([element], text=text, byte_order=byte_order).write(str(path))


def write_las(path):
    laspy = pytest.importorskip("laspy")
    cloud = laspy.create(point_format=3, file_version="1.2")
    cloud.header.scales = [0.001, 0.001, 0.001]
    cloud.header.offsets = POINTS[:, :3].min(axis=0)
    cloud.x, cloud.y, cloud.z = POINTS[:, :3].T.astype(np.float64)
    cloud.intensity = (POINTS[:, 3] * 1000).astype(np.uint16)
    cloud.write(str(path))


@pytest.mark.parametrize("options", [{}, {"text": True}, {"byte_order": ">"}, {"names": [*NAMES[:3], "Intensity"]}])
def test_ply(tmp_path, options):
    write_ply(tmp_path / "a.ply", **options)
    found = read_scan(tmp_path / "a.ply", NAMES)
    np.testing.assert_array_equal(found, POINTS)
    assert found.dtype == np.float32


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las(tmp_path, suffix):
    pytest.importorskip("lazrs")
    write_las(tmp_path / f"a{suffix}")
    found = read_scan(tmp_path / f"a{suffix}", NAMES)
    np.testing.assert_allclose(found[:, :3], POINTS[:, :3], atol=6e-4)
    np.testing.assert_array_equal(found[:, 3], (POINTS[:, 3] * 1000).astype(np.uint16))


@pytest.mark.parametrize("suffix", [".ply", ".las"])
def test_damaged_and_other_files_are_one_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    (write_ply if suffix == ".ply" else write_las)(path)
    content = path.read_bytes()
    for damaged in (b"", b"solid", content[: len(content) // 2], b"\0" * len(content)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"frame 7: .*a\{suffix} is cut off or no \{suffix} file"):
            read_scan(path, NAMES, "frame 7: ")


def test_a_field_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_ply(tmp_path / "a.ply", names=[*NAMES[:3], "intensities"])
    with pytest.raises(InputError, match=r"no field intensity; did you mean intensities\? \(its fields are x, y, z, "):
        read_scan(tmp_path / "a.ply", NAMES)
    write_las(tmp_path / "a.las")
    with pytest.raises(InputError, match=r"a\.las has no field ring"):
        read_scan(tmp_path / "a.las", [*NAMES, "ring"])


@pytest.mark.parametrize("package, suffix", [("plyfile", ".ply"), ("laspy", ".las")])
def test_without_the_package_one_sentence(tmp_path, monkeypatch, package, suffix):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    with pytest.raises(InputError, match=rf'need the package {package}: pip install "pcdet_focal\[formats\]"'):
        read_scan(tmp_path / f"a{suffix}", NAMES)
