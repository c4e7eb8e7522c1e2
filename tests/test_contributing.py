"""CONTRIBUTING.md names files that are there, and the versions that are pinned."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_file_is_there():
    paths = re.findall(r"`((?:pcdet_focal|tests|docs|cfgs|tools)/[\w./-]+)`", PAGE)
    paths += re.findall(r"\]\(([\w./-]+\.md)\)", PAGE)
    assert len(paths) > 25
    assert not [path for path in paths if not (REPOSITORY / path).exists()]


def test_the_versions_are_those_of_the_requirements():
    pins = dict(
        re.findall(
            r"^(\w+)==([\d.]+)", "".join((REPOSITORY / f"requirements{n}.txt").read_text() for n in ("", "-test")), re.M
        )
    )
    (row,) = re.findall(r"^\| 3\.11 \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|", PAGE, re.M)
    assert row == tuple(pins[name] for name in ("torch", "triton", "numba", "numpy"))


def test_targets_of_make_are_there():
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)", PAGE)) - {"and"} <= targets
