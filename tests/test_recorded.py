"""The records are those of the manifest, whole, and small enough for a repository."""

import hashlib

from golden_data import RECORDED


def test_the_manifest_lists_every_file_with_its_sum():
    rows = [line.split("|") for line in (RECORDED / "MANIFEST.md").read_text().splitlines() if line.count("|") >= 6]
    listed = {row[1].strip(): row[-2].strip(" `") for row in rows if "/" in row[1]}
    files = {path.relative_to(RECORDED).as_posix(): path for path in RECORDED.rglob("*/*") if path.is_file()}
    assert listed.keys() == files.keys()
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert max(path.stat().st_size for path in files.values()) < 1_000_000
