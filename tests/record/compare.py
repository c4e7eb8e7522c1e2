"""Whether two folders have the same records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = dict(rtol=1e-5, atol=2e-5)
MANIFEST = Path(__file__).resolve().parents[1] / "recorded/MANIFEST.md"


def compare_folders(made: Path, recorded: Path) -> int:
    """Prints a line for each file of both folders, and the differences; returns 1 where there is one.

    What a file of the manifest has and the new one lacks is a difference, too.
    """
    status = 0
    for path in sorted(made.iterdir()):
        other = recorded / path.name
        if not other.exists():
            print(f"{path.name}: not in {recorded}")
            continue
        tolerance, new, old = in_manifest(f"{other.parent.name}/{other.name}"), _content(path), _content(other)
        found = [] if tolerance is None else list(_missing(new, old))
        found += differences(new, old, tolerance=tolerance or TOLERANCE)
        print(f"{path.name}: {'same' if not found else 'different'}")
        for line in found[:10]:
            print(f"    {line}")
        status = status or int(bool(found))
    return status


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with np.load(path) as data:
        return {key: data[key] for key in data.files}


def in_manifest(file: str) -> dict[str, float] | None:
    """The tolerance in the file's row, None where there is no row or no number in it."""
    row = re.search(rf"^\| {re.escape(file)} \|.*$", MANIFEST.read_text(encoding="utf-8"), re.MULTILINE)
    cell = row[0].split(" | ")[3] if row else ""
    found = {name: float(number) for name, number in reversed(re.findall(r"([ra]tol) (\d[\d.]*(?:e-?\d+)?)", cell))}
    return {"rtol": 0, "atol": 0, **found} if found or "exact" in cell else None


def _missing(made: Any, recorded: Any, where: str = "") -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(made, dict):
        for key in recorded:
            if key not in made:
                yield f"{where}{key}: recorded, not made"
            else:
                yield from _missing(made[key], recorded[key], f"{where}{key}.")


def differences(made: Any, recorded: Any, where: str = "", tolerance: dict = TOLERANCE) -> Iterator[str]:
    """What differs, of the keys that both have."""
    if isinstance(made, dict) and isinstance(recorded, dict):
        for key in made:
            if key in recorded and not key.endswith(("__idx", "__val")):
                yield from differences(made[key], recorded[key], f"{where}.{key}", tolerance)
            elif key in recorded and key.endswith("__idx") and np.array_equal(made[key], recorded[key]):
                value = key.removesuffix("idx") + "val"
                yield from differences(made[value], recorded[value], f"{where}.{value}", tolerance)
    elif isinstance(made, list) and isinstance(recorded, list) and len(made) == len(recorded) and _nested(made):
        for index, (a, b) in enumerate(zip(made, recorded)):
            yield from differences(a, b, f"{where}[{index}]", tolerance)
    else:
        a, b = np.asarray(made), np.asarray(recorded)
        tolerance = dict(tolerance)
        if where.endswith(("__sum", "__abssum", ".sum", ".abssum")):
            tolerance["atol"] = 1e-3 * max(1.0, float(np.abs(b).max(initial=0)) * 1e-2)
        if where.endswith("_peer"):  # overlaps with OpenPCDet's margin of 1 cm, where compilers round to either side
            tolerance["atol"] = 2e-2
        same = a.shape == b.shape and (
            np.array_equal(a, b)
            if a.dtype.kind in "USb" or b.dtype.kind in "USb"
            else np.allclose(a, b, equal_nan=True, **tolerance)
        )
        if not same:
            yield f"{where.lstrip('.')}: {str(made)[:60]} here, {str(recorded)[:60]} recorded"


def _nested(values: list) -> bool:
    return any(isinstance(value, (dict, list)) for value in values)
