"""A ROS 2 node: PointCloud2 in, Detection3DArray out.

    ros2 run needs no package for it: python examples/ros2_node.py --ros-args -p checkpoint:=model.pth \\
        -r points:=/lidar/points

Parameters: checkpoint (of this package, or the name of weights, or OpenPCDet's with config), config, device, precision,
score_thresh, intensity_scale (the sensor's intensity times this is the training's).
"""

import rclpy
import vision_msgs.msg
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import PointCloud2

from pcdet_focal import Detector
from pcdet_focal.integrations.ros import detection_array, points_of


class DetectorNode(Node):
    def __init__(self):
        super().__init__("pcdet_focal")
        defaults = {"checkpoint": "", "config": "", "device": "", "precision": "auto", "score_thresh": 0.3}
        defaults["intensity_scale"] = 1.0
        for name, value in defaults.items():
            self.declare_parameter(name, value)
        given = {name: self.get_parameter(name).value for name in defaults}
        files = [given["config"], given["checkpoint"]] if given["config"] else [given["checkpoint"]]
        self.detector = Detector.load(*files, device=given["device"] or None, precision=given["precision"])
        self.detector.warm_up()
        self.score_thresh, self.intensity_scale = given["score_thresh"], given["intensity_scale"]
        self.publisher = self.create_publisher(vision_msgs.msg.Detection3DArray, "detections", 10)
        # of scans that come while one is worked on, the newest is kept
        self.create_subscription(PointCloud2, "points", self.on_points, qos_profile_sensor_data)

    def on_points(self, message):
        names = self.detector.feature_names
        points = points_of(message, names)
        if "intensity" in names:
            points[:, names.index("intensity")] *= self.intensity_scale
        found = self.detector(points).above(self.score_thresh)
        self.publisher.publish(detection_array(found, message.header, vision_msgs.msg))


def main():
    rclpy.init()
    node = DetectorNode()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
