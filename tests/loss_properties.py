"""What every loss must do, whatever its formula; each test file of a loss applies these to its own cases.

A case is (make, prediction, others): ``make()`` gives a fresh function or module, which is called as
``make()(prediction, *others)``; tensors are
float64. The recorded calls of other libraries are replayed in ``losses/test_loss_zoo_recorded.py``.
"""

import warnings

import torch


def _floats(others, change):
    def changed(tensor):
        if isinstance(tensor, tuple):
            return tuple(map(changed, tensor))
        return change(tensor) if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() else tensor

    return [changed(tensor) for tensor in others]


def _each(others, change):
    def changed(tensor):
        if isinstance(tensor, tuple):
            return tuple(map(changed, tensor))
        return change(tensor) if isinstance(tensor, torch.Tensor) else tensor

    return [changed(tensor) for tensor in others]


def _flat(others):
    return [
        t
        for tensor in others
        for t in (_flat(tensor) if isinstance(tensor, tuple) else [tensor])
        if isinstance(t, torch.Tensor)
    ]


def total(result):
    """The sum of everything that a loss returned."""
    parts = result.values() if isinstance(result, dict) else [result]
    return sum(part.sum() for part in parts)


def in_float64_the_gradient_is_that_of_finite_differences(make, prediction, others):
    assert total(make()(prediction, *others)).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: total(make()(x, *others)), prediction.clone().requires_grad_())


def inputs_stay_and_a_second_backward_gives_the_same(make, prediction, others):
    prediction = prediction.clone().requires_grad_()
    tensors = [prediction, *_flat(others)]
    before = [tensor.detach().clone() for tensor in tensors]
    loss = total(make()(prediction, *others))
    (first,) = torch.autograd.grad(loss, prediction, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, prediction)
    assert all(torch.equal(tensor.detach(), copy) for tensor, copy in zip(tensors, before))
    assert torch.equal(second, kept) and kept.abs().sum() > 0


def strided_inputs_give_the_same(make, prediction, others):
    def strided(tensor):
        spread = torch.empty(*tensor.shape, 2, dtype=tensor.dtype)
        spread[..., 0] = tensor
        return spread[..., 0]

    assert prediction.dim() and not strided(prediction).is_contiguous()
    torch.testing.assert_close(
        total(make()(strided(prediction), *_each(others, strided))),
        total(make()(prediction, *others)),
        rtol=1e-12,
        atol=0,
    )


def half_precision_is_computed_in_float32(make, prediction, others):
    for dtype in (torch.float16, torch.bfloat16):
        rounded = prediction.to(dtype).requires_grad_()
        others_rounded = _floats(others, lambda tensor: tensor.to(dtype))
        loss = total(make()(rounded, *others_rounded))
        assert loss.dtype == torch.float32
        same = total(make()(rounded.detach().float(), *_floats(others_rounded, lambda tensor: tensor.float())))
        torch.testing.assert_close(loss.detach(), same, rtol=1e-6, atol=1e-7)
        loss.backward()
        assert rounded.grad.dtype == dtype and torch.isfinite(rounded.grad).all()


def extremes_are_finite(make, prediction, others, size=1e4):
    for dtype in (torch.float32, torch.float64):
        for sign in (1, -1):
            x = (sign * size * prediction.sign()).to(dtype).requires_grad_()
            loss = total(make()(x, *_floats(others, lambda tensor: tensor.to(dtype))))
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


def nothing_costs_nothing(make, prediction, others):
    """No rows: 0, attached to the graph."""
    x = prediction[:0].clone().requires_grad_()
    loss = total(make()(x, *_each(others, lambda tensor: tensor[:0])))
    loss.backward()
    assert loss.item() == 0 and x.grad.shape == x.shape


def compiles_to_one_graph(make, prediction, others):
    torch._dynamo.reset()
    eager, traced = make(), make()
    # with the compiler's own backward graph, without generated code
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    x, y = (prediction.clone().requires_grad_() for _ in range(2))
    for _ in range(2):  # a second time: with the counts of the first
        loss, same = total(compiled(x, *others)), total(eager(y, *others))
        torch.testing.assert_close(loss, same, rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(same, y))
    if isinstance(eager, torch.nn.Module):
        for name, buffer in eager.named_buffers():
            torch.testing.assert_close(traced.get_buffer(name), buffer)


def can_be_traced(make, prediction, others):
    loss, eager = make(), make()
    tensors = [prediction, *_flat(others)]

    def function(prediction, *flat):
        flat = iter(flat)
        return total(loss(prediction, *_each(others, lambda _: next(flat))))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.trace(function, tuple(tensors), check_trace=False)
    eager(prediction, *others)  # as tracing does: counts have one step
    x, y = (prediction.clone().requires_grad_() for _ in range(2))
    value, same = graph(x, *tensors[1:]), total(eager(y, *others))
    torch.testing.assert_close(value, same, rtol=1e-7, atol=0)  # a graph keeps some constants in float32
    torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(same, y))


def state_is_saved_and_restored(make, prediction, others, names):
    """The buffers are in the state dict, a fresh module continues where the first stopped, and eval mode leaves them
    alone.
    """
    first, second = make(), make()
    fresh = {name: buffer.clone() for name, buffer in first.named_buffers()}
    first(prediction, *others)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    assert set(names) <= set(state) and all(not torch.equal(state[name], fresh[name]) for name in names)
    second.load_state_dict(state)
    torch.testing.assert_close(total(second(prediction, *others)), total(first(prediction, *others)), rtol=0, atol=0)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    second.eval()(prediction, *others)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


ALL = [
    in_float64_the_gradient_is_that_of_finite_differences,
    inputs_stay_and_a_second_backward_gives_the_same,
    strided_inputs_give_the_same,
    half_precision_is_computed_in_float32,
    extremes_are_finite,
    nothing_costs_nothing,
    compiles_to_one_graph,
    can_be_traced,
]
