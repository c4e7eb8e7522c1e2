"""Reading the text files that people's editors, shells and exporters write.

Every reader of text goes through :func:`read_text`, so that a file that is missing, of another encoding or no text at
all gets the same kind of sentence everywhere. Scans are read by :mod:`pcdet_focal.datasets.scans`, pickles by
:mod:`pcdet_focal.safe_pickle`.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

from .errors import InputError

MAX_TEXT_BYTES = 512 * 2**20  # a text file of a data set has some kilobytes
# UTF-32 goes first, because its mark in little-endian order begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_bytes(path: str | os.PathLike[str], what: str = "file", max_bytes: int | None = None) -> bytes:
    """The content of a file.

    Args:
        path: of the file.
        what: a noun for the message: "label file", "calibration".
        max_bytes: a larger file is an error.

    Raises:
        InputError: it is missing, a folder, larger than ``max_bytes``, or cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; a {what} is expected there")
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise InputError(f"{path} has {size / 2**20:.0f} MB, which is too large for a {what}; is it another file?")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"the {what} {path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror or error}") from error


def read_text(path: str | os.PathLike[str], what: str = "text file") -> str:
    """The text of a file, lines ended by "\\n".

    UTF-8 with or without a byte-order mark, and UTF-16 and UTF-32, which Windows' tools write. Every kind of line end
    is taken, also a byte-order mark at the start of a later line, because joined files have one there.

    Args:
        path: of the file.
        what: a noun for the message: "label file", "calibration".

    Raises:
        InputError: see :func:`read_bytes`; or a byte that is not text in these encodings, with line and byte.
    """
    data = read_bytes(path, what, MAX_TEXT_BYTES)
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if encoding is None:
        encoding = _utf16_without_mark(data) or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            raise InputError(f"{_where(path, data, error.start)} is not UTF-8; save the {what} as UTF-8") from None
        raise InputError(
            f"{path}, byte {error.start}: not {encoding.upper()}, as the first bytes of the {what} say ({error.reason})"
            "; save it as UTF-8"
        ) from None
    if "\0" in text:
        where = _where(path, data, data.index(b"\0")) if encoding == "utf-8" else f"{path}: a character"
        raise InputError(f"{where} is NUL, therefore this is not a text file, or it is damaged; write the {what} anew")
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\x1a")


def read_lines(path: str | os.PathLike[str], what: str = "text file") -> list[str]:
    """The lines of :func:`read_text` without their ends; an empty file has none."""
    lines = read_text(path, what).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_json(path: str | os.PathLike[str], what: str = "JSON file") -> Any:
    """The content of a JSON file. Raises InputError, with the line, where it is not JSON."""
    try:
        return json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: the {what} is not valid JSON: {error.msg}") from error


def finite_number(word: str, name: str, where: str = "") -> float:
    """A word of a text file as a number; InputError, with ``where`` before it, for anything else than a finite one."""
    where = f"{where}: " if where else ""
    try:
        number = float(word)
    except ValueError:
        hint = "; write a point instead of the comma" if _has_decimal_comma(word) else ""
        raise InputError(f"{where}{name} is {word!r}, which is not a number{hint}") from None
    if not math.isfinite(number):
        raise InputError(f"{where}{name} is {word!r}; it must be a finite number")
    return number


def file_name(name: str) -> str:
    """``name`` (of a class, a frame) as one part of a path: what a file system does not take becomes "_", and a check
    sum follows, because the names "a/b" and "a_b" are two.

    >>> file_name("Car"), file_name("Car/Van"), file_name("0000/000042")
    ('Car', 'Car_Van-eeb92419', '0000_000042-bbf1a27f')
    """
    safe = "".join("_" if char in '/\\:*?"<>|' or ord(char) < 32 else char for char in name)
    return name if safe == name and set(name) - {"."} else f"{safe}-{zlib.crc32(name.encode()):08x}"


def _where(path: str | os.PathLike[str], data: bytes, offset: int) -> str:
    line = data.count(b"\n", 0, offset) + 1
    return f"{path}, line {line}: byte {offset} of the file, 0x{data[offset]:02x},"


def _utf16_without_mark(data: bytes) -> str | None:
    """Text of European letters and digits in UTF-16 has a zero in every second byte."""
    if len(data) < 2 or len(data) % 2 or b"\0" not in data:
        return None
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if even + odd < 0.4 * len(data):
        return None
    return "utf-16-le" if even == 0 else "utf-16-be" if odd == 0 else None


def _has_decimal_comma(word: str) -> bool:
    try:
        float(word.replace(",", ".", 1))
    except ValueError:
        return False
    return "," in word
