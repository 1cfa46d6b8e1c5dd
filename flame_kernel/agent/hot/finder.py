"""Hot code: modules of the client's project, found by name in a list that the client has sent, and fetched when they
are imported.

An import of anything else costs one look into a dict, and no round trip.  Sources are in memory and in ``linecache``.
In a process that is not the session's own, only code of the session finds them.
"""

import importlib
import importlib.machinery
import os
import sys
import threading

from ..output import streams
from ..remote import modules, package_files
from . import fixing, reloading
from .asking import Asking

KINDS = ("hot",)
ROOT = "<hot/"


class Overlap(Exception):
    """Another session in this process serves modules of the same name."""


class Hot:
    """The hot code of a session; ``host`` is the session core. It installs no finder and no hook before ``start``."""

    def __init__(self, host):
        self.host = host
        self.asking = Asking(host)
        self.files = Files(self.asking)
        self.namespaces = set()
        self._made = {}  # name -> its Source, also of a file that is not there any more: it may come back
        self._reloads = False
        self._edited = []  # names of modules whose edits wait for the next cell
        self._failed = {}  # names of edited modules that could not be loaded -> why
        self._at_hand = {}  # name -> text that came before it was asked for
        self._served = {}  # name -> [bytes, how often] in the order of their first import
        self._lock = threading.RLock()

    def __repr__(self):
        return "<Hot %d modules, %d served>" % (len(self.files.sources), len(self._served))

    def submit(self, request):
        """Answer a request ``hot``. Called on the thread that receives requests, so it must not wait for an import."""
        if request["op"] in fixing.OPS:
            fixing.begin(self.host, request)
            return
        try:
            content = self._reply(request)
        except (Overlap, ValueError, TypeError, KeyError) as e:
            content = {"status": "error", "ename": type(e).__name__, "evalue": str(e), "traceback": []}
        self.host.reply(request, content)

    def _reply(self, request):
        op = request["op"]
        if op == "answer":
            return {"status": "ok", "wanted": self.asking.answer(request)}
        if op == "start":
            self._start(request)
        elif op == "update":
            self._update(request)
        elif op == "stop":
            return {"status": "ok", "forgotten": self.close()}
        elif op != "list":
            raise ValueError("unknown op %r" % op)
        return {"status": "ok", "modules": self._listed(), "own": self._own(), "failed": dict(self._failed)}

    # -- what there is -----------------------------------------------------------------------------------------------

    def _start(self, request):
        names = {name.partition(".")[0] for name, _ in request["modules"]}
        if not self.host.place.owns_process:
            for other in sys.meta_path:
                same = sorted(names & getattr(other, "flame_hot_names", set())) if other is not self else ()
                if same:
                    raise Overlap(
                        "%s %s served to another session in this process already, and modules of a process are "
                        "shared: end it there by %%flame hot --off, or connect with --place child"
                        % (", ".join(same[:5]), "is" if len(same) == 1 else "are")
                    )
        self._reloads = bool(request.get("reload"))
        self.asking.patience = float(request.get("patience") or self.asking.patience)
        self._update(request)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
            sys.path_hooks.append(self._path_hook)
        importlib.invalidate_caches()

    def _update(self, request):
        """Take the list of modules and data files as they are now, and the names of those that were ``edited``."""
        if request.get("modules") is not None:
            self._list(request)
        for name in request.get("stale") or ():
            self.files.data.forget(name)
        for name in request.get("edited") or ():
            self._at_hand.pop(name, None)
            if self._reloads and name in self._served and name not in self._edited:
                self._edited.append(name)

    def _list(self, request):
        listed = {}
        for name, package in request["modules"]:
            old = self._made.get(name)
            listed[name] = old if old is not None and old.package == bool(package) else Source(self, name, package)
        self._made.update(listed)
        self.files.sources = listed
        self.namespaces = set(request.get("namespaces") or ())
        self.files.data.known = dict(request.get("data") or ())
        importlib.invalidate_caches()

    @property
    def flame_hot_names(self):
        """The top names of what is served, for other sessions in this process."""
        return {name.partition(".")[0] for name in self.files.sources}

    def _listed(self):
        return [[name, size, times] for name, (size, times) in self._served.items()]

    def _own(self):
        """The modules of the list that were imported from elsewhere; those stay as they are."""
        return sorted(name for name, one in self.files.sources.items() if name in sys.modules and not one.is_in_use)[
            :100
        ]

    # -- importing ---------------------------------------------------------------------------------------------------

    def find_spec(self, name, path=None, target=None):
        """Called by the import system."""
        source = self.files.sources.get(name)
        if source is None and name not in self.namespaces:
            return None
        if not self._may(name, path):
            return None
        if source is None:
            return self._namespace(name, path)
        return source.spec()

    def _may(self, name, path):
        """Whether code of the session asks, and the module's package was served by us."""
        if not self.host.place.owns_process:
            cell = streams.current()
            if cell is None or cell.host is not self.host:
                return False
        parent = name.rpartition(".")[0]
        return not parent or path is None or ROOT + parent.replace(".", "/") in list(path)

    def _namespace(self, name, path):
        """The spec of a package without ``__init__.py``, with the folders of that name there. None if there is a module
        or a package with a file there: that comes first."""
        other = importlib.machinery.PathFinder.find_spec(name, path)
        if other is not None and other.loader is not None and other.submodule_search_locations is None:
            return None
        if other is not None and other.origin not in (None, "namespace"):
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        found = [] if other is None else list(other.submodule_search_locations or ())
        spec.submodule_search_locations = [ROOT + name.replace(".", "/")] + found
        return spec

    def _path_hook(self, path):
        """A finder for the folder of a package that we serve; ImportError for any other path."""
        return package_files.finder(self.files, path, self.find_spec, self.namespaces)

    def texts(self):
        """What has come so far, in the form of ``Modules.texts``."""
        known = [(one.name, one.package, one.text) for one in list(self.files.sources.values()) if one.text is not None]
        names = {name for name, _, _ in known}
        for name, text in list(self._at_hand.items()):
            if name in self.files.sources and name not in names:
                known.append((name, self.files.sources[name].package, text))
        for name in self.namespaces:  # in a worker they may be packages with a file
            if not any(os.path.isdir(os.path.join(folder, *name.split("."))) for folder in sys.path):
                known.append((name, True, ""))
        return ROOT, known, self.files.data.kept()

    def text_of(self, name):
        """The source of a module: it came with another one, or is fetched now. Raises ImportError."""
        text = self._at_hand.pop(name, None)
        if text is not None:
            return text
        answer, content = self.asking.fetch("module", name)
        at = 0
        for known, size in answer["parts"]:
            part, at = content[at : at + size].decode("utf-8", "surrogatepass"), at + size
            if known == name:
                text = part
            elif known not in self._served:
                self._at_hand[known] = part
        if text is None:
            raise ImportError("the client has answered with another module than %s" % name, name=name)
        return text

    def ran(self, name, text):
        """Note that a module was loaded, for the list of what was served."""
        served = self._served.setdefault(name, [0, 0])
        served[0], served[1] = len(text.encode("utf-8", "surrogatepass")), served[1] + 1

    # -- reloading ---------------------------------------------------------------------------------------------------

    def before_cell(self, cell):
        """Called on a cell's thread before its code: reload what was edited."""
        if not self._edited:
            return
        with self._lock:
            edited, self._edited = self._edited, []
            order = list(self._served)
            edited.sort(key=lambda one: order.index(one) if one in order else len(order))
            for at, name in enumerate(edited):
                source, module = self.files.sources.get(name), sys.modules.get(name)
                if source is None or module is None or not source.is_in_use:
                    continue
                try:
                    kept = reloading.reload(module, source)
                except KeyboardInterrupt:  # a Stop of the cell: the next one tries again
                    self._edited[:0] = edited[at:]
                    raise
                except BaseException as e:  # what the module's own code raises, SystemExit too: the old one stays
                    self._failed[name] = why = reloading.words(e, source.filename)
                    words = "%s was edited but is not reloaded: %s. The module stays as it was" % (name, why)
                    self.host.tell(cell.request_id, words + "\n")
                    continue
                self._failed.pop(name, None)
                if kept:
                    words = "%s is reloaded, but what holds the old %s keeps using it\n"
                    self.host.tell(cell.request_id, words % (name, ", ".join(kept)))

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self):
        """The session ends: forget its hot code, and undo its fixes."""
        self.close()
        fixing.close(self.host.session_id)

    def close(self):
        """Remove the finder and all modules that it has loaded; returns how many those were. May be called again."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self._path_hook in sys.path_hooks:
            sys.path_hooks.remove(self._path_hook)
            for path in [one for one in list(sys.path_importer_cache) if one[: len(ROOT)] == ROOT]:
                sys.path_importer_cache.pop(path, None)
        count = 0
        for source in list(self._made.values()):
            source.forget_lines()
            if source.is_in_use:
                modules.forget(source.name)
                count += 1
        for name in self.namespaces:
            module = sys.modules.get(name)
            if ROOT + name.replace(".", "/") in list(getattr(module, "__path__", None) or ()):
                modules.forget(name)
        self.files.sources, self.namespaces, self.files.data.known = {}, set(), {}
        self.files.data.clear()
        for table in (self._made, self._at_hand, self._served, self._failed):
            table.clear()
        self._edited = []
        return count


class Source(package_files.Loader):
    """A module that the client serves; it is the module's loader, and has its text once that has come."""

    def __init__(self, hot, name, package):
        package_files.Loader.__init__(self, hot.files, name, package)
        self._hot = hot
        self.text = None  # of what was loaded last
        self.code = None

    @property
    def source(self):
        """The text of the module, fetched if need be."""
        return self._hot.text_of(self.name) if self.text is None else self.text

    @property
    def is_in_use(self):
        """Whether the module of this name here is ours."""
        spec = getattr(sys.modules.get(self.name), "__spec__", None)
        return getattr(spec, "loader", None) is self

    def fetched(self):
        """``(text, code)`` of the client's present file; raises ImportError, SyntaxError."""
        text = self._hot.text_of(self.name)
        try:
            return text, compile(text, self.filename, "exec", dont_inherit=True)
        except SyntaxError:
            if self.text is None:
                self.remember(text)  # so that its line is shown
            raise

    def loaded(self, text, code):
        """Called when the module has run, or is about to run: keep its text and code."""
        self.text, self.code = text, code
        self.remember(text)
        self._hot.ran(self.name, text)

    def exec_module(self, module):
        text, code = self.fetched()
        self.loaded(text, code)
        exec(code, module.__dict__)

    def get_code(self, name):
        return self.fetched()[1] if self.code is None else self.code


class Files(package_files.Files):
    """The files of the project, each fetched when it is read."""

    def __init__(self, asking):
        package_files.Files.__init__(self, ROOT)
        self.data = Data(asking)


class Data:
    """The data files of packages: their names are known, their content is fetched, and kept until it changes."""

    def __init__(self, asking):
        self._asking = asking
        self._kept = {}
        self.known = {}  # path -> size

    def __iter__(self):
        return iter(list(self.known))

    def __contains__(self, path):
        return path in self.known

    def get(self, path):
        if path not in self.known:
            return None
        if path not in self._kept:
            self._kept[path] = self._asking.fetch("data", path)[1]
        return self._kept[path]

    def kept(self):
        """The files that were fetched."""
        return dict(self._kept)

    def forget(self, path):
        self._kept.pop(path, None)

    def clear(self):
        self._kept.clear()
