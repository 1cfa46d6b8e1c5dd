"""Modules that the client sends: cells can import them, from memory, as long as the session lives.

A module is compiled when it is sent and runs when it is imported.  When it is sent again, the imported module is
forgotten, and the next import runs the new text in a fresh module.  Names that cells took from the old one stay as they
are.  Source lines are in ``linecache``, so tracebacks, ``inspect`` and ``pdb`` show them.
"""

import importlib
import importlib.util
import inspect
import sys
import threading

from . import package_files
from .description import has_module

# The requests that this module answers.
KINDS = ("send_module", "get_module")


class ModuleError(Exception):
    """A module cannot be sent or fetched; the text is one sentence."""


class Modules:
    """The modules of a session: a finder in ``sys.meta_path``, and one in ``sys.path_hooks``, while there are any."""

    def __init__(self):
        self._all = package_files.Files()
        self._files = self._all.sources  # dotted name -> _File
        self._lock = threading.Lock()

    def __repr__(self):
        return "<Modules %s>" % (", ".join(sorted(self._files)) or "none")

    def reply(self, request):
        """The content of the reply to ``send_module`` or ``get_module``."""
        try:
            if request["kind"] == "send_module":
                data = dict(zip(request.get("data") or (), map(bytes, request.get("buffers") or ())))
                return dict(self._send(request["module"], request["files"], data), status="ok")
            return {"status": "ok", "source": self._get(request["module"])}
        except ModuleError as e:
            return {"status": "error", "ename": "ModuleError", "evalue": str(e), "traceback": []}

    # -- sending

    def _send(self, name, files, data):
        """``files``: ``[{"name": dotted, "package": bool, "source": text}, …]``; either all are taken or none.

        ``data`` has the other files of a package by path.
        """
        made = {}
        for one in files:
            made[one["name"]] = _File(self._all, one["name"], one["package"], one["source"])
        for parent in _parents(name):
            if parent not in self._files and not has_module(parent):
                made[parent] = _File(self._all, parent, True, "")
        with self._lock:
            replaced = [old for old in self._files if old == name or old.startswith(name + ".")]
            for old in replaced:
                self._files.pop(old).forget_lines()
            self._all.forget(name)
            self._files.update(made)
            self._all.data.update(data)
            for one in made.values():
                one.remember(one.source)
            _forget_imported(name)
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)
                sys.path_hooks.append(self._path_hook)
        importlib.invalidate_caches()
        return {"replaced": len(replaced)}

    # -- importing

    def find_spec(self, name, path=None, target=None):
        """Called by the import system: our module comes before one of the same name on the disk."""
        file = self._files.get(name)
        return None if file is None else file.spec()

    def _path_hook(self, path):
        """What lists the modules in the folder of a package of ours; ImportError for any other path."""
        return package_files.finder(self._all, path, self.find_spec)

    def texts(self):
        """All that was sent, for worker processes: ``(root, [(name, whether a package, source)], data)``."""
        sources = [(name, one.package, one.source) for name, one in list(self._files.items())]
        return self._all.root, sources, dict(self._all.data)

    # -- fetching

    def _get(self, name):
        """The source of a module. The module itself is not imported, but the package around it is."""
        try:
            module = sys.modules.get(name)
            if module is not None and getattr(module, "__spec__", None) is None:
                return inspect.getsource(module)
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleError("there is no module %s on the far side" % name)
            get_source = getattr(spec.loader, "get_source", None)
            source = get_source(name) if get_source is not None else None
        except ModuleError:
            raise
        except ImportError as e:
            raise ModuleError("there is no module %s on the far side: %s" % (name, e))
        except Exception as e:  # finding it runs the code of its package
            raise ModuleError("the source of %s cannot be had: %s: %s" % (name, type(e).__name__, e))
        if source is None:
            kind = "a folder without a file" if spec.submodule_search_locations is not None else "compiled"
            raise ModuleError("%s is %s on the far side: it has no source" % (name, kind))
        return source

    # -- the end

    def close(self):
        """Forget all modules, including the imported ones. Idempotent."""
        with self._lock:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                if self._path_hook in sys.path_hooks:
                    sys.path_hooks.remove(self._path_hook)
                for path in [one for one in list(sys.path_importer_cache) if one[:6] == package_files.ROOT]:
                    sys.path_importer_cache.pop(path, None)
            for name, file in self._files.items():
                file.forget_lines()
                module = sys.modules.get(name)
                if getattr(getattr(module, "__spec__", None), "loader", None) is file:
                    del sys.modules[name]
            self._files.clear()
            self._all.data.clear()


class _File(package_files.Loader):
    """The text of one module, compiled; also the module's loader."""

    def __init__(self, files, name, package, source):
        package_files.Loader.__init__(self, files, name, package)
        self.source = source
        try:
            self._code = compile(source, self.filename, "exec", dont_inherit=True)
        except SyntaxError as e:
            what = "%s in %s, line %s" % (e.msg, self.filename[6:-1], e.lineno)
            raise ModuleError("%s: Python %d.%d on the far side cannot read it" % ((what,) + sys.version_info[:2]))
        except (ValueError, RecursionError, MemoryError) as e:
            raise ModuleError("%s cannot be compiled on the far side: %s" % (self.filename[6:-1], e))

    def exec_module(self, module):
        exec(self._code, module.__dict__)

    def get_code(self, name):
        return self._code


def _parents(name):
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def forget(name):
    """Take a module out of ``sys.modules`` and of its package."""
    module = sys.modules.pop(name, None)
    parent, _, last = name.rpartition(".")
    holder = sys.modules.get(parent)
    if holder is not None and getattr(holder, last, None) is module:
        try:
            delattr(holder, last)
        except AttributeError:
            pass


def _forget_imported(name):
    # Over a copy: other threads may import meanwhile.
    for loaded in [one for one in list(sys.modules) if one == name or one.startswith(name + ".")]:
        forget(loaded)
