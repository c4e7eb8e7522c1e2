"""The points of database objects: the packed file, the small files of OpenPCDet's folders, what is missing, cut off or
of another build.
"""

import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcdet_focal.datasets.augmentor.database_sampler import DataBaseSampler
from pcdet_focal.datasets.augmentor.object_points import ObjectPoints, pack_objects
from pcdet_focal.errors import InputError


def make_small_files(root, counts, features=4, seed=0):
    """One object for each count, as OpenPCDet writes them; (index entries, their points)."""
    (root / "gt_database").mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    entries, objects = [], []
    for i, count in enumerate(counts):
        points = random.normal(size=(count, features)).astype(np.float32)
        points.tofile(root / f"gt_database/{i}.bin")
        entries.append(
            {
                "name": "Car",
                "path": f"gt_database/{i}.bin",
                "num_points_in_gt": count,
                "difficulty": 0,
                "box3d_lidar": np.array([10.0 * i, 0, 0, 4, 2, 1.5, 0]),
            }
        )
        objects.append(points)
    return entries, objects


@pytest.fixture
def database(tmp_path):
    """A packed database of five objects, the small files gone: (folder, entries, points)."""
    entries, objects = make_small_files(tmp_path, [3, 0, 8, 1, 5])
    pack_objects(entries, tmp_path, 4, tmp_path / "gt_database_global.npy")
    shutil.rmtree(tmp_path / "gt_database")
    return tmp_path, entries, objects


def assert_reads(reader, entries, objects):
    for entry, points in zip(entries, objects):
        got = reader.read(entry)
        assert type(got) is np.ndarray and got.dtype == np.float32
        np.testing.assert_array_equal(got, points)


def test_the_packed_file_is_plain_numpy_with_openpcdets_offsets(database):
    root, entries, objects = database
    rows = np.load(root / "gt_database_global.npy")
    np.testing.assert_array_equal(rows, np.concatenate(objects))
    assert [entry["global_data_offset"] for entry in entries] == [[0, 3], [3, 3], [3, 11], [11, 12], [12, 17]]
    reader = ObjectPoints(root, 4)
    for _ in range(2):
        assert_reads(reader, entries, objects)
    assert not reader.read(entries[0]).flags.writeable  # a scene cannot change the database


@given(counts=st.lists(st.integers(0, 40), max_size=6), features=st.integers(3, 6))
@settings(max_examples=40, deadline=None)
def test_whatever_the_objects_they_come_back(tmp_path_factory, counts, features):
    root = tmp_path_factory.mktemp("database")
    entries, objects = make_small_files(root, counts, features)
    assert_reads(ObjectPoints(root, features), entries, objects)  # OpenPCDet's folder: no offsets, no packed file
    pack_objects(entries, root, features, root / "gt_database_global.npy")
    assert_reads(ObjectPoints(root, features), entries, objects)
    (root / "gt_database_global.npy").unlink()
    assert_reads(ObjectPoints(root, features), entries, objects)


def test_a_file_of_openpcdets_tool(database):
    """create_integrated_database.py: tuples as offsets, a name of the user's, no check sum."""
    root, entries, objects = database
    (root / "gt_database_global.npy").rename(root / "mine.npy")
    for entry in entries:
        entry["global_data_offset"] = tuple(entry["global_data_offset"])
        del entry["global_data_crc32"]
    assert_reads(ObjectPoints(root, 4, {"gt_database": root / "mine.npy"}), entries, objects)


def _sums(reader, entries, queue):
    queue.put([float(reader.read(entry).sum()) for entry in entries])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_worker_processes(database, method):
    root, entries, objects = database
    reader = ObjectPoints(root, 4)
    reader.read(entries[0])  # mapped in the parent already
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_sums, args=(reader, entries, queue))
    worker.start()
    assert queue.get(timeout=300) == [float(points.sum()) for points in objects]
    worker.join()
    assert worker.exitcode == 0


def test_a_copy_for_a_worker_carries_no_points(database):
    root, entries, objects = database
    reader = ObjectPoints(root, 4)
    before = len(pickle.dumps(reader))
    assert_reads(reader, entries, objects)
    assert len(pickle.dumps(reader)) == before
    assert_reads(pickle.loads(pickle.dumps(reader)), entries, objects)


def test_missing(database):
    root, entries, _ = database
    (root / "gt_database_global.npy").unlink()
    with pytest.raises(InputError, match=r"0\.bin.*gt_database_global\.npy.*create-infos"):
        ObjectPoints(root, 4).read(entries[0])


@pytest.mark.parametrize("size", [0, 40, 130, -1])
def test_cut_off(database, size):
    root, entries, _ = database
    path = root / "gt_database_global.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"gt_database_global\.npy.*create-infos"):
        ObjectPoints(root, 4).read(entries[0])


def test_of_another_build(database):
    root, entries, objects = database
    path = root / "gt_database_global.npy"
    np.save(path, np.concatenate(objects)[:14])  # fewer objects
    ObjectPoints(root, 4).read(entries[2])
    with pytest.raises(InputError, match=r"gt_database_global\.npy.* 5 .*gt_database/4\.bin .*12 .*17 .*14"):
        ObjectPoints(root, 4).read(entries[4])
    np.save(path, np.concatenate(objects[::-1]))  # as many, in another order
    with pytest.raises(InputError, match=r"gt_database_global\.npy"):
        ObjectPoints(root, 4).read(entries[2])
    np.save(path, np.concatenate(objects)[:, :3])
    with pytest.raises(InputError, match=r"float32 \(17, 3\).*NUM_POINT_FEATURES"):
        ObjectPoints(root, 4).read(entries[0])
    np.save(path, np.concatenate(objects).astype(np.float64))
    with pytest.raises(InputError, match=r"float64 \(17, 4\).*float32 \(N, 4\)"):
        ObjectPoints(root, 4).read(entries[0])
    entries[0]["num_points_in_gt"] = 4
    np.save(path, np.concatenate(objects))
    with pytest.raises(InputError, match=r"gt_database_global\.npy"):
        ObjectPoints(root, 4).read(entries[0])


def test_the_sampler_finds_it(database):
    """By the folder in the entries, or by DB_DATA_PATH, with or without USE_SHARED_MEMORY; two databases keep theirs
    apart.
    """
    root, entries, objects = database
    others, more = make_small_files(root, [7, 2], seed=1)
    (root / "gt_database").rename(root / "elsewhere")
    for i, entry in enumerate(others):
        entry.update(path=f"elsewhere/{i}.bin", box3d_lidar=np.array([10.0 * i, 50, 0, 4, 2, 1.5, 0]))
    pack_objects(others, root, 4, root / "second.npy")
    shutil.rmtree(root / "elsewhere")
    (root / "a.pkl").write_bytes(pickle.dumps({"Car": entries}))
    (root / "b.pkl").write_bytes(pickle.dumps({"Car": others}))
    scene = {
        "points": np.zeros((0, 4), np.float32),
        "gt_boxes": np.zeros((0, 7), np.float32),
        "gt_names": np.zeros(0, "U9"),
    }
    config = {
        "PREPARE": {},
        "SAMPLE_GROUPS": ["Car:99"],
        "NUM_POINT_FEATURES": 4,
        "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0],
    }
    for changes, parts in (
        ({"DB_INFO_PATH": ["a.pkl"]}, objects),
        ({"DB_INFO_PATH": ["b.pkl"], "DB_DATA_PATH": ["second.npy"]}, more),
        ({"DB_INFO_PATH": ["b.pkl"], "DB_DATA_PATH": ["second.npy"], "USE_SHARED_MEMORY": True}, more),
        (
            {"DB_INFO_PATH": ["a.pkl", "b.pkl"], "DB_DATA_PATH": ["gt_database_global.npy", "second.npy"]},
            objects + more,
        ),
    ):
        result = DataBaseSampler(root, {**config, **changes}, ["Car"])(dict(scene))
        np.testing.assert_array_equal(np.sort(result["points"][:, 3]), np.sort(np.concatenate(parts)[:, 3]))
    with pytest.raises(InputError, match=r"DB_DATA_PATH\[0\].*absent\.npy"):
        DataBaseSampler(
            root,
            {**config, "DB_INFO_PATH": ["a.pkl"], "DB_DATA_PATH": ["absent.npy"], "USE_SHARED_MEMORY": True},
            ["Car"],
        )
