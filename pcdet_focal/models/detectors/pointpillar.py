from .detector3d_template import Detector3DTemplate


class PointPillar(Detector3DTemplate):
    """PointPillars (Lang et al.: "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019)."""

    def __init__(self, model_cfg, num_class: int, dataset):
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        self.module_list = self.build_networks()
