"""Run a script written for OpenPCDet on this package.

As ``python SCRIPT ARGS...`` would run it: ``sys.argv``, ``__main__``, the script's folder first on the path, its own
tracebacks and exit status.
Different are only

* ``import pcdet``, which gives ``pcdet_focal`` (:func:`.alias.alias`), and ``import tensorboardX`` where that is not
  installed, which gives torch's;
* ``cfg.ROOT_DIR``, below which OpenPCDet's tools write: the checkout that the script lies in, else the working
  directory;
* ``.cuda()`` of tensors and modules where there is no CUDA device: it gives what it is called on, and the run says so.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

from ... import config
from .alias import SecondName, alias

_USAGE = "usage: python -m pcdet_focal.integrations.openpcdet SCRIPT [ARGS ...]   (SCRIPT says `import pcdet`)"


def main() -> None:
    """The command: SCRIPT and its arguments are the command line's."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0 if given else 2)
    try:
        source = Path(given[0]).read_bytes()
    except OSError as error:
        sys.exit(f"cannot open the script {given[0]}: {error.strerror}")
    alias()
    # last: an installed one is found before
    sys.meta_path.append(SecondName("tensorboardX", "torch.utils.tensorboard"))
    config.cfg.ROOT_DIR = _root_of(Path(given[0]))
    if not torch.cuda.is_available():
        print("no CUDA device: .cuda() changes nothing in this run", file=sys.stderr)
        torch.Tensor.cuda = torch.nn.Module.cuda = _stay
    _run(source, given)


def _run(source: bytes, argv: Sequence[str]) -> None:
    script = str(Path(argv[0]).absolute())

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename != script:
            trace = trace.tb_next  # the frames that led here are none of the script's
        traceback.print_exception(kind, error, trace)
        if isinstance(error, ImportError) and (error.name or "").split(".")[0] in ("pcdet", "pcdet_focal"):
            print(
                "pcdet is pcdet_focal here; its docs/from_openpcdet.md lists what it has of OpenPCDet", file=sys.stderr
            )

    sys.argv = list(argv)
    sys.path[0] = str(Path(script).resolve().parent)
    sys.excepthook = show
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


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self
