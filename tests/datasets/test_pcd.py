"""Files of the Point Cloud Library."""

import re

import numpy as np
import pytest

from pcdet_focal.datasets.pcd import read_pcd
from pcdet_focal.datasets.scans import read_scan
from pcdet_focal.errors import InputError

NAMES = ["x", "y", "z", "intensity"]
# what drivers write: other fields between, padding, an intensity of one byte
TABLE = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("_", "u1", (4,)), ("Intensity", "u1"), ("ring", "<u2"), ("t", "<f8")]
)


def rows(count: int = 500) -> np.ndarray:
    generator = np.random.default_rng(0)
    made = np.zeros(count, TABLE)
    for name in ("x", "y", "z", "t"):
        made[name] = generator.normal(size=count) * 20
    made["Intensity"] = generator.integers(0, 256, count)
    made["ring"] = np.arange(count) // 50
    return made


def wanted(made: np.ndarray) -> np.ndarray:
    return np.column_stack([made[name] for name in ("x", "y", "z", "Intensity")]).astype(np.float32)


def head(made: np.ndarray, form: str, comment: str = "# .PCD v0.7\n") -> bytes:
    kinds = {"f": "F", "u": "U", "i": "I"}
    fields = [(name, made.dtype[name]) for name in made.dtype.names]
    return (
        f"{comment}VERSION 0.7\nFIELDS {' '.join(name for name, _ in fields)}\n"
        f"SIZE {' '.join(str(kind.base.itemsize) for _, kind in fields)}\n"
        f"TYPE {' '.join(kinds[kind.base.kind] for _, kind in fields)}\n"
        f"COUNT {' '.join(str(int(np.prod(kind.shape))) for _, kind in fields)}\n"
        f"WIDTH {len(made)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(made)}\nDATA {form}\n"
    ).encode()


def ascii_body(made: np.ndarray) -> bytes:
    def words(row):
        for name in made.dtype.names:
            yield from map(repr, np.atleast_1d(row[name]).tolist())

    return "".join(" ".join(words(row)) + "\n" for row in made).encode()


def lzf(data: bytes) -> bytes:
    """LZF's simplest compressor: three bytes seen before are referred to, everything else is copied."""
    out, literal, seen, place = bytearray(), bytearray(), {}, 0

    def flush():
        for first in range(0, len(literal), 32):
            part = literal[first : first + 32]
            out.extend([len(part) - 1, *part])
        literal.clear()

    while place < len(data):
        key = data[place : place + 3]
        before = seen.get(key)
        seen[key] = place
        if len(key) == 3 and before is not None and place - before <= 8192:
            length = 3
            while length < 264 and place + length < len(data) and data[before + length] == data[place + length]:
                length += 1
            flush()
            distance, more = place - before - 1, length - 2
            out.append((min(more, 7) << 5) | (distance >> 8))
            if more >= 7:
                out.append(more - 7)
            out.append(distance & 255)
            place += length
        else:
            literal.append(data[place])
            place += 1
    flush()
    return bytes(out)


def compressed(made: np.ndarray) -> bytes:
    plain = b"".join(np.ascontiguousarray(made[name]).tobytes() for name in made.dtype.names)
    packed = lzf(plain)
    return np.array([len(packed), len(plain)], "<u4").tobytes() + packed


BODIES = {"ascii": ascii_body, "binary": lambda made: made.tobytes(), "binary_compressed": compressed}


@pytest.mark.parametrize("count", [0, 1, 500])
@pytest.mark.parametrize("form", BODIES)
def test_what_was_written_is_read(tmp_path, form, count):
    made = rows(count)
    path = tmp_path / "a.pcd"
    path.write_bytes(head(made, form) + (BODIES[form](made) if count else b""))
    np.testing.assert_array_equal(read_scan(path, NAMES), wanted(made).reshape(-1, 4))


@pytest.mark.parametrize("form", BODIES)
def test_a_file_that_is_cut_off(tmp_path, form):
    made = rows()
    data = head(made, form) + BODIES[form](made)
    for kept in (10, len(head(made, form)) - 1, len(head(made, form)) + 3, len(data) * 2 // 3):
        (tmp_path / "a.pcd").write_bytes(data[:kept])
        with pytest.raises(InputError, match=r"frame 7: .*a\.pcd is cut off or no \.pcd file"):
            read_pcd(tmp_path / "a.pcd", NAMES, "frame 7: ")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (b"FIELDS x y z _ Intensity", b"FIELDS x y z _ reflectance", "has no field intensity.*FIELDS are x, y, z"),
        (b"SIZE 4 4 4", b"SIZE 4 4", "one SIZE, TYPE and COUNT a field"),
        (b"TYPE F", b"TYPE Q", "FIELDS, SIZE, TYPE or COUNT"),
        (b"SIZE 4", b"SIZE 3", "FIELDS, SIZE, TYPE or COUNT"),
        (b"COUNT 1", b"COUNT -1", "FIELDS, SIZE, TYPE or COUNT"),
        (b"POINTS 500", b"POINTS many", "whole number after POINTS"),
        (b"POINTS 500\n", b"", "a line POINTS"),
        (b"POINTS 500", b"POINTS 90000000000", "cut off"),
        (b"DATA binary", b"DATA brotli", "DATA is brotli; it can be ascii"),
    ],
)
def test_heads_that_are_wrong(tmp_path, before, after, told):
    made = rows()
    data = head(made, "binary") + made.tobytes()
    assert before in data
    (tmp_path / "a.pcd").write_bytes(data.replace(before, after, 1))
    with pytest.raises(InputError, match=rf"a\.pcd.*{told}"):
        read_pcd(tmp_path / "a.pcd", NAMES)


def test_a_word_among_numbers(tmp_path):
    made = rows(3)
    (tmp_path / "a.pcd").write_bytes(head(made, "ascii") + re.sub(rb"^\S+", b"one", ascii_body(made)))
    with pytest.raises(InputError, match=r"a\.pcd: a word among its points is not a number.*one"):
        read_pcd(tmp_path / "a.pcd", NAMES)


def test_damaged_compression_never_reads_or_writes_elsewhere(tmp_path):
    made, generator = rows(), np.random.default_rng(1)
    data = head(made, "binary_compressed") + compressed(made)
    first = len(head(made, "binary_compressed"))
    for _ in range(200):
        damaged = bytearray(data)
        damaged[generator.integers(first, len(data))] = generator.integers(0, 256)
        (tmp_path / "a.pcd").write_bytes(damaged)
        try:
            assert read_pcd(tmp_path / "a.pcd", NAMES).shape == (500, 4)
        except InputError as error:
            assert "a.pcd" in str(error)
