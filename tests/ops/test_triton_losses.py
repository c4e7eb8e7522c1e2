"""The Triton kernels of the losses on a machine without a GPU: run in Triton's interpreter, and compiled to machine
code for two of NVIDIA's.

Triton decides when it is imported whether it compiles or interprets, so the interpreted tests have a process of their
own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="this process interprets Triton already")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests, at_least",
    [
        ("tests/ops/focal_loss/interpreted_focal_loss.py", 100),
        ("tests/ops/anchor_box_loss/test_anchor_box_loss.py", 25),
        ("tests/models/interpreted_head_loss.py", 12),
    ],
)
def test_in_the_interpreter(tests, at_least):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PCDET_FOCAL_BACKEND": "cuda", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) >= at_least


def machine_code(kernel, arch, num_warps=4, **arguments):
    """The cubin of a kernel for ``arch`` (80: A100, 90: H100); arguments are a type such as '*fp32' or 'i32', or a
    value that is compiled in.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("this way to compile without a device needs Triton 3.3")
    from triton.compiler import ASTSource

    if isinstance(kernel, triton.runtime.Autotuner):
        kernel = kernel.fn
    types = {
        name: str(a) if str(a).lstrip("*") in ("fp64", "fp32", "fp16", "bf16", "i64", "i32") else "constexpr"
        for name, a in arguments.items()
    }
    fixed = {name: a for name, a in arguments.items() if types[name] == "constexpr"}
    source = ASTSource(fn=kernel, signature={name: types[name] for name in kernel.arg_names}, constexprs=fixed)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": num_warps}).asm["cubin"]


LOGITS = ["*fp32", "*fp16", "*bf16"]
ARCHS = pytest.mark.parametrize("arch", [80, 90])


@ARCHS
@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("kind", ["focal", "quality_focal", "varifocal"])
def test_losses_from_labels_compile(kind, logits, arch):
    from pcdet_focal.ops.focal_loss import cuda

    numbers = {"alpha_pos": "fp32", "alpha": "fp32", "gamma": "fp32", "scale": "fp32", "num_anchors": "i32"}
    quality = None if kind == "focal" else "*fp32"
    fixed = {"KIND": kind, "IOU_WEIGHTED": True, "TILE": 4096, "COUNT_TILES": 32, "SIZE_CLASS": 10, **numbers}
    config = cuda._CONFIGS[LOGITS.index(logits) + 1].all_kwargs()
    block = {"BLOCK": config["BLOCK"], "num_warps": config["num_warps"]}
    one_pass = {
        "counts": "*i32",
        "incoming": None,
        "sums": "*fp64",
        "grad": logits,
        "GAMMA_2": True,
        "C": 3,
        "per_class": None,
    }
    gradient = {
        "counts": None,
        "incoming": "*fp32",
        "sums": None,
        "grad": logits,
        "GAMMA_2": False,
        "C": 10,
        "per_class": "*fp32" if kind == "focal" else None,
    }
    for labels, arguments in (("*i32", one_pass), ("*i64", gradient))[: 2 if arch == 90 else 1]:
        assert (
            len(
                machine_code(
                    cuda._from_labels,
                    arch,
                    logits=logits,
                    labels=labels,
                    quality=quality,
                    **arguments,
                    **fixed,
                    **block,
                )
            )
            > 1000
        )


@ARCHS
@pytest.mark.parametrize("logits", LOGITS)
def test_the_elementwise_loss_compiles(logits, arch):
    from pcdet_focal.ops.focal_loss import cuda

    numbers = {"entries": "i32", "target_stride": "i32", "alpha_pos": "fp32", "alpha_neg": "fp32", "gamma": "fp32"}
    fixed = {"C": 3, "SIZE_CLASS": 10, "BLOCK": 1024, "ONE_INCOMING": False, **numbers}
    forward = {"weights": "*fp32", "incoming": None, "out": "*fp32", "GAMMA_2": True, "WEIGHTS_PER_ROW": 1}
    backward = {"weights": None, "incoming": "*fp32", "out": logits, "GAMMA_2": False, "WEIGHTS_PER_ROW": 3}
    for arguments in (forward, backward):
        assert len(machine_code(cuda._elementwise, arch, logits=logits, targets=logits, **arguments, **fixed)) > 1000


@ARCHS
def test_the_small_kernels_compile(arch):
    from pcdet_focal.ops.focal_loss import cuda

    for labels in ("*i32", "*i64"):
        assert machine_code(cuda._count_positives, arch, labels=labels, counts="*i32", num_anchors="i32", BLOCK=1024)
    assert machine_code(cuda._total, arch, sums="*fp64", loss="*fp32", count="i32", PADDED=2048, BLOCK=1024)
    assert machine_code(cuda._scale, arch, values="*fp32", factor="*fp32", count="i32", BLOCK=2048)


@ARCHS
@pytest.mark.parametrize("preds", LOGITS)
def test_the_box_and_direction_loss_compiles(preds, arch):
    from pcdet_focal.ops.anchor_box_loss import cuda

    tensors = {"box_preds": preds, "box_targets": "*fp32", "labels": "*i32", "code_weights": "*fp32"}
    numbers = {
        "num_anchors": "i32",
        "batch_size": "i32",
        "beta": "fp32",
        "dir_offset": "fp32",
        "TILE": cuda._TILE,
        "BLOCK": cuda._BLOCK,
    }
    forward = {
        "grad_box": None,
        "grad_dir": None,
        "sums": "*fp64",
        "counts": "*i32",
        "box_grad": None,
        "dir_grad": None,
        "D": 7,
        "L1": False,
    }
    backward = {
        "grad_box": "*fp32",
        "grad_dir": "*fp32",
        "sums": None,
        "counts": None,
        "box_grad": preds,
        "dir_grad": preds,
        "D": 9,
        "L1": True,
    }
    direction = {"dir_logits": preds, "anchor_headings": "*fp32", "K": 2}
    nothing = {"dir_logits": None, "anchor_headings": None, "K": 0}
    for arguments in ({**forward, **direction}, {**backward, **(nothing if preds == "*fp16" else direction)}):
        assert len(machine_code(cuda._tiles, arch, **tensors, **arguments, **numbers)) > 1000
