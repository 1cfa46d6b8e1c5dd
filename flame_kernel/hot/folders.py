"""Lists what a far side may import from the user's folders: modules by dotted name, and data files of packages.

A far side asks for a name. Only names of this list are answered, so it cannot get any other file. These are left out:
hidden files, links that lead out of the folder, virtual environments, files that look like keys or secrets, and modules
that the far side itself needs.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import TargetError, TransferError

# The most files in all folders; the most bytes of a module, and of a data file.
MOST, MOST_SOURCE, MOST_DATA = 20_000, 24 << 20, 256 << 20
# Modules that are never served, because the far side needs its own.
_NEEDED = {"__main__", "Pyro4", "serpent", "IPython", "jedi", "parso", "debugpy", "comm", "matplotlib_inline", "psutil"}
_NEEDED |= {"traitlets", "ipykernel", "_pydevd_bundle", "pydevd"}
# Files that are not package data: what compilers make, and what looks like a secret.
_MADE = (".pyc", ".pyo", ".so", ".pyd", ".dylib", ".dll")
_SECRET = (".pem", ".key", ".p12", ".pfx", ".kdbx", ".env", ".jks", ".keytab", ".gpg")
_SECRET_NAMES = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials", "secrets", "htpasswd")
_OUTSIDE = ("node_modules", "__pycache__", "site-packages")

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class File:
    """A file that may be served: its real path, the folder that it must be in, and a stamp that differs once it has
    changed."""

    path: str
    root: str
    stamp: Stamp
    package: bool = False

    @property
    def size(self) -> int:
        return self.stamp[1]


@dataclass
class Listed:
    """What may be imported: ``modules`` by dotted name, ``data`` files by path (``package/file.csv``), ``namespaces``:
    packages without ``__init__.py``, and what is ``left_out``, with the reason."""

    modules: dict[str, File] = field(default_factory=dict)
    data: dict[str, File] = field(default_factory=dict)
    namespaces: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    count: int = 0


def is_needed(name: str) -> bool:
    """Whether the far side itself needs the modules of this top-level name, so that they must not be replaced there."""
    return name in sys.stdlib_module_names or name in _NEEDED or name.startswith("flame_agent_")


def checked(names: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The folders that the user has named, or files ``NAME.py``, as real paths. Raises TargetError."""
    found = []
    for name in names:
        path = Path(name).expanduser()
        if not path.exists():
            raise TargetError(f"there is no folder {path} here; name one with modules in it, such as src")
        if not path.is_dir() and path.suffix != ".py":
            raise TargetError(
                f"{path} is neither a folder nor a file NAME.py; name the folder that your modules are in"
            )
        real = path.resolve()
        if real in (Path("/"), Path.home()):
            raise TargetError(f"{path} holds more than a project; name the folder that your modules are in")
        if real not in found:
            found.append(real)
    if not found:
        raise TargetError("name a folder with modules in it, such as src")
    return found


def scan(folders: Sequence[Path]) -> Listed:
    """List what is in the folders now. Of modules with the same name, that of the first folder counts. Raises
    TargetError if there are too many files."""
    listed = Listed()
    for folder in folders:
        if folder.is_file():
            _take(listed, str(folder), str(folder.parent), (), folder.name)
        elif (folder / "__init__.py").is_file():  # a package itself: it alone, not what lies beside it
            if _may_enter(listed, (), folder.name):
                _walk(listed, str(folder), str(folder), (folder.name,))
        else:
            _walk(listed, str(folder), str(folder), ())
    _settle(listed)
    return listed


def _walk(listed: Listed, folder: str, root: str, above: tuple[str, ...]) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as e:
        listed.left_out["/".join(above) or folder] = e.strerror or str(e)
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        listed.left_out["/".join(above)] = "a virtual environment"
        return
    for entry in entries:
        listed.count += 1
        if listed.count > MOST:
            raise TargetError(f"{root} has more than {MOST} files; name the folder that your modules are in")
        if entry.is_dir(follow_symlinks=False):
            if _may_enter(listed, above, entry.name):
                _walk(listed, entry.path, root, (*above, entry.name))
        else:
            _take(listed, entry.path, root, above, entry.name, entry.is_symlink())


def _may_enter(listed: Listed, above: tuple[str, ...], name: str) -> bool:
    if name.startswith(".") or name in _OUTSIDE:
        return False
    if not above and is_needed(name):
        listed.left_out[name] = "the far side needs its own"
        return False
    return True


def _take(listed: Listed, path: str, root: str, above: tuple[str, ...], name: str, is_link: bool = False) -> None:
    """List one file, if it may be served."""
    shown = "/".join((*above, name))
    if name.startswith(".") or name.endswith(_MADE):
        return
    file = _found(path, root, is_link)
    if file is None:
        listed.left_out[shown] = "not a regular file, or a link out of the folder"
        return
    if name.endswith(".py") and name[:-3].isidentifier() and all(part.isidentifier() for part in above):
        _take_module(listed, file, above, name[:-3])
    elif _is_secret(name):
        listed.left_out[shown] = "it looks like a secret"
    elif above:
        listed.data.setdefault(shown, file)


def _take_module(listed: Listed, file: File, above: tuple[str, ...], stem: str) -> None:
    package = stem == "__init__"
    dotted = ".".join(above if package else (*above, stem))
    if not dotted:
        return
    if is_needed(dotted.partition(".")[0]) or file.size > MOST_SOURCE:
        needed = file.size <= MOST_SOURCE
        listed.left_out["/".join((*above, f"{stem}.py"))] = (
            "the far side needs its own" if needed else "it is too large"
        )
        return
    before = listed.modules.get(dotted)
    if before is None or (package and not before.package and before.root == file.root):  # as Python does
        listed.modules[dotted] = File(file.path, file.root, file.stamp, package)


def _found(path: str, root: str, is_link: bool) -> File | None:
    """The file at ``path``, if it is a regular one that really lies in ``root``."""
    try:
        real = os.path.realpath(path) if is_link else path
        if real != path and not real.startswith(root + os.sep):
            return None
        status = os.stat(real, follow_symlinks=False)
    except OSError:
        return None
    return (
        File(real, root, (status.st_mtime_ns, status.st_size, status.st_ino)) if stat.S_ISREG(status.st_mode) else None
    )


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return lowered.endswith(_SECRET) or lowered.partition(".")[0] in _SECRET_NAMES


def _settle(listed: Listed) -> None:
    """Find the packages without ``__init__.py``, and keep the data of regular packages only."""
    for dotted in list(listed.modules):
        parent = dotted.rpartition(".")[0]
        while parent and parent not in listed.modules and parent not in listed.namespaces:
            listed.namespaces.add(parent)
            parent = parent.rpartition(".")[0]
    packages = {name for name, file in listed.modules.items() if file.package}
    for shown, file in list(listed.data.items()):
        above = shown.split("/")[:-1]
        inside = any(".".join(above[: depth + 1]) in packages for depth in range(len(above)))
        if not inside or file.size > MOST_DATA:
            del listed.data[shown]


def read(file: File) -> bytes:
    """The content of a file of the list as it is now. Raises TransferError, also if a link has taken its place."""
    try:
        real = os.path.realpath(file.path)
        if real != file.path or not (real + os.sep).startswith(file.root + os.sep):
            raise TransferError(f"{file.path} has become a link")
        handle = os.open(real, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as opened:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise TransferError(f"{file.path} is not a file any more")
            return opened.read(MOST_DATA)
    except OSError as e:
        raise TransferError(f"cannot read {file.path}: {(e.strerror or str(e)).lower()}") from None


def text_of(file: File) -> str:
    """The text of a module as it is now. Raises TransferError."""
    try:
        return importlib.util.decode_source(read(file))
    except (SyntaxError, UnicodeDecodeError) as e:
        raise TransferError(f"{file.path} is not valid in its declared encoding: {e}") from None
