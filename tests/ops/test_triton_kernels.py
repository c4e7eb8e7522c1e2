"""The Triton kernels of the rooms of ``pcdet_focal.ops``: right in the interpreter, and compiled for GPUs that are not
here.
"""

import importlib
import re
from pathlib import Path

import pytest
from ops_triton import INTERPRETED, ROOT, run_in_interpreter

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(INTERPRETED, reason="this process interprets Triton already")

# room: the cases of its tests that take few programs; the interpreter needs about 20 ms for each
ROOMS = {
    "rotated_iou": "closed_forms or large_coordinates or tiny or (not_finite and nan) or further_columns or symmetric "
    "or pairs or every_backend",
    "nms": "n65 or groups_by_hand or survivors or equal or touching or only or post_maxsize or each-65 or "
    "axis_aligned or empty",
    "points_in_boxes": "faces or heading or first_box or not_a_number or empty or batch or moves",
    "anchor_targets": "worked or tiles or borders or of_equal or tiny or identical_gts",
    "anchor_search": "by_hand or no_grid or not_finite or blocks",
}


@pytest.mark.slow
def test_in_the_interpreter():
    """One process for all rooms: half of its time is its start."""
    cases = " or ".join(f"({room} and ({names}))" for room, names in ROOMS.items())
    passed = run_in_interpreter([f"tests/ops/{room}" for room in ROOMS], f"cuda and ({cases})")
    assert {room for room in ROOMS if passed.get(room, 0) >= 4} == set(ROOMS), passed


def pointers(**kinds):
    """{"fp64": "a b"} -> {"a": "*fp64", "b": "*fp64"}"""
    return {name: f"*{kind}" for kind, names in kinds.items() for name in names.split()}


def integers(names):
    return dict.fromkeys(names.split(), "i32")


GRID = pointers(fp32="low_x high_x low_y high_y rectangles", i64="table", i32="classes")
KERNELS = {  # room.kernel: types of its arguments, constants
    "rotated_iou._fill_matrix": (pointers(fp64="a b", fp32="out") | integers("n m"), dict(WHAT=1, TILE_A=8, TILE_B=32)),
    "rotated_iou._fill_aligned": (pointers(fp64="a b out") | integers("n"), dict(WHAT=2, BLOCK=128)),
    "rotated_iou._fill_overlap_and_derivative": (
        pointers(fp64="pairs area derivative") | integers("n"),
        dict(BLOCK=128),
    ),
    "nms._compare": (
        pointers(fp64="boxes thresh_of_tile", i32="end_of_tile", i64="suppresses") | integers("slots words"),
        dict(ROWS=4),
    ),
    "nms._settle": (
        pointers(i64="suppresses first_tile size post", i8="stays") | integers("words"),
        dict(WORDS=64, ROWS=32),
    ),
    **{
        f"points_in_boxes.{kernel}": (
            pointers(fp32="points position", fp64="half", i32="out") | integers("count num_boxes width"),
            dict(POINTS=256),
        )
        for kernel in ("_fill_mask", "_fill_index", "_fill_count")
    },
    "anchor_targets._find_best": (GRID | pointers(fp32="best"), dict(WIDEST=256, HIGHEST=256, CELLS=128)),
    "anchor_targets._label": (
        GRID | pointers(fp32="thresholds best_of_box", i32="labels owners") | integers("max_boxes total"),
        dict(MOST=32, ROWS=8, COLUMNS=32),
    ),
    "anchor_search._find_nearest": (
        pointers(fp64="anchors boxes", i8="selected", i64="nearest") | integers("count max_boxes topk"),
        dict(BLOCK=1024),
    ),
    "anchor_search._find_most_overlapping": (
        pointers(fp64="anchors boxes", i8="selected", i64="best") | integers("count max_boxes"),
        dict(WHAT=2, BLOCK=256),
    ),
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles(name, capability):
    """To machine code, and without fused multiply-adds: they would give other last digits than the CPU (sine and cosine
    have their own).
    """
    import triton
    from triton.backends.compiler import GPUTarget

    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip("this way to compile without a device needs Triton 3.3")
    from triton.compiler import ASTSource

    room, kernel = name.split(".")
    types, constants = KERNELS[name]
    function = getattr(importlib.import_module(f"pcdet_focal.ops.{room}.cuda"), kernel)
    source = ASTSource(function, signature=types | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False})
    assert len(compiled.asm["cubin"]) > 1000 and f".target sm_{capability}" in compiled.asm["ptx"]
    assert "derivative" in kernel or not re.search(r"\bfma\.", compiled.asm["ptx"])


@pytest.mark.parametrize("room", ROOMS)
def test_every_kernel_is_compiled_here_and_launched_without_fusion(room):
    text = Path(ROOT, "pcdet_focal", "ops", room, "cuda.py").read_text(encoding="utf-8")
    launches = re.findall(r"(?<![\w.])(?:_launch\(|)(_\w+)\[", text) + re.findall(r"_launch\((_\w+)", text)
    assert set(launches) == {name.split(".")[1] for name in KERNELS if name.startswith(f"{room}.")}
    of_integers = launches.count("_settle")
    assert text.count("enable_fp_fusion=False") == (1 if "_launch(" in text else len(launches) - of_integers)
