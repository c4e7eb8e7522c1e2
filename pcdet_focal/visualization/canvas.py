"""matplotlib figures that need no display, and the colours that all pictures share."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUND_TRUTH, DETECTION = "#1a9850", "#d6336c"
INK, FAINT = "#22272e", "#d9dde2"


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """A white figure of ``width`` x ``height`` inches on the Agg canvas. pyplot's global state is neither used nor
    changed.

    :raises ImportError: matplotlib is not installed; the message says how to install it
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib, which is not installed here; 'pip install matplotlib' brings it."
        ) from error
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Writes the figure in the format that the suffix names and makes the folder; an interrupted write leaves nothing
    half done.

    :raises InputError: the place cannot be written, or the suffix is no picture format
    """
    path = Path(path)
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix[1:].lower()
    if suffix not in formats:
        raise InputError(
            f"{path}: a picture's name must end in one of {', '.join('.' + name for name in sorted(formats))}."
        )
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format=suffix)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"The picture cannot be written to {path}: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return path
