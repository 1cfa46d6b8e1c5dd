"""The files of packages that the client has sent, as the import system, ``pkgutil`` and ``importlib.resources`` ask for
them.

They are in memory and have no path on a disk: ``<sent/package/file.txt`` is only a name, which ``get_data`` knows.
For hot code the name is ``<hot/package/file.txt``.
"""

import importlib.util
import io
import linecache
import os
import posixpath
import sys

from .. import sources

ROOT = "<sent/"


class Files:
    """All files that were sent: ``sources`` by the dotted names of modules, ``data`` by path. Their names
    begin with ``root``."""

    def __init__(self, root=ROOT):
        self.root = root
        self.sources = {}  # dotted name -> an object with ``path`` and ``source``
        self.data = {}  # such as "package/data/table.csv" -> bytes

    def __repr__(self):
        return "<Files %d, and %d of data>" % (len(self.sources), len(self.data))

    def forget(self, name):
        """Forget the data files of a package."""
        for path in [one for one in self.data if one.startswith(name.replace(".", "/") + "/")]:
            del self.data[path]

    def read(self, path):
        """The content of a file; FileNotFoundError if there is none."""
        content = self.data.get(path)
        if content is not None:
            return content
        for one in list(self.sources.values()):
            if one.path == path:
                return one.source.encode("utf-8", "surrogatepass")
        raise FileNotFoundError(2, os.strerror(2), self.root + path)

    def has(self, path):
        """Whether there is such a file."""
        return path in self.data or any(one.path == path for one in list(self.sources.values()))

    def read_named(self, name):
        """The content of a file by its name, which begins with the root."""
        path = name.replace(os.sep, "/")
        return self.read(posixpath.normpath(path[len(self.root) :] if path.startswith(self.root) else path))

    def listed(self, folder):
        """``{name: whether it is a folder}`` of what is in a folder."""
        found = {}
        for path in list(self.data) + [one.path for one in list(self.sources.values())]:
            if path.startswith(folder + "/"):
                name, slash, _ = path[len(folder) + 1 :].partition("/")
                found[name] = bool(slash)
        return found


class Loader:
    """A module of ``files`` for the import system; a subclass has its ``source``, ``get_code`` and ``exec_module``."""

    def __init__(self, files, name, package):
        self.files = files
        self.name = name
        self.package = bool(package)
        self.path = name.replace(".", "/") + ("/__init__.py" if package else ".py")
        self.filename = "%s%s>" % (files.root, self.path)
        self._lines = None

    def __repr__(self):
        return "<%s>" % self.filename[1:-1]

    def spec(self):
        """The module's spec."""
        spec = importlib.util.spec_from_loader(self.name, self, origin=self.filename, is_package=self.package)
        spec.has_location = True  # so it has a __file__
        if self.package:
            spec.submodule_search_locations = [self.files.root + self.name.replace(".", "/")]
        return spec

    def remember(self, text):
        """Keep its lines for tracebacks: ``linecache`` never checks an entry without a time against the disk."""
        self._lines = (len(text), None, sources.lines_of(text), self.filename)
        linecache.cache[self.filename] = self._lines

    def forget_lines(self):
        """Remove these lines from ``linecache``. Idempotent."""
        if self._lines is not None and linecache.cache.get(self.filename) is self._lines:
            del linecache.cache[self.filename]

    def create_module(self, spec):
        return None

    def get_source(self, name):
        return self.source

    def is_package(self, name):
        return self.package

    # For the data files of packages.

    def get_data(self, path):
        return self.files.read_named(path)

    def get_resource_reader(self, name):
        return Reader(self.files, posixpath.dirname(self.path)) if self.package else None

    if sys.version_info[:2] == (3, 9):
        archive = property(lambda self: _archive(self.files, self.name.replace(".", "/") + "/"))


def finder(files, path, find_spec, more=()):
    """The Finder for the folder ``path`` of a package, for ``sys.path_hooks``: raises ImportError for any other path.
    ``more``: names of packages without a file."""
    name = path[len(files.root) :].replace("/", ".") if isinstance(path, str) else ""
    if not (name in files.sources or name in more) or not path.startswith(files.root):
        raise ImportError("not a package of these files")
    return Finder(files, name, find_spec)


class Finder:
    """Finds and lists the modules in the folder of a package, for ``pkgutil``; ``find_spec`` is called with
    a module's name."""

    def __init__(self, files, package, find_spec):
        self._files = files
        self._package = package
        self._find_spec = find_spec

    def __repr__(self):
        return "<Finder of %s>" % self._package

    def find_spec(self, name, target=None):
        return self._find_spec(name)

    def iter_modules(self, prefix=""):
        for name, one in sorted(self._files.sources.items()):
            above, _, last = name.rpartition(".")
            if above == self._package:
                yield prefix + last, one.package

    def invalidate_caches(self):
        pass


class Reader:
    """A package's files for ``importlib.resources``, of every Python version."""

    def __init__(self, files, folder):
        self._node = Node(files, folder)

    def files(self):
        return self._node

    # What Python 3.7 to 3.12 call.

    def open_resource(self, resource):
        return self._node.joinpath(resource).open("rb")

    def resource_path(self, resource):
        raise FileNotFoundError(resource)  # then the caller makes a temporary file

    def is_resource(self, name):
        return self._node.joinpath(name).is_file()

    def contents(self):
        return iter([one.name for one in self._node.iterdir()])


class Node:
    """A file or folder; has what ``importlib.resources`` calls a Traversable."""

    def __init__(self, files, path):
        self._files = files
        self._path = path

    def __repr__(self):
        return "%s%s>" % (self._files.root, self._path)

    @property
    def name(self):
        return posixpath.basename(self._path)

    def iterdir(self):
        return iter([self.joinpath(name) for name in sorted(self._files.listed(self._path))])

    def is_dir(self):
        return bool(self._files.listed(self._path))

    def is_file(self):
        return self._files.has(self._path)

    def joinpath(self, *names):
        return Node(self._files, posixpath.normpath(posixpath.join(self._path, *map(str, names))))

    __truediv__ = joinpath

    def read_bytes(self):
        return self._files.read(self._path)

    def read_text(self, encoding=None, errors=None):
        with self.open("r", encoding=encoding, errors=errors) as file:
            return file.read()

    def open(self, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        if "w" in mode or "a" in mode or "+" in mode or "x" in mode:
            raise PermissionError(13, os.strerror(13), self._files.root + self._path)
        content = io.BytesIO(self._files.read(self._path))
        return content if "b" in mode else io.TextIOWrapper(content, encoding or "utf-8", errors, newline)


def _archive(files, folder):
    """A zip archive in memory of what is in ``folder``: ``importlib.resources.files`` of Python 3.9 asks no reader, but
    reads such archives."""
    import zipfile

    class Archive(zipfile.CompleteDirs):
        def __fspath__(self):
            return files.root[:-1]

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        for path in sorted(set(files.data) | {one.path for one in files.sources.values()}):
            if not path.startswith(folder):
                continue
            written.writestr(path, files.read(path))
    return Archive(content)
