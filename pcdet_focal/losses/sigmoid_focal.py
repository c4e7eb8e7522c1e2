"""Sigmoid focal loss: the elementwise function and OpenPCDet's drop-in module."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence

import torch

from ..errors import InputError
from ..ops import focal_loss as fused
from .arguments import one_hot, require_number, require_values_between
from .cross_entropy import binary_cross_entropy_with_logits
from .focal_from_labels import sigmoid_focal_loss_from_labels
from .from_labels import LossFromLabels
from .kernel_agreement import kernel_agreement, probe_logits_and_labels
from .numerics import at_least_float32, bounded, power
from .reduction import weight_reduce_loss
from .weights import expand_anchor_weights, require_same_shape

PerClass = float | Sequence[float] | torch.Tensor


def sigmoid_focal_loss(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    alpha: PerClass | None = 0.25,
    gamma: PerClass = 2.0,
    reduction: str = "none",
    pos_weight: PerClass | None = None,
) -> torch.Tensor:
    r"""Focal loss on independent sigmoids (Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002).

    With p = sigmoid(x) and a target t in [0, 1], elementwise::

        one_minus_pt = t (1 - p) + (1 - t) p                      how wrong the prediction is
        bce          = -t log p - (1 - t) log(1 - p)
        alpha_t      = t alpha + (1 - t) (1 - alpha)
        loss         = alpha_t * one_minus_pt^gamma * bce

    1 - p is computed as sigmoid(-x) and log p as logsigmoid(x): full relative precision for any logit, finite gradients
    for any gamma >= 0 (formulas with ``1 - sigmoid(x)`` lose confident correct predictions beyond |x| of about 17 and
    have NaN gradients there for gamma < 1).

    Args:
        inputs: logits, any shape, e.g. (B, A, C). Half precision is computed, and returned, in float32.
            Beyond +-1.8e19 (float32), and so for +-inf, a logit counts as that number, with gradient 0: loss 0 on its
            own side, finite on the other. A NaN logit gives NaN.
        targets: same shape; one-hot or soft values in [0, 1]; any dtype. Or integer labels without the class axis,
            ``inputs.shape[:-1]``, counted as target assigners count: below 0 ignored, whatever the logits there, 0
            background, 1..C the class (with C = 1 every positive label is the one class). mmdetection counts 0..C-1
            with C for background: its labels belong to ``build_loss("FocalLoss")``.
        alpha: weight of positives in [0, 1], one or one per class (C values); negatives get 1 - alpha. None or -1 for
            no weighting.
        gamma: focusing exponent >= 0, one or one per class; 0 is (weighted) binary cross entropy.
        reduction: 'none', 'mean' over all elements (of the labels that are not ignored; 0 where all are), or 'sum'.
        pos_weight: factor of the term ``t log p`` >= 0, one or one per class, as in torch's cross entropy; None for 1.
    Returns:
        Shape of ``inputs`` for 'none', else a scalar. With one alpha and gamma and targets of the same shape, the
        arguments and the results are those of ``torchvision.ops.sigmoid_focal_loss``.
    Raises:
        InputError: shapes that do not fit, alpha outside [0, 1], negative gamma, a number of either that is not C,
            unknown reduction; on the CPU also a label above C, and integers other than 0 and 1 in targets of the same
            shape.

    >>> logits = torch.tensor([[2.0, -1.0]])
    >>> targets = torch.tensor([[1.0, 0.0]])
    >>> sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0)
    tensor([[0.0005, 0.0170]])
    >>> # class 2; background; ignored
    >>> sigmoid_focal_loss(torch.zeros(3, 2), torch.tensor([2, 0, -1]), alpha=[0.5, 1.0], gamma=[0.0, 2.0])
    tensor([[0.3466, 0.1733],
            [0.3466, 0.0000],
            [0.0000, 0.0000]])
    """
    inputs, targets, counted = dense_targets("sigmoid_focal_loss", inputs, targets)
    cross_entropy = binary_cross_entropy_with_logits
    if pos_weight is not None:
        factor = for_classes("pos_weight", pos_weight, inputs)

        def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            logits, targets = at_least_float32(logits, targets)
            log_pt = torch.nn.functional.logsigmoid(logits)
            return binary_cross_entropy_with_logits(logits, targets) - (factor - 1) * targets * log_pt

    loss = focal_formula(inputs, targets, alpha, gamma, cross_entropy)
    num_averaged: float | torch.Tensor = loss.numel()  # the mean of nothing is NaN, as torchvision's
    if counted is not None:
        loss, num_averaged = loss * counted, (counted.sum() * loss.shape[-1]).clamp(min=1)
    return weight_reduce_loss(loss, None, reduction, None, "sigmoid_focal_loss", num_averaged)


def sigmoid_focal_loss_star(
    inputs: torch.Tensor,
    targets: torch.Tensor,
    alpha: PerClass | None = -1,
    gamma: float = 1.0,
    reduction: str = "none",
) -> torch.Tensor:
    """The variant FL* of the focal loss (Lin et al. 2017, appendix A, with beta 0), as fvcore has it. With x_t = (2 t -
    1) x, elementwise::

        loss = -alpha_t log sigmoid(gamma x_t) / gamma

    Args, result, errors: as ``sigmoid_focal_loss``, with targets of the same shape, and one gamma above 0.

    >>> sigmoid_focal_loss_star(torch.zeros(2), torch.tensor([1.0, 0.0]), gamma=2.0)              # log(2) / 2
    tensor([0.3466, 0.3466])
    """
    require_same_shape("sigmoid_focal_loss_star", inputs=inputs, targets=targets)
    require_number("sigmoid_focal_loss_star", "gamma", gamma, low_allowed=False)
    alpha = for_classes("alpha", alpha, inputs)
    x, t = at_least_float32(inputs, targets)
    loss = weigh_classes(-torch.nn.functional.logsigmoid(gamma * (2 * t - 1) * x) / gamma, t, alpha)
    return weight_reduce_loss(loss, None, reduction, None, "sigmoid_focal_loss_star", loss.numel())


def focal_formula(
    logits: torch.Tensor,
    targets: torch.Tensor,
    alpha: PerClass | None,
    gamma: PerClass,
    cross_entropy: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """The focal loss, elementwise. Change it here: heads train with this code.

    The kernels of ``ops.focal_loss`` have this formula built in, with its gradient. They are used only while they agree
    with it (``kernels_have_the_formula``), and not at all with LOSS_CONFIG.FUSED: False.

    Args:
        logits, targets: (..., C), same shape; targets in [0, 1].
        alpha, gamma: of ``sigmoid_focal_loss``. cross_entropy: (logits, targets) -> (..., C).
    Returns:
        (..., C), float32 or float64.
    """
    return focal_factor(logits, targets, alpha, gamma) * cross_entropy(logits, targets)


def focal_factor(logits: torch.Tensor, targets: torch.Tensor, alpha: PerClass | None, gamma: PerClass) -> torch.Tensor:
    """What focal loss multiplies cross entropy by: ``alpha_t * one_minus_pt^gamma``; arguments, shapes and errors of
    ``sigmoid_focal_loss``.

    >>> # 0.25 * 0.5^2 and 0.75 * 0.5^2
    >>> focal_factor(torch.zeros(2), torch.tensor([1.0, 0.0]), alpha=0.25, gamma=2.0)
    tensor([0.0625, 0.1875])
    """
    require_same_shape("sigmoid_focal_loss", inputs=logits, targets=targets)
    alpha, gamma = for_classes("alpha", alpha, logits), for_classes("gamma", gamma, logits)
    x, t = at_least_float32(logits, targets)
    one_minus_pt = t * torch.sigmoid(-x) + (1 - t) * torch.sigmoid(x)
    return weigh_classes(focus(one_minus_pt, gamma), t, alpha)


@kernel_agreement(
    lambda: (
        focal_formula,
        SigmoidFocalClassificationLoss.forward,
        SigmoidFocalClassificationLoss._weighted,
        SigmoidFocalClassificationLoss.sigmoid_cross_entropy_with_logits,
    )
)
def kernels_have_the_formula():
    """Whether the kernels compute SigmoidFocalClassificationLoss as it stands in this file."""
    logits, labels = probe_logits_and_labels()
    targets, weights = one_hot(labels - 1, 2, torch.float64), torch.full((1, 12), 0.5, dtype=torch.float64)
    loss = SigmoidFocalClassificationLoss(gamma=1.3, alpha=0.4)
    loss.fused = False
    alpha_pos, alpha_neg, gamma = (logits.new_full((2,), value) for value in (0.4, 0.6, 1.3))
    scale = logits.new_full((1,), 0.5)

    def plain(logits: torch.Tensor) -> torch.Tensor:
        return loss(logits, targets, weights=weights).sum()

    def kernel(logits: torch.Tensor) -> torch.Tensor:
        return fused.reference.from_labels(logits, labels, alpha_pos, alpha_neg, gamma, scale)

    return plain, kernel, logits


def focus(one_minus_pt: torch.Tensor, gamma: float | torch.Tensor) -> torch.Tensor:
    """``one_minus_pt ** gamma`` with finite gradients (``numerics.power``), for one gamma or a (C,) tensor of them."""
    if not isinstance(gamma, torch.Tensor):
        return power(one_minus_pt, gamma)
    held = one_minus_pt.clamp(min=torch.finfo(one_minus_pt.dtype).tiny)
    return torch.where((gamma > 0) & (gamma < 1), held, one_minus_pt).pow(gamma)


def weigh_classes(loss: torch.Tensor, targets: torch.Tensor, alpha: float | torch.Tensor | None) -> torch.Tensor:
    """``loss`` times ``alpha_t``, for one alpha, a (C,) tensor of them, or None or -1 for no weighting."""
    if alpha is None or not isinstance(alpha, torch.Tensor) and alpha == -1:
        return loss
    return (targets * alpha + (1 - targets) * (1 - alpha)) * loss


def for_classes(name: str, value: PerClass | None, inputs: torch.Tensor) -> float | torch.Tensor | None:
    """alpha or gamma, checked: a number where all classes share it, else a (C,) tensor beside ``inputs``."""
    if not isinstance(value, torch.Tensor):
        value = focal_setting(name, value)
        if not isinstance(value, tuple):
            return value
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else (len(value),)
    num_classes = inputs.shape[-1] if inputs.dim() > 0 else 1
    if shape not in ((), (1,), (num_classes,)):
        raise InputError(
            f"sigmoid_focal_loss: {name} of shape {shape} does not fit inputs of shape {tuple(inputs.shape)}: one "
            "number, or one for "
            f"each of the {num_classes} classes of the last axis, is needed."
        )
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    if isinstance(value, torch.Tensor):
        require_values_between("sigmoid_focal_loss", name, value, 0, _HIGHEST[name])
        return value.to(device=inputs.device, dtype=dtype)
    if len(set(value)) == 1:
        return value[0]
    # the host does not wait for the device
    return torch.tensor(value, dtype=dtype).to(inputs.device, non_blocking=True)


_HIGHEST = {"alpha": 1.0, "gamma": float("inf"), "pos_weight": float("inf")}


def focal_setting(
    name: str, value: PerClass | None, loss_name: str = "sigmoid_focal_loss"
) -> float | tuple[float, ...] | None:
    """``alpha`` or ``gamma`` (that is ``name``) as a loss keeps it: a number, a tuple of one number per class, or for
    alpha None.

    >>> focal_setting("alpha", torch.tensor([0.25, 0.5])), focal_setting("gamma", 2.0)
    ((0.25, 0.5), 2.0)
    """
    if name == "alpha" and (value is None or isinstance(value, (int, float)) and value == -1):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _HIGHEST[name]:
        return value
    values: list[float] = []
    if isinstance(value, numbers.Real) and not isinstance(value, bool):  # numpy's
        values = [float(value)]
    elif hasattr(value, "__len__") and not isinstance(value, (str, dict)):
        try:
            values = [float(v) for v in (value.flatten().tolist() if hasattr(value, "tolist") else value)]
        except (TypeError, ValueError):
            pass  # no numbers: the message below
    if not values or not all(0 <= v <= _HIGHEST[name] for v in values):
        right = (
            "from 0 to 1, one or one per class, or None or -1 for no class weighting"
            if name == "alpha"
            else "at least 0, one or one per class"
        )
        raise InputError(f"{loss_name}: {name}={value!r} is not allowed: {right}.")
    return float(value) if isinstance(value, numbers.Real) else tuple(values)


def dense_targets(
    loss_name: str, inputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Integer labels ``inputs.shape[:-1]`` as one-hot targets; targets of the shape of ``inputs`` as they are.

    Returns:
        ``inputs`` (0 in the rows that are ignored, so that their gradient is 0 even of NaN), the targets, and of labels
        (..., 1) booleans of the rows that count.
    """
    is_integer = not targets.is_floating_point() and not targets.is_complex() and targets.dtype != torch.bool
    if is_integer and targets.shape == inputs.shape:
        require_values_between(
            loss_name,
            "targets",
            targets,
            0,
            1,
            " (integers of the shape of the inputs are one-hot; labels have no class axis)",
        )
    if not is_integer or inputs.dim() == 0 or targets.shape != inputs.shape[:-1]:
        return inputs, targets, None
    num_classes = inputs.shape[-1]
    labels = targets.long()
    if num_classes == 1:
        labels = labels.clamp(max=1)
    require_values_between(
        loss_name, "targets", labels.clamp(min=0), 0, num_classes, " (0 is background, below 0 ignored)"
    )
    counted = (labels >= 0).unsqueeze(-1)
    return (
        inputs.masked_fill(~counted, 0),
        one_hot(labels - 1, num_classes, torch.promote_types(inputs.dtype, torch.float32)),
        counted,
    )


class SigmoidFocalClassificationLoss(LossFromLabels):
    """OpenPCDet's focal loss module: the formula of ``sigmoid_focal_loss`` times anchor weights, not reduced.

    On the CPU with gamma 2, and on a CUDA device, one kernel computes the loss and one its gradient, and only the
    inputs are kept; such a loss can be differentiated once. float64 input, or a per-class alpha or gamma, uses plain
    torch, and so does a subclass with another ``forward`` or cross entropy, or an edited ``focal_formula``. Heads call
    ``from_labels``, which builds neither targets nor weights.

    >>> cls_preds = torch.zeros(2, 6, 3)                               # (B, A, C) logits
    >>> one_hot_targets = torch.zeros(2, 6, 3)
    >>> cls_weights = torch.ones(2, 6)                                 # (B, A)
    >>> loss = SigmoidFocalClassificationLoss(alpha=0.25, gamma=2.0)(cls_preds, one_hot_targets, weights=cls_weights)
    >>> loss.shape, round(loss[0, 0, 0].item(), 4)                     # 0.75 * 0.5^2 * log 2
    (torch.Size([2, 6, 3]), 0.13)
    """

    def __init__(self, gamma: PerClass = 2.0, alpha: PerClass | None = 0.25) -> None:
        """
        Args:
            gamma: focusing exponent >= 0, one or one per class.
            alpha: weight of positives in [0, 1], one or one per class; negatives get 1 - alpha. None or -1 for no
                weighting.
        """
        super().__init__()
        self.gamma = focal_setting("gamma", gamma, type(self).__name__)
        self.alpha = focal_setting("alpha", alpha, type(self).__name__)

    def has_kernel(self) -> bool:
        """Whether the kernels compute this object's ``forward``."""
        changed = any(
            getattr(type(self), name) is not getattr(SigmoidFocalClassificationLoss, name)
            for name in ("forward", "_weighted", "sigmoid_cross_entropy_with_logits")
        )
        return self.fused and not changed and kernels_have_the_formula()

    def from_labels(
        self, logits: torch.Tensor, labels: torch.Tensor, *, normalizer: str = "per_sample", loss_weight: float = 1.0
    ) -> torch.Tensor:
        """See ``LossFromLabels``; in one pass over the logits where a kernel computes this loss."""
        if not self.has_kernel():
            return super().from_labels(logits, labels, normalizer=normalizer, loss_weight=loss_weight)
        return sigmoid_focal_loss_from_labels(
            logits, labels, alpha=self.alpha, gamma=self.gamma, normalizer=normalizer, loss_weight=loss_weight
        )

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"

    @staticmethod
    def sigmoid_cross_entropy_with_logits(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Elementwise binary cross entropy in TensorFlow's form, ``max(x, 0) - x t + log1p(exp(-|x|))``; shape of
        ``input``.

        The values are those of ``binary_cross_entropy_with_logits``. At a logit of exactly 0 this form has the gradient
        1 - t where the derivative is 0.5 - t; it stays because this class promises OpenPCDet's gradients.
        """
        require_same_shape("sigmoid_cross_entropy_with_logits", input=input, target=target)
        logits, target = at_least_float32(input, target)
        logits = bounded(logits)
        return logits.clamp(min=0) - logits * target + torch.log1p(torch.exp(-logits.abs()))

    def forward(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input: (B, A, C) or (N, C) logits.
            target: same shape, one-hot or soft; or integer labels (B, A) or (N,): below 0 ignored, 0 background, 1..C.
            weights: one per anchor, (B, A) or (N,), or one per element; None for 1.
        Returns:
            Elementwise loss of the shape of ``input``.
        Raises:
            InputError: shapes that do not fit, with both shapes and what is allowed.
        """
        input, target, counted = dense_targets(type(self).__name__, input, target)
        loss = self._weighted(input, target, weights)
        return loss if counted is None else loss * counted

    def _weighted(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """``forward`` of dense targets."""
        backend = self._kernels_for(input, target, weights)
        if backend is not None:
            alphas = (1.0, 1.0) if self.alpha is None or self.alpha == -1 else (self.alpha, 1 - self.alpha)
            if weights is not None:
                weights = expand_anchor_weights(weights, input.shape, type(self).__name__)
                if weights.shape[:-1] != input.shape[:-1]:
                    weights = weights.expand(*input.shape[:-1], weights.shape[-1])
            return fused.weighted_focal_loss(input, target, weights, *alphas, self.gamma, backend)
        loss = focal_formula(input, target, self.alpha, self.gamma, self.sigmoid_cross_entropy_with_logits)
        return loss if weights is None else loss * expand_anchor_weights(weights, loss.shape, type(self).__name__)

    def _kernels_for(self, input: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None) -> str | None:
        """The backend whose kernels serve, None for plain torch: they want one usual alpha, one gamma, gradients only
        for the input, and shapes that fit (the formula's errors explain others)."""
        others = [target] if weights is None else [target, weights]
        one_alpha = (
            self.alpha is None or isinstance(self.alpha, (int, float)) and (self.alpha == -1 or 0 <= self.alpha <= 1)
        )
        if not (
            self.has_kernel()
            and one_alpha
            and isinstance(self.gamma, (int, float))
            and input.dim() > 0
            and input.shape == target.shape
            and input.is_floating_point()
            and not any(t.requires_grad for t in others)
        ):
            return None
        return fused.elementwise_backend(self.gamma, input, *others)
