"""The scans that a demonstration is given."""

import numpy as np
import pytest
import tiny_kitti

from pcdet_focal.config import Config, cfg_from_yaml_file
from pcdet_focal.engine.demo import DemoDataset
from pcdet_focal.errors import InputError


@pytest.fixture
def points() -> np.ndarray:
    return np.fromfile(sorted((tiny_kitti.dataset() / "training/velodyne").iterdir())[0], np.float32).reshape(-1, 4)


def demo(tmp_path, **options) -> DemoDataset:
    path = tiny_kitti.write_config(tmp_path / "cfgs/tiny.yaml", tiny_kitti.config(tiny_kitti.dataset()))
    cfg = cfg_from_yaml_file(path, Config())
    return DemoDataset(cfg.DATA_CONFIG, cfg.CLASS_NAMES, root_path=tmp_path / "scans", **options)


def test_a_folder_may_mix_formats(tmp_path, points):
    (tmp_path / "scans").mkdir()
    points.tofile(tmp_path / "scans/a.bin")
    np.save(tmp_path / "scans/b.npy", points.astype(np.float64))
    head = f"FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nPOINTS {len(points)}\nDATA binary\n"
    (tmp_path / "scans/c.pcd").write_bytes(head.encode() + points.tobytes())
    (tmp_path / "scans/notes.txt").write_text("not a scan")
    scans = demo(tmp_path)
    assert [path.name for path in scans.sample_file_list] == ["a.bin", "b.npy", "c.pcd"]
    for index in range(3):
        for key, value in scans[index].items():
            np.testing.assert_array_equal(value, scans[0][key]) if key != "frame_id" else None
    assert len(demo(tmp_path, ext=".pcd")) == 1
    with pytest.raises(InputError, match=r"scans \(--data_path\) has no \.ply file"):
        demo(tmp_path, ext=".ply")


def test_a_scan_of_other_columns_is_named(tmp_path, points):
    (tmp_path / "scans").mkdir()
    points = points[: len(points) // 4 * 4]
    np.column_stack([points, np.arange(len(points), dtype=np.float32)]).tofile(tmp_path / "scans/a.bin")
    with pytest.raises(InputError, match=r"a\.bin looks like 5 columns, and 4 are read \(x, y, z, intensity\)"):
        demo(tmp_path)[0]
