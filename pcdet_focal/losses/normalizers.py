"""Loss normalisers, and the anchor weights and one-hot targets that follow from the labels.

A normaliser gives the divisor of each sample's weights (``divisor``) and turns the sum of the weighted loss into the
result (``average``; ``reduce`` for a whole tensor).
With n_b positive anchors in sample b of a batch of B, a loss whose weighted elements in sample b sum up to L_b becomes

    per_sample   1/B sum_b L_b / max(n_b, 1)                     OpenPCDet: every sample counts alike
    batch        sum_b L_b / max(sum_b n_b, 1)                   mmdetection's avg_factor: every object counts alike
    global       W sum_b L_b / max(sum over all W ranks of n, 1) batch over all ranks, whose gradients DDP averages
    ema          sum_b L_b / m,  m <- 0.9 m + 0.1 max(n, 1)      detectron2: a running mean from 100, for few objects
    none         sum_b L_b                                       no division, not by the batch size either

Positives are counted on the device; nothing waits for it. In a configuration: ``NORMALIZER: batch`` or ``NORMALIZER:
{NAME: ema, START: 100}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import distributed, nn

from ..errors import InputError
from ..registry import NORMALIZERS
from .arguments import constructor_arguments
from .running_counts import mean_over_ranks, store, sum_over_ranks


@dataclass(frozen=True)
class PerSampleNormalizer:
    """OpenPCDet's: every sample counts alike, whatever the number of its objects::

        loss = 1/B sum_b  (sum of the loss of sample b) / max(number of positive anchors of sample b, 1)

    Where every object of a sample is there twice, with its anchors, the loss of the positives stays what it is.

    >>> normalizer = PerSampleNormalizer()
    >>> normalizer.divisor(torch.tensor([4, 0]))
    tensor([4., 1.])
    >>> normalizer.reduce(torch.ones(2, 6, 3))
    tensor(18.)
    """

    name: ClassVar[str] = "per_sample"

    def divisor(self, num_positives: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(B,) positive counts -> (B,) numbers that the weights of each sample are divided by."""
        return num_positives.clamp(min=1).to(dtype)

    def average(self, total: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Sum of a loss whose weights are divided already -> the result."""
        return total / batch_size

    def reduce(self, weighted_loss: torch.Tensor) -> torch.Tensor:
        """(B, ...) elementwise loss, its weights already divided -> scalar."""
        return self.average(weighted_loss.sum(), weighted_loss.shape[0])


class OneDivisor:
    """Base of the normalisers that divide all samples of the batch by one number, ``denominator(num_positives)``: a
    user's too, registered as ``@NORMALIZERS.register("name")`` of pcdet_focal.registry.
    """

    def denominator(self, num_positives: torch.Tensor) -> torch.Tensor:
        """(B,) positive counts -> the number, a tensor without axes. Subclasses define it."""
        raise NotImplementedError

    def divisor(self, num_positives: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(B,) positive counts -> (B,) times the same number."""
        return self.denominator(num_positives).to(dtype).expand(num_positives.shape)

    def average(self, total: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Sum of a loss whose weights are divided already -> the result, which is that sum."""
        return total

    def reduce(self, weighted_loss: torch.Tensor) -> torch.Tensor:
        """(B, ...) elementwise loss, its weights already divided -> scalar."""
        return weighted_loss.sum()


@dataclass(frozen=True)
class BatchNormalizer(OneDivisor):
    """mmdetection's avg_factor: every object counts alike, so that a sample with many of them outweighs the others::

        loss = (sum of the loss over the batch) / max(number of positive anchors of the batch, 1)

    It is not divided by the batch size again.

    >>> BatchNormalizer().divisor(torch.tensor([4, 0]))
    tensor([4., 4.])
    """

    name: ClassVar[str] = "batch"

    def denominator(self, num_positives: torch.Tensor) -> torch.Tensor:
        return num_positives.sum().clamp(min=1)


@dataclass(frozen=True)
class GlobalNormalizer(OneDivisor):
    """``batch`` over the batches of all W ranks::

        loss of a rank = (sum of its loss) / (max(number of positive anchors on all ranks, 1) / W)

    DistributedDataParallel averages the ranks' gradients, so that they come out as those of one process with the whole
    batch. Without torch.distributed it is ``batch``. Every rank must take part in every call.

    >>> GlobalNormalizer().divisor(torch.tensor([4, 2]))
    tensor([6., 6.])
    """

    name: ClassVar[str] = "global"

    def denominator(self, num_positives: torch.Tensor) -> torch.Tensor:
        ranks = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
        return sum_over_ranks(num_positives.sum()).clamp(min=1) / ranks


@dataclass(frozen=True)
class NoNormalizer(OneDivisor):
    """The plain sum over the batch, divided by 1: neither by positives nor by the batch size.

    >>> NoNormalizer().divisor(torch.tensor([4, 0]))
    tensor([1., 1.])
    """

    name: ClassVar[str] = "none"

    def denominator(self, num_positives: torch.Tensor) -> torch.Tensor:
        return torch.ones((), device=num_positives.device)


class EmaNormalizer(OneDivisor, nn.Module):
    """detectron2's: an exponential moving average of the positives of a batch, for steps that hardly depend on how many
    there happen to be::

        m    <- momentum * m + (1 - momentum) * max(number of positive anchors of the batch, 1)
        loss  = (sum of the loss over the batch) / m

    m is updated once a call in training mode only. It starts at ``start``, is a float64 buffer and is saved with the
    model. On several ranks the mean over the ranks goes in, so that all have the same m (detectron2: each its own).

    >>> normalizer = EmaNormalizer()
    >>> normalizer.divisor(torch.tensor([50, 0]))
    tensor([95., 95.])
    """

    name: ClassVar[str] = "ema"

    def __init__(self, start: float = 100.0, momentum: float = 0.9) -> None:
        """
        Args:
            start: first value of m, above 0.
            momentum: from 0 to below 1.
        """
        super().__init__()
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 < start < float("inf"):
            raise InputError(f"EmaNormalizer: start={start!r} is not allowed: a number above 0.")
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
            raise InputError(f"EmaNormalizer: momentum={momentum!r} is not allowed: a number from 0 to below 1.")
        self.start, self.momentum = start, momentum
        self.register_buffer("running", torch.tensor(float(start), dtype=torch.float64))

    def extra_repr(self) -> str:
        return f"start={self.start}, momentum={self.momentum}"

    def denominator(self, num_positives: torch.Tensor) -> torch.Tensor:
        if self.training:
            count = mean_over_ranks(num_positives.sum().clamp(min=1).to(self.running.dtype))
            store(self, "running", self.running * self.momentum + count * (1 - self.momentum))
        return self.running.clone()

    def _apply(self, fn, recurse: bool = True):
        before = self.running
        super()._apply(fn, recurse)
        self._buffers["running"] = before.to(self.running.device)  # the device, never the dtype
        return self


Normalizer = PerSampleNormalizer | BatchNormalizer | GlobalNormalizer | EmaNormalizer | NoNormalizer
NORMALIZERS.add(
    {n.name: n for n in (PerSampleNormalizer, BatchNormalizer, GlobalNormalizer, EmaNormalizer, NoNormalizer)}
)


def build_normalizer(cfg: str | Mapping[str, Any], key_path: str = "NORMALIZER") -> Normalizer:
    """A normaliser from its name, or from a mapping with NAME and arguments (START and MOMENTUM of ema; what a
    registered class's constructor takes).

    Raises:
        InputError: an unknown name or argument, with the key path, what is allowed and the nearest match; a registered
            class that does not derive from :class:`OneDivisor`, which the losses rely on.

    >>> build_normalizer("batch").name
    'batch'
    >>> build_normalizer({"NAME": "ema", "START": 50})
    EmaNormalizer(start=50, momentum=0.9)
    """
    entry = {"NAME": cfg} if isinstance(cfg, str) else cfg
    if not isinstance(entry, Mapping):
        raise InputError(
            f"{key_path}: {cfg!r} is not a normaliser: {', '.join(NORMALIZERS)}, or a mapping with NAME and "
            "arguments, is needed."
        )
    arguments = {str(key).upper(): value for key, value in entry.items()}
    name = arguments.pop("NAME", None)
    normalizer_class = NORMALIZERS.find(name, key_path)
    if normalizer_class is not PerSampleNormalizer and not issubclass(normalizer_class, OneDivisor):
        raise InputError(f"{key_path}: {name} does not derive from pcdet_focal.losses.normalizers.OneDivisor.")
    arguments = constructor_arguments(arguments, name, normalizer_class, key_path)
    try:
        return normalizer_class(**arguments)
    except InputError as error:
        raise InputError(f"{key_path}: {error}") from error


def anchor_weights_from_labels(
    labels: torch.Tensor,
    pos_cls_weight: float = 1.0,
    neg_cls_weight: float = 1.0,
    *,
    normalizer: Normalizer = PerSampleNormalizer(),
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights of each anchor in the classification and the box loss, divided by the normaliser (OpenPCDet's
    AnchorHeadTemplate)::

        cls_weights = (pos_cls_weight if label > 0, neg_cls_weight if label = 0, 0 if label < 0) / divisor
        reg_weights = (1 if label > 0, else 0) / divisor
        divisor     = max(number of positives of the sample, 1)    for 'per_sample'

    Args:
        labels: (B, A) integers: -1 ignored, 0 background, 1..C the class. Not changed.
        pos_cls_weight, neg_cls_weight: as in LOSS_CONFIG.LOSS_WEIGHTS of the multi-head YAML files.
        normalizer: who divides.
        dtype: of the weights.
    Returns:
        cls_weights (B, A), reg_weights (B, A), num_positives (B,) int64.
    Raises:
        InputError: labels that are not (B, A).

    >>> cls_weights, reg_weights, num_positives = anchor_weights_from_labels(torch.tensor([[0, 1, 3, -1]]))
    >>> cls_weights, reg_weights, num_positives
    (tensor([[0.5000, 0.5000, 0.5000, 0.0000]]), tensor([[0.0000, 0.5000, 0.5000, 0.0000]]), tensor([2]))
    """
    if labels.dim() != 2:
        raise InputError(
            f"anchor_weights_from_labels: labels of shape {tuple(labels.shape)} are not (B, A), one per anchor."
        )
    positives = labels > 0
    num_positives = positives.sum(dim=1)
    divisor = normalizer.divisor(num_positives, dtype).unsqueeze(1)  # (B, 1)
    reg_weights = positives.to(dtype)
    cls_weights = reg_weights * pos_cls_weight + (labels == 0).to(dtype) * neg_cls_weight
    return cls_weights / divisor, reg_weights / divisor, num_positives


def one_hot_from_labels(labels: torch.Tensor, num_class: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One-hot class targets; rows of background (0) and ignored (-1) anchors are all zero.

    With ``num_class == 1`` the head is class agnostic: every positive label, whatever its number, is class 1 (as in
    OpenPCDet, which writes that into the caller's labels; here they are not changed).

    Args:
        labels: (...) integers, -1, 0, or 1..num_class.
        num_class: C. dtype: of the result.
    Returns:
        (..., C).
    Raises:
        InputError: a label above num_class (checked on the CPU; an accelerator's scatter reports it later as its own
            error).

    >>> one_hot_from_labels(torch.tensor([0, 2, -1]), num_class=3)
    tensor([[0., 0., 0.],
            [0., 1., 0.],
            [0., 0., 0.]])
    """
    index = labels.clamp(min=0).long()
    if num_class == 1:
        index = index.clamp(max=1)
    elif (
        index.device.type == "cpu"
        and index.numel() > 0
        and not torch.compiler.is_compiling()
        and int(index.max()) > num_class
    ):
        raise InputError(
            f"one_hot_from_labels: label {int(index.max())} is above num_class={num_class}: labels are -1, 0, or 1 to "
            f"{num_class}."
        )
    one_hot = torch.zeros(*labels.shape, num_class + 1, dtype=dtype, device=labels.device)
    return one_hot.scatter_(-1, index.unsqueeze(-1), 1.0)[..., 1:]
