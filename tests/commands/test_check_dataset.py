"""tools/check_dataset.py: what it prints, draws and returns."""

import re
import shutil

import checked_data
import numpy as np
import pytest
import tiny_custom
import tiny_kitti
import yaml

from pcdet_focal.engine import cli


def run(*argv) -> int:
    try:
        cli.run_main(tiny_kitti.tool("check_dataset").main, [str(word) for word in argv])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """data/custom with 3 + 1 frames and cfg.yaml for it."""
    tiny_custom.write_folder(tmp_path / "data/custom", 3, 1, checked_data.good)
    content = yaml.safe_load(yaml.safe_dump(to_plain(checked_data.config("data/custom"))))
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def to_plain(value):
    if isinstance(value, dict):
        return {key: to_plain(entry) for key, entry in value.items() if not key.startswith("_")}
    return [to_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def spoil(root, change) -> None:
    """Rewrite the labels of every frame."""
    shutil.rmtree(root)
    tiny_custom.write_folder(root, 3, 1, checked_data.on_boxes(change))


def test_good_data(workplace, capsys):
    assert run("--cfg_file", "cfg.yaml", "--num_scans", 2) == 0
    out = capsys.readouterr().out
    assert re.search(r"^3 frames, \d+ boxes, 2 scans: 0 errors, 0 warnings$", out, re.M)
    assert re.search(
        r"^note     class balance +boxes of each class: Vehicle \d+, Pedestrian \d+, Cyclist \d+$", out, re.M
    )
    image = (workplace / "output/check/boxes.png").read_bytes()
    assert image.startswith(b"\x89PNG")


def test_a_mistake_is_an_error_and_its_boxes_are_drawn(workplace, capsys):
    spoil(workplace / "data/custom", checked_data.columns("x", "y", "z", bottom=-0.5))
    assert run("--cfg_file", "cfg.yaml", "--out", "looked_at") == 1
    out = capsys.readouterr().out
    assert (
        re.search(r"^error    z origin +boxes are 0\.\d\d m too low", out, re.M)
        and "-> write z + dz/2 in place of z" in out
    )
    assert out.index("error    z origin") < out.index("note     ") and ": 1 errors, 0 warnings" in out
    from matplotlib.image import imread

    picture = imread(workplace / "looked_at/boxes.png")
    red = np.abs(picture[..., :3] - np.array([0xD6, 0x33, 0x6C]) / 255).max(axis=-1) < 0.1
    assert red.sum() > 300  # where the boxes should be


def test_boxes_of_scans_that_cannot_be_read_are_drawn_without_points(workplace, capsys):
    points = workplace / "data/custom/points"
    (points / "000000.npy").unlink()
    np.save(points / "000001.npy", np.load(points / "000001.npy") * np.float32([1, 1, 1, np.nan]))
    labels = workplace / "data/custom/labels/000000.txt"
    labels.write_text(labels.read_text() * 2)
    assert run("--cfg_file", "cfg.yaml") == 1
    out = capsys.readouterr().out
    assert {"unreadable file", "NaN points", "duplicate labels"} <= set(re.findall(r"^error    (.*?)  ", out, re.M))
    assert (workplace / "output/check/boxes.png").is_file()


def test_nothing_to_check_is_one_line_and_exit_status_2(workplace, capsys):
    assert run("--cfg_file", "cfg.yaml", "--split", "test") == 2
    assert re.match(r"error: .*ImageSets/test\.txt", capsys.readouterr().err)
    assert run("--cfg_file", "cfg.yaml", "--set", "DATA_CONFIG.DATA_PATH", "nowhere") == 2
    assert "DATA_CONFIG.DATA_PATH" in capsys.readouterr().err
    assert not (workplace / "output").exists()
