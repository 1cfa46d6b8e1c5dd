"""The notebook's folder on a child's import path: there for what the user imports, and for nothing else.

A child begins without its folder.  With the first cell, or the first Tab, "" comes to the front of ``sys.path``, as in
ipykernel.  But what the agent imports, and what that imports in turn (IPython, jedi, debugpy and theirs), never comes
from there: a ``jedi.py`` or a ``typing_extensions.py`` that lies beside a notebook is not what was meant.

Who imports is told by the frame.  An ``import`` statement in such a library has the folder passed over.  Where it calls
``import_module`` the name may be the user's (a pickle's class, an extension to load): the folder comes last.
"""

import importlib.machinery
import opcode
import os
import sys

_IMPORT = opcode.opmap["IMPORT_NAME"]
_MACHINERY = ("importlib", "_frozen_importlib", "_frozen_importlib_external")
# What is asked for by name from anywhere: by matplotlib, by front ends' messages.
_OURS_BY_NAME = ("IPython", "jedi", "parso", "debugpy", "comm", "matplotlib_inline", "psutil", "traitlets")


class Folder:
    """A finder of modules, the first one that is asked; ``left`` was taken off the path when the process began."""

    def __init__(self, left=()):
        self._left = [entry for entry in left if entry]
        self._path = list(sys.path)  # without the folder
        self._start = _here()
        self._opened = False
        self._real = {}  # entries of the path and what they lead to
        self._ours = {name.partition(".")[0] for name in list(sys.modules)} - {"__main__"}
        sys.meta_path.insert(0, self)

    def __repr__(self):
        return "<Folder %s %s>" % (self._start, "open" if self._opened else "closed")

    def open(self):
        """The user has begun: the folder is on the path, unless Python was told to keep it off."""
        if not self._opened:
            self._opened = True
            if not os.environ.get("PYTHONSAFEPATH"):
                sys.path[:0] = [""] + self._left

    # -- for the import system

    def find_spec(self, name, path=None, target=None):
        """Where a module of ours is; None where the others are to be asked, as ever."""
        if target is not None:
            return None  # it is loaded anew from where it was
        root, dot, _ = name.partition(".")
        if dot:
            return self._find_inside(name, path) if root in self._ours else None
        by_statement, ours = self._importer()
        if not ours and root not in _OURS_BY_NAME:
            return None
        spec = _find(name, [entry for entry in sys.path if not self._is_folder(entry)])
        if spec is not None:
            self._ours.add(root)
            return spec
        if ours and self._opened and (by_statement or root in _OURS_BY_NAME):
            raise _not_found(name)
        return None  # ``importlib.util.find_spec`` has nothing of it if this raises

    def _find_inside(self, name, path):
        """A module in a package of ours, whose parts in the folder do not count (``pkgutil.extend_path``)."""
        inside = name.split(".")[:-1]
        known = {os.path.join(entry, *inside) for entry in self._path}
        folders = [os.path.join(entry or _here(), *inside) for entry in sys.path + [""] if self._is_folder(entry)]
        kept = [entry for entry in path or () if entry in known or entry not in folders]
        if path is None or len(kept) == len(list(path)):
            return None
        spec = _find(name, kept)
        if spec is None:
            raise _not_found(name)
        return spec

    def _importer(self):
        """Whether the code that imports just now does it by a statement, and whether it is ours."""
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
        """Whether an entry of the path came with the user, and leads to the folder, or into it."""
        if not isinstance(entry, str) or entry in self._path:
            return False
        if entry in ("", "."):
            return True
        real = self._real.get(entry)
        if real is None:
            real = self._real[entry] = os.path.realpath(entry)
        if any(_within(real, known) for known in self._path):  # debugpy has a folder of its own in what is installed
            return False
        return any(top and _within(real, top) for top in (self._start, _here()))


def _find(name, path):
    """The spec of a module, as the import system would find it with this path."""
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
