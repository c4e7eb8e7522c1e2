"""The detector as one object: what it takes, what it gives, and what it says of input that does not fit."""

import json
import pickle
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_kitti
import torch

import pcdet_focal
from pcdet_focal import Detector
from pcdet_focal.config import Config, as_plain, cfg_from_yaml_file
from pcdet_focal.datasets import build_dataloader
from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint, save_safetensors
from pcdet_focal.engine.evaluate import predict
from pcdet_focal.errors import InputError
from pcdet_focal.models import build_network

ROOT = tiny_kitti.dataset()
FILES = sorted((ROOT / "training/velodyne").iterdir())


def scan(index: int = 0) -> np.ndarray:
    return np.fromfile(FILES[index], np.float32).reshape(-1, 4)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """cfg (tiny PointPillars that keeps every box), its YAML file, data set, model, and a checkpoint without
    configuration.
    """
    folder = tmp_path_factory.mktemp("detector")
    content = tiny_kitti.config(ROOT)
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0
    content["DATA_CONFIG"]["FOV_POINTS_ONLY"] = False  # a detector has no calibration
    yaml_file = tiny_kitti.write_config(folder / "cfgs/tiny.yaml", content)
    cfg = cfg_from_yaml_file(yaml_file, Config())
    dataset, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 1, dist=False, workers=0, training=False)
    torch.manual_seed(0)
    model = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset).eval()
    plain = save_checkpoint(checkpoint_state(model), folder / "plain")
    return SimpleNamespace(cfg=cfg, yaml=yaml_file, loader=loader, model=model, plain=plain, folder=folder)


@pytest.fixture(scope="module")
def detector(setting):
    return Detector.load(setting.yaml, setting.plain, "cpu")


def assert_same(found, other):
    for name in ("boxes", "scores", "labels", "names"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name))


def test_boxes_are_those_of_an_evaluation(setting, detector):
    annos, _ = predict(setting.model, setting.loader)
    assert len(annos) >= 2 and len(annos[0]["score"])
    for anno in annos:
        found = detector(ROOT / f"training/velodyne/{anno['frame_id']}.bin")
        order, other = np.argsort(-found.scores, kind="stable"), np.argsort(-anno["score"], kind="stable")
        np.testing.assert_allclose(found.boxes[order], anno["boxes_lidar"][other], atol=1e-5)
        np.testing.assert_allclose(found.scores[order], anno["score"][other], atol=1e-6)
        assert list(found.names[order]) == list(anno["name"][other])
        assert found.boxes.dtype == np.float32 and found.labels.min() >= 1


def test_one_scan_a_batch_and_a_stream_agree(detector):
    one = [detector(scan(index)) for index in range(3)]
    assert all(len(found) for found in one) and one[0].title == ""
    assert_same(detector(torch.from_numpy(scan(0))), one[0])
    assert_same(detector(scan(0).astype(np.float64)), one[0])
    for found, alone in zip(detector([FILES[0], scan(1), str(FILES[2])]), one, strict=True):
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)
    streamed = detector(iter(FILES[:3]))
    for found, alone in zip(streamed, one, strict=True):
        assert_same(found, alone)
    assert detector([]) == [] and list(detector(iter([]))) == []


def test_a_stream_gives_each_result_before_it_asks_for_much_more(detector):
    asked = []

    def live():
        for index in range(8):
            asked.append(index)
            yield scan(0)

    stream = detector(live())
    next(stream)
    assert len(asked) < 8
    stream.close()
    waiting = threading.Event()

    def slow():
        yield scan(0)
        waiting.wait(30)  # a sensor that has no second scan yet
        yield scan(1)

    stream = detector(slow())
    assert len(next(stream))
    waiting.set()
    assert len(list(stream)) == 1


def test_a_bad_scan_ends_a_stream_in_its_turn(detector, tmp_path):
    stream = detector(iter([FILES[0], tmp_path / "absent.bin", FILES[1]]))
    assert len(next(stream))
    with pytest.raises(InputError, match=r"absent\.bin does not exist"):
        next(stream)


def test_threads(detector):
    alone = [detector(scan(index)) for index in range(3)]
    found = {}

    def work(number):
        found[number] = detector(FILES[number % 3])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for number in range(9):
        assert_same(found[number], alone[number % 3])


def test_the_scan_is_not_changed_and_warming_up_changes_nothing(detector):
    points = scan(0)
    before = points.copy()
    first = detector(points)
    detector.warm_up(2000)
    assert_same(detector(points), first)
    np.testing.assert_array_equal(points, before)


def test_results(detector, tmp_path):
    found = detector(FILES[0]).above(0.0)
    best = found.above(float(np.sort(found.scores)[-3]))
    assert 3 <= len(best) < len(found) and len(best.points) == len(found.points) and best.title == FILES[0].name
    content = json.loads(json.dumps(best.to_dict()))
    assert content["title"] == FILES[0].name and len(content["objects"]) == len(best)
    np.testing.assert_allclose(content["objects"][0]["box"], best.boxes[0], rtol=1e-6)
    lines = best.to_kitti(ROOT / f"training/calib/{FILES[0].stem}.txt").splitlines()
    assert [line.split()[0] for line in lines] == list(best.names) and all(len(line.split()) == 16 for line in lines)
    assert float(lines[0].split()[-1]) == pytest.approx(best.scores[0], abs=1e-4)
    assert best.draw(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "<canvas" in best.html(tmp_path / "a.html").read_text()
    assert len(best.table().splitlines()) == len(best) + 1
    assert found.above(2.0).table() == "" and found.above(2.0).to_kitti(ROOT / "training/calib/000000.txt") == ""
    assert_same(pickle.loads(pickle.dumps(best)), best)


def test_a_checkpoint_that_knows_its_configuration(setting, detector, tmp_path, monkeypatch):
    state = checkpoint_state(setting.model, config=as_plain(setting.cfg), scans=None)
    assert "DATA_PATH" not in str(state["config"]) and str(ROOT) not in str(state["config"])
    for save in (save_checkpoint, save_safetensors):
        path = save(state, tmp_path / "model")
        monkeypatch.chdir(tmp_path)  # no data, no YAML here
        assert_same(Detector.load(path, device="cpu")(FILES[0]), detector(FILES[0]))
    with pytest.raises(InputError, match=r"plain\.pth does not know its configuration.*kitti_models/second\.yaml"):
        Detector.load(setting.plain)
    with pytest.raises(InputError, match="give the checkpoint too"):
        Detector.load(setting.yaml)
    with pytest.raises(InputError, match=r"another architecture"):
        Detector.load("kitti_models/second.yaml", setting.plain)
    unknown = save_checkpoint(checkpoint_state(setting.model, config=None), tmp_path / "unknown")
    with pytest.raises(InputError, match="does not know its configuration"):
        Detector.load(unknown)
    with pytest.raises(InputError, match="there is no checkpoint"):
        Detector.load(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="device gpu: "):
        Detector.load(setting.yaml, setting.plain, "gpu")


def test_a_checkpoint_does_not_choose_what_is_imported(setting, tmp_path):
    config = {**as_plain(setting.cfg), "CUSTOM_IMPORTS": ["json.tool"]}
    path = save_checkpoint(checkpoint_state(setting.model, config=config), tmp_path / "model")
    with pytest.raises(InputError, match=r"trained with json\.tool \(CUSTOM_IMPORTS\); import that first"):
        Detector.load(path)
    broken = save_checkpoint(checkpoint_state(setting.model, config={"MODEL": 1}), tmp_path / "broken")
    with pytest.raises(InputError, match="its configuration lacks"):
        Detector.load(broken)


@pytest.mark.parametrize(
    "points, told",
    [
        (np.zeros((5, 3), np.float32), r"points \(5, 3\) were given; this detector reads \(N, 4\): x, y, z, intensity"),
        (np.zeros((5,), np.float32), r"points \(5,\) were given"),
        (np.zeros((5, 4), np.int16), "points of int16 were given"),
        (np.full((5, 4), np.nan, np.float32), "5 of the 5 points have NaN or infinite values; Detector"),
        (5, "not int"),
    ],
)
def test_input_that_does_not_fit(detector, points, told):
    with pytest.raises(InputError, match=f"scan 1: {told}" if isinstance(points, np.ndarray) else told):
        detector([scan(0), points])
    if isinstance(points, np.ndarray):
        with pytest.raises(InputError, match=told):
            detector(points)


def test_nonfinite_points_can_be_left_out(setting):
    lenient = Detector.load(setting.yaml, setting.plain, "cpu", drop_nonfinite=True)
    with_nan = np.concatenate([scan(0), np.full((3, 4), np.nan, np.float32)])
    assert_same(lenient(with_nan), lenient(scan(0)))
    with pytest.warns(UserWarning, match="the scan has no point"):
        assert len(lenient(np.zeros((0, 4), np.float32))) >= 0


def test_scans_unlike_those_of_the_training_are_said_once(setting):
    from pcdet_focal.datasets.scan_statistics import ScanStatistics

    statistics = ScanStatistics(["x", "y", "z", "intensity"])
    for index in range(2):
        statistics.add(scan(index))
    detector = Detector(setting.model, setting.cfg, statistics.result())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.warm_up(2000)  # a made-up scan is not compared
        detector(FILES[:3])  # like those of the training
    other = scan(2) * np.float32([1, 1, 1, 255])
    with pytest.warns(UserWarning, match="the scan: intensity reaches .*, in training .*"):
        detector(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector(other)
    with pytest.warns(UserWarning, match=r"ground near z = -?0\.\d m, in training near -1\.\d m.* Add -"):
        detector(scan(2) + np.float32([0, 0, 1.7, 0]))


def test_one_import_is_enough_and_costs_nothing_before_it_is_used():
    assert pcdet_focal.Detector is Detector and "Detections" in pcdet_focal.__all__
    with pytest.raises(AttributeError, match="Detektor"):
        pcdet_focal.Detektor  # noqa: B018


def test_files_of_several_formats_give_the_same(detector, tmp_path):
    points = scan(0)
    points.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "b.npy", points.astype(np.float64))
    head = f"FIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nPOINTS {len(points)}\nDATA binary\n"
    (tmp_path / "c.pcd").write_bytes(head.encode() + points.tobytes())
    for found in detector(iter(sorted(tmp_path.iterdir()))):
        assert_same(found, detector(points))


def test_a_file_of_other_columns_is_named(detector, tmp_path):
    points = scan(0)[: len(scan(0)) // 4 * 4]
    np.column_stack([points, np.arange(len(points), dtype=np.float32)]).tofile(tmp_path / "a.bin")
    with pytest.raises(InputError, match=r"a\.bin looks like 5 columns, and 4 are read \(x, y, z, intensity\)"):
        detector(tmp_path / "a.bin")
    (tmp_path / "c.pcd").write_bytes(b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 0\nDATA binary\n")
    with pytest.raises(InputError, match=r"c\.pcd has no field intensity; there are x, y, z"):
        detector(tmp_path / "c.pcd")
