from .detector3d_template import Detector3DTemplate


class SECONDNet(Detector3DTemplate):
    """SECOND (Yan, Mao, Li: "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018): voxels, sparse
    convolutions, anchors.
    """

    def __init__(self, model_cfg, num_class: int, dataset):
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        self.module_list = self.build_networks()
