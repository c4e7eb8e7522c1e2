"""Pictures for people: bird's-eye views of scans with boxes, pages of single boxes, curves of a training run and of an
evaluation, 3-D pages for a browser."""

from .bev import draw_bev
from .box_page import draw_box_page
from .precision_recall import draw_precision_recall
from .reports import draw_training_curves
from .scene_html import write_scene_html

__all__ = ["draw_bev", "draw_box_page", "draw_precision_recall", "draw_training_curves", "write_scene_html"]
