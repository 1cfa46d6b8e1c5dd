"""An unnamed file for data that is too large for memory. However this process ends, nothing of it is left behind.

The file has pages.  Stored data takes any free pages, wherever they are, so the file is never much larger than what is
in it.  No locks: the owner has one.
"""

import heapq
import os
import tempfile

# Bytes of a page.
PAGE = 1 << 16


class Spill:
    """Stores data in a private file, which exists only while it has pages in use."""

    def __init__(self):
        self._file = None
        self._in_use = bytearray()  # one flag per page of the file: whether it is in use
        self._free = []  # a heap of free pages; pages beyond the end of the file are skipped

    def __repr__(self):
        return "<Spill %d bytes, %d in use>" % (self.size, PAGE * sum(self._in_use))

    @property
    def size(self):
        """The size of the file in bytes."""
        return PAGE * len(self._in_use)

    def store(self, data):
        """Store ``data``; returns its pages. Raises OSError if the file cannot be made or cannot grow."""
        if self._file is None:
            # Mode 0600, and unlinked as soon as it is made where the system allows it; on Windows removed when closed.
            self._file = tempfile.TemporaryFile(prefix="flame-", buffering=0)  # noqa: SIM115
        pages = []
        try:
            for _ in range(0, len(data), PAGE):
                pages.append(self._take_page())
            view, at = memoryview(data), 0
            for page, count in _runs(pages):
                self._write(view[at : at + count * PAGE], page * PAGE)
                at += count * PAGE
        except BaseException:  # raised again, whatever it is; its pages are free again
            self.free(pages)
            raise
        return tuple(pages)

    def load(self, pages, size):
        """The ``size`` bytes that were stored in ``pages``. Raises OSError."""
        parts = []
        for page, count in _runs(pages):
            parts.append(self._read(min(count * PAGE, size), page * PAGE))
            size -= len(parts[-1])
        return b"".join(parts)

    def free(self, pages):
        """Free pages; the file is shortened as far as possible."""
        for page in pages:
            self._in_use[page] = 0
            heapq.heappush(self._free, page)
        count = len(self._in_use)
        while count and not self._in_use[count - 1]:
            count -= 1
        if count == len(self._in_use):
            return
        del self._in_use[count:]
        if not count:
            self.close()
            return
        try:
            os.ftruncate(self._file.fileno(), count * PAGE)
        except OSError:
            pass  # the file keeps its length, and its pages are reused

    def close(self):
        """Delete the file and everything in it. Idempotent."""
        file, self._file = self._file, None
        self._in_use = bytearray()
        self._free = []
        if file is not None:
            file.close()

    def _take_page(self):
        while self._free:
            page = heapq.heappop(self._free)
            if page < len(self._in_use) and not self._in_use[page]:
                self._in_use[page] = 1
                return page
        self._in_use.append(1)
        return len(self._in_use) - 1

    def _write(self, view, at):
        while view:
            if hasattr(os, "pwrite"):  # does not use the file position, which a forked process shares
                written = os.pwrite(self._file.fileno(), view, at)
            else:
                self._file.seek(at)
                written = self._file.write(view)
            view = view[written:]
            at += written

    def _read(self, size, at):
        parts = []
        while size:
            if hasattr(os, "pread"):
                part = os.pread(self._file.fileno(), size, at)
            else:
                self._file.seek(at)
                part = self._file.read(size)
            if not part:
                raise OSError("the file is shorter than it was")
            parts.append(part)
            size -= len(part)
            at += len(part)
        return b"".join(parts)


def _runs(pages):
    """``[first page, count]`` of each run of consecutive pages."""
    runs = []
    for page in pages:
        if runs and page == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([page, 1])
    return runs
