"""Scans in the Point Cloud Library's format .pcd, version 0.7: ascii, binary and binary_compressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np

from ..errors import InputError, nearest_or_all
from ..files import read_bytes

_TYPES = {"F": "f", "I": "i", "U": "u"}


def read_pcd(path: Path, feature_names: Sequence[str], where: str = "") -> np.ndarray:
    """The fields ``feature_names`` of a .pcd file as float32 (N, len(feature_names)); N may be 0.

    ``where`` opens every message. Raises InputError for a file that is cut off or no .pcd, and for a feature that is
    not among its fields.
    """
    data = read_bytes(path, "scan")
    header, body = _header(path, data, where)
    table = _table(header, path, where)
    count = _number(header, "POINTS", path, where)
    rows = np.empty(0, table)
    form = header["DATA"][0].lower()
    if form == "ascii":
        return _ascii(data[body:], table, count, feature_names, path, where)
    if form == "binary_compressed" and count:
        sizes = np.frombuffer(data[body : body + 8].ljust(8, b"\0"), "<u4")
        raw = _decompress(np.frombuffer(data, np.uint8, offset=body)[8 : 8 + sizes[0]], int(sizes[1]))
        _require(len(raw) == count * table.itemsize, path, where, f"{count} compressed points")
        rows, first = np.empty(count, table), 0
        for name in table.names or ():  # field after field, not point after point
            size = table[name].itemsize * count
            rows[name] = raw[first : first + size].view(table[name].base).reshape(count, *table[name].shape)
            first += size
    elif form == "binary":
        _require(len(data) - body >= count * table.itemsize, path, where, f"{count} points of {table.itemsize} bytes")
        rows = np.frombuffer(data, table, count, offset=body)
    elif form != "binary_compressed":
        raise InputError(f"{where}{path}: DATA is {form}; it can be ascii, binary or binary_compressed")
    columns = [rows[name][:, 0] for name in _fields(feature_names, table.names, path, where)]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.empty((len(rows), 0), np.float32)


def _header(path: Path, data: bytes, where: str) -> tuple[dict[str, list[str]], int]:
    """{word: what follows it}, and the offset of the first byte after the line DATA."""
    header: dict[str, list[str]] = {}
    first = 0
    while "DATA" not in header:
        end = data.find(b"\n", first)
        _require(end >= 0 and end - first < 65536, path, where, "a head that ends in a line DATA")
        words = data[first:end].decode("ascii", errors="replace").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        first = end + 1
    for word in ("FIELDS", "SIZE", "TYPE", "POINTS", "DATA"):
        _require(bool(header.get(word)), path, where, f"a line {word} in its head")
    return header, first


def _table(header: dict[str, list[str]], path: Path, where: str) -> np.dtype:
    fields, sizes, kinds = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(fields))
    _require(len(fields) == len(sizes) == len(kinds) == len(counts), path, where, "one SIZE, TYPE and COUNT a field")
    try:
        # padding fields are all called "_"; numpy wants names once
        names = [f"_{index}" if name == "_" else name for index, name in enumerate(fields)]
        return np.dtype(
            [
                (name, f"<{_TYPES[kind]}{int(size)}", (int(count),))
                for name, kind, size, count in zip(names, kinds, sizes, counts)
            ]
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{where}{path}: FIELDS, SIZE, TYPE or COUNT of its head are not those of a .pcd") from error


def _ascii(
    body: bytes, table: np.dtype, count: int, feature_names: Sequence[str], path: Path, where: str
) -> np.ndarray:
    widths = [int(np.prod(table[name].shape)) for name in table.names or ()]
    words = body.split()
    _require(len(words) >= count * sum(widths), path, where, f"{count} points of {sum(widths)} numbers")
    firsts = dict(zip(table.names or (), np.cumsum([0, *widths])))
    columns = [firsts[name] for name in _fields(feature_names, table.names, path, where)]
    try:
        numbers = np.array(words[: count * sum(widths)], dtype=np.float64).reshape(count, sum(widths))
    except ValueError as error:
        raise InputError(f"{where}{path}: a word among its points is not a number ({error})") from error
    return numbers[:, columns].astype(np.float32)


def _fields(feature_names: Sequence[str], fields: Sequence[str] | None, path: Path, where: str) -> list[str]:
    fields = [name for name in fields or () if not name.startswith("_")]
    by_lower_case = {name.lower(): name for name in fields}
    for name in feature_names:
        if name.lower() not in by_lower_case:
            raise InputError(
                f"{where}{path} has no field {name}; {nearest_or_all(name, fields)} (its FIELDS are "
                f"{', '.join(fields)}; DATA_CONFIG.POINT_FEATURE_ENCODING.src_feature_list names what is read)"
            )
    return [by_lower_case[name.lower()] for name in feature_names]


def _number(header: dict[str, list[str]], word: str, path: Path, where: str) -> int:
    _require(header[word][0].isdigit(), path, where, f"a whole number after {word}")
    return int(header[word][0])


def _require(fine: bool, path: Path, where: str, what: str) -> None:
    if not fine:
        raise InputError(f"{where}{path} is cut off or no .pcd file: it has not {what}")


@numba.njit(cache=True)
def _decompress(packed: np.ndarray, size: int) -> np.ndarray:
    """LZF: a control byte below 32 goes before that many bytes + 1 as they are, a larger one before a distance back.

    Returns ``size`` bytes, or fewer where ``packed`` is damaged.
    """
    out = np.empty(size, np.uint8)
    read, written = 0, 0
    while read < len(packed):
        control = int(packed[read])
        read += 1
        if control < 32:
            length = control + 1
            if read + length > len(packed) or written + length > size:
                return out[:0]
            out[written : written + length] = packed[read : read + length]
            read += length
        else:
            length = (control >> 5) + 2
            if length == 9 and read < len(packed):
                length += int(packed[read])
                read += 1
            if read >= len(packed):
                return out[:0]
            source = written - ((control & 31) << 8) - int(packed[read]) - 1
            read += 1
            if source < 0 or written + length > size:
                return out[:0]
            for offset in range(length):  # one by one, because source and target may overlap
                out[written + offset] = out[source + offset]
        written += length
    return out[:written]
