"""docs/custom_data.md word for word: every block is run in its order, and what it says a command prints is what the
command prints.
"""

import re
import shlex
import shutil

import pytest
import tiny_kitti

from pcdet_focal.datasets.custom import custom_dataset
from pcdet_focal.engine import cli

PAGE = tiny_kitti.REPOSITORY / "docs/custom_data.md"


def run(line: str) -> None:
    _, *words = shlex.split(line)
    if words[:2] == ["-m", "pcdet_focal.datasets.custom.custom_dataset"]:
        assert custom_dataset.main(words[2:]) == 0
        return
    name = re.fullmatch(r"tools/(\w+)\.py", words[0]).group(1)
    cli.run_main(tiny_kitti.tool(name).main, words[1:])  # raises SystemExit for a status other than 0


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_kitti.REPOSITORY / "cfgs", tmp_path / "cfgs")
    printed, ran = "", []
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), {})
        elif kind == "yaml":
            (tmp_path / "cfgs/custom_models/mine.yaml").write_text(block)
        elif kind == "sh":
            for line in block.splitlines():
                run(line)
                ran.append(line)
            printed = capsys.readouterr().out
        elif kind == "text":
            missing = [line for line in block.splitlines() if line not in printed.splitlines()]
            assert not missing, printed
    assert len(ran) == 7
    run_dir = tmp_path / "output/custom_models/mine/first"
    assert "Car AP_R40@0.70, 0.70, 0.70:" in printed and "000009.npy: " in printed
    assert sorted(path.name for path in run_dir.glob("eval/epoch_1/val/default/final_result/data/*")) == [
        "000008.txt",
        "000009.txt",
    ]
    for picture in (
        "output/check/boxes.png",
        "output/demo_scan/000009.png",
        "output/custom_models/mine/first/pictures/000008.png",
    ):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
