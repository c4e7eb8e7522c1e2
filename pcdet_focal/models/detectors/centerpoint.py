from __future__ import annotations

import torch

from .detector3d_template import Detector3DTemplate


class CenterPoint(Detector3DTemplate):
    """CenterPoint (Yin, Zhou, Krähenbühl: "Center-based 3D Object Detection and Tracking", CVPR 2021): objects are
    peaks of a heat map.

    A CenterHead decodes and suppresses on its own; with a RoI head or an anchor head the detector suppresses, as SECOND
    does.
    """

    box_keys = ("batch_box_preds", "final_box_dicts")

    def __init__(self, model_cfg, num_class: int, dataset):
        super().__init__(model_cfg=model_cfg, num_class=num_class, dataset=dataset)
        self.module_list = self.build_networks()

    @torch.no_grad()
    def post_processing(self, batch_dict: dict) -> tuple[list[dict], dict]:
        """Recall counts for the boxes in ``final_box_dicts``, which the head has left; without them the template's
        post-processing.
        """
        if "final_box_dicts" not in batch_dict or "rois" in batch_dict:  # a second stage replaced the head's boxes
            return super().post_processing(batch_dict)
        detections, recall_dict = batch_dict["final_box_dicts"], {}
        for index in range(batch_dict["batch_size"]):
            recall_dict = self.generate_recall_record(
                box_preds=detections[index]["pred_boxes"],
                recall_dict=recall_dict,
                batch_index=index,
                data_dict=batch_dict,
                thresh_list=self.model_cfg.POST_PROCESSING.RECALL_THRESH_LIST,
            )
        return detections, recall_dict
