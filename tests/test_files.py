"""Text as people's editors write it: taken, or answered with file, line and byte."""

import codecs
import re

import pytest

from pcdet_focal.errors import InputError
from pcdet_focal.files import MAX_TEXT_BYTES, file_name, finite_number, read_bytes, read_json, read_lines, read_text

TEXT = "Car 1.5\nPedestrian 2.5\n"


def write(tmp_path, content: bytes):
    path = tmp_path / "000042.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        codecs.BOM_UTF16_LE + TEXT.replace("\n", "\r\n").encode("utf-16-le"),
        codecs.BOM_UTF8 + b"Car 1.5\n" + codecs.BOM_UTF8 + b"Pedestrian 2.5\n",  # two files joined
        TEXT.encode() + b"\x1a",  # how DOS ended a file
    ],
)
def test_the_same_text_from_every_editor(tmp_path, content):
    path = write(tmp_path, content)
    assert read_text(path) == TEXT
    assert read_lines(path) == ["Car 1.5", "Pedestrian 2.5"]


def test_letters_of_other_languages_stay(tmp_path):
    assert read_text(write(tmp_path, "Lastzug groß 車\n".encode())) == "Lastzug groß 車\n"


def test_lines(tmp_path):
    assert read_lines(write(tmp_path, b"")) == []
    assert read_lines(write(tmp_path, b"\n")) == [""]
    assert read_lines(write(tmp_path, b"a\n\nb")) == ["a", "", "b"]
    assert read_lines(write(tmp_path, "a\x0bb\u2028c\n".encode())) == ["a\x0bb\u2028c"]  # no ends of lines elsewhere


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Fußgänger 1".encode("latin-1"), r"line 1: byte 2 of the file, 0xdf, is not UTF-8"),
        (b"Car 1\nVan \xff2\n", r"line 2: byte 10 of the file, 0xff,"),
        (b"Car 1\nVan \x002\n", r"line 2: byte 10 of the file, 0x00, is NUL"),
        (codecs.BOM_UTF16_LE + b"C\0a", r"byte \d+: not UTF-16"),
        (codecs.BOM_UTF16_LE + "Car\0".encode("utf-16-le"), "NUL"),
        (b"\x80\x04\x95\x10", r"line 1: byte 0 of the file, 0x80"),
    ],
)
def test_what_is_no_text_is_named_with_line_and_byte(tmp_path, content, told):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=told) as error:
        read_text(path, "label file")
    assert str(path) in str(error.value) and "label file" in str(error.value)


def test_a_file_that_is_missing_or_a_folder_or_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"the label file .*a\.txt does not exist"):
        read_text(tmp_path / "a.txt", "label file")
    with pytest.raises(InputError, match="is a folder; a label file is expected"):
        read_text(tmp_path, "label file")
    with pytest.raises(InputError, match="cannot read the label file"):
        read_text(write(tmp_path, b"a") / "b", "label file")
    with pytest.raises(InputError, match=f"cannot read.*{'x' * 300}"):
        read_text(tmp_path / ("x" * 300), "label file")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)  # without blocks on the disk
    with pytest.raises(InputError, match="512 MB, which is too large for a label file"):
        read_text(path, "label file")
    assert len(read_bytes(write(tmp_path, b"abcd"), max_bytes=4)) == 4


def test_json(tmp_path):
    assert read_json(write(tmp_path, codecs.BOM_UTF8 + b'{"a": [1]}')) == {"a": [1]}
    with pytest.raises(InputError, match=r"000042\.txt, line 2: the table is not valid JSON"):
        read_json(write(tmp_path, b'{"a":\n[1,]}'), "table")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("1,5", r"a\.txt:3: the x is '1,5', which is not a number; write a point instead of the comma"),
        ("1.5m", r"is '1\.5m', which is not a number$"),
        ("a,b", r"not a number$"),
        ("nan", r"finite"),
        ("-inf", r"finite"),
    ],
)
def test_words_that_are_no_numbers(word, told):
    with pytest.raises(InputError, match=told):
        finite_number(word, "the x", "a.txt:3")
    assert finite_number("-1.5e1", "the x") == -15.0


def test_names_become_names_of_files_and_stay_different():
    names = ["Car", "Car/Van", "Car_Van", "Car\\Van", "0000/000042", "..", ".", "a:b", "groß", "tab\t", "a b", ""]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]+", name) and set(name) - {"."} for name in files)
    assert files[0] == "Car" and files[8] == "groß" and files[10] == "a b"
