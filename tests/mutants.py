"""Would the tests notice? Small faults in the package's source, one at a time, each against the tests of its folder.

    make mutants ARGS="--seed 2 --number 9 --jobs 2 --package losses geometry"

Of each package, ``--number`` places are drawn by ``--seed`` from all where the syntax tree allows a fault, written
into a copy of the checkout. There the tests that name the module run first (if none does, the folder's), then the
folder's and its users' with --quick, without the shared folder. Survivors are printed as diffs. See docs/testing.md.
"""

import argparse
import ast
import copy
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# the folders of tests that also use a package
USERS = {"losses": ["models"], "models": ["engine"], "evaluation": ["engine"], "engine": ["commands"]}
USERS["geometry"] = ["ops", "losses", "datasets", "evaluation"]
USERS |= dict.fromkeys(("datasets/augmentor", "datasets/processor"), ["datasets", "engine/checks"])
LEFT_OUT = re.compile("engine/benchmark/|cuda.py")  # measures time, which no test asserts; needs a GPU
OPERATORS = """Lt>LtE Lt>Gt LtE>Lt LtE>Gt Gt>GtE Gt>Lt GtE>Gt GtE>Lt Eq>NotEq NotEq>Eq Is>IsNot IsNot>Is In>NotIn
    NotIn>In Add>Sub Sub>Add Mult>Div Div>Mult FloorDiv>Mult Mod>FloorDiv Pow>Mult BitAnd>BitOr BitOr>BitAnd And>Or
    Or>And"""
SWAPS = [[getattr(ast, name) for name in pair.split(">")] for pair in OPERATORS.split()]
NAMES = dict(min="max", amin="amax", minimum="maximum", floor="ceil", sin="cos", any="all", sum="mean", argmin="argmax")
NAMES |= {value: key for key, value in NAMES.items()}
NO_CALLS = re.compile(r"(print|tqdm|super|.*warn|.*\blog(ger|ging)?\.|.*file_only|.*set_description|\w*Error\b)")
NO_KEYWORDS = {"device", "encoding", "non_blocking", "pin_memory", "stacklevel", "help", "metavar", "description"}


def faults(node: ast.AST):
    """(node, what may stand in its place) for every fault of the tree."""
    value, target = getattr(node, "value", None), ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
    called = isinstance(node, ast.Expr) and isinstance(value, ast.Call) and not NO_CALLS.match(ast.unparse(value))
    silent = isinstance(node, ast.Call) and NO_CALLS.match(ast.unparse(node.func))
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)) or silent or target == "__all__":
        return
    twin = lambda base=node, **fields: (changed := copy.copy(base)).__dict__.update(fields) or changed
    for op, other in SWAPS:
        if isinstance(getattr(node, "op", None), op):
            yield node, twin(op=other())
        for k, comparison in enumerate(getattr(node, "ops", ())):
            if isinstance(comparison, op):
                yield node, twin(ops=[*node.ops[:k], other(), *node.ops[k + 1 :]])
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield node, node.left
    elif isinstance(node, ast.BoolOp):
        yield node, node.values[-1]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node, node.operand
    elif isinstance(node, ast.Constant) and isinstance(value, (bool, int, float)):
        whole = (not value,) if isinstance(value, bool) else (value + 1, value - 1)
        yield from ((node, twin(value=v)) for v in (whole if isinstance(value, int) else (value * 1.5 or 1.0,)))
    elif isinstance(node, ast.Call):
        for field in ("attr", "id"):
            if getattr(node.func, field, None) in NAMES:
                yield node, twin(func=twin(node.func, **{field: NAMES[getattr(node.func, field)]}))
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in NO_KEYWORDS:
                yield node, twin(keywords=[k for k in node.keywords if k is not keyword])
    elif isinstance(node, ast.If):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.IfExp):
        yield node, twin(body=node.orelse, orelse=node.body)
    elif isinstance(node, (ast.AugAssign, ast.Continue, ast.Break)) or re.search(r"[.\[]", target) or called:
        yield node, ast.Pass()
    for field, children in ast.iter_fields(node):
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, ast.AST) and field not in ("annotation", "returns", "decorator_list"):
                yield from faults(child)


def drawn(package: str, seed: int, number: int) -> list[tuple[Path, int, str]]:
    """(file, line, changed source) of ``number`` places of the package, and as the first its unchanged __init__.py."""
    places = {}
    for path in sorted((ROOT / "pcdet_focal" / package).rglob("*.py")):
        for node, other in () if LEFT_OUT.search(path.as_posix()) else faults(ast.parse(path.read_text())):
            places.setdefault((path, node.lineno, node.col_offset, type(node).__name__), []).append((node, other))
    rng, init = random.Random(f"{seed} {package}"), Path("pcdet_focal", package, "__init__.py")
    chosen = [(init, 0, (ROOT / init).read_text())]
    for key in rng.sample(sorted(places), min(number, len(places))):
        (path, line), (node, other) = key[:2], rng.choice(places[key])
        lines = path.read_bytes().splitlines(keepends=True)  # syntax trees count columns in bytes
        text = ast.unparse(other) if isinstance(other, (ast.stmt, ast.Constant)) else f"({ast.unparse(other)})"
        start, end = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
        lines[node.lineno - 1 : node.end_lineno] = [start + text.encode() + end]
        chosen.append((path.relative_to(ROOT), line, b"".join(lines).decode()))
    return chosen


def noticed(folder: Path, package: str, path: Path, text: str) -> str:
    """Who notices ``text`` in the file's place in this copy of the checkout, or nothing."""
    target, tests, before = folder / path, folder / "tests", (folder / path).read_text()
    word = re.compile(rf"(\b|_){path.stem if path.stem != '__init__' else path.parent.name}\b")
    named = [str(p) for p in sorted((tests / package).rglob("test_*.py")) if word.search(f"{p.stem} {p.read_text()}")]
    users = [str(tests / name) for name in (package, *USERS[package])]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    target.write_text(text)
    try:
        for arguments in (named or users[:1], ["--quick", *users]):
            command = [sys.executable, "-m", "pytest", "-xqp", "no:cacheprovider", *arguments]
            if subprocess.run(command, timeout=600, **quiet).returncode:
                return "noticed"
    except subprocess.TimeoutExpired:
        return "out of time"
    finally:
        target.write_text(before)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"seed": 0, "number": 8, "jobs": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--package", nargs="+", default=list(USERS), choices=list(USERS))
    arguments = parser.parse_args()
    os.environ.update(PCDET_FOCAL_SHARED="/nonexistent", OMP_NUM_THREADS="1")
    plans = [[(p, *fault) for fault in drawn(p, arguments.seed, arguments.number)] for p in arguments.package]
    plan = [fault for faults_of_each in zip(*plans) for fault in faults_of_each]

    def run(fault: tuple[str, Path, int, str]) -> bool:
        folder, (package, path, line, text) = copies.pop(), fault
        found = noticed(folder, package, path, text)
        copies.append(folder)
        sides = [] if found else [(ROOT / path).read_text().splitlines(), text.splitlines()]
        diff = list(difflib.unified_diff(*sides, lineterm="", n=1))[3:] if sides else []
        print(f"{found or 'SURVIVED'}: {path}:{line or ' unchanged'}", *diff, sep="\n", flush=True)
        return bool(found)

    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary, ThreadPoolExecutor(arguments.jobs) as pool:
        copies = [Path(temporary, str(k)) for k in range(arguments.jobs)]
        for folder in copies:
            shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "output"))
        results = list(zip(plan, pool.map(run, plan)))
    for package in arguments.package:
        seen = [found for (p, _, line, _), found in results if p == package and line]
        print(f"{package}: {sum(seen)} of {len(seen)} noticed")


if __name__ == "__main__":
    main()
