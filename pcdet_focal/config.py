"""Configurations: OpenPCDet's YAML files, their base files, and overrides from the command line.

A configuration is a tree of ``EasyDict``. What this module adds to a plain YAML load:

* ``_BASE_CONFIG_: other.yaml`` inside any mapping first brings in that file; its path is taken relative to the working
  directory, else to the folder of the file that names it or to any folder above that one (so a file works from wherever
  it is started);
* numbers such as ``1e-3`` are numbers (plain YAML 1.1 reads them as text);
* keys and names of classes are text, also ``0``, ``yes`` and ``1:15``, which plain YAML reads as numbers and booleans;
* a missing key raises :class:`MissingKeyError`, which names the whole key path, who reads it and the keys that look
  like it;
* a key that neither this package nor a registered plug-in knows is reported once, with the nearest known one;
* ``CUSTOM_IMPORTS: [my_package.my_module]`` in a file or its base files imports modules that register classes of their
  own (docs/extending.md), before anything is built.

Merging and ``--set`` do what OpenPCDet's do; what they refuse or crash on there and take here is in
docs/differences.md.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from .config_keys import FREE_MAPPINGS, KNOWN_KEYS, OPTIONAL_KEYS
from .errors import InputError, did_you_mean, nearest_names, nearest_or_all
from .files import read_text
from .paths import CFGS, IMPORT_FOLDER
from .registry import import_modules, plugin_config_keys

_PARENT_NAMES = ("class_name", "NAME")  # shown beside a list index, so that the reader need not count
# values of these keys are names of classes, or begin with one ("Car:15")
_NAME_KEYS = frozenset(
    "CLASS_NAMES CLASS_NAMES_EACH_HEAD HEAD_CLS_NAME MAP_CLASS_TO_KITTI SAMPLE_GROUPS class_name "
    "filter_by_min_points".split()
)


class MissingKeyError(InputError, AttributeError, KeyError):
    """A configuration lacks a key that some module asks for. Also an AttributeError and a KeyError, so ``hasattr`` and
    ``in`` behave.
    """

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0])


class Config(EasyDict):
    """An EasyDict that knows its place in the configuration, so that asking for a missing key names the full path."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__missing__(name)

    def __missing__(self, name: str) -> Any:
        path = self.__dict__.get("_key_path", "")
        hint = nearest_or_all(name, self, num=2, cutoff=0.7)
        source = self.__dict__.get("_source")
        where = f"{source + ': ' if source else ''}the configuration key {path + '.' if path else ''}{name}"
        raise MissingKeyError(f"{where} is missing ({hint}); {_reader()} needs it")


def _reader() -> str:
    """Who asks for a missing key: the class whose method does, else the Python module."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "easydict"):
        frame = frame.f_back
    owner = frame.f_locals.get("self")
    return frame.f_globals.get("__name__", "a script") if owner is None else type(owner).__name__


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, keys and names of classes as text, and refuses a key that stands twice
    in one mapping.
    """

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            _as_text(key_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise InputError(f"{self.name}:{key_node.start_mark.line + 1}: a key is a word, not {key!r}")
            if key in seen:
                raise InputError(
                    f"{self.name}:{key_node.start_mark.line + 1}: the key {key} stands twice in this mapping; keep "
                    "one of them"
                )
            seen.add(key)
            if key in _NAME_KEYS:
                _as_text(value_node)
        return super().construct_mapping(node, deep=deep)


def _as_text(node: yaml.Node) -> None:
    """Numbers and booleans at and below ``node`` become the text that the file has for them."""
    if isinstance(node, yaml.ScalarNode) and node.tag.rpartition(":")[2] in ("int", "float", "bool", "timestamp"):
        node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _as_text(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _as_text(value)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.[\d_]+([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: str | Path) -> dict:
    """One YAML file as a plain dict. Raises InputError (file and line) where it is missing, not valid YAML or not a
    mapping.
    """
    try:
        loader = _Loader(read_text(path, "configuration file"))
    except yaml.reader.ReaderError as error:
        raise InputError(f"{path}: the character {error.character:#x} has no place in YAML; delete it") from error
    loader.name = str(path)
    try:
        content = loader.get_single_data()
    except RecursionError as error:
        raise InputError(f"{path}: its mappings and lists are too deep") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: a configuration is a YAML mapping, this is "
            f"{type(content).__name__ if content is not None else 'empty'}"
        )
    return content


def find_config(name: str | Path) -> Path:
    """The file that ``name`` means: a path, else a configuration of the package ("kitti_models/second.yaml", also with
    "cfgs/" before it).

    Raises:
        InputError: neither; with the nearest names of the package.
    """
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    packaged = {file.relative_to(CFGS).as_posix(): file for file in sorted(CFGS.rglob("*.yaml"))}
    short = path.as_posix().removeprefix("./").removeprefix("cfgs/")
    if short in packaged:
        return packaged[short]
    hint = nearest_names(short, packaged, 2) or [key for key in packaged if key.endswith(f"/{path.name}")][:2]
    raise InputError(
        f"the configuration file {name} does not exist, and the package has none of this name"
        + (f"; did you mean {' or '.join(hint)}?" if hint else f"; its configurations are in {CFGS}")
    )


def find_base_config(name: str, named_in: Path | None = None) -> Path:
    """Where a ``_BASE_CONFIG_`` is: relative to the working directory, else to the folder of the file that names it or
    one above it, else among the package's configurations.

    An absolute path of another machine is shortened from the left until it names a file in one of these folders; a
    warning names that file.

    Raises:
        InputError: there is none.
    """
    if not isinstance(name, str):
        raise InputError(f"{named_in or 'configuration'}: _BASE_CONFIG_ is the path of a YAML file, not {name!r}")
    folders = [Path.cwd()]
    if named_in is not None:
        folders += Path(named_in).resolve().parents
    folders.append(CFGS.parent)
    parts = Path(name.replace("\\", "/")).parts
    for first in range(max(len(parts) - 1, 1)):  # one word alone is too little to go by
        for folder in folders:
            path = folder.joinpath(*parts[first:])
            if not path.is_file():
                continue
            if first:
                warnings.warn(f"{named_in}: _BASE_CONFIG_ {name} does not exist here; {path} is used", stacklevel=4)
            return path
    raise InputError(
        f"{named_in or 'configuration'}: _BASE_CONFIG_ {name} is neither in the working directory nor beside or above "
        "the file that names it"
    )


def merge_new_config(
    config: EasyDict, new_config: dict, source: Path | None = None, _chain: tuple[Path, ...] = ()
) -> EasyDict:
    """Merge ``new_config`` into ``config`` in place and return it: mappings key by key, anything else replaces what was
    there.

    A ``_BASE_CONFIG_`` comes first. Lists of ``CUSTOM_IMPORTS`` are joined. What ``config`` had before under the base
    file's own top-level keys goes, mappings too (OpenPCDet's rule).
    """
    base = new_config.get("_BASE_CONFIG_")
    if base is not None:
        path = find_base_config(base, source)
        if path.resolve() in _chain:
            raise InputError(f"{source}: _BASE_CONFIG_ {base} leads back to itself")
        config.update(merge_new_config(Config(), read_yaml(path), path, (*_chain, path.resolve())))
    for key, value in new_config.items():
        if isinstance(value, dict):
            if not isinstance(config.get(key), dict):
                config[key] = Config()
            merge_new_config(config[key], value, source, _chain)
        elif key == "CUSTOM_IMPORTS" and isinstance(value, list) and isinstance(config.get(key), list):
            config[key] = [*config[key], *(name for name in value if name not in config[key])]
        else:
            config[key] = value
    return config


def cfg_from_yaml_file(cfg_file: str | Path, config: EasyDict) -> EasyDict:
    """Load ``cfg_file`` (:func:`find_config`) and its base files into ``config``, import its ``CUSTOM_IMPORTS`` and
    return it.

    Raises:
        InputError: a file is missing or is not valid YAML (file and line), or a module cannot be imported.
    """
    path = find_config(cfg_file)
    merge_new_config(config, read_yaml(path), path, (path.resolve(),))
    _annotate(config, "", str(path))
    _import_custom_modules(config, f"{path}: ")
    _warn_unknown_keys(config, str(path))
    return config


def as_plain(config: Any) -> Any:
    """A configuration as plain dicts, lists, texts and numbers, which a checkpoint keeps; without the paths of this
    machine (DATA_PATH, ROOT_DIR), LOCAL_RANK, and the names of base files, which are merged.
    """
    if isinstance(config, dict):
        left_out = ("DATA_PATH", "ROOT_DIR", "LOCAL_RANK", "_BASE_CONFIG_")
        return {str(key): as_plain(value) for key, value in config.items() if key not in left_out}
    if isinstance(config, (list, tuple)):
        return [as_plain(value) for value in config]
    return config if isinstance(config, (str, int, float, bool, type(None))) else str(config)


def config_from_plain(content: Any, source: str) -> Config:
    """The configuration that ``as_plain`` made ``content`` of; ``source`` is the file for messages.

    Raises:
        InputError: it is none, or needs a module of CUSTOM_IMPORTS that is not imported. A checkpoint may come from
            elsewhere, so it does not choose what is imported.
    """
    if not isinstance(content, dict) or any(key not in content for key in ("CLASS_NAMES", "DATA_CONFIG", "MODEL")):
        raise InputError(f"{source}: its configuration lacks CLASS_NAMES, DATA_CONFIG or MODEL; give the YAML file too")
    config = Config(content)
    _annotate(config, "", source)
    for path, node in _walk(config, ""):
        needed = node.get("CUSTOM_IMPORTS") if isinstance(node, dict) else None
        missing = [name for name in needed or () if name not in sys.modules]
        if missing:
            key = f"{path + '.' if path else ''}CUSTOM_IMPORTS"
            raise InputError(f"{source} was trained with {', '.join(missing)} ({key}); import that first")
    return config


def cfg_from_list(cfg_list: Sequence[str], config: EasyDict) -> None:
    """Apply ``KEY VALUE`` pairs from a command line (``--set``) to ``config``, in place.

    ``KEY`` is a dotted path; a number steps into a list
    (``MODEL.DENSE_HEAD.ANCHOR_GENERATOR_CONFIG.0.matched_threshold``). A key must be in the file or be one of this
    package's optional keys; ``_BASE_CONFIG_`` at the end of a path merges another file into that mapping
    (``MODEL.DENSE_HEAD.LOSS_CONFIG._BASE_CONFIG_ cfgs/loss_recipes/varifocal.yaml``). The value must have the type of
    what it replaces (any type, where a key takes a name or a mapping); an int may stand for a float, and a list may be
    written with commas (``1,2,3``).
    """
    if len(cfg_list) % 2:
        raise InputError(f"--set takes pairs of KEY VALUE; {cfg_list[-1]!r} has no value")
    for path, text in zip(cfg_list[0::2], cfg_list[1::2]):
        _set(config, path, text)
    _import_custom_modules(config, "--set: ")


def log_config_to_file(cfg: EasyDict, pre: str = "cfg", logger=None) -> None:
    """Write every entry to ``logger``, one line each, sections under a heading."""
    for key, value in cfg.items():
        if isinstance(value, EasyDict):
            logger.info("----------- %s -----------", key)
            log_config_to_file(value, pre=f"{pre}.{key}", logger=logger)
        else:
            logger.info("%s.%s: %s", pre, key, value)


def _set(config: EasyDict, path: str, text: str) -> None:
    node: Any = config
    *parents, last = path.split(".")
    for depth, name in enumerate(parents):
        if (
            isinstance(node, dict)
            and name not in node
            and any(k.startswith(".".join(parents[: depth + 1]) + ".") for k in OPTIONAL_KEYS)
        ):
            node[name] = Config()
        node = _step(node, name, path)
    exists = (isinstance(node, list) and last.isdigit() and int(last) < len(node)) or (
        isinstance(node, dict) and last in node
    )
    if last == "_BASE_CONFIG_" and isinstance(node, dict):
        merge_new_config(node, read_yaml(find_base_config(text)))
        node[last] = text
        return
    if not exists and path not in OPTIONAL_KEYS:
        _step(node, last, path)
    old = (
        OPTIONAL_KEYS[path]
        if path in OPTIONAL_KEYS and (not exists or OPTIONAL_KEYS[path] is None)
        else _step(node, last, path)
    )
    value = _parse(text, old, path)
    node[int(last) if isinstance(node, list) else last] = value


def _step(node: Any, name: str, path: str) -> Any:
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    if isinstance(node, dict) and name in node:
        return node[name]
    choices = (
        [str(k) for k in node]
        if isinstance(node, dict)
        else [str(i) for i in range(len(node))]
        if isinstance(node, list)
        else []
    )
    raise InputError(
        f"--set {path}: there is no key {name} in the configuration; {nearest_or_all(name, choices, num=2)}"
    )


def _parse(text: str, old: Any, path: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = _words(text, path)
    if isinstance(old, list) and value is not None:
        texts = bool(old) and isinstance(old[0], str)
        if texts and text[:1] not in "[(":
            return text.split(",")
        if path.rpartition(".")[2] in _NAME_KEYS:
            return yaml.load(f"CLASS_NAMES: {text}", _Loader)["CLASS_NAMES"]
        items = list(value) if isinstance(value, (list, tuple)) else [_scalar(part) for part in text.split(",")]
        floats = bool(old) and all(isinstance(v, float) for v in old)
        return [float(v) if floats and isinstance(v, int) else v for v in items]
    if old is None or value is None or type(value) is type(old):
        return EasyDict(v=value).v if isinstance(value, dict) else value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, str):
        return text
    if isinstance(old, dict) and isinstance(value, str) and ":" in value:  # OpenPCDet's spelling: key:value,key:value
        for pair in value.split(","):
            key, _, part = pair.partition(":")
            old[key] = _parse(part, _step(old, key, f"{path}.{key}"), f"{path}.{key}")
        return old
    raise InputError(
        f"--set {path} {text}: the value is a {type(value).__name__}, the configuration has a {type(old).__name__} "
        f"there ({old!r})"
    )


def _words(text: str, path: str) -> Any:
    """Text that is no Python literal: true, false and none in any case, a YAML list or mapping with bare words, else
    itself.
    """
    if text[:1] in "[{":
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"--set {path} {text}: the brackets do not hold a list or mapping ({getattr(error, 'problem', error)})"
            ) from error
    return {"true": True, "false": False, "none": None, "null": None}.get(text.lower(), text)


def _scalar(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            label = next(
                (f" {value[n]}" for n in _PARENT_NAMES if isinstance(value, dict) and isinstance(value.get(n), str)), ""
            )
            yield from _walk(value, f"{path}[{i}{label}]")


def _annotate(node: Any, path: str, source: str) -> None:
    """Make every mapping below ``node`` a Config that knows its key path and file."""
    for where, value in _walk(node, path):
        if not isinstance(value, dict):
            continue
        for key, child in list(value.items()):
            if isinstance(child, dict) and not isinstance(child, Config):
                value[key] = Config(child)
            elif isinstance(child, list) and any(isinstance(c, dict) and not isinstance(c, Config) for c in child):
                value[key] = [Config(c) if isinstance(c, dict) else c for c in child]
        if isinstance(value, Config):
            value.__dict__["_key_path"], value.__dict__["_source"] = where, source


def _import_custom_modules(config: EasyDict, source: str) -> None:
    """Import what ``CUSTOM_IMPORTS`` names: at the top level, or in a section whose base file has it there."""
    for path, node in _walk(config, ""):
        if isinstance(node, dict) and node.get("CUSTOM_IMPORTS") is not None:
            import_modules(node["CUSTOM_IMPORTS"], f"{source}{path + '.' if path else ''}CUSTOM_IMPORTS")


_warned: set[tuple[str, str]] = set()


def _warn_unknown_keys(config: EasyDict, source: str) -> None:
    known = KNOWN_KEYS | plugin_config_keys()
    for path, value in _walk(config, ""):
        if not isinstance(value, dict) or path.rpartition(".")[2] in FREE_MAPPINGS:
            continue
        for key in value:
            full = f"{path}.{key}" if path else str(key)
            if key in known or full in OPTIONAL_KEYS or (source, full) in _warned:
                continue
            _warned.add((source, full))
            hint = did_you_mean(key, known, cutoff=0.75)
            warnings.warn(f"{source}: nothing here reads the key {full}{hint.removesuffix('.')}", stacklevel=3)


def root_dir() -> Path:
    """Below which OpenPCDet's tools write: this checkout; the working directory where the package is installed, away
    from the other packages.
    """
    return IMPORT_FOLDER if (IMPORT_FOLDER / "setup.py").is_file() else Path.cwd()


cfg = Config()
cfg.ROOT_DIR = root_dir()
cfg.LOCAL_RANK = 0
