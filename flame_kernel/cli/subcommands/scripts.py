"""Reads a script of this machine, and finds the modules in its folder that must be sent along."""

from __future__ import annotations

import ast
import contextlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def decoded(source: bytes) -> str:
    """The text of a script, decoded as its coding line says. Raises SyntaxError, UnicodeDecodeError."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(encoding)


def modules_beside(script: Path, source: str) -> list[ModuleType]:
    """The modules and packages in the script's folder that it imports, directly or not. None of them is run.

    Each is an empty module that has only its ``__file__`` or ``__path__``. If the script is a symbolic link, its folder
    is that of the file which the link leads to, as in Python.
    """
    with contextlib.suppress(OSError):  # our working folder was deleted
        script = script.resolve()
    folder = script.parent
    found: dict[str, ModuleType] = {}
    waiting = [source]
    while waiting:
        for name in _imported(waiting.pop()):
            if name in found:
                continue
            module = _module(folder, name)
            if module is not None and Path(str(module.__file__ or "")) != script:
                found[name] = module
                waiting += _texts(module)
    return [found[name] for name in sorted(found)]


def _imported(source: str) -> Iterator[str]:
    """The top-level names of the modules that ``source`` imports; nothing if it is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _module(folder: Path, name: str) -> ModuleType | None:
    module = ModuleType(name)
    module.__file__ = None
    package = folder / name
    if (package / "__init__.py").is_file() or (package.is_dir() and next(package.glob("*.py"), None)):
        module.__path__ = [str(package)]
    elif (folder / f"{name}.py").is_file():
        module.__file__ = str(folder / f"{name}.py")
    else:
        return None
    return module


def _texts(module: ModuleType) -> Iterator[str]:
    paths = [Path(module.__file__)] if module.__file__ else Path(module.__path__[0]).rglob("*.py")
    for path in paths:
        try:
            yield decoded(path.read_bytes())
        except (OSError, UnicodeDecodeError, SyntaxError):
            continue  # reported later, when it is sent
