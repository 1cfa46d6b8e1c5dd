"""Keeps the notebook's folder on a child's import path, for the user's imports and for no others.

A child starts without its folder on the path.  With the first cell or the first Tab, "" is added at the front of
``sys.path``, as in ipykernel.  But what the agent imports, and what those modules import (IPython, jedi, debugpy and
others), never comes from there: they do not mean a ``jedi.py`` or ``typing_extensions.py`` next to a notebook.

The calling frame shows who imports.  For an ``import`` statement in such a library, the folder is skipped.  If the
library calls ``import_module``, the name may be the user's (a pickle's class, an extension to load), so the folder
comes last.
"""

import importlib.machinery
import opcode
import os
import sys

_IMPORT = opcode.opmap["IMPORT_NAME"]
_MACHINERY = ("importlib", "_frozen_importlib", "_frozen_importlib_external")
# Of these modules, installed ones come before those in the folder, whoever imports them: matplotlib imports some by
# name, and so do messages of front ends.
_OURS_BY_NAME = ("IPython", "jedi", "parso", "debugpy", "comm", "matplotlib_inline", "psutil", "traitlets")


def cwd():
    """The current folder; empty if it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


class Folder:
    """A module finder that is asked first; ``left``: entries removed from the path when the process started."""

    def __init__(self, left=()):
        self._left = [entry for entry in left if entry]
        self._path = list(sys.path)  # the path without the folder
        self._start = _here()
        self._opened = False
        self._real = {}  # entries of the path -> what they resolve to
        self._ours = {name.partition(".")[0] for name in list(sys.modules)} - {"__main__"}
        sys.meta_path.insert(0, self)

    def __repr__(self):
        return "<Folder %s %s>" % (self._start, "open" if self._opened else "closed")

    def open(self):
        """The user's code begins: put the folder on the path, unless Python was told to keep it off."""
        if not self._opened:
            self._opened = True
            if not os.environ.get("PYTHONSAFEPATH"):
                sys.path[:0] = [""] + self._left

    # -- for the import system

    def find_spec(self, name, path=None, target=None):
        """The spec of a module of ours; None to let the other finders look, as usual."""
        if target is not None:
            return None  # a reload: it comes from where it was
        root, dot, _ = name.partition(".")
        if dot:
            return self._find_submodule(name, path) if root in self._ours else None
        by_statement, ours = self._importer()
        if not ours and root not in _OURS_BY_NAME:
            return None
        spec = _find(name, [entry for entry in sys.path if not self._is_folder(entry)])
        if spec is not None:
            self._ours.add(root)
            return spec
        if ours and self._opened and (by_statement or root in _OURS_BY_NAME):
            raise _not_found(name)
        return None  # no error here: ``importlib.util.find_spec`` would fail with it

    def _find_submodule(self, name, path):
        """A module in a package of ours, ignoring parts of the package in the folder (``pkgutil.extend_path``)."""
        parents = name.split(".")[:-1]
        known = {os.path.join(entry, *parents) for entry in self._path}
        folders = [os.path.join(entry or _here(), *parents) for entry in sys.path + [""] if self._is_folder(entry)]
        kept = [entry for entry in path or () if entry in known or entry not in folders]
        if path is None or len(kept) == len(list(path)):
            return None
        spec = _find(name, kept)
        if spec is None:
            raise _not_found(name)
        return spec

    def _importer(self):
        """``(whether the importing code uses an import statement, whether it is ours)``."""
        frame = sys._getframe(2)
        while frame is not None and _module(frame).partition(".")[0] in _MACHINERY:
            frame = frame.f_back
        if frame is None:
            return False, not self._opened
        code = frame.f_code
        by_statement = 0 <= frame.f_lasti < len(code.co_code) and code.co_code[frame.f_lasti] == _IMPORT
        # Text that a library runs for its caller, as timeit does, has no file.
        made_up = code.co_filename[:1] == "<" and not code.co_filename.startswith(("<frozen ", "<flame_agent_"))
        ours = _module(frame).partition(".")[0] in self._ours
        return by_statement and not made_up, ours or not self._opened

    def _is_folder(self, entry):
        """Whether an entry of the path was added for the user and leads to the folder or into it."""
        if not isinstance(entry, str) or entry in self._path:
            return False
        if entry in ("", "."):
            return True
        real = self._real.get(entry)
        if real is None:
            real = self._real[entry] = os.path.realpath(entry)
        if any(_within(real, known) for known in self._path):  # debugpy's own folder is among the installed packages
            return False
        return any(top and _within(real, top) for top in (self._start, _here()))


def _find(name, path):
    """The spec that the import system would find for a module with this path."""
    for finder in list(sys.meta_path):
        if isinstance(finder, Folder) or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, path if finder is importlib.machinery.PathFinder or "." in name else None)
        if spec is not None:
            return spec
    return None


def _not_found(name):
    return ModuleNotFoundError("No module named %r" % name, name=name)


def _module(frame):
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _within(path, top):
    return path == top or path.startswith(top.rstrip(os.sep) + os.sep)


def _here():
    try:
        return os.path.realpath(os.getcwd())
    except OSError:
        return ""
