"""OpenPCDet's name: re-exports every augmentation function of the modules beside this one."""

from .frustum import (
    global_frustum_dropout_bottom,
    global_frustum_dropout_left,
    global_frustum_dropout_right,
    global_frustum_dropout_top,
    local_frustum_dropout_bottom,
    local_frustum_dropout_left,
    local_frustum_dropout_right,
    local_frustum_dropout_top,
)
from .local import (
    get_points_in_box,
    local_rotation,
    local_scaling,
    random_local_translation_along_x,
    random_local_translation_along_y,
    random_local_translation_along_z,
)
from .pyramid import (
    get_pyramids,
    local_pyramid_dropout,
    local_pyramid_sparsify,
    local_pyramid_swap,
    one_hot,
    points_in_pyramids_mask,
)
from .world import (
    global_rotation,
    global_scaling,
    global_scaling_with_roi_boxes,
    random_flip_along_x,
    random_flip_along_y,
    random_image_flip_horizontal,
)

__all__ = [
    "get_points_in_box",
    "get_pyramids",
    "global_frustum_dropout_bottom",
    "global_frustum_dropout_left",
    "global_frustum_dropout_right",
    "global_frustum_dropout_top",
    "global_rotation",
    "global_scaling",
    "global_scaling_with_roi_boxes",
    "local_frustum_dropout_bottom",
    "local_frustum_dropout_left",
    "local_frustum_dropout_right",
    "local_frustum_dropout_top",
    "local_pyramid_dropout",
    "local_pyramid_sparsify",
    "local_pyramid_swap",
    "local_rotation",
    "local_scaling",
    "one_hot",
    "points_in_pyramids_mask",
    "random_flip_along_x",
    "random_flip_along_y",
    "random_image_flip_horizontal",
    "random_local_translation_along_x",
    "random_local_translation_along_y",
    "random_local_translation_along_z",
]
