"""The lists of frames that make a split."""

import pytest

from pcdet_focal.datasets.image_sets import read_split
from pcdet_focal.errors import InputError


def test_split_file(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("000003\r\n\n 000001 \n\n")
    assert read_split(path) == ["000003", "000001"]
    path.write_text("000003\n000001\n000003\n")
    with pytest.raises(InputError, match=r"train\.txt: frame 000003"):
        read_split(path)


def test_frames_may_be_in_folders_of_the_data_set(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("0000/000003\n")
    assert read_split(path) == ["0000/000003"]
    for frame_id in ("/etc/000003", "../000003", "0000/../../000003"):
        path.write_text(f"000001\n{frame_id}\n")
        with pytest.raises(InputError, match=rf"train\.txt: frame {frame_id} leads out of the data set"):
            read_split(path)


def test_a_list_from_windows(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("000003\r\n000001\r\n".encode("utf-16"))
    assert read_split(path) == ["000003", "000001"]
    path.write_bytes(b"000003\n\x9300000\n")
    with pytest.raises(InputError, match=r"train\.txt, line 2: byte 7 of the file, 0x93,.*save the list of frames as"):
        read_split(path)
