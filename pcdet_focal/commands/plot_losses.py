"""Draw docs/images/loss_*.png: loss and gradient over the logit, for positives and negatives, one picture a family of
losses.

    pcdet-focal plot-losses --out docs/images

pcdet-focal compare-losses draws the same of whole recipes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from .. import losses
from ..engine import cli
from ..visualization.losses import LOGITS, draw_loss_curves

Elementwise = Callable[[torch.Tensor, float], torch.Tensor]  # logits, 1 for a positive or 0 for a negative -> loss


def on(function: Callable, positive: float = 1.0, negative: float = 0.0, **arguments) -> Elementwise:
    """An elementwise loss of (logits, targets) with these targets."""
    return lambda x, t: function(x, torch.full_like(x, positive if t else negative), **arguments)


def softmax(gamma: float) -> Elementwise:
    """Two classes, the other's logit 0; a positive has the first label, a negative the second."""

    def loss(x: torch.Tensor, t: float) -> torch.Tensor:
        logits, labels = torch.stack([torch.zeros_like(x), x], dim=1), torch.full(x.shape, int(t))
        return losses.softmax_focal_loss(logits, labels, gamma=gamma, reduction="none")

    return loss


def heat(negative: float) -> Elementwise:
    return lambda x, t: losses.gaussian_focal_loss(
        x.sigmoid(), torch.full_like(x, 1.0 if t else negative), alpha=2.0, gamma=4.0
    )


def families() -> dict[str, dict[str, Elementwise]]:
    """{file name: {line: loss}}."""
    focal, bce, blur = losses.sigmoid_focal_loss, losses.binary_cross_entropy, losses.yolo.bce_blur_with_logits
    return {
        "focal": {f"gamma {g:g}": on(focal, alpha=None, gamma=g) for g in (0.0, 0.5, 1.0, 2.0, 5.0)}
        | {"gamma 2, alpha 0.25": on(focal)},
        "softmax_focal": {f"gamma {g:g}": softmax(g) for g in (0.0, 1.0, 2.0, 5.0)},
        "bce": {"plain": on(bce), "label smoothing 0.1": on(bce, label_smoothing=0.1), "blur 0.05": on(blur)},
        "quality": {
            f"{name}, IoU {q}": on(function, positive=q)
            for q in (0.5, 0.9)
            for name, function in (("quality focal", losses.quality_focal_loss), ("varifocal", losses.varifocal_loss))
        },
        "asymmetric": {
            "asymmetric 1 / 4, clip 0.05": on(losses.asymmetric_loss),
            "asymmetric 1 / 4, no clip": on(losses.asymmetric_loss, clip=None),
            "focal, gamma 2": on(focal, alpha=None),
        },
        "gaussian": {f"negative at heat {heat_}": heat(heat_) for heat_ in (0.0, 0.3, 0.6)},
    }


def curve(loss: Elementwise) -> dict[str, dict[str, list[float]]]:
    """Values and gradients for ``draw_loss_curves``."""
    result = {}
    for kind, target in (("positive", 1.0), ("negative", 0.0)):
        x = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
        values = loss(x, target)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        result[kind] = {"loss": values.tolist(), "gradient": gradient.tolist()}
    return result


def build_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--out", default="docs/images", help="folder of the pictures")
    return parser


def main(argv: list[str] | None = None) -> None:
    out = Path(build_parser().parse_args(argv).out)
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in families().items():
        figure = draw_loss_curves({line: curve(loss) for line, loss in lines.items()})
        figure.set_size_inches(8.0, 5.4)
        image = io.BytesIO()
        figure.savefig(image, dpi=90)
        # a quarter of the bytes
        few_colours = Image.open(image).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=48)
        few_colours.save(out / f"loss_{name}.png", optimize=True)
