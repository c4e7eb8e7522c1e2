from ...registry import DENSE_HEADS
from .anchor_head_multi import AnchorHeadMulti
from .anchor_head_single import AnchorHeadSingle
from .anchor_head_template import AnchorHeadTemplate
from .center_head import CenterHead

__all__ = DENSE_HEADS.add(
    {
        "AnchorHeadTemplate": AnchorHeadTemplate,
        "AnchorHeadSingle": AnchorHeadSingle,
        "AnchorHeadMulti": AnchorHeadMulti,
        "CenterHead": CenterHead,
    }
)
