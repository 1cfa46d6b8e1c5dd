"""Writes a file that comes in a transfer, so that it can be resumed. Both sides import it.

A file is written next to its target, under a name of its own and readable only by its owner, and renamed when it is
complete: other programs see either the old file or the new one.  After an interruption this partial file (the *part*)
stays, and the transfer can resume from it.  Its name is made from the file's name, size and time, so two writers of the
same file share one part.  ``folder`` is as in ``trees``.
"""

import hashlib
import os
import shutil
import stat

from . import file_names, trees

KEEP_PART = 1 << 20  # bytes; a smaller part is not worth resuming


def part_path(path, size, mtime):
    """Where a file for ``path`` is written until it is complete."""
    folder, name = os.path.split(path)
    text = b"%s\0%d\0%d" % (name, size, mtime or 0)
    return os.path.join(folder, b".flame-" + hashlib.blake2b(text, digest_size=12).hexdigest().encode() + b".part")


def part_size(path, size, mtime, folder=None):
    """The size of a file's part, if one is here that is worth resuming; else 0."""
    try:
        found = os.lstat(part_path(path, size, mtime), dir_fd=folder)
    except OSError:  # if the folder cannot be read, the later write reports it
        return 0
    return found.st_size if _is_own(found) and KEEP_PART <= found.st_size <= size else 0


class Incoming:
    """A file being received for ``path``, ``size`` bytes in the end; starts anew, or resumes at ``offset``.

    Raises OSError, and Refused if it cannot be written: no room, or something other than a file in its place.
    """

    def __init__(self, path, size, mtime, offset=0, folder=None):
        self.path = path
        self.size = size
        self.at = offset
        self._mtime = mtime
        self.part = part_path(path, size, mtime)
        there = trees.describe(path, follow=False, folder=folder)["kind"]
        if there not in ("file", "link", "missing"):
            raise file_names.Refused("a folder has that name" if there == "folder" else "what is there is not a file")
        free = shutil.disk_usage(os.path.dirname(path) or b"." if folder is None else folder).free
        if size - offset > free:
            raise file_names.Refused("%d bytes are needed and %d are free" % (size - offset, free), "full")
        flags = os.O_RDWR | trees.BINARY | trees.NO_FOLLOW | trees.NO_WAIT
        if not offset:
            try:
                os.unlink(self.part, dir_fd=folder)
            except FileNotFoundError:
                pass
            flags |= os.O_CREAT | os.O_EXCL
        self._folder = None if folder is None else os.dup(folder)  # the caller may close its own too early
        self._file = None
        self._over = False
        try:
            fd = os.open(self.part, flags, 0o600, dir_fd=folder)
            self._file = os.fdopen(fd, "r+b", buffering=0)
            self._status = os.fstat(fd)
            if (offset and not _is_own(self._status)) or self._status.st_size < offset:
                raise file_names.Refused("its partial file was changed by someone else")
            if self._status.st_size > offset:  # not for a new file: truncating one to nothing would flush it on close
                self._file.truncate(offset)
        except BaseException:  # raised again, whatever it is; the file is closed
            self._close()
            raise

    def _close(self):
        self._over = True
        if self._file is not None:
            self._file.close()
        if self._folder is not None:
            folder, self._folder = self._folder, None
            os.close(folder)

    def __repr__(self):
        return "<Incoming %d of %d bytes>" % (self.at, self.size)

    def write(self, data):
        """Write the next bytes; Refused beyond ``size``."""
        self._check(len(data))
        self._file.seek(self.at)
        view = memoryview(data)
        while view:
            count = self._file.write(view)
            self.at += count
            view = view[count:]

    def skip(self, size):
        """Leave a hole: the next ``size`` bytes are zeros."""
        self._check(size)
        self.at += size

    def _check(self, more):
        if self.at + more > self.size:
            raise file_names.Refused("more bytes came than were announced")

    def finish(self, mode):
        """Put the complete file in its place and set its time and ``mode``. A ``mode`` of None keeps that of the
        replaced file, or is 0600 for a new one; a time of None is now."""
        if self.at != self.size:
            raise file_names.Refused("%d bytes of %d came" % (self.at, self.size))
        self._file.truncate(self.size)
        if mode is None:
            found = trees.describe(self.path, follow=False, folder=self._folder)
            mode = found["mode"] if found["kind"] == "file" else 0o600
        if not self._is_in_place():
            raise file_names.Refused("its partial file was changed by someone else")
        if trees.BY_DESCRIPTOR:
            trees.set_open(self._file.fileno(), mode & 0o777, self._mtime)
            self._file.close()
        else:
            self._file.close()
            os.chmod(self.part, mode & 0o777)
            if self._mtime is not None:
                os.utime(self.part, ns=(self._mtime, self._mtime))
        os.replace(self.part, self.path, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._close()

    def _is_in_place(self):
        """Whether the file with the part's name is still the one opened here."""
        found = os.lstat(self.part, dir_fd=self._folder)
        return (found.st_ino, found.st_dev) == (self._status.st_ino, self._status.st_dev)

    def same_as_there(self, buffer):
        """Whether the file in place already has this content; ``buffer`` as for ``sums``."""
        try:
            with trees.Source(self.path, folder=self._folder) as there:
                if there.size != self.size or self.at != self.size:
                    return False
                half = len(buffer) // 2
                for at in range(0, self.size, half):
                    count = there.read_into(buffer[:half], at)
                    self._file.truncate(self.size)
                    self._file.seek(at)
                    mine = buffer[half : half + count]
                    if self._file.readinto(mine) != count or bytes(mine) != bytes(buffer[:count]):
                        return False
        except (OSError, file_names.Refused):
            return False
        return True

    def pause(self):
        """Stop for a moment; the part stays, whatever its size."""
        self._file.truncate(self.at)
        self._close()

    def stop(self, keep):
        """Stop. With ``keep``, a part worth resuming stays. Returns how many bytes were kept."""
        if self._over:
            return 0
        self._file.close()
        try:
            # Another writer may have started anew under that name; its part must stay.
            if not self._is_in_place():
                return 0
            size = os.lstat(self.part, dir_fd=self._folder).st_size
            if keep and size >= KEEP_PART:
                return size
            os.unlink(self.part, dir_fd=self._folder)
        except OSError:
            pass  # finished meanwhile, or the folder is gone
        finally:
            self._close()
        return 0


def _is_own(status):
    """Whether a regular file has only one name and belongs to this user, so that nobody else can have put it there."""
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink <= 1
    return plain and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())
