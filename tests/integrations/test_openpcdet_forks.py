"""A fork's own modules, its scripts, its ROS nodes and spawned workers, each in a process of its own."""

import textwrap

import pytest
import tiny_kitti
import yaml
from openpcdet import run

HEAD = """
import torch
from torch import nn
from .anchor_head_single import AnchorHeadSingle
from ...utils import box_utils, fork_utils
from .fork_layers import Doubled

class ForkHead(AnchorHeadSingle):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = Doubled()

    def forward(self, data_dict):
        data_dict["spatial_features_2d"] = self.extra(data_dict["spatial_features_2d"]) * fork_utils.HALF
        return super().forward(data_dict)
"""


def write(root, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


@pytest.fixture
def fork(tmp_path):
    """A checkout with a head, its layers and a utility of its own, and changes in files that this package has too."""
    write(
        tmp_path,
        {
            "pcdet/__init__.py": "",
            "pcdet/models/__init__.py": "raise RuntimeError('pcdet_focal has this one')\n",
            "pcdet/models/dense_heads/__init__.py": """
                from .anchor_head_single import AnchorHeadSingle
                from .fork_head import ForkHead
                __all__ = {'AnchorHeadSingle': AnchorHeadSingle, 'ForkHeadOfTheirs': ForkHead}
                """,
            "pcdet/models/dense_heads/fork_head.py": HEAD,
            "pcdet/models/dense_heads/fork_layers.py": """
                from torch import nn
                class Doubled(nn.Module):
                    def forward(self, x):
                        return 2 * x
                """,
            "pcdet/models/backbones_2d/__init__.py": "from .fork_backbone import ForkBackbone\n",
            "pcdet/models/backbones_2d/fork_backbone.py": """
                from .base_bev_backbone import BaseBEVBackbone
                class ForkBackbone(BaseBEVBackbone):
                    pass
                """,
            "pcdet/utils/fork_utils.py": "HALF = 0.5\n",
            "pcdet/utils/box_utils.py": "def of_the_fork():\n    pass\n",
            "tools/_init_path.py": "import sys\nsys.path.insert(0, '../')\n",
        },
    )
    return tmp_path


def test_its_own_modules_are_loaded_and_ours_win(fork):
    write(
        fork,
        {
            "tools/script.py": """
                import _init_path
                from pcdet.models.dense_heads.fork_head import ForkHead, box_utils
                from pcdet.models.dense_heads import AnchorHeadSingle
                import pcdet.utils.fork_utils, pcdet_focal.utils.box_utils
                assert issubclass(ForkHead, AnchorHeadSingle) and ForkHead.__module__.endswith('.fork_head')
                assert box_utils is pcdet_focal.utils.box_utils and pcdet.utils.fork_utils.HALF == 0.5
                assert AnchorHeadSingle.__module__.startswith('pcdet_focal.')
                """
        },
    )
    done = run(fork / "tools", "script.py")
    assert done.returncode == 0, done.stderr
    for name in ("models.dense_heads.fork_head", "models.dense_heads.fork_layers", "utils.fork_utils"):
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"pcdet.{name} is not in pcdet_focal")]
        assert str(fork / "pcdet") in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "from pcdet.models.dense_heads import ForkHead",
            ["fork_head.py", "write: from pcdet.models.dense_heads.fork_head import ForkHead"],
        ),
        (
            "from pcdet.utils import box_utils; box_utils.of_the_fork()",
            ["of_the_fork is defined in", "box_utils.py", "pcdet_focal has its own pcdet.utils.box_utils; move"],
        ),
        ("from pcdet.utils.box_utils import of_the_fork", ["of_the_fork is defined in", "move of_the_fork into a new"]),
    ],
)
def test_a_name_that_only_the_fork_has_is_answered_with_its_file(fork, text, told):
    write(fork, {"tools/script.py": text})
    done = run(fork / "tools", "script.py")
    assert done.returncode == 1
    assert all(part in done.stderr for part in told), done.stderr


def config(fork) -> dict:
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["DENSE_HEAD"]["NAME"] = "ForkHeadOfTheirs"  # in __all__
    content["MODEL"]["BACKBONE_2D"]["NAME"] = "ForkBackbone"  # not there, a class of that name is
    tiny_kitti.write_config(fork / "tools/cfgs/kitti_models/fork.yaml", content)
    return content


BUILD = """
import _init_path
from pcdet.config import cfg, cfg_from_yaml_file
from pcdet.datasets import build_dataloader
from pcdet.models import build_network, load_data_to_gpu
cfg_from_yaml_file('cfgs/kitti_models/fork.yaml', cfg)
dataset, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, 2, dist=False, workers=0, training=True)
model = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset).cuda()
batch = next(iter(loader))
load_data_to_gpu(batch)
ret, _, _ = model(batch)
ret['loss'].backward()
print(type(model.dense_head).__name__, type(model.backbone_2d).__name__, ret['loss'].isfinite().item())
"""


@pytest.mark.slow
def test_its_configuration_builds_and_trains(fork):
    content = config(fork)
    write(fork, {"tools/script.py": BUILD})
    done = run(fork / "tools", "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ForkHead ForkBackbone True\n"
    content["MODEL"]["DENSE_HEAD"]["NAME"] = "ForkHeads"
    (fork / "tools/cfgs/kitti_models/fork.yaml").write_text(yaml.safe_dump(content))
    done = run(fork / "tools", "script.py")
    assert done.returncode == 1 and "MODEL.DENSE_HEAD.NAME: 'ForkHeads' is no known dense head" in done.stderr


@pytest.mark.slow
def test_a_module_is_run_as_python_m_does(fork):
    write(
        fork,
        {"pcdet/datasets/my_tool.py": "import sys\nfrom ..utils import fork_utils\nprint(__name__, sys.argv[1:])\n"},
    )
    done = run(fork, "-m", "pcdet.datasets.my_tool", "--a", "b")
    assert done.returncode == 0 and done.stdout == "__main__ ['--a', 'b']\n", done.stderr
    done = run(fork, "-m", "pcdet.datasets.kitti.kitti_dataset", "create_kitti_infos", "nowhere.yaml")
    assert done.returncode != 0 and "nowhere.yaml" in done.stderr
    done = run(fork, "-m", "pcdet.nothing")
    assert done.returncode == 1 and "pcdet.nothing" in done.stderr
    assert run(fork, "-m").returncode == 2


SPAWN = """
import torch
from torch.utils.data import DataLoader, Dataset
import pcdet
from pcdet.utils import common_utils, fork_utils

class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        from pcdet.utils import fork_utils
        return pcdet.__name__, torch.zeros(1).cuda().item() + fork_utils.HALF + i

if __name__ == '__main__':
    for names, values in DataLoader(Numbers(), 2, num_workers=2, multiprocessing_context='spawn'):
        print(names[0], values.tolist())
"""


@pytest.mark.parametrize("how", ["script", "alias"])
@pytest.mark.slow
def test_spawned_workers_know_the_second_name(fork, how):
    alias = f"import sys; sys.path.append({str(tiny_kitti.REPOSITORY)!r})\n" if how == "alias" else ""
    alias += "from pcdet_focal.integrations.openpcdet import alias; alias()\n" if how == "alias" else ""
    write(fork, {"tools/script.py": alias + SPAWN})
    done = run(fork / "tools", "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "pcdet_focal [0.5, 1.5]\npcdet_focal [2.5, 3.5]\n"


# ---- ROS nodes, in the form of two public ones; what they need of ROS is written here

ROS1 = {  # rospy: callbacks, messages, a publisher
    "rospy.py": """
        import threading
        class Publisher:
            def __init__(self, topic, kind, queue_size=1): pass
            def publish(self, message): print('published', len(message.boxes), [b.label for b in message.boxes][:0])
        _callbacks = []
        class Subscriber:
            def __init__(self, topic, kind, callback, **options): _callbacks.append(callback)
        def init_node(name): pass
        def spin():
            from sensor_msgs.msg import PointCloud2
            for callback in _callbacks:
                thread = threading.Thread(target=callback, args=(PointCloud2(),))
                thread.start(); thread.join()
        """,
    "sensor_msgs/msg.py": """
        import os, numpy as np
        class PointCloud2:
            def __init__(self): self.data = open(os.environ['SCAN'], 'rb').read()
        """,
    "jsk_recognition_msgs/msg.py": """
        class BoundingBox:
            pass
        class BoundingBoxArray:
            def __init__(self): self.boxes = []
        """,
}
NODE1 = """
import time, sys
import numpy as np
import torch
import rospy
from sensor_msgs.msg import PointCloud2
from jsk_recognition_msgs.msg import BoundingBox, BoundingBoxArray
from pcdet.config import cfg, cfg_from_yaml_file
from pcdet.datasets import DatasetTemplate
from pcdet.models import build_network, load_data_to_gpu
from pcdet.utils import box_utils, calibration_kitti, common_utils, object3d_kitti

class DemoDataset(DatasetTemplate):
    def __init__(self, dataset_cfg, class_names, training=True, root_path=None, logger=None, ext='.bin'):
        super().__init__(dataset_cfg=dataset_cfg, class_names=class_names, training=training, root_path=root_path,
                         logger=logger)

class Node:
    def __init__(self):
        cfg_from_yaml_file(sys.argv[1], cfg)
        logger = common_utils.create_logger()
        self.dataset = DemoDataset(cfg.DATA_CONFIG, cfg.CLASS_NAMES, training=False, logger=logger)
        self.model = build_network(model_cfg=cfg.MODEL, num_class=len(cfg.CLASS_NAMES), dataset=self.dataset)
        torch.cuda.set_device(0)
        self.device = torch.device('cuda:0')
        self.model.load_params_from_file(filename=sys.argv[2], logger=logger, to_cpu=False)
        self.model.to(self.device)
        self.model.cuda()
        self.model.eval()
        self.publisher = rospy.Publisher('/boxes', BoundingBoxArray, queue_size=1)
        rospy.Subscriber('/points', PointCloud2, self.callback, queue_size=1)

    def callback(self, message):
        points = np.frombuffer(message.data, np.float32).reshape(-1, 4)
        data = self.dataset.collate_batch([self.dataset.prepare_data({'points': points, 'frame_id': 0})])
        load_data_to_gpu(data)
        torch.cuda.synchronize()
        start = time.time()
        with torch.no_grad():
            predictions, _ = self.model.forward(data)
        torch.cuda.synchronize()
        boxes = BoundingBoxArray()
        for box, score, label in zip(*(predictions[0][key].cpu().numpy()
                                       for key in ('pred_boxes', 'pred_scores', 'pred_labels'))):
            boxes.boxes.append(BoundingBox())
            boxes.boxes[-1].label = int(label)
        torch.cuda.empty_cache()
        self.publisher.publish(boxes)

rospy.init_node('detector')
Node()
rospy.spin()
"""
ROS2 = {
    "rclpy/__init__.py": """
        def init(args=None): pass
        def shutdown(): print('down')
        def spin(node):
            from sensor_msgs.msg import PointCloud2
            node.callback(PointCloud2())
        """,
    "rclpy/node.py": """
        class _Value:
            def __init__(self, value): self.string_value = self.double_value = self.bool_value = value
        class _Parameter:
            def __init__(self, value): self.value = value
            def get_parameter_value(self): return _Value(self.value)
        class _Publisher:
            def publish(self, message): print('published', len(message.detections))
        class _Logger:
            def info(self, text): pass
        class Node:
            def __init__(self, name): self.parameters = {}
            def declare_parameter(self, name, value): self.parameters[name] = value
            def get_parameter(self, name): return _Parameter(self.parameters[name])
            def create_subscription(self, kind, topic, callback, depth): self.callback = callback
            def create_publisher(self, kind, topic, depth): return _Publisher()
            def get_logger(self): return _Logger()
            def destroy_node(self): pass
        """,
    "sensor_msgs/msg.py": ROS1["sensor_msgs/msg.py"],
    "vision_msgs/msg.py": """
        class Detection3D:
            pass
        class Detection3DArray:
            def __init__(self): self.detections = []
        """,
}
NODE2 = """
import sys
import numpy as np
import rclpy
import torch
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import Detection3D, Detection3DArray
from pcdet.config import cfg, cfg_from_yaml_file
from pcdet.datasets import DatasetTemplate
from pcdet.models import build_network, load_data_to_gpu
from pcdet.utils import common_utils

class PCDetROS(Node):
    def __init__(self):
        super().__init__('pcdet')
        self.declare_parameter('config_file', sys.argv[1])
        self.declare_parameter('model_file', sys.argv[2])
        config = self.get_parameter('config_file').get_parameter_value().string_value
        self.subscription = self.create_subscription(PointCloud2, 'cloud', self.cloud_callback, 1)
        self.publisher = self.create_publisher(Detection3DArray, 'detections', 1)
        torch.backends.cudnn.benchmark = False
        torch.cuda.manual_seed_all(42)
        self.device = torch.device('cuda' if torch.cuda.device_count() > 0 else 'cpu')
        cfg_from_yaml_file(config, cfg)
        self.dataset = DatasetTemplate(cfg.DATA_CONFIG, cfg.CLASS_NAMES, False, None, common_utils.create_logger())
        self.model = build_network(cfg.MODEL, len(cfg.CLASS_NAMES), self.dataset)
        state = torch.load(sys.argv[2], map_location=torch.device('cuda:0'))['model_state']
        self.model.load_state_dict(state)
        self.model.to('cuda').eval()

    def cloud_callback(self, message):
        points = np.frombuffer(message.data, np.float32).reshape(-1, 4)
        data = self.dataset.collate_batch([self.dataset.prepare_data({'points': points, 'frame_id': 0})])
        load_data_to_gpu(data)
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        with torch.no_grad():
            predictions, _ = self.model.forward(data)
        end.record()
        torch.cuda.synchronize(self.device)
        assert start.elapsed_time(end) > 0
        found = Detection3DArray()
        for box in predictions[0]['pred_boxes'].cpu().detach().numpy():
            found.detections.append(Detection3D())
        self.publisher.publish(found)

rclpy.init()
node = PCDetROS()
rclpy.spin(node)
node.destroy_node()
rclpy.shutdown()
"""


@pytest.mark.parametrize(
    ("files", "node", "last"), [(ROS1, NODE1, ""), (ROS2, NODE2, "down\n")], ids=["rospy", "rclpy"]
)
@pytest.mark.slow
def test_a_ros_node_finds_boxes_in_a_scan(tmp_path, monkeypatch, files, node, last):
    content = tiny_kitti.config(tiny_kitti.dataset())
    content["MODEL"]["POST_PROCESSING"]["SCORE_THRESH"] = 0.0
    tiny_kitti.write_config(tmp_path / "cfgs/tiny.yaml", content)
    write(tmp_path, {**files, "node.py": node, "save.py": SAVE})
    monkeypatch.setenv("SCAN", str(sorted((tiny_kitti.dataset() / "training/velodyne").iterdir())[0]))
    done = run(tmp_path, "save.py", "cfgs/tiny.yaml", "tiny.pth")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "node.py", "cfgs/tiny.yaml", "tiny.pth")
    assert done.returncode == 0, done.stderr
    assert "\npublished 100" in f"\n{done.stdout}" and done.stdout.endswith(last)


SAVE = """
import sys, torch
from pcdet.config import cfg, cfg_from_yaml_file
from pcdet.datasets import DatasetTemplate
from pcdet.models import build_network
cfg_from_yaml_file(sys.argv[1], cfg)
dataset = DatasetTemplate(cfg.DATA_CONFIG, cfg.CLASS_NAMES, False)
torch.manual_seed(0)
torch.save({'model_state': build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset).state_dict()}, sys.argv[2])
"""
