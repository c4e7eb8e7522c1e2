"""Single recorded calls of other loss libraries (``11_loss_zoo``); ``losses/test_loss_zoo_recorded.py`` replays them
all.
"""

import json
from functools import cache

import numpy as np
import torch
from golden_data import record


@cache
def zoo(name):
    """(list of records, {array name: array}) of one file; ([], {}) where it is absent."""
    path = record(f"11_loss_zoo/{name}.npz")
    if not path.exists():
        return [], {}
    with np.load(path, allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    return json.loads(arrays["index"].item()), arrays


def value(entry, arrays):
    """A recorded argument: a number, a string, None, a tensor, or a tuple of these."""
    if isinstance(entry, dict) and "array" in entry:
        return torch.from_numpy(np.array(arrays[entry["array"]]))
    if isinstance(entry, dict) and "tuple" in entry:
        return tuple(value(part, arrays) for part in entry["tuple"])
    if isinstance(entry, dict) and "float" in entry:
        return float(entry["float"])
    return entry


def values(entries, arrays):
    return {name: value(entry, arrays) for name, entry in (entries or {}).items()}


def numbers(tensor):
    return tensor.detach().double().numpy()


def assert_close(got, expected, record, what, atol):
    """Within the recorded tolerance; elements that were not finite there must be finite here."""
    expected, got = np.asarray(expected, np.float64), numbers(got)
    assert got.shape == expected.shape, f"{record['case']} {what}: shape {got.shape}, recorded {expected.shape}"
    assert np.isfinite(got).all(), f"{record['case']} {what} is not finite"
    finite = np.isfinite(expected)
    np.testing.assert_allclose(
        got[finite], expected[finite], rtol=record["tol"]["rtol"], atol=atol, err_msg=f"{record['case']} {what}"
    )


def assert_matches(result, leaf, record, arrays, module=None):
    """Outputs (a tensor, or a dict of them), the gradient of their sum, and the buffers of ``module``."""
    results = result if isinstance(result, dict) else {"out": result}
    assert set(results) == set(record["out"])
    for name, key in record["out"].items():
        assert_close(results[name], arrays[key], record, name, record["tol"]["atol"])
    if record.get("grad"):
        (gradient,) = torch.autograd.grad(sum(part.sum() for part in results.values()), leaf)
        assert_close(gradient, arrays[record["grad"]], record, "gradient", record["tol"]["atol_grad"])
    for name, key in (record.get("state_after") or {}).items():
        np.testing.assert_allclose(
            numbers(getattr(module, name)), arrays[key], rtol=1e-5, atol=1e-5, err_msg=f"{record['case']} {name}"
        )
