"""Finds and reads files and makes folders for a transfer, the same way on both sides. Both sides import it.

``file_names`` tells which names there may be, and ``receiving`` writes files.

A link inside a folder is copied as a link if it leads to something inside the folder (``..`` only at its beginning).
Other links, and everything that is not a file, folder or link, are left out and reported.  Nothing is written through
a link.

``folder``, where a function has it, is the descriptor of an open folder, and ``path`` is then one name in it.  The file
is reached without walking a path, so no link that someone creates meanwhile can lead elsewhere.
"""

import errno
import glob
import os
import stat

from .. import seals
from .file_names import Refused, check_link, to_wire, why

CHUNK = 1 << 20
PIECE = 64 << 20  # bytes that one checksum covers
_KERNEL_FILE = 16 << 20  # bytes; files in /proc report a size of 0
_KERNEL_SIZE = 1 << 20  # bytes; files in /sys report the most they might hold, mostly one page

_UNDER_WAY = 0o1700  # the mode that marks a folder being filled: sticky and private, as no other folder is
BINARY = getattr(os, "O_BINARY", 0)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
BY_DESCRIPTOR = hasattr(os, "fchmod") and os.utime in os.supports_fd


# -- finding ---------------------------------------------------------------------------------------------------------


def resolve(path, cwd):
    """An absolute path: ``~`` is this user's home, relative paths start at ``cwd``."""
    if b"\0" in path:
        raise Refused("a path with a NUL in it")
    return os.path.join(cwd, os.path.expanduser(path))


def expand(pattern, cwd):
    """The paths that ``pattern`` names: that path if it exists, else all matches (``*``, ``?``, ``[…]``, ``**``)."""
    path = resolve(pattern, cwd)
    if os.path.lexists(path) or not glob.has_magic(pattern):
        return [path]
    return sorted(glob.glob(path, recursive=True))


def describe(path, follow=True, folder=None):
    """``{"kind", "size", "mode", "mtime"}``; kind is file, folder, link, other or missing. Raises OSError."""
    try:
        status = os.stat(path, dir_fd=folder) if follow else os.lstat(path, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return {"kind": "missing", "size": 0, "mode": 0, "mtime": 0}
    return _described(status)


def _described(status):
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))
    kind = next((word for test, word in kinds if test(status.st_mode)), "other")
    size = status.st_size if kind == "file" else 0
    return {"kind": kind, "size": size, "mode": stat.S_IMODE(status.st_mode) & 0o777, "mtime": status.st_mtime_ns}


def walk(top, after=(), after_end=False, reach=None):
    """Yield ``(components, description)`` for everything below folder ``top``, sorted by name. A folder comes before
    its content, and again after it with kind "end"; what cannot be copied has kind "odd" and a ``reason``.

    ``after`` (and ``after_end``, if it was the end of a folder) names the last entry already seen: continue behind it.
    ``reach``, if given, accesses the content by components (``children``, ``read_link``) instead of by path.
    """
    after = tuple(after)
    reach = reach or _Paths(top)
    stack = [((), reach.children(()), None)]
    while stack:
        folder, children, own = stack[-1]
        for name, what in children:
            here = folder + (name,)
            came = _came(here, what["kind"] == "folder", after, after_end)
            if came == "all":
                continue
            if came == "nothing":
                what = _copyable(reach, here, what)
                yield here, what
            if what["kind"] == "folder":
                stack.append((here, reach.children(here), what))
                break
        else:
            stack.pop()
            if own is not None:
                yield folder, dict(own, kind="end")


def _came(here, is_folder, after, after_end):
    """How much of an entry was already seen if the walk continues behind ``after``: all, its beginning or nothing."""
    if here < after[: len(here)]:
        return "all"
    if here != after[: len(here)]:
        return "nothing"
    return "beginning" if is_folder and not (here == after and after_end) else "all"


def _copyable(reach, here, what):
    """The description, with the target if it is a link; of kind "odd" if the entry cannot be copied."""
    if what["kind"] == "other":
        return dict(what, kind="odd", reason="neither a file nor a folder")
    if what["kind"] != "link":
        return what
    try:
        target = reach.read_link(here)
        check_link(here[:-1], target)
        return dict(what, target=to_wire(target))
    except (Refused, OSError) as e:
        return dict(what, kind="odd", reason=str(e))


class _Paths:
    """Accesses what is below ``top`` by path."""

    def __init__(self, top):
        self._top = top

    def children(self, names):
        folder = os.path.join(self._top, *names)

        def listed():
            with os.scandir(folder) as found:
                return [entry.name for entry in found]

        return children(listed, lambda name: describe(os.path.join(folder, name), follow=False))

    def read_link(self, names):
        return os.readlink(os.path.join(self._top, *names))


def children(listed, described):
    """``(name, description)`` of each name in ``listed()``, sorted; one odd entry if the folder cannot be read."""
    try:
        names = sorted(listed())
    except (OSError, Refused) as e:
        return iter([(b"", {"kind": "odd", "reason": "cannot be read: %s" % _clause(e)})])

    def each():
        for name in names:
            try:
                yield name, described(name)
            except (OSError, Refused) as e:
                yield name, {"kind": "odd", "reason": _clause(e)}

    return each()


def _clause(error):
    return str(why(error) if isinstance(error, OSError) else error)


# -- reading ---------------------------------------------------------------------------------------------------------


class Source:
    """A file opened to be sent; ``size``, ``mode`` and ``mtime`` are those at the time of opening.

    Raises OSError, and Refused if it is not a regular file.
    """

    def __init__(self, path, follow=False, folder=None):
        fd = os.open(path, os.O_RDONLY | BINARY | NO_WAIT | (0 if follow else NO_FOLLOW), dir_fd=folder)
        self._file = os.fdopen(fd, "rb", buffering=0)
        self._small = None
        try:
            self._status = os.fstat(fd)
            if not stat.S_ISREG(self._status.st_mode):
                raise Refused("not a regular file")
            self.size = self._status.st_size
            self.mode = stat.S_IMODE(self._status.st_mode) & 0o777
            self.mtime = self._status.st_mtime_ns
            if not self.size or (self.size <= _KERNEL_SIZE and not getattr(self._status, "st_blocks", 1)):
                self._read_kernel_file()
        except BaseException:  # raised again, whatever it is; the file is closed
            self._file.close()
            raise

    def __repr__(self):
        return "<Source %d bytes>" % self.size

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()

    def _read_kernel_file(self):
        """Read the whole file if it is one of /proc or /sys: these report a size of 0 or a meaningless one. Ordinary
        files that have no blocks yet are read too."""
        parts, size = [], 0
        while size <= _KERNEL_FILE:
            part = self._file.read(CHUNK)
            if not part:
                break
            parts.append(part)
            size += len(part)
        if size > _KERNEL_FILE:
            raise Refused("has content and no size: it cannot be copied")
        if size != self.size:
            self._small = b"".join(parts)
            self.size = size

    def read_into(self, view, offset):
        """Fill ``view`` from ``offset`` on; returns the number of bytes, less only at the end of the file."""
        if self._small is not None:
            part = self._small[offset : offset + len(view)]
            view[: len(part)] = part
            return len(part)
        self._file.seek(offset)
        have = 0
        while have < len(view):
            count = self._file.readinto(view[have:])
            if not count:
                break
            have += count
        return have

    def hole_at(self, offset, limit):
        """How many bytes from ``offset`` up to ``limit`` are a hole (zeros), where the system can tell."""
        if self._small is not None or not hasattr(os, "SEEK_DATA"):
            return 0
        try:
            return min(os.lseek(self._file.fileno(), offset, os.SEEK_DATA), limit) - offset
        except OSError as e:
            return limit - offset if e.errno == errno.ENXIO else 0  # only a hole from here on

    @property
    def changed(self):
        """Whether the file was written to since it was opened."""
        now = os.fstat(self._file.fileno())
        return (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns)


def sums(source, start, limit, buffer, name=seals.USUAL):
    """The hash ``name`` of each PIECE of a Source from ``start`` to ``limit``, as hex; ``buffer``: memoryview to read
    into."""
    at = start
    while at < limit:
        end = min(at + PIECE, limit)
        total = seals.unkeyed(name)
        while at < end:
            count = source.read_into(buffer[: min(len(buffer), end - at)], at)
            if not count:
                return  # the file has become shorter
            total.update(buffer[:count])
            at += count
        yield total.hexdigest()


def matching(ours, theirs, size):
    """How many bytes are the same at the beginning, according to two lists of ``sums`` over ``size`` bytes."""
    same = 0
    for one, other in zip(ours, theirs):
        if one != other:
            break
        same += 1
    return min(same * PIECE, size)


# -- folders and links ---------------------------------------------------------------------------------------------


def make_folder(path, folder=None):
    """Make a folder that only its owner can use, unless it exists. Returns whether it was made, now or by an attempt
    that was interrupted: until ``set_attributes``, it has the mode that marks it. Refused if something else is in its
    place."""
    kind = describe(path, follow=False, folder=folder)["kind"]
    if kind == "missing":
        os.mkdir(path, 0o700, dir_fd=folder)
        _set(path, _UNDER_WAY, None, folder)
        return True
    if kind == "link":
        raise Refused("a link is in the place of the folder")
    if kind != "folder":
        raise Refused("a file is in the place of the folder")
    return is_under_way(os.lstat(path, dir_fd=folder))


def is_under_way(status):
    """Whether a folder has the mode that marks one being filled."""
    return stat.S_IMODE(status.st_mode) == _UNDER_WAY


def make_link(path, target, folder=None):
    """Make a link where there is nothing or another link; returns whether anything changed."""
    kind = describe(path, follow=False, folder=folder)["kind"]
    if kind not in ("missing", "link"):
        raise Refused("something else is in the place of the link")
    if kind == "link":
        if os.readlink(path, dir_fd=folder) == target:
            return False
        os.unlink(path, dir_fd=folder)
    os.symlink(target, path, dir_fd=folder)
    return True


def remove(path, folder=None):
    """Delete a file, a link or an empty folder; no error if it is already gone."""
    try:
        if stat.S_ISDIR(os.lstat(path, dir_fd=folder).st_mode):
            os.rmdir(path, dir_fd=folder)
        else:
            os.unlink(path, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        pass


def set_attributes(path, mode, mtime, folder=None):
    """Set the mode and modification time (ns) of a file or folder."""
    _set(path, mode & 0o777, mtime, folder)


def _set(path, mode, mtime, folder):
    if not BY_DESCRIPTOR:
        os.chmod(path, mode)
        if mtime is not None:
            os.utime(path, ns=(mtime, mtime))
        return
    fd = os.open(path, os.O_RDONLY | NO_FOLLOW | NO_WAIT, dir_fd=folder)
    try:
        set_open(fd, mode, mtime)
    finally:
        os.close(fd)


def set_open(fd, mode, mtime):
    """Set the mode and modification time (ns) of an open file."""
    os.fchmod(fd, mode)
    if mtime is not None:
        os.utime(fd, ns=(mtime, mtime))
