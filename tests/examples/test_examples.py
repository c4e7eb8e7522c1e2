"""The examples run as their first lines say; ROS is a stand-in with its messages' fields."""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_kitti
import torch

from pcdet_focal import Detector
from pcdet_focal.config import Config, as_plain, cfg_from_yaml_file
from pcdet_focal.detector import _dataset_of
from pcdet_focal.engine.checkpoint import checkpoint_state, save_checkpoint
from pcdet_focal.errors import InputError
from pcdet_focal.integrations.ros import points_of
from pcdet_focal.models import build_network

EXAMPLES = tiny_kitti.REPOSITORY / "examples"
SCAN = sorted((tiny_kitti.dataset() / "training/velodyne").iterdir())[0]
NAMES = ["x", "y", "z", "intensity"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(tiny_kitti.REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a tiny PointPillars with random weights that keeps every box."""
    folder = tmp_path_factory.mktemp("examples")
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0
    cfg = cfg_from_yaml_file(tiny_kitti.write_config(folder / "cfgs/tiny.yaml", content), Config())
    torch.manual_seed(0)
    net = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), _dataset_of(cfg))
    with torch.no_grad():
        net.dense_head.conv_cls.bias += 4  # scores about a half
    return save_checkpoint(checkpoint_state(net, config=as_plain(cfg)), folder / "model")


def load_example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_detect(checkpoint, tmp_path):
    command = [sys.executable, EXAMPLES / "detect.py", checkpoint, SCAN]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == ["class", "score"] and "detections.png" in done.stdout
    assert (tmp_path / "detections.png").stat().st_size and (tmp_path / "detections.html").stat().st_size


# ---- ROS 2


def cloud(points, order="<", height=1, point_pad=4, row_pad=0, types=("f4", "f4", "f4", "f4"), names=NAMES):
    """A PointCloud2 of (N, 4), its fields in reverse order, after ``point_pad`` bytes of padding."""
    codes = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
    offset, fields, layout = point_pad, [], {"names": [], "formats": [], "offsets": []}
    for name, kind in list(zip(names, types))[::-1]:
        fields.append(SimpleNamespace(name=name, offset=offset, datatype=codes[kind], count=1))
        for key, value in (("names", name), ("formats", order + kind), ("offsets", offset)):
            layout[key].append(value)
        offset += np.dtype(kind).itemsize
    table = np.zeros(len(points), np.dtype({**layout, "itemsize": offset}))
    for column, name in enumerate(names):
        table[name] = points[:, column]
    width = len(points) // height
    rows = table.view(np.uint8).reshape(height, width * offset)
    data = np.pad(rows, ((0, 0), (0, row_pad))).tobytes()
    return SimpleNamespace(
        header=SimpleNamespace(frame_id="lidar"),
        height=height,
        width=width,
        fields=fields,
        is_bigendian=order == ">",
        point_step=offset,
        row_step=width * offset + row_pad,
        data=data,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": ">"},
        {"height": 4, "row_pad": 12, "point_pad": 0},
        {"types": ("f8", "f4", "i2", "u2"), "order": ">", "row_pad": 3},
        {"names": ["X", "Y", "Z", "Intensity"]},
    ],
)
def test_clouds_of_every_layout(options):
    points = np.random.default_rng(0).integers(0, 90, (40, 4)).astype(np.float32)
    if "types" not in options:
        points += 0.25
    found = points_of(cloud(points, **options), NAMES)
    np.testing.assert_array_equal(found, points)
    assert found.dtype == np.float32


def test_clouds_that_are_wrong_and_points_that_are_nothing():
    points = np.ones((8, 4), np.float32)
    points[3, 0], points[5, 2] = np.nan, np.inf
    assert len(points_of(cloud(points), NAMES)) == 6
    with pytest.raises(InputError, match="no field ring; there are intensity, x, y, z"):
        points_of(cloud(points), [*NAMES, "ring"])
    short = cloud(points)
    short.data = short.data[:-1]
    with pytest.raises(InputError, match="the cloud has 159 bytes; 1 rows of 8 points of 20 bytes need 160"):
        points_of(short, NAMES)
    odd = cloud(points)
    odd.fields[0].datatype = 99
    with pytest.raises(InputError, match="field intensity has a type"):
        points_of(odd, NAMES)


def stand_ins(monkeypatch, parameters):
    """rclpy and the messages, as far as the node uses them; returns what is published."""
    published = []

    class Node:
        def __init__(self, name):
            self.parameters = {}

        def declare_parameter(self, name, value):
            self.parameters[name] = parameters.get(name, value)

        def get_parameter(self, name):
            return SimpleNamespace(value=self.parameters[name])

        def create_publisher(self, kind, topic, depth):
            assert topic == "detections"
            return SimpleNamespace(publish=published.append)

        def create_subscription(self, kind, topic, callback, qos):
            self.callback = callback

    def message(**fields):
        return lambda: SimpleNamespace(**{name: make() for name, make in fields.items()})

    vector = message(x=float, y=float, z=float, w=float)
    pose = message(position=vector, orientation=vector)
    messages = dict(
        Detection3DArray=message(header=dict, detections=list),
        Detection3D=message(header=dict, results=list, bbox=message(center=pose, size=vector)),
        ObjectHypothesisWithPose=message(
            hypothesis=message(class_id=str, score=float), pose=message(pose=pose, covariance=list)
        ),
    )
    modules = {
        "rclpy": {},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {"qos_profile_sensor_data": None},
        "sensor_msgs": {},
        "sensor_msgs.msg": {"PointCloud2": object},
        "vision_msgs": {},
        "vision_msgs.msg": messages,
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["vision_msgs"].msg = sys.modules["vision_msgs.msg"]
    return published


def test_the_ros_node_publishes_what_the_detector_finds(checkpoint, monkeypatch):
    parameters = {"checkpoint": str(checkpoint), "score_thresh": 0.4, "precision": "float32", "intensity_scale": 0.01}
    published = stand_ins(monkeypatch, parameters)
    node = load_example("ros2_node").DetectorNode()
    points = np.fromfile(SCAN, np.float32).reshape(-1, 4)
    node.callback(cloud(points * np.float32([1, 1, 1, 100])))
    (array,) = published
    wanted = Detector.load(checkpoint, device="cpu")(points).above(0.4)
    assert len(array.detections) == len(wanted) > 0 and array.header.frame_id == "lidar"
    for detection, box, name, score in zip(array.detections, wanted.boxes, wanted.names, wanted.scores):
        place, size = detection.bbox.center, detection.bbox.size
        heading = 2 * np.arctan2(place.orientation.z, place.orientation.w)
        found = [place.position.x, place.position.y, place.position.z, size.x, size.y, size.z, heading]
        turns = np.round((box[6] - heading) / (2 * np.pi)) * 2 * np.pi
        np.testing.assert_allclose(found, [*box[:6], box[6] - turns], atol=1e-3)
        (result,) = detection.results
        assert result.hypothesis.class_id == name and result.hypothesis.score == pytest.approx(score, abs=1e-4)


# ---- the web service


@pytest.fixture
def service(checkpoint):
    server = load_example("web_service").serve([str(checkpoint), "--port", "0", "--score_thresh", "0.4"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def post(url: str, data: bytes) -> dict:
    try:
        return json.load(urllib.request.urlopen(urllib.request.Request(url, data, method="POST"), timeout=60))
    except urllib.error.HTTPError as error:
        return {"status": error.code, **json.load(error)}


def test_the_web_service(service, checkpoint):
    wanted = Detector.load(checkpoint, device="cpu")(SCAN).above(0.4)
    answer = post(f"{service}/detect?name={SCAN.name}", SCAN.read_bytes())
    assert answer == wanted.to_dict() and len(answer["objects"])
    shown = post(f"{service}/detect?view=1&name={SCAN.name}", SCAN.read_bytes())
    assert "<canvas" in shown["view"]
    page = urllib.request.urlopen(service, timeout=60).read().decode()
    assert 'type="file"' in page and "/detect?view=1" in page
    wrong = post(f"{service}/detect?name=../../notes.txt", b"text")
    assert wrong["status"] == 400 and wrong["error"].startswith("notes.txt: a scan is a .bin")
    assert post(f"{service}/other", b"x")["status"] == 400


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page is looked at in one")
def test_the_page_shows_an_uploaded_scan(checkpoint, tmp_path):
    module = load_example("web_service")
    upload = """<script>
    const bytes = Uint8Array.from(atob("%s"), c => c.charCodeAt(0)), moved = new DataTransfer();
    moved.items.add(new File([bytes], "scan.bin"));
    document.getElementById("file").files = moved.files;
    document.getElementById("file").dispatchEvent(new Event("change"));
    </script>"""
    module.PAGE += upload % base64.b64encode(SCAN.read_bytes()).decode()
    server = module.serve([str(checkpoint), "--port", "0", "--score_thresh", "0.4"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--window-size=1000,800"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *flags, f"http://localhost:{server.server_port}"], capture_output=True, text=True, timeout=120
    )
    server.shutdown()
    server.server_close()
    count = len(Detector.load(checkpoint, device="cpu")(SCAN).above(0.4))
    assert f"{count} objects" in done.stdout, done.stderr[-2000:]
    assert "&lt;canvas" in done.stdout or "<canvas" in done.stdout


# ---- the notebook


@pytest.mark.slow
def test_the_quick_start_notebook(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    install, amounts = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    assert install.source.startswith("%pip install") and amounts.source.startswith("num_train")
    install.source, amounts.source = "", "num_train, num_val, epochs = 4, 2, 1"
    script = tmp_path / "bin/pcdet-focal"  # the command that installing gives
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m pcdet_focal "$@"\n')
    script.chmod(0o755)
    for name, value in {**ENVIRONMENT, "PATH": f"{script.parent}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    work = tmp_path / "work"
    work.mkdir()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}}).execute()
    assert (work / "detections.png").read_bytes()[:4] == b"\x89PNG"
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-2].outputs)
