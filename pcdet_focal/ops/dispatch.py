"""Which kernels can work on the tensors of a differentiable operation; ``backend.py`` says what is wanted, this also
what is possible.
"""

from __future__ import annotations

import torch

from .backend import choose_backend

_TYPES = torch.Tensor, torch.nn.Parameter
_DTYPES = (
    torch.float32,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
)


def _wanted(device_type: str, operation: str) -> str:
    return choose_backend(device_type, operation, has_cuda=True)


# A compiler asks once and does not look inside. torch.compiler.assume_constant_result does just this, after importing
# the compiler: a second, and Triton.
_wanted._dynamo_marked_constant = True


def backend_of(operation: str, *tensors: torch.Tensor) -> str:
    """``"cpu"`` or ``"cuda"`` where kernels of that backend can work on these tensors, else ``"reference"``.

    Kernels want plain dense tensors on the CPU or a CUDA device, not empty, below 2^31 numbers and not float64;
    torch.func transforms and tracing look inside a function, where a kernel cannot be seen.
    """
    if torch._C._are_functorch_transforms_active() or torch.jit.is_tracing():
        return "reference"
    for t in tensors:
        if not (
            type(t) in _TYPES
            and t.dtype in _DTYPES
            and 0 < t.numel() < 2**31
            and t.layout == torch.strided
            and (t.is_cpu or t.is_cuda)
        ):
            return "reference"
    return _wanted("cpu" if tensors[0].is_cpu else "cuda", operation)
