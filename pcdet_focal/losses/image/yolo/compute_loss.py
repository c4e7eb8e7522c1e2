"""2-D detection, for no head of this package: YOLOv5's ComputeLoss of box, objectness and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ....errors import InputError
from ...arguments import require_number, require_values_between
from ...numerics import at_least_float32
from .boxes import bbox_iou
from .criteria import FocalLoss, smooth_BCE
from .targets import build_layer_targets, grid_candidates

HYPERPARAMETERS = {
    "box": 0.05,
    "cls": 0.5,
    "cls_pw": 1.0,
    "obj": 1.0,
    "obj_pw": 1.0,
    "anchor_t": 4.0,
    "fl_gamma": 0.0,
    "label_smoothing": 0.0,
}
_BALANCE = {3: (4.0, 1.0, 0.4)}
_BALANCE_OF_OTHERS = (4.0, 1.0, 0.25, 0.06, 0.02)


class ComputeLoss(nn.Module):
    r"""Loss of a head that predicts na boxes in every cell of nl bird's-eye grids. Sums over the grids l, means over
    the assigned rows or all cells::

        lbox = box * sum_l mean(1 - CIoU)                                   over the assigned cells and anchors
        lobj = obj * sum_l balance_l mean(BCE(objectness, quality))         over all
        lcls = cls * sum_l mean(BCE(class logits, smoothed one-hot))        over the assigned ones, if C > 1
        quality = 1 - gr + gr * max(CIoU, 0) where an object is assigned, else 0

        x, y = 2 sigmoid - 0.5,   w, h = (2 sigmoid)^2 * anchor      decoding of the raw outputs, in cells

    With ``fl_gamma`` above 0 both cross entropies are focal losses (alpha 0.25). Which cells an object is assigned to:
    ``grid_candidates``. Where two objects want the same cell and anchor, the last one in order sets its quality (with
    ``sort_obj_iou`` the one with the largest CIoU), on every device alike. Everything stays on the device, and is
    finite for any finite logits.

    ``autobalance`` drifts ``balance`` towards 1 / objectness loss of each grid (0.01 % a call, relative to the grid of
    stride 16, or else the middle one), in training mode only; it is then part of the state dict.

    >>> # one grid, two anchors, in cells
    >>> loss_func = ComputeLoss(anchors=[[[2.0, 1.0], [1.0, 2.0]]], nc=3, stride=[8])
    >>> # (B, na, H, W, 5 + nc) raw outputs
    >>> p = [torch.zeros(1, 2, 4, 4, 5 + 3)]
    >>> # image, class, x, y, w, h as fractions
    >>> targets = torch.tensor([[0.0, 2.0, 0.625, 0.625, 0.5, 0.25]])
    >>> loss, parts = loss_func(p, targets)
    >>> parts                                                                                 # box, objectness, class
    tensor([0.0175, 2.7726, 0.3466])
    """

    balance: torch.Tensor  # (nl,), a buffer

    def __init__(
        self,
        model: Any = None,
        autobalance: bool = False,
        *,
        hyp: Mapping[str, float] | None = None,
        anchors: torch.Tensor | Sequence | None = None,
        nl: int | None = None,
        na: int | None = None,
        nc: int | None = None,
        stride: Sequence[float] | torch.Tensor | None = None,
        balance: Sequence[float] | None = None,
        gr: float = 1.0,
        sort_obj_iou: bool = False,
    ) -> None:
        """Either ``ComputeLoss(model)``, or ``ComputeLoss(anchors=..., nc=..., stride=..., hyp=...)``.

        Args:
            model: has ``hyp`` (mapping) and, as ``model.model[-1]`` or itself, ``anchors``, ``nc`` and ``stride``; a
                DataParallel wrapper is looked through. The loss is made on the model's device.
            autobalance: let ``balance`` drift.
            hyp: box, cls, cls_pw, obj, obj_pw, anchor_t, fl_gamma, label_smoothing (``HYPERPARAMETERS`` has the
                defaults). Of a model's, which holds the whole recipe, other entries are not read; given here, an
                unknown entry is an error. cls_pw, obj_pw: weight of the positive terms.
            anchors: (nl, na, 2) width and height in cells of the grid.
            nl, na: number of grids and of anchors a cell; checked against ``anchors`` where given.
            nc: number of classes.
            stride: (nl,) metres or pixels a cell; read for autobalance only. None for unknown.
            balance: weight of each grid's objectness; None for 4, 1, 0.4 (three grids) or 4, 1, 0.25, 0.06, 0.02.
            gr: how much of the quality is the CIoU, in [0, 1].
            sort_obj_iou: see above.
        Raises:
            InputError: a missing, unknown or impossible argument.
        """
        super().__init__()
        if model is not None:
            if any(value is not None for value in (hyp, anchors, nl, na, nc, stride)):
                raise InputError(
                    "ComputeLoss: hyp, anchors, nl, na, nc and stride come from the model where one is given: leave "
                    "out either."
                )
            hyp, head, device = _read_model(model)
            anchors, nc, stride = head.anchors, head.nc, getattr(head, "stride", None)
        else:
            device = None
            unknown = sorted(set(hyp or {}) - set(HYPERPARAMETERS))
            if unknown:
                raise InputError(
                    f"ComputeLoss: hyp has no entry {unknown[0]!r}: {', '.join(HYPERPARAMETERS)} are allowed."
                )
        if anchors is None or nc is None:
            raise InputError(
                "ComputeLoss: anchors (nl, na, 2) in cells and nc, the number of classes, are needed, or a model that "
                "has them."
            )
        anchors = torch.as_tensor(anchors, dtype=torch.float32, device=device).detach().clone()
        if anchors.dim() != 3 or anchors.shape[2] != 2 or anchors.numel() == 0 or not bool((anchors > 0).all()):
            raise InputError(
                "ComputeLoss: anchors must be positive numbers of shape (grids, anchors a cell, 2), not "
                f"{tuple(anchors.shape)}: "
                f"{anchors.tolist()}."
            )
        for name, given, actual in (("nl", nl, anchors.shape[0]), ("na", na, anchors.shape[1])):
            if given is not None and given != actual:
                raise InputError(
                    f"ComputeLoss: {name}={given} does not fit anchors of shape {tuple(anchors.shape)}: {actual}, or "
                    "leave it out."
                )
        if int(nc) < 1:
            raise InputError(f"ComputeLoss: nc={nc} is not allowed: at least one class.")
        require_number("ComputeLoss", "gr", gr, high=1.0)
        self.hyp = {key: (hyp or {}).get(key, default) for key, default in HYPERPARAMETERS.items()}
        for key, value in self.hyp.items():
            require_number("ComputeLoss", f"hyp['{key}']", value)
        self.nl, self.na, self.nc = anchors.shape[0], anchors.shape[1], int(nc)
        self.gr, self.sort_obj_iou, self.autobalance = gr, sort_obj_iou, autobalance
        self.cp, self.cn = smooth_BCE(self.hyp["label_smoothing"])
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("balance", torch.tensor(_balance(balance, self.nl), device=device), persistent=autobalance)
        self.ssi = _reference_grid(stride, self.nl) if autobalance else 0
        # elementwise: the means here are over the rows that count
        self.BCEcls = _criterion(self.hyp["cls_pw"], self.hyp["fl_gamma"], device)
        self.BCEobj = _criterion(self.hyp["obj_pw"], self.hyp["fl_gamma"], device)

    def extra_repr(self) -> str:
        return f"nl={self.nl}, na={self.na}, nc={self.nc}, autobalance={self.autobalance}, hyp={self.hyp}"

    def forward(self, p: Sequence[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            p: nl tensors (B, na, H, W, 5 + nc) of raw outputs: x, y, w, h, objectness, classes. Half precision is
                computed in float32.
            targets: (T, 6) image, class, x, y, w, h; centre and size as fractions of the grid.
        Returns:
            (lbox + lobj + lcls) * B, shape (1,); and lbox, lobj, lcls, detached, shape (3,).
        Raises:
            InputError: shapes or devices that do not fit; an image or a class that does not exist (looked for on the
                CPU only).
        """
        self._check(p, targets)
        p = at_least_float32(*p)
        targets = targets.to(p[0].dtype)
        lbox, lobj, lcls = [], [], []
        for i, raw in enumerate(p):
            box, objectness, category = self._one_grid(raw, targets, self.anchors[i].to(raw.dtype))
            lbox.append(box)
            lobj.append(objectness)
            lcls.append(category)
        objectness = torch.stack(lobj)  # (nl,)
        balanced = (objectness * self.balance.to(objectness)).sum()
        box, category = sum(lbox[1:], lbox[0]), sum(lcls[1:], lcls[0])
        parts = torch.stack([self.hyp["box"] * box, self.hyp["obj"] * balanced, self.hyp["cls"] * category])
        if self.autobalance and self.training:
            with torch.no_grad():
                balance = self.balance * 0.9999 + 0.0001 / objectness.detach().clamp(min=1e-6).to(self.balance)
                self.balance = balance / balance[self.ssi]
        return parts.sum().view(1) * p[0].shape[0], parts.detach()

    def _one_grid(
        self, raw: torch.Tensor, targets: torch.Tensor, anchors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Box, objectness and class loss of one grid, without gains: three scalars."""
        images, _, height, width, _ = raw.shape
        rows = grid_candidates(targets, anchors, height, width, self.hyp["anchor_t"])
        count = rows.used.sum().clamp(min=1)
        chosen = raw[rows.image, rows.anchor, rows.row, rows.column]  # (R, 5 + nc)
        sigmoid = chosen[:, :4].sigmoid()
        boxes = torch.cat([2 * sigmoid[:, :2] - 0.5, (2 * sigmoid[:, 2:]) ** 2 * anchors[rows.anchor]], dim=1)
        iou = bbox_iou(boxes, rows.box, CIoU=True).squeeze(1)  # (R,)
        box_loss = torch.where(rows.used, 1 - iou, 0.0).sum() / count

        quality = 1 - self.gr + self.gr * iou.detach().clamp(min=0)
        order = torch.arange(len(quality), device=raw.device)
        if self.sort_obj_iou:
            order = quality.argsort(stable=True).argsort()
        cell = ((rows.image * self.na + rows.anchor) * height + rows.row) * width + rows.column
        last = torch.full((images * self.na * height * width,), -1, device=raw.device)
        # of the rows of a cell, the last in order; -1 for none
        last = last.scatter_reduce(0, cell, torch.where(rows.used, order, -1), "amax")
        by_order = quality if not self.sort_obj_iou else quality.sort(stable=True).values
        quality_targets = torch.cat([by_order, by_order.new_zeros(1)])[last].view(raw.shape[:4])
        object_loss = self.BCEobj(raw[..., 4], quality_targets).mean()

        class_loss = raw.new_zeros(())
        if self.nc > 1:
            smoothed = torch.full_like(chosen[:, 5:], self.cn).scatter(1, rows.category[:, None], self.cp)
            class_loss = torch.where(rows.used[:, None], self.BCEcls(chosen[:, 5:], smoothed), 0.0).sum() / (
                count * self.nc
            )
        return box_loss, object_loss, class_loss

    def build_targets(
        self, p: Sequence[torch.Tensor], targets: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple[torch.Tensor, ...]], list[torch.Tensor]]:
        """What is assigned where; arguments and errors of ``forward``.

        Returns:
            Four lists with one entry per grid, n its number of assigned rows: classes (n,) int64; boxes (n, 4), x and y
            relative to the cell, w and h, in cells; (image, anchor, row, column), each (n,) int64; sizes of the anchors
            (n, 2) in cells.
        """
        self._check(p, targets)
        (targets,) = at_least_float32(targets)
        layers = []
        for raw, anchors in zip(p, self.anchors.to(targets.dtype)):
            layers.append(
                build_layer_targets(
                    grid_candidates(targets, anchors, raw.shape[2], raw.shape[3], self.hyp["anchor_t"]), anchors
                )
            )
        tcls, tbox, indices, anch = (list(column) for column in zip(*layers))
        return tcls, tbox, indices, anch

    def _check(self, p: Sequence[torch.Tensor], targets: torch.Tensor) -> None:
        shape = f"(B, {self.na}, H, W, {5 + self.nc})"
        if len(p) != self.nl or any(
            raw.dim() != 5 or raw.shape[1] != self.na or raw.shape[4] != 5 + self.nc for raw in p
        ):
            raise InputError(
                f"ComputeLoss: p must be {self.nl} tensors of shape {shape}, not {[tuple(raw.shape) for raw in p]}."
            )
        if len({raw.shape[0] for raw in p}) > 1:
            raise InputError(f"ComputeLoss: the grids of p have different batch sizes, {[raw.shape[0] for raw in p]}.")
        if targets.dim() != 2 or targets.shape[1] != 6:
            raise InputError(
                f"ComputeLoss: targets must have shape (T, 6): image, class, x, y, w, h as fractions of the grid, not "
                f"{tuple(targets.shape)}."
            )
        if any(tensor.device != self.anchors.device for tensor in (*p, targets)):
            raise InputError(
                f"ComputeLoss: p is on {p[0].device} and targets on {targets.device}, but the loss is on "
                f"{self.anchors.device}: "
                f"move it with .to(device)."
            )
        require_values_between("ComputeLoss", "column 0 (image) of targets", targets[:, 0], 0, p[0].shape[0] - 1)
        require_values_between("ComputeLoss", "column 1 (class) of targets", targets[:, 1], 0, self.nc - 1)


def _read_model(model: Any) -> tuple[Mapping[str, float], Any, torch.device | None]:
    """Hyperparameters, head and device of a model as YOLOv5 builds them."""
    model = model.module if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model
    head = model.model[-1] if hasattr(model, "model") else model
    missing = [name for owner, name in ((model, "hyp"), (head, "anchors"), (head, "nc")) if not hasattr(owner, name)]
    if missing:
        raise InputError(
            f"ComputeLoss: the model has no {', '.join(missing)}: model.hyp, and anchors and nc of model.model[-1] "
            "(or of the model) "
            f"are needed."
        )
    parameter = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    return model.hyp, head, None if parameter is None else parameter.device


def _criterion(pos_weight: float, gamma: float, device: torch.device | None) -> nn.Module:
    """Elementwise cross entropy of logits, focal where gamma is above 0; nothing of it is part of a state dict."""
    criterion = nn.BCEWithLogitsLoss(reduction="none")
    criterion.register_buffer("pos_weight", torch.tensor([float(pos_weight)], device=device), persistent=False)
    return FocalLoss(criterion, gamma) if gamma > 0 else criterion


def _balance(balance: Sequence[float] | None, grids: int) -> list[float]:
    chosen = list(_BALANCE.get(grids, _BALANCE_OF_OTHERS)[:grids] if balance is None else balance)
    if len(chosen) != grids:
        raise InputError(
            f"ComputeLoss: balance has {len(chosen)} numbers, but there are {grids} grids: one for each is needed."
        )
    return [float(value) for value in chosen]


def _reference_grid(stride: Sequence[float] | torch.Tensor | None, grids: int) -> int:
    """Index of the grid whose balance stays 1: that of stride 16, else the middle one."""
    strides = [] if stride is None else [float(value) for value in stride]
    if strides and len(strides) != grids:
        raise InputError(
            f"ComputeLoss: stride has {len(strides)} numbers, but there are {grids} grids: one for each is needed."
        )
    return strides.index(16.0) if 16.0 in strides else grids // 2
