from __future__ import annotations

from .vfe_template import VFETemplate


class MeanVFE(VFETemplate):
    """A voxel's feature is the mean of its points."""

    def __init__(self, model_cfg, num_point_features: int, **kwargs):
        super().__init__(model_cfg=model_cfg)
        self.num_point_features = num_point_features

    def get_output_feature_dim(self) -> int:
        return self.num_point_features

    def forward(self, batch_dict: dict, **kwargs) -> dict:
        """Reads ``voxels`` (M, P, C), zero where a voxel has fewer than P points, and ``voxel_num_points`` (M,); adds
        ``voxel_features`` (M, C).
        """
        voxels, num_points = batch_dict["voxels"], batch_dict["voxel_num_points"]
        batch_dict["voxel_features"] = voxels.sum(dim=1) / num_points.view(-1, 1).clamp(min=1).type_as(voxels)  # (M, C)
        return batch_dict
