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
