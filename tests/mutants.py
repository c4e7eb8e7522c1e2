"""Would the tests notice? Small faults in the package's source, one at a time, each against the tests of its folder.

    make mutants ARGS="--seed 2 --number 9 --jobs 2 --package losses geometry"

For each package, ``--number`` places are drawn by ``--seed`` from all where the syntax tree allows a fault: another
operator or constant, a left-out term, statement or keyword argument, ... It is written into a copy of the checkout.
There the tests that name the module run first, then the folder's and its users' with --quick, then the whole folder,
without the shared folder. A fault that none of them notices survives, and its diff is printed: read it, some change
nothing that a user can see. Docstrings, messages, type hints, decorators and Triton kernels have no faults.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USERS = {  # the folders of tests that also use a package
    "losses": ["models"],
    "geometry": ["ops", "losses", "datasets", "evaluation"],
    "models": ["engine"],
    "datasets/augmentor": ["datasets/test_dataset.py", "datasets/kitti", "engine/checks"],
    "datasets/processor": ["datasets/test_dataset.py", "datasets/kitti", "engine/checks"],
    "evaluation": ["engine"],
    "engine": ["tools"],
}
LEFT_OUT = ("engine/benchmark/", "cuda.py")  # measures time, which no test asserts; needs a GPU
LIMITS = (200, 400, 900)  # seconds of the three stages
OPERATORS = """Lt>LtE Lt>Gt LtE>Lt LtE>Gt Gt>GtE Gt>Lt GtE>Gt GtE>Lt Eq>NotEq NotEq>Eq Is>IsNot IsNot>Is In>NotIn
    NotIn>In Add>Sub Sub>Add Mult>Div Div>Mult FloorDiv>Mult Mod>FloorDiv Pow>Mult BitAnd>BitOr BitOr>BitAnd And>Or
    Or>And"""
SWAPS = [[getattr(ast, name) for name in pair.split(">")] for pair in OPERATORS.split()]
NAMES = dict(min="max", amin="amax", minimum="maximum", floor="ceil", sin="cos", any="all", sum="mean", argmin="argmax")
NAMES |= {value: key for key, value in NAMES.items()}
NO_CALLS = re.compile(r"(print|tqdm|super|.*warn|.*\blog(ger|ging)?\.|.*file_only|.*set_description|\w*Error\b)")
NO_KEYWORDS = {"device", "encoding", "non_blocking", "pin_memory", "stacklevel", "help", "metavar", "description"}
NO_FIELDS = {"annotation", "returns", "decorator_list"}


def faults(node: ast.AST):
    """(node, what may stand in its place) for every fault of the tree."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)) or (
        isinstance(node, ast.Call) and NO_CALLS.match(ast.unparse(node.func))
    ):
        return
    if any("triton" in ast.unparse(d) for d in getattr(node, "decorator_list", ())):
        return

    def changed(**fields):
        twin = copy.copy(node)
        twin.__dict__.update(fields)
        return node, twin

    value = getattr(node, "value", None)
    target = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else "name"
    for op, other in SWAPS:
        if isinstance(getattr(node, "op", None), op):
            yield changed(op=other())
        for k, comparison in enumerate(getattr(node, "ops", ())):
            if isinstance(comparison, op):
                yield changed(ops=[*node.ops[:k], other(), *node.ops[k + 1 :]])
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield node, node.left
    elif isinstance(node, ast.BoolOp):
        yield node, node.values[-1]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node, node.operand
    elif isinstance(node, ast.Constant) and isinstance(value, bool):
        yield changed(value=not value)
    elif isinstance(node, ast.Constant) and isinstance(value, (int, float)):
        for other in (value + 1, value - 1) if isinstance(value, int) else (value * 1.5 or 1.0,):
            yield changed(value=other)
    elif isinstance(node, ast.Call):
        name = {"attr": getattr(node.func, "attr", None), "id": getattr(node.func, "id", None)}
        for field, value in name.items():
            if value in NAMES:
                function = copy.copy(node.func)
                setattr(function, field, NAMES[value])
                yield changed(func=function)
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in NO_KEYWORDS:
                yield changed(keywords=[k for k in node.keywords if k is not keyword])
    elif isinstance(node, ast.If):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.IfExp):
        yield changed(body=node.orelse, orelse=node.body)
    elif isinstance(node, (ast.AugAssign, ast.Continue, ast.Break)) or "." in target or "[" in target:
        yield node, ast.Pass()
    elif isinstance(node, ast.Expr) and isinstance(value, ast.Call) and not NO_CALLS.match(ast.unparse(value)):
        yield node, ast.Pass()
    for field, children in ast.iter_fields(node) if target != "__all__" else ():
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, ast.AST) and field not in NO_FIELDS:
                yield from faults(child)


def drawn(package: str, seed: int, number: int) -> list[tuple[Path, int, str]]:
    """(file, line, changed source) of ``number`` places of the package, and as the first its unchanged __init__.py."""
    places = {}
    for path in sorted((ROOT / "pcdet_focal" / package).rglob("*.py")):
        if not any(part in path.as_posix() for part in LEFT_OUT):
            for node, other in faults(ast.parse(path.read_text())):
                key = (path, node.lineno, node.col_offset, type(node).__name__)
                places.setdefault(key, []).append((node, other))
    rng, chosen = random.Random(f"{seed} {package}"), []
    for key in rng.sample(sorted(places), min(number, len(places))):
        (path, line), (node, other) = key[:2], rng.choice(places[key])
        lines = path.read_bytes().splitlines(keepends=True)  # syntax trees count columns in bytes
        text = ast.unparse(ast.fix_missing_locations(other))
        text = text if isinstance(other, (ast.stmt, ast.Constant)) else f"({text})"
        start, end = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
        lines[node.lineno - 1 : node.end_lineno] = [start + text.encode() + end]
        chosen.append((path.relative_to(ROOT), line, b"".join(lines).decode()))
    init = Path("pcdet_focal", package, "__init__.py")
    return [(init, 0, (ROOT / init).read_text()), *chosen]


def survives(folder: Path, package: str, path: Path, text: str) -> str:
    """Empty, or the stage that noticed ``text`` in the file's place in this copy of the checkout."""
    target, tests = folder / path, folder / "tests"
    before, stat = target.read_text(), target.stat()
    word = re.compile(rf"(\b|_){path.stem if path.stem != '__init__' else path.parent.name}\b")
    named = [str(p) for p in sorted((tests / package).rglob("test_*.py")) if word.search(f"{p.stem} {p.read_text()}")]
    users = [str(tests / name) for name in (package, *USERS[package])]
    environment = {**os.environ, "PCDET_FOCAL_SHARED": "/nonexistent", "OMP_NUM_THREADS": "1"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    target.write_text(text)
    try:
        for stage, (arguments, limit) in enumerate(zip((named, ["--quick", *users], users[:1]), LIMITS), 1):
            command = [sys.executable, "-m", "pytest", "-xqp", "no:cacheprovider", *(arguments or users[:1])]
            process = subprocess.Popen(command, cwd=folder, env=environment, **quiet)
            try:
                if process.wait(timeout=limit):
                    return f"stage {stage}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"time out in stage {stage}"
    finally:
        target.write_text(before)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # caches go by it
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=8, help="faults in each package")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the checkout at work")
    parser.add_argument("--package", nargs="+", default=list(USERS), choices=list(USERS))
    arguments = parser.parse_args()
    plans = {p: drawn(p, arguments.seed, arguments.number) for p in arguments.package}
    noticed, copies = Counter(), queue.Queue()

    def run(package: str, path: Path, line: int, text: str) -> None:
        folder = copies.get()
        stage = survives(folder, package, path, text)
        copies.put(folder)
        before, after = (ROOT / path).read_text().splitlines(), text.splitlines()
        if line == 0:
            print(f"{package}: its tests {'FAIL' if stage else 'pass'} without a fault", flush=True)
        else:
            noticed[package] += bool(stage)
            diff = [] if stage else list(difflib.unified_diff(before, after, lineterm="", n=1))[3:]
            print(f"{f'noticed in {stage}' if stage else 'SURVIVED'}: {path}:{line}", *diff, sep="\n", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        for k in range(arguments.jobs):
            copies.put(Path(temporary, str(k)))
            shutil.copytree(ROOT, Path(temporary, str(k)), ignore=shutil.ignore_patterns(".git", ".venv", "output"))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda fault: run(*fault), [(p, *f) for k in zip(*plans.values()) for p, f in zip(plans, k)]))
    for package, plan in plans.items():
        print(f"{package}: {noticed[package]} of {len(plan) - 1} noticed")


if __name__ == "__main__":
    main()
