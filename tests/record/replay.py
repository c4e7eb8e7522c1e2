"""Records that hold their own inputs: read the inputs of each case, call the peer, write inputs and results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden_data import cases_of  # noqa: E402


class Given(dict):
    """The recorded arrays of a case. Reading one by its name gives a tensor, or a number where it has no dimensions,
    and notes that it is an input; what is never read has to come out of the call.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__(arrays)
        self.inputs: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> Any:
        self.inputs[name] = array = super().__getitem__(name)
        return torch.from_numpy(array.copy()) if array.ndim else array.item()

    def some(self, *names: str) -> dict[str, Any]:
        """Those of the names that the case has."""
        return {name: self[name] for name in names if name in self}


def replay(folder: Path, out: Path, make: Callable[[str, str, Given], dict[str, Any]]) -> None:
    """Write each ``.npz`` of ``folder`` anew into ``out``: ``make`` gives the results of a file's case and its inputs.

    Where the peer raises, the case has its inputs only, and a line says so.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.npz")):
        arrays: dict[str, np.ndarray] = {}
        for case, recorded in cases_of(path).items():
            given, made = Given(recorded), {}
            try:
                made = make(path.stem, case, given)
            except Exception as error:
                print(f"{path.name} {case}: raises {type(error).__name__}: {str(error)[:100]}")
            made = {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in made.items()}
            arrays |= {f"{case}__{name}": np.asarray(value) for name, value in {**given.inputs, **made}.items()}
        np.savez_compressed(out / path.name, **arrays)


def with_gradient(function: Callable, first: torch.Tensor, *rest: Any) -> dict[str, torch.Tensor]:
    """The function's output, and the gradient of the output's sum with respect to the first argument."""
    output = function(first.requires_grad_(), *rest)
    made = {"output": output}
    if output.requires_grad:
        (made["grad"],) = torch.autograd.grad(output.sum(), first)
    return made
