"""Run a script written for OpenPCDet on this package.

As ``python SCRIPT ARGS...`` would run it: ``sys.argv``, ``__main__``, the script's folder first on the path, its own
tracebacks and exit status.
Different are only

* ``import pcdet``, which gives ``pcdet_focal`` (:func:`.alias.alias`), and ``import tensorboardX`` where that is not
  installed, which gives torch's;
* ``cfg.ROOT_DIR``, below which OpenPCDet's tools write: the checkout that the script lies in, else the working
  directory;
* "cuda" where there is no CUDA device: it means the CPU, and the run says so (:mod:`.no_cuda`);
* modules of the checkout that the script lies in which are not here: its own files are used (:mod:`.forks`).

``-m pcdet.X ARGS...`` runs a module as ``python -m`` would.
"""

from __future__ import annotations

import builtins
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from ... import config
from .alias import SecondName, alias
from .forks import Fork, find_checkout

_USAGE = """\
usage: python -m pcdet_focal.integrations.openpcdet SCRIPT [ARGS ...]   (SCRIPT says `import pcdet`)
       python -m pcdet_focal.integrations.openpcdet -m pcdet.MODULE [ARGS ...]"""


def main() -> None:
    """The command: SCRIPT and its arguments are the command line's."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help") or given == ["-m"]:
        print(_USAGE)
        sys.exit(0 if given[:1] in (["-h"], ["--help"]) else 2)
    if given[0] == "-m":
        _prepare(Path.cwd() / "script")
        _run_module(given[1:])
        return
    try:
        source = Path(given[0]).read_bytes()
    except OSError as error:
        sys.exit(f"cannot open the script {given[0]}: {error.strerror}")
    _prepare(Path(given[0]))
    _run(source, given)


def _prepare(script: Path) -> None:
    alias(find_checkout(script.resolve().parent))
    # last: an installed one is found before
    sys.meta_path.append(SecondName("tensorboardX", "torch.utils.tensorboard"))
    config.cfg.ROOT_DIR = _root_of(script)


def _run_module(argv: Sequence[str]) -> None:
    """As ``python -m``: the working directory is first on the path, and the module is ``__main__``."""
    name = argv[0]
    sys.argv, sys.path[0] = list(argv), str(Path.cwd())
    sys.excepthook = _Show(None)
    if SecondName("pcdet", "pcdet_focal").find_spec(name) is not None:
        name = "pcdet_focal" + name[len("pcdet") :]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


class _Show:
    """An excepthook: the traceback without the frames that lead to the script, and what helps with a missing name."""

    def __init__(self, script: str | None) -> None:
        self.script = script

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        while self.script is not None and trace is not None and trace.tb_frame.f_code.co_filename != self.script:
            trace = trace.tb_next  # the frames that led here are none of the script's
        traceback.print_exception(kind, error, trace)
        for finder in sys.meta_path:
            hint = finder.hint(error) if isinstance(finder, Fork) else None
            if hint is not None:
                print(hint, file=sys.stderr)
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] in ("pcdet", "pcdet_focal"):
            print(
                "pcdet is pcdet_focal here; its docs/from_openpcdet.md lists what it has of OpenPCDet", file=sys.stderr
            )


def _run(source: bytes, argv: Sequence[str]) -> None:
    script = str(Path(argv[0]).absolute())
    sys.argv = list(argv)
    sys.path[0] = str(Path(script).resolve().parent)
    sys.excepthook = _Show(script)
    module = ModuleType("__main__")
    module.__file__ = script
    vars(module)["__builtins__"] = builtins
    sys.modules["__main__"] = module  # for good: what the script pickles, or leaves for exit, asks for it
    exec(compile(source, script, "exec", dont_inherit=True), vars(module))  # this file's __future__ is not the script's


def _root_of(script: Path) -> Path:
    return next(
        (folder for folder in script.resolve().parents if (folder / "pcdet").is_dir() and (folder / "tools").is_dir()),
        Path.cwd(),
    )
