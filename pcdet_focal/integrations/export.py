"""A detector as a module of tensors, for ``torch.jit.trace``, ``torch.export`` and what is built on them.

NMS is one operator in the graph, ``pcdet_focal::nms``, as torchvision's is ``torchvision::nms``. Python that loads such
a graph imports ``pcdet_focal.ops.nms`` first; another runtime has its own operator for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import InputError

VOXELS = ("voxels", "voxel_num_points", "voxel_coords")


class TensorDetector(nn.Module):
    """``forward(*tensors)`` -> boxes (K, 7+), scores (K,), labels (K,) 1-based of one frame.

    Args:
        detector: as ``build_network`` returns it; it is put into evaluation mode.
        keys: what the tensors are in ``batch_dict``; with the default ``voxels`` (M, P, C), ``voxel_num_points`` (M,)
            and ``voxel_coords`` (M, 4) as (0, z, y, x), which ``collate_batch`` of one frame gives.

    >>> with torch.no_grad():  # doctest: +SKIP
    ...     graph = torch.jit.trace(TensorDetector(detector), tensors, check_trace=False)
    ...     program = torch.export.export(TensorDetector(detector), tensors)
    """

    def __init__(self, detector: nn.Module, keys: Sequence[str] = VOXELS) -> None:
        super().__init__()
        self.detector, self.keys = detector.eval(), tuple(keys)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(tensors) != len(self.keys):
            raise InputError(
                f"TensorDetector takes {len(self.keys)} tensors ({', '.join(self.keys)}), not {len(tensors)}"
            )
        (boxes,), _ = self.detector({"batch_size": 1, **dict(zip(self.keys, tensors))})
        return boxes["pred_boxes"], boxes["pred_scores"], boxes["pred_labels"]
