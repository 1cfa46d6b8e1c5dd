"""Loads our agent into a stock Flame server, if it is missing: one ``execute`` sends its files as text, into memory.

The package there is named by the hash of that text (``flame_agent_3f2a…``), so versions live side by side, and one
that is there already is found by its name.  Modules have the same names as here, with their rooms:
``flame_agent_3f2a….output.streams``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, TypeVar

from ..errors import FlameError, RemoteError

if TYPE_CHECKING:
    from importlib.abc import Traversable

T = TypeVar("T")

# An import of siblings at the top level of a file; it may span lines. The ast module could read it too, but takes a
# tenth of a second at the start of every kernel; a test compares both.
_IMPORT = re.compile(r"^from (\.+)([\w.]*) import (\([^)]*\)|[^(\n]+)$", re.MULTILINE)
_REMARK = re.compile(r"#.*")

# What follows is made on one thread: fifty sessions that connect at once would each make the same, some MiB of it.
_making = threading.RLock()


def _forked() -> None:
    global _making
    _making = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def imports(name: str, text: str) -> Iterator[tuple[str, str]]:
    """``(folder or module, name)`` of each sibling that the agent's file ``name`` imports when it is loaded."""
    for dots, place, names in _IMPORT.findall(text):
        above = name.split(".")[: -len(dots)]
        base = ".".join([*above, place] if place else above)
        for one in _REMARK.sub("", names).strip("()").split(","):
            if one.strip():
                yield base, one.split()[0]


def in_order(sources: Mapping[str, str]) -> list[tuple[str, str]]:
    """``(name, source)`` of the agent's files, each after those that it imports when it is loaded.

    Names are dotted, from the agent's own folder.  Raises ValueError if files import each other in a circle, or import
    a missing one.
    """
    ordered: dict[str, str] = {}

    def add(name: str, way: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in way:
            raise ValueError(f"a circle of imports: {' > '.join((*way, name))}")
        for base, one in imports(name, sources[name]):
            sibling = next((s for s in (f"{base}.{one}".lstrip("."), base) if s in sources), None)
            if sibling is None:
                raise ValueError(f"{name} imports {base}.{one}, which is not there")
            add(sibling, (*way, name))
        ordered[name] = sources[name]

    for name in sorted(sources):
        add(name, ())
    return list(ordered.items())


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """``(dotted name, text)`` of the files of a folder and its subfolders, without ``__init__.py``: it has no code."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            yield from _files(path, f"{prefix}{path.name}.")
        elif path.name.endswith(".py") and path.name != "__init__.py":
            yield prefix + path.name[:-3], path.read_text(encoding="utf-8")


def _all_files() -> Iterator[tuple[str, str]]:
    return _files(resources.files("flame_kernel").joinpath("agent"))


def _read() -> tuple[str, str, str]:
    """``(package name, loader text, bundle text)`` of this version's agent."""
    with _making:
        return _made()


@functools.lru_cache(maxsize=1)
def _made() -> tuple[str, str, str]:
    sources = dict(_all_files())
    loader = sources.pop("loader")
    files = in_order(sources)
    digest = hashlib.sha256(json.dumps([loader, files]).encode()).hexdigest()[:12]
    name = f"flame_agent_{digest}"
    return name, loader, json.dumps({"name": name, "files": files})


def agent_name() -> str:
    """The name of the package that is, or will be, in ``sys.modules`` of the server."""
    return _read()[0]


def agent_text() -> tuple[str, str]:
    """What is pushed: the text of the loader, and the text of the rest."""
    return _read()[1:]


def is_missing(error: RemoteError) -> bool:
    """Whether the error means that a server lacks our agent, or that another client is still pushing it."""
    return error.ename == "KeyError" or (error.ename == "AttributeError" and agent_name() in error.evalue)


def with_agent(call: Callable[[], T], execute: Callable[[str], object]) -> T:
    """The result of ``call()``; if the agent is missing, it is pushed by Flame's ``execute``, and the call repeated."""
    try:
        return call()
    except RemoteError as e:
        if not is_missing(e):
            raise
    try:
        execute(push_source())
    except RemoteError as e:
        if e.ename in ("ImportError", "ModuleNotFoundError"):
            _say_what_is_missing(execute)
        raise
    return call()


def _say_what_is_missing(execute: Callable[[str], object]) -> None:
    """Raise FlameError with the names of the modules that the agent imports and a server lacks."""
    texts = "\n".join(text for _, text in _all_files())
    names = sorted({*re.findall(r"^(?:import|from) (\w+)", texts, re.MULTILINE), "base64", "zlib"})
    look = (
        "import sys\nfrom importlib.util import find_spec\n"  # Flame's execute has no result: an error brings it
        f"raise ImportError(' '.join(n for n in {names!r} if n not in sys.modules and find_spec(n) is None))"
    )
    try:
        execute(f"exec({look!r}, {{}})")
    except RemoteError as e:
        if e.ename == "ImportError" and e.evalue:
            raise FlameError(
                "the server's Python lacks modules of the standard library, as a frozen app does that imports only "
                f"what it needs: import them in it (PyInstaller: --hidden-import NAME, for each): {e.evalue}"
            ) from None


def push_source() -> str:
    """The source for Flame's ``execute``. It leaves no name in the globals that all clients of the server share."""
    return (
        "(lambda parts, space: (exec(parts[0], space), space['boot'](parts[1], parts[0])))("
        "__import__('json').loads(__import__('zlib').decompress(__import__('base64').b64decode("
        f"'{_pack_once(agent_text())}')).decode()), {{}})"
    )


def _pack_once(texts: tuple[str, str]) -> str:
    with _making:
        return _packed(texts)


@functools.lru_cache(maxsize=1)
def _packed(texts: tuple[str, str]) -> str:
    """Texts as they are pushed. They are kept: a server that soon drops an idle connection may do so while they are
    packed, and the next try has them at once."""
    return base64.b64encode(zlib.compress(json.dumps(texts).encode(), 6)).decode("ascii")
