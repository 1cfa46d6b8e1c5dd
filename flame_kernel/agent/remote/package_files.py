"""The files of packages that the client has sent, as ``pkgutil`` and ``importlib.resources`` ask for them.

They are in memory and have no path on a disk: ``<sent/package/file.txt`` is only a name, which ``get_data`` knows.
Of hot code it is ``<hot/package/file.txt``.
"""

import io
import os
import posixpath
import sys

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


class Finder:
    """Finds and lists the modules in the folder of a package, for ``pkgutil``. A path hook of ``find_spec``."""

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


def archive(files, folder=""):
    """For ``importlib.resources.files`` of Python 3.9, which asks no reader but knows zip archives: one in memory, of
    what is in a ``folder``."""
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


IS_39 = sys.version_info[:2] == (3, 9)
