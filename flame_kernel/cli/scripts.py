"""A script of this machine as a cell, which runs it as ``python FILE`` does; and the modules beside it, to go along."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# The name there of a script's exit status; gone when it has been read.
STATUS = "_flame_status"

# In the names of the session, which a script has for itself: so what it defines belongs to `__main__`, as pickles want.
# The traceback is Python's own, without our frame.
_PROGRAM = """\
def _flame_script():
    import linecache, sys, traceback
    source, name, arguments = {source!r}, {name!r}, {arguments!r}
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    space = globals()
    before = sys.argv, space.get("__name__")
    sys.argv = [name] + arguments
    space["__name__"], space["__file__"] = "__main__", name
    try:
        exec(compile(source, name, "exec"), space)
        return 0
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return (e.code or 0) & 255
        print(e.code, file=sys.stderr)
        return 1
    except BaseException as e:
        traceback.print_exception(type(e), e, e.__traceback__.tb_next)
        return 130 if isinstance(e, KeyboardInterrupt) else 1
    finally:
        sys.argv, space["__name__"] = before
{status} = _flame_script()
del _flame_script
"""


def program(source: str, name: str, arguments: list[str]) -> str:
    """The cell; afterwards its exit status is in STATUS there."""
    return _PROGRAM.format(source=source, name=name, arguments=arguments, status=STATUS)


def modules_beside(script: Path, source: str) -> list[ModuleType]:
    """The modules and packages of the script's folder that it imports, and those that they import; none of them is run.

    Each is a module with its ``__file__`` or ``__path__``, and nothing in it.
    """
    folder = script.absolute().parent
    found: dict[str, ModuleType] = {}
    waiting = [source]
    while waiting:
        for name in _imported(waiting.pop()):
            if name in found:
                continue
            module = _module(folder, name)
            if module is not None and Path(str(module.__file__ or "")) != script.absolute():
                found[name] = module
                waiting += _texts(module)
    return [found[name] for name in sorted(found)]


def _imported(source: str) -> Iterator[str]:
    """The top-level names of what a text imports; nothing of one that is no Python."""
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
            yield path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # it is said when it is to be sent
