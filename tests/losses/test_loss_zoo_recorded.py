"""Every recorded call of the losses of mmdetection, torchvision, fvcore, kornia, timm, segmentation-models-pytorch,
MONAI and torch, replayed.

``TWINS`` says which call of ours is which recorded call. Calls without a twin are counted by kind and held against
``NOT_COVERED``, so that what is covered can neither shrink nor grow unnoticed; ``pytest -rP
tests/losses/test_loss_zoo_recorded.py`` prints both. Results and gradients have the recorded tolerance. Where the
recorded call raised, ours raises InputError, but for ``DEFINED_HERE``; where it gave NaN, ours is finite, but for
``NAN_HERE``. ``DIFFERENT_HERE`` are the calls that are meant to differ.
"""

import collections
import json

import numpy as np
import pytest
import torch
from golden_data import RECORDED

from pcdet_focal.errors import InputError
from pcdet_focal.losses import binary_cross_entropy_with_logits, build_loss, sigmoid_focal_loss, weight_reduce_loss
from pcdet_focal.losses.asymmetric import AsymmetricLossMultiLabel, AsymmetricLossSingleLabel
from pcdet_focal.losses.bce import label_smoothing_cross_entropy
from pcdet_focal.losses.mmdet import focal_loss_from_probabilities
from pcdet_focal.losses.sigmoid_focal import focal_factor
from pcdet_focal.losses.softmax_focal import softmax_focal_loss

ZOO = RECORDED / "11_loss_zoo"
NO_LOSS_CALLS = ("ema_normalizer", "mmdet_dense_head_targets")
FILES = sorted(path.stem for path in ZOO.glob("*.npz") if path.stem not in NO_LOSS_CALLS)


class NotCovered(Exception):
    """There is no twin; the message is the kind of call."""


class Call:
    """One recorded call: its constructor's arguments, its call's arguments as tensors, and what came of it."""

    def __init__(self, arrays, record):
        self.arrays, self.record = arrays, record
        self.name = record["call"]
        self.tags = record.get("tags") or []
        self.ctor = {k: self.value(v) for k, v in record.get("ctor", {}).items()}
        self.args = {k: self.value(v) for k, v in {**record["args"], **record["kwargs"]}.items()}
        if record.get("grad"):
            self.args[record["wrt"]].requires_grad_()

    def value(self, v):
        if isinstance(v, dict) and "array" in v:
            return torch.from_numpy(self.arrays[v["array"]].copy())
        if isinstance(v, dict) and "tuple" in v:
            return tuple(self.value(x) for x in v["tuple"])
        if isinstance(v, dict) and "float" in v:
            return float(v["float"])
        return v


# ------------------------------------------------------------------------------------------ the table of twins
# Each function takes a Call and returns our result: a tensor, or a dictionary of them where the recorded call returned
# one.


def mmdet_class(call):
    """The same class by name, the same constructor, the same call; one object for all the calls of a sequence."""
    objects, sequence = call.objects, call.record.get("seq", call.record["case"])
    if sequence not in objects:
        objects[sequence] = build_loss({"type": "mmdet." + call.name.rsplit(".", 1)[1], **call.ctor})
        if "converted with .double()" in call.record.get("note", ""):
            objects[sequence].double()
    call.module = objects[sequence]
    return call.module(**call.args)


def mmdet_py_sigmoid_focal_loss(call):
    """FocalLoss: gamma, alpha and reduction are its constructor's."""
    a = call.args
    return build_loss({"type": "FocalLoss", "gamma": a["gamma"], "alpha": a["alpha"], "reduction": a["reduction"]})(
        a["pred"], a["target"], a["weight"], a["avg_factor"]
    )


def mmdet_weighted_loss(call):
    """weight_reduce_loss of the decorated function |pred - target|."""
    a = dict(call.args)
    return weight_reduce_loss((a.pop("pred") - a.pop("target")).abs(), **a)


def fvcore_sigmoid_focal_loss(call):
    """alpha -1 where absent; any negative alpha is no alpha."""
    a = call.args
    alpha = a.get("alpha", -1)
    if "bad_reduction" in call.tags:
        raise NotCovered("an unknown reduction returns the map; refused here")
    if alpha > 1:
        raise NotCovered("alpha above 1; refused here")
    return sigmoid_focal_loss(
        a["inputs"], a["targets"], None if alpha < 0 else alpha, a.get("gamma", 2.0), a["reduction"]
    )


def fvcore_sigmoid_focal_loss_star(call):
    """Cross entropy of the logits times gamma, divided by gamma, times alpha_t (the weighted focal loss with gamma
    0).
    """
    a = call.args
    alpha = None if a["alpha"] < 0 else a["alpha"]
    return sigmoid_focal_loss(a["gamma"] * a["inputs"], a["targets"], alpha, 0.0, a["reduction"]) / a["gamma"]


def kornia_binary_focal(call):
    """Sigmoid focal loss; a soft target mixes the losses of targets 1 and 0; weights per class; -100 is ignored but
    counted by the mean.
    """
    a = call.args
    x, t = a["pred"], a["target"]
    valid = t != a.get("ignore_index", -100)
    positive = sigmoid_focal_loss(x, torch.ones_like(x), a["alpha"], a["gamma"])
    negative = sigmoid_focal_loss(x, torch.zeros_like(x), a["alpha"], a["gamma"])
    loss = t * positive * (1 if a.get("pos_weight") is None else a["pos_weight"]) + (1 - t) * negative
    if bool(((t == 0) | (t == 1)).all()) and a.get("pos_weight") is None:
        loss = sigmoid_focal_loss(x, t, a["alpha"], a["gamma"])
    loss = torch.where(valid, loss, 0.0)
    return weight_reduce_loss(loss, a.get("weight"), a["reduction"])


def smp_one_vs_rest(call):
    """Sigmoid focal loss of one-hot targets: the mean over classes of each class's sum or mean over the pixels that are
    not ignored.
    """
    c = call.ctor
    x, y = call.args["y_pred"], call.args["y_true"]
    binary = c["mode"] == "binary"
    valid = y != c["ignore_index"] if "ignore_index" in c else torch.ones_like(y, dtype=torch.bool)
    if c["mode"] == "multiclass":
        targets = y.unsqueeze(1) == torch.arange(x.shape[1]).view(1, -1, 1, 1)
        valid = valid.unsqueeze(1).expand(x.shape)
    else:
        targets = y
    if c.get("from_logits") is False and not binary:
        # as there: the logarithm is taken for a logit
        x = x.log()
    per_class = [(x, targets, valid)] if binary else [(x[:, k], targets[:, k], valid[:, k]) for k in range(x.shape[1])]
    losses = []
    for x_k, t_k, v_k in per_class:
        x_k, t_k = x_k[v_k], t_k[v_k].float()
        gamma, threshold = c.get("gamma", 2.0), c.get("reduced_threshold")
        if c.get("from_logits") is False and binary:
            loss = focal_loss_from_probabilities(x_k, t_k, c.get("alpha"), gamma)
        else:
            loss = sigmoid_focal_loss(x_k, t_k, c.get("alpha"), gamma)
        factor = focal_factor(x_k, t_k, None, gamma)
        # cross entropy below the threshold of p_t, scaled focal loss above
        if threshold is not None:
            hard = focal_factor(x_k, t_k, None, 1.0) > 1 - threshold
            loss = torch.where(hard, sigmoid_focal_loss(x_k, t_k, c.get("alpha"), 0.0), loss / threshold**gamma)
            factor = torch.where(hard, 1.0, factor / threshold**gamma)
        if c.get("normalized"):
            loss = loss / factor.sum().clamp(min=1e-6)
        losses.append(loss if c["reduction"] == "none" else weight_reduce_loss(loss, None, c["reduction"]))
    if binary:
        return losses[0]
    weights = torch.tensor(c.get("class_weights") or [1.0] * len(losses))
    values = torch.stack(
        losses if "class_weights" in c else [loss.mean() if c["reduction"] == "none" else loss for loss in losses]
    )
    return weight_reduce_loss(values, weights, "sum") / weights.sum()


def monai_focal(call):
    """Sigmoid or softmax focal loss of one-hot targets, classes on axis 1. A list alpha weights positives only, a
    weight is one per class; 'sum' averages over space first (without space over everything), ignored pixels left
    out."""
    c = {"include_background": True, "gamma": 2.0, "alpha": None, **call.ctor}
    x, t = call.args["input"], call.args["target"]
    shape = (1, -1) + (1,) * (x.dim() - 2)
    valid = torch.ones_like(x, dtype=torch.bool)
    if c.get("to_onehot_y"):
        if "ignore_index" in c:
            valid = (t != c["ignore_index"]).expand(x.shape)
        t = (t == torch.arange(x.shape[1]).view(shape)).float()
    alpha = c["alpha"]
    if not c["include_background"]:
        x, t, valid = x[:, 1:], t[:, 1:], valid[:, 1:]
    if c["use_softmax"]:
        loss = softmax_focal_map(
            x, t, c["gamma"], alpha if c["include_background"] or isinstance(alpha, list) else None
        )
    elif isinstance(alpha, list):
        loss = sigmoid_focal_loss(x, t, None, c["gamma"]) * (t * torch.tensor(alpha).view(shape) + 1 - t)
    else:
        loss = sigmoid_focal_loss(x, t, alpha, c["gamma"])
    loss = torch.where(valid, loss, 0.0)
    if c.get("weight") is not None:
        loss = loss * torch.tensor(c["weight"]).view(shape)
    if "ignore_index" in c and c["reduction"] == "mean":
        return loss.sum() / valid[:, :1].sum()  # by pixels, not by elements
    if c["reduction"] == "sum":
        return (loss.flatten(2).sum(2) / valid.flatten(2).sum(2)).sum() if loss.dim() > 2 else loss.mean()
    return weight_reduce_loss(loss, None, c["reduction"])


def softmax_focal_map(x, t, gamma, alpha):
    """(N, C, ...) softmax focal loss of one-hot targets in the column of their class; a scalar alpha weights class 0 by
    1 - alpha.
    """
    if isinstance(alpha, float):
        alpha = [1 - alpha] + [alpha] * (x.shape[1] - 1)
    return t * softmax_focal_loss(x, t, alpha, gamma, "none").unsqueeze(1)


def kornia_focal(call):
    """Softmax focal loss in the column of the label; the mean is over N * C elements, ignored rows among them."""
    a = call.args
    x, labels = call.args["pred"], call.args["target"]
    ignored = -100 if a.get("ignore_index") is None else a["ignore_index"]
    alpha = None if a.get("alpha") is None else [1 - a["alpha"]] + [a["alpha"]] * (x.shape[1] - 1)
    rows = softmax_focal_loss(x, labels, alpha, a.get("gamma", 2.0), "none", ignored)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    loss = rows.unsqueeze(1) * (labels.unsqueeze(1) == torch.arange(x.shape[1]).view(shape))
    weight = a.get("weight")
    return weight_reduce_loss(loss, None if weight is None else weight.view(shape), a["reduction"])


def timm_multi_label(call):
    """The same arguments and call."""
    return AsymmetricLossMultiLabel(**call.ctor)(**call.args)


def timm_single_label(call):
    """The same arguments and call, but 'sum' is timm's 'none'."""
    reduction = call.ctor.get("reduction", "mean")
    return AsymmetricLossSingleLabel(**{**call.ctor, "reduction": "none" if reduction == "sum" else reduction})(
        **call.args
    )


def torch_binary_cross_entropy(call):
    """CrossEntropyLoss of sigmoids; class_weight is pos_weight."""
    a = call.args
    if a["pos_weight"] is None:
        return weight_reduce_loss(binary_cross_entropy_with_logits(a["input"], a["target"]), None, a["reduction"])
    loss = build_loss(
        {
            "type": "CrossEntropyLoss",
            "use_sigmoid": True,
            "class_weight": a["pos_weight"].tolist(),
            "reduction": a["reduction"],
        }
    )
    return loss.double()(a["input"], a["target"])


def torch_cross_entropy(call):
    """Softmax focal loss with gamma 0, the class weights as alpha; label smoothing or probabilities:
    label_smoothing_cross_entropy. torch's mean of labels divides by the class weights of the rows that are not
    ignored."""
    a = call.args
    x, target, weight, reduction = a["input"], a["target"], a.get("weight"), a["reduction"]
    ignored = a.get("ignore_index", -100)
    if not a.get("label_smoothing") and not target.is_floating_point():
        if weight is None:
            return softmax_focal_loss(x, target, None, 0.0, reduction, ignored)
        rows = softmax_focal_loss(x, target, weight, 0.0, "none", ignored)
    else:
        rows = label_smoothing_cross_entropy(x, target, a["label_smoothing"], weight, ignored)
    if reduction != "mean" or target.is_floating_point():
        return weight_reduce_loss(rows, None, reduction)
    valid = target != ignored
    return rows.sum() / (torch.ones(x.shape[1]).to(x) if weight is None else weight)[target[valid]].sum()


TWINS = {
    "mmdet.models.losses.focal_loss.py_sigmoid_focal_loss": mmdet_py_sigmoid_focal_loss,
    "mmdet.models.losses.utils.weight_reduce_loss": lambda call: weight_reduce_loss(**call.args),
    "mmdet.models.losses.utils.weighted_loss (decorated elementwise |pred-target|)": mmdet_weighted_loss,
    "torchvision.ops.sigmoid_focal_loss": lambda call: sigmoid_focal_loss(**call.args),
    "fvcore.nn.sigmoid_focal_loss": fvcore_sigmoid_focal_loss,
    "fvcore.nn.sigmoid_focal_loss_star": fvcore_sigmoid_focal_loss_star,
    "kornia.losses.binary_focal_loss_with_logits": kornia_binary_focal,
    "segmentation_models_pytorch.losses.FocalLoss": smp_one_vs_rest,
    "kornia.losses.focal_loss": kornia_focal,
    "monai.losses.FocalLoss": monai_focal,
    "timm.loss.AsymmetricLossMultiLabel": timm_multi_label,
    "timm.loss.asymmetric_loss.AsymmetricLossSingleLabel": timm_single_label,
    "torch.nn.functional.binary_cross_entropy_with_logits": torch_binary_cross_entropy,
    "torch.nn.functional.cross_entropy": torch_cross_entropy,
}
NOT_COVERED = {
    "fvcore_sigmoid_focal": {
        "fvcore.nn.sigmoid_focal_loss: alpha above 1; refused here": 1,
        "fvcore.nn.sigmoid_focal_loss: an unknown reduction returns the map; refused here": 1,
    },
}
DEFINED_HERE = {
    ("mmdet_gfl", "c068"): "a distance of exactly n: bin n + 1, which does not exist, would have the weight 0",
    ("mmdet_varifocal", "c039"): "a flat weight is one per row",
}
DIFFERENT_HERE = {
    (
        "mmdet_varifocal",
        "c040",
    ): "a flat weight is one per row also where N = C, where mmdetection takes it for one per class",
}
# the mean of nothing, as in torch
NAN_HERE = {("torchvision_sigmoid_focal", "c048"), ("fvcore_sigmoid_focal", "c048")}


def twin_of(call):
    if call.name in TWINS:
        return TWINS[call.name]
    if call.name.startswith("mmdet.models.losses.") and call.name.count(".") == 3:
        return mmdet_class
    raise NotCovered("all calls")


def differences(call):
    """What is wrong with our result, in words; empty where nothing is."""
    record, tolerance = call.record, call.record.get("tol", {})
    before = {k: v.detach().clone() for k, v in call.args.items() if isinstance(v, torch.Tensor)}
    try:
        ours = twin_of(call)(call)
    except InputError as error:
        return [] if "raises" in record else [f"raises InputError: {error}"]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        return [f"raises {type(error).__name__}: {error}"]
    if "raises" in record:
        if (call.file, record["case"]) in DEFINED_HERE:
            return (
                []
                if all(torch.isfinite(o).all() for o in (ours.values() if isinstance(ours, dict) else [ours]))
                else ["not finite"]
            )
        return [f"no error, but the recorded call raised {record['raises']}: {record['message'][:80]}"]
    wrong = [
        f"changed its argument {k}"
        for k, v in before.items()
        if not torch.equal(call.args[k].detach(), v) and not torch.isnan(v).any()
    ]
    ours = ours if isinstance(ours, dict) else {"out": ours}
    for name, key in record["out"].items():
        wrong += unequal(
            name,
            ours[name],
            call.arrays[key],
            call.arrays.get(record.get("out_mask")),
            tolerance["rtol"],
            tolerance["atol"],
            finite=(call.file, record["case"]) not in NAN_HERE,
        )
    if record.get("grad"):
        total = sum(o.sum() for o in ours.values())
        (gradient,) = torch.autograd.grad(total, call.args[record["wrt"]])
        wrong += unequal(
            "gradient",
            gradient,
            call.arrays[record["grad"]],
            call.arrays.get(record.get("grad_mask")),
            tolerance["rtol"],
            tolerance.get("atol_grad", tolerance["atol"]),
            finite=True,
        )
    for name, key in (record.get("state_after") or {}).items():
        wrong += unequal(f"buffer {name}", getattr(call.module, name), call.arrays[key], None, 1e-5, 1e-5, finite=True)
    if (call.file, record["case"]) in DIFFERENT_HERE:
        return [] if wrong else ["agrees: take it out of DIFFERENT_HERE"]
    return wrong


def unequal(name, ours, recorded, mask, rtol, atol, finite):
    ours, recorded = ours.detach().double().numpy(), recorded.astype(np.float64)
    if ours.shape != recorded.shape:
        return [f"{name} has the shape {ours.shape}, recorded {recorded.shape}"]
    if finite and not np.isfinite(ours).all():
        return [f"{name} is not finite"]
    compared = np.isfinite(recorded) & (True if mask is None else mask)
    excess = (np.abs(ours - recorded) - rtol * np.abs(recorded))[compared]
    return (
        [f"{name} is off by {excess.max():.2g}, allowed {atol:.2g}"] if excess.size and not excess.max() <= atol else []
    )


def replay(file):
    """({case: what differs}, {kind: number of calls without a twin}, number of calls) of one file."""
    with np.load(ZOO / f"{file}.npz", allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    wrong, missing, objects = {}, collections.Counter(), {}
    records = json.loads(arrays["index"].item())
    for record in records:
        call = Call(arrays, record)
        call.file, call.objects = file, objects
        try:
            found = differences(call)
        except NotCovered as kind:
            missing[f"{call.name}: {kind}"] += 1
            continue
        if found:
            wrong[f"{record['case']} {call.name.rsplit('.', 1)[-1]} {call.tags} {record.get('note', '')[:80]}"] = (
                "; ".join(found)
            )
    return wrong, missing, len(records)


@pytest.mark.parametrize("file", FILES)
def test_recorded_calls(file):
    wrong, missing, total = replay(file)
    print(f"{file}: {total} recorded calls, {total - sum(missing.values())} replayed, {len(wrong)} differ")
    for kind, count in missing.items():
        print(f"    not covered: {count} x {kind}")
    assert not wrong, f"{len(wrong)} of {total} differ:\n" + "\n".join(
        f"{case}: {what}" for case, what in wrong.items()
    )
    assert dict(missing) == NOT_COVERED.get(file, {})
