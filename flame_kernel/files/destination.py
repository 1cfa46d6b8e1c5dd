"""A folder that the user chose. All that a transfer writes, changes, deletes or reads here is in this folder.

The folder is opened once, by the path that the user gave.  Everything below is reached from there, one name at a time
and never through a link, so neither a name that the far side sends nor a link that somebody plants meanwhile leads
out of it.  Where the system cannot open names in an open folder (Windows), each folder on the way is looked at
before each step, and then a path is used: a link that is planted in that very moment would be followed there.

What becomes of names:

- empty, ``.``, ``..``, with a ``/`` or a NUL in it, or no text: no file system has such names; the transfer ends
- longer than 255 bytes, and on Windows what is no name there (``C:``, ``\\``, ``NUL``, a dot at the end): not copied
- control characters, line breaks, marks of direction, bytes that are no text: copied as they are, and shown escaped
- the same twice, or out of order, in one folder: no agent of ours lists that; the transfer ends
- two that differ only in case, for a folder here that ignores case: the first is copied, the second is not

What is received gets the permissions that ``cp`` would give it: those of the source that the umask leaves. It
never gets the setuid, setgid or sticky bit.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from typing import Any

from ..agent.wire.files import file_names, receiving, trees

# The longest path of a folder, in bytes, with the chosen folder's own. The system takes 4096 with a file's name at the
# end, and what has a longer path could not be deleted by it.
MAX_PATH = 3800

Names = tuple[bytes, ...]

_CALLS = {os.open, os.stat, os.mkdir, os.unlink, os.rmdir, os.rename, os.readlink, os.symlink}
_BY_FOLDER = os.supports_dir_fd >= _CALLS
_OPEN = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_PASS = _OPEN | getattr(os, "O_PATH", os.O_RDONLY)  # with O_PATH also folders that cannot be read
_BELOW = _PASS | getattr(os, "O_NOFOLLOW", 0)
# The beginning of a path on Windows: a drive, or a share.
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_UMASK = re.compile(r"^Umask:\s*([0-7]+)$", re.MULTILINE)


def component(text: Any) -> bytes:
    """A file name from the far side, as bytes; Refused if it is not exactly one name."""
    name: bytes = file_names.from_wire(text)
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise file_names.Refused(f"a file name that leads elsewhere: {file_names.shown(text[:200])}")
    return name


def plain_name(path: str) -> str:
    """The last component of a path that the user wrote; "" where it has no name of its own: ``/``, ``.``, ``..``,
    ``~``. In a path of Windows, ours or with a drive or a share in it, backslashes separate too."""
    if os.name == "nt" or _WINDOWS.match(path):
        path = path.replace("\\", "/")
    head, _, name = path.rstrip("/").rpartition("/")
    is_home = not head and name.startswith("~")
    return "" if is_home or name in (".", "..") else name


def umask() -> int:
    """This process's umask: the permissions that new files do not get."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            found = _UMASK.search(file.read())
        if found is not None:
            return int(found[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)  # reading it means setting it: for a moment, new files are private
    os.umask(mask)
    return mask


class ChosenFolder:
    """The folder at ``path``, open; for one thread. Raises OSError where it cannot be opened.

    ``place`` is an entry's path in it, as a tuple of names; ``()`` is the folder itself.  All methods raise OSError;
    and Refused if a name is not valid here, or if a folder on the way is missing or is not a folder.
    """

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._mask = umask()
        self._root: int | None = None
        self._identity: tuple[int, int] | None = None
        self._above: Names = ()
        self._folder: int | None = None  # the folder of the names in `_above`; None if these are ()
        self._spelt: dict[Names, dict[str, bytes]] = {}  # by folder that ignores case: names that came
        self._tells_case: set[Names] = set()
        self._open_root()

    def __repr__(self) -> str:
        return f"<ChosenFolder {file_names.shown(self.path)}>"

    def close(self) -> None:
        """Close it. The next use opens it again; Refused if another folder has its path by then."""
        self._leave()
        if self._root is not None:
            root, self._root = self._root, None
            os.close(root)

    def permissions(self, mode: int) -> int:
        """What a source's mode becomes here."""
        return mode & 0o777 & ~self._mask

    # -- looking, and reading

    def describe(self, place: Names) -> dict[str, Any]:
        """See `trees.describe`; an entry that is a link is not followed."""
        name, folder = self._reach(place)
        found: dict[str, Any] = trees.describe(name, follow=not place, folder=folder)
        return found

    def children(self, place: Names) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """What is in a folder: names and descriptions, as `trees.walk` asks for them."""

        def listed() -> list[bytes]:
            name, folder = self._reach(place)
            if folder is None:
                return os.listdir(name)
            fd = os.open(name, os.O_RDONLY | _OPEN | getattr(os, "O_NOFOLLOW", 0), dir_fd=folder)
            try:
                return [os.fsencode(one) for one in os.listdir(fd)]
            finally:
                os.close(fd)

        found: Iterator[tuple[bytes, dict[str, Any]]] = trees.children(
            listed, lambda name: self._describe_child(place, name)
        )
        return found

    def _describe_child(self, place: Names, name: bytes) -> dict[str, Any]:
        return self.describe((*place, name))

    def read_link(self, place: Names) -> bytes:
        """Where a link leads to."""
        name, folder = self._reach(place)
        return os.readlink(name, dir_fd=folder)

    def walk(self, top: Names = ()) -> Iterator[tuple[Names, dict[str, Any]]]:
        """See `trees.walk`: everything below the folder ``top``."""
        found: Iterator[tuple[Names, dict[str, Any]]] = trees.walk(b"", reach=_Branch(self, top))
        return found

    def source(self, place: Names) -> trees.Source:
        """A file, to be read."""
        name, folder = self._reach(place)
        return trees.Source(name, folder=folder)

    def part_size(self, place: Names, size: int, mtime: int) -> int:
        """See `receiving.part_size`."""
        name, folder = self._reach(place)
        return int(receiving.part_size(name, size, mtime, folder=folder))

    def part(self, place: Names, size: int, mtime: int) -> trees.Source:
        """The part of a file that is here already, to be read."""
        name, folder = self._reach(place)
        return trees.Source(receiving.part_path(name, size, mtime), folder=folder)

    def is_same(self, place: Names, other: Names) -> bool:
        """Whether two names are one entry here."""
        found = []
        for one in (place, other):
            name, folder = self._reach(one)
            try:
                status = os.lstat(name, dir_fd=folder)
            except (FileNotFoundError, NotADirectoryError):
                return False
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                return False  # a hard link: two names on purpose
            found.append((status.st_dev, status.st_ino))
        return found[0] == found[1]

    # -- writing

    def incoming(self, place: Names, size: int, mtime: int, offset: int) -> receiving.Incoming:
        """A file to be received; see `receiving.Incoming`."""
        name, folder = self._reach_new(place)
        incoming = receiving.Incoming(name, size, mtime, offset, folder=folder)
        self._came(place, os.path.basename(incoming.part), folder)
        return incoming

    def make_folder(self, place: Names) -> bool:
        """See `trees.make_folder`. The chosen folder itself exists already."""
        if not place:
            name, folder = self._reach(place)
            return bool(trees.is_under_way(os.stat(name, dir_fd=folder)))
        name, folder = self._reach_new(place)
        self._forget(place)
        made = bool(trees.make_folder(name, folder=folder))
        self._came(place, name, folder)
        return made

    def make_link(self, place: Names, target: bytes) -> bool:
        """See `trees.make_link`; the caller checks where the target leads."""
        name, folder = self._reach_new(place)
        made = bool(trees.make_link(name, target, folder=folder))
        self._came(place, name, folder)
        return made

    def set_attributes(self, place: Names, mode: int, mtime: int) -> None:
        """See `trees.set_attributes`; ``mode`` is limited by ``permissions``."""
        name, folder = self._reach(place)
        trees.set_attributes(name, self.permissions(mode), mtime, folder=folder)

    def remove(self, place: Names) -> None:
        """See `trees.remove`. The chosen folder itself stays."""
        if not place:
            raise file_names.Refused("it is the folder that was chosen")
        name, folder = self._reach(place)
        self._forget(place)
        trees.remove(name, folder=folder)

    # -- the way to an entry

    def _reach(self, place: Names) -> tuple[bytes, int | None]:
        """An entry's name and the open folder above it; on a system without that, its path and None."""
        root = self._open_root()
        if not place:
            return (b".", root) if root is not None else (self.path, None)
        file_names.check_name(place[-1])
        if root is None:
            self._look_at_folders(place[:-1])
            return os.path.join(self.path, *place), None
        above = place[:-1]
        if above != self._above:
            self._enter(root, above)
        return place[-1], root if self._folder is None else self._folder

    def _reach_new(self, place: Names) -> tuple[bytes, int | None]:
        """The same for an entry to be made; Refused if, where case is ignored, another one that came has its name."""
        if not place:
            raise file_names.Refused("a folder has that name")
        found = self._reach(place)
        spelt = self._spelt.get(place[:-1])
        if spelt is not None:
            other = spelt.setdefault(_folded(place[-1]), place[-1])
            if other != place[-1]:
                raise file_names.Refused(
                    f"{file_names.shown(other)} has the same name here, where upper and lower case are one"
                )
        return found

    def _open_root(self) -> int | None:
        if self._root is None and _BY_FOLDER:
            root = os.open(self.path, _PASS)
            status = os.fstat(root)
            identity = status.st_dev, status.st_ino
            if self._identity not in (None, identity):
                os.close(root)
                raise file_names.Refused("its folder is another one by now")
            self._root, self._identity = root, identity
        return self._root

    def _enter(self, root: int, above: Names) -> None:
        """Open the folder of these names, from the one that is open if that is its parent."""
        if len(self.path) + sum(map(len, above)) + len(above) > MAX_PATH:
            raise file_names.Refused("its folders are too many, or their names too long")
        inside = self._folder is not None and above[:-1] == self._above
        start, names = (self._folder, above[-1:]) if inside else (root, above)
        assert start is not None
        folder = start
        try:
            for name in names:
                file_names.check_name(name)
                below = os.open(name, _BELOW, dir_fd=folder)
                if folder != start:
                    os.close(folder)
                folder = below
        except BaseException as e:  # raised again, whatever it is; the folder is closed
            if folder != start:
                os.close(folder)
            if isinstance(e, OSError):
                raise _no_folder() from e
            raise
        self._leave()
        self._above = above
        self._folder = folder if above else None
        self._spelt = {one: spelt for one, spelt in self._spelt.items() if above[: len(one)] == one}
        self._tells_case = {one for one in self._tells_case if above[: len(one)] == one}

    def _leave(self) -> None:
        self._above = ()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            os.close(folder)

    def _forget(self, place: Names) -> None:
        """Leave the open folder if it is this entry or below it: the entry is about to be replaced or removed."""
        if self._above[: len(place)] == place:
            self._leave()

    def _look_at_folders(self, above: Names) -> None:
        for depth in range(1, len(above) + 1):
            file_names.check_name(above[depth - 1])
            if trees.describe(os.path.join(self.path, *above[:depth]), follow=False)["kind"] != "folder":
                raise _no_folder()

    def _came(self, place: Names, made: bytes, folder: int | None) -> None:
        """An entry has come, as the file ``made``; find out, once, whether its folder ignores case."""
        above = place[:-1]
        if above in self._spelt or above in self._tells_case or made.swapcase() == made:
            return
        if self._ignores_case(above, made, folder):
            self._spelt[above] = {_folded(place[-1]): place[-1]}
        else:
            self._tells_case.add(above)

    def _ignores_case(self, above: Names, made: bytes, folder: int | None) -> bool:
        found = []
        for name in (made, made.swapcase()):
            path = name if folder is not None else os.path.join(self.path, *above, name)
            try:
                status = os.lstat(path, dir_fd=folder)
            except OSError:
                return False
            found.append((status.st_dev, status.st_ino))
        return found[0] == found[1]


class _Branch:
    """A folder below a chosen one, as `trees.walk` reads it."""

    def __init__(self, folder: ChosenFolder, top: Names) -> None:
        self._folder = folder
        self._top = top

    def children(self, names: Names) -> Iterator[tuple[bytes, dict[str, Any]]]:
        return self._folder.children((*self._top, *names))

    def read_link(self, names: Names) -> bytes:
        return self._folder.read_link((*self._top, *names))


def _no_folder() -> file_names.Refused:
    return file_names.Refused("its folder is not there, or a link is in its place")


def _folded(name: bytes) -> str:
    """The form of a name that is the same for all names that differ only in case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", file_names.to_wire(name)).casefold())
