"""torch.compile(fullgraph=True) of an anchor head's loss, for every entry that LOSS_CONFIG can name: one graph, eager
mode's numbers and gradients.
"""

import copy
import itertools

import pytest
import torch
from head_cases import small_head, with_predictions

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7), reason="torch.compile of before 2.7 breaks these graphs"
)
CLS = [
    "SigmoidFocalClassificationLoss",
    {"NAME": "FocalLoss", "ALPHA": [0.2, 0.3, 0.4]},
    "QualityFocalLoss",
    {"NAME": "VarifocalLoss", "QUALITY_SPACE": "bev"},
    "GHMC",
    "BinaryCrossEntropyLoss",
    "BCEBlurWithLogitsLoss",
    "AsymmetricLoss",
    "EqualizedFocalLoss",
    "SoftmaxFocalLoss",
    "LabelSmoothingLoss",
    "CrossEntropyLoss",
    {"NAME": "CrossEntropyLoss", "USE_SIGMOID": True},
]
REG = [
    "WeightedSmoothL1Loss",
    "WeightedL1Loss",
    "SmoothL1Loss",
    "L1Loss",
    "MSELoss",
    "BalancedL1Loss",
    "GHMR",
    "CornerLoss",
    {"NAME": "RotatedIoULoss", "KIND": "iou", "SPACE": "bev"},
]
DIR = ["WeightedCrossEntropyLoss", "CrossEntropyLoss", "SoftmaxFocalLoss", "LabelSmoothingLoss"]
TOGETHER = [
    {"CLS_LOSS": cls, "REG_LOSS": reg, "DIR_LOSS": direction}
    for cls, reg, direction in zip(CLS, itertools.cycle(REG), itertools.cycle(DIR))
]


@pytest.mark.parametrize("config", [{}, *({"NORMALIZER": name} for name in ("batch", "ema")), *TOGETHER], ids=str)
def test_one_graph(config):
    torch._dynamo.reset()
    heads, losses, gradients = [small_head(**config)], [], []
    heads.append(copy.deepcopy(heads[0]))
    for head, backend in zip(heads, (None, "aot_eager")):
        predictions = with_predictions(head)
        run = head.get_loss if backend is None else torch.compile(head.get_loss, fullgraph=True, backend=backend)
        loss, logged = run()
        losses.append({**logged, "loss": loss.detach()})
        gradients.append(torch.autograd.grad(loss, list(predictions.values())))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-7)
    for got, expected in zip(gradients[1], gradients[0]):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-8)
    for (name, eager), traced in zip(heads[0].named_buffers(), heads[1].buffers()):
        torch.testing.assert_close(traced, eager, msg=name)  # running counts moved alike


def test_the_default_heads_graph_holds_its_two_kernels():
    head, nodes = small_head(), []
    with_predictions(head)

    def backend(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes if "pcdet_focal." in str(node.target))
        return graph.forward

    torch.compile(head.get_loss, fullgraph=True, backend=backend)()
    assert nodes == ["pcdet_focal.focal_loss_from_labels.default", "pcdet_focal.box_and_direction_sums.default"]
