"""Sends local modules and packages to the far side's memory, where cells can import them; fetches source from there.

Of a package all Python files are sent, and its data files up to a limit, but nothing compiled.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..commands.library_rails import refuse
from ..errors import TransferError
from ..session.session import Session

_COMPILED = (".so", ".pyd", ".dylib")
# Most bytes of source; a message must be smaller than 64 MiB.
_MAX_SOURCE = 24 << 20
# Most bytes of a package's data files, together.
_MAX_DATA = 8 << 20
_SHOWN = 3


@dataclass(frozen=True)
class SentModule:
    """What was sent: the dotted names of ``modules``, the ``data`` files of a package, and its files that were
    ``left_out``: hidden ones, and those beyond the limit."""

    name: str
    modules: tuple[str, ...]
    bytes: int
    left_out: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    def __str__(self) -> str:
        data = f" and {_count(self.data, 'data file')}" if self.data else ""
        kind = "" if self.data else " of source"
        text = f"{self.name}: {_count(self.modules, 'module')}{data}, {self.bytes} bytes{kind}; import {self.name}"
        if self.left_out:
            more = f" and {len(self.left_out) - _SHOWN} more" if len(self.left_out) > _SHOWN else ""
            limit = _MAX_DATA >> 20
            text += f"\nleft out, as hidden or beyond {limit} MB of data: {', '.join(self.left_out[:_SHOWN])}{more}"
        return text


def _count(things: Sequence[str], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


@dataclass(frozen=True)
class _Source:
    name: str
    package: bool
    text: str


def sendmodule(session: Session, module: str | ModuleType, source: str | None = None) -> SentModule:
    """Make a module importable for cells. ``module`` is a name, with its ``source``; or a local module or package, or
    its name.

    This does not run the module; it runs when a cell imports it.  If it is sent again, the next ``import`` gets the new
    version; objects that came from the old one do not change.  It stays in memory until the session ends.  Raises
    TransferError, one sentence, if there is no source or it cannot be compiled there.
    """
    refuse(session, "sendmodule")
    left_out: tuple[str, ...] = ()
    data: dict[str, bytes] = {}
    if source is not None:
        if not isinstance(module, str):
            raise TransferError("source text goes with a name: sendmodule('name', source)")
        name, files = module, [_Source(module, False, source)]
        _check_name(name)
    else:
        if not isinstance(module, (str, ModuleType)):
            raise TransferError(f"sendmodule takes a module or its name, not {type(module).__name__}")
        name = module if isinstance(module, str) else module.__name__
        _check_name(name)
        files, data, left_out = _gather(name, module)
    size = sum(len(one.text.encode("utf-8", "surrogatepass")) for one in files)
    if size > _MAX_SOURCE:
        raise TransferError(
            f"{name} has {size} bytes of source, the limit is {_MAX_SOURCE}; put its folder there instead"
        )
    listed = [{"name": one.name, "package": one.package, "source": one.text} for one in files]
    _ask(session, "send_module", module=name, files=listed, data=list(data), buffers=list(data.values()))
    size += sum(map(len, data.values()))
    return SentModule(name, tuple(one.name for one in files), size, left_out, tuple(data))


def send_named(session: Session, text: str) -> SentModule:
    """As `sendmodule`, for text that a user types. Raises TransferError.

    ``text`` is a file ``NAME.py``, a package's folder or its ``__init__.py``, or the name of a module or package; the
    current folder is searched first.
    """
    path = Path(text).expanduser()
    if text.replace(".", "").isidentifier() and path.suffix != ".py" and not path.is_dir():
        beside = path.with_name(f"{text}.py")
        if not beside.is_file():
            return sendmodule(session, text)
        path = beside
    if path.name == "__init__.py" and path.is_file():
        path = path.absolute().parent
    if path.is_dir():
        folder = path.resolve()
        if next(folder.glob("*.py"), None) is None:
            raise TransferError(f"{path} is not a package: no file in it ends with .py")
        package = ModuleType(folder.name)
        package.__path__ = [str(folder)]
        return sendmodule(session, package)
    if path.suffix != ".py":
        raise TransferError(
            f"there is no module {text!r} here: name one that can be imported, a file NAME.py or a folder"
        )
    return sendmodule(session, path.stem, _read(path))


def getmodule(session: Session, name: str) -> str:
    """The source of a module on the far side; TransferError if it has none."""
    _check_dotted(name)
    source = _ask(session, "get_module", module=name).get("source")
    if not isinstance(source, str):
        raise TransferError(f"{session.location} did not give the source of {name}")
    return source


def _ask(session: Session, kind: str, **fields: Any) -> dict[str, Any]:
    reply = session.request(kind, **fields).result()
    if reply.get("status") != "ok":
        raise TransferError(f"at {session.location}: {str(reply.get('evalue'))[:2000]}")
    return reply


def _check_dotted(name: Any) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise TransferError(f"{name!r} is not the name of a module; it looks like package.module")


def _check_name(name: str) -> None:
    _check_dotted(name)
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names or root in ("__main__", "Pyro4", "serpent") or root.startswith("flame_agent_"):
        what = "what a cell defines" if root == "__main__" else f"{root}, on which the far side itself runs,"
        raise TransferError(f"{what} cannot be sent as a module; give it another name")


def _gather(name: str, module: str | ModuleType) -> tuple[list[_Source], dict[str, bytes], tuple[str, ...]]:
    """The sources of a local module, its data files by path, and the names of files left out. The module is not run."""
    spec, folders, file = _found(name, module)
    if folders is not None and any(os.path.isdir(folder) for folder in folders):
        return _gather_package(name, [Path(folder) for folder in folders])
    if file is not None and file.endswith(_COMPILED):
        raise TransferError(f"{name} is compiled ({os.path.basename(file)}), so it cannot be sent; install it there")
    if file is not None and file.endswith(".py") and os.path.isfile(file):
        return [_Source(name, folders is not None, _read(Path(file)))], {}, ()
    get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
    text = get_source(name) if get_source is not None and folders is None else None
    if text is None:
        raise TransferError(f"{name} has no source file here, so it cannot be sent; give its source as text")
    return [_Source(name, False, text)], {}, ()


def _found(name: str, module: str | ModuleType) -> tuple[ModuleSpec | None, Sequence[str] | None, str | None]:
    """``(spec, folders, file)`` of a local module; ``folders`` is None if it is not a package."""
    if isinstance(module, ModuleType):
        folders = list(module.__path__) if hasattr(module, "__path__") else None
        return module.__spec__, folders, getattr(module, "__file__", None)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError) as e:
        raise TransferError(f"there is no module {name} here: {e}") from None
    if spec is None:
        raise TransferError(f"there is no module {name} here; check its name, or give its source")
    places = spec.submodule_search_locations
    return spec, None if places is None else list(places), spec.origin if spec.has_location else None


def _gather_package(name: str, folders: list[Path]) -> tuple[list[_Source], dict[str, bytes], tuple[str, ...]]:
    found: dict[str, _Source] = {}
    data: dict[str, bytes] = {}
    left_out: list[str] = []
    room = _MAX_DATA
    for folder in folders:
        for path in _files(folder):
            shown = str(Path(name.replace(".", "/")) / path.relative_to(folder))
            parts = path.relative_to(folder).with_suffix("").parts
            if path.name.endswith(_COMPILED):
                raise TransferError(
                    f"{name} has compiled parts ({shown}): they cannot be sent; install it on the far side"
                )
            if path.suffix != ".py" or not all(part.isidentifier() for part in parts):
                content = _data(path, room)
                if content is None:
                    left_out.append(shown)
                else:
                    data.setdefault(shown.replace(os.sep, "/"), content)
                    room -= len(content)
                continue
            package = parts[-1] == "__init__"
            dotted = ".".join((name, *(parts[:-1] if package else parts)))
            if dotted not in found:
                found[dotted] = _Source(dotted, package, _read(path))
            for depth in range(len(parts)):  # folders without an __init__.py are packages too
                above = ".".join((name, *parts[:depth]))
                if above not in found and not folder.joinpath(*parts[:depth], "__init__.py").exists():
                    found[above] = _Source(above, True, "")
    if not found:
        raise TransferError(f"{name} has no source files in {', '.join(map(str, folders))}")
    return sorted(found.values(), key=lambda one: one.name), data, tuple(left_out)


def _data(path: Path, room: int) -> bytes | None:
    """The content of a data file; None if it is hidden, not a regular file, or larger than ``room``."""
    try:
        if path.name.startswith(".") or not path.is_file() or path.stat().st_size > room:
            return None
        with path.open("rb") as file:
            content = file.read(room + 1)
    except OSError as e:
        raise TransferError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    return content if len(content) <= room else None


def _files(folder: Path) -> Iterator[Path]:
    for top, inner, names in os.walk(folder):
        inner[:] = sorted(one for one in inner if one != "__pycache__" and not one.startswith("."))
        for name in sorted(names):
            if not name.endswith((".pyc", ".pyo")):
                yield Path(top, name)


def _read(path: Path) -> str:
    try:
        return importlib.util.decode_source(path.read_bytes())
    except OSError as e:
        raise TransferError(f"cannot read {path}: {(e.strerror or str(e)).lower()}") from None
    except (SyntaxError, UnicodeDecodeError) as e:
        raise TransferError(f"{path} is not valid in its declared encoding: {e}") from None
