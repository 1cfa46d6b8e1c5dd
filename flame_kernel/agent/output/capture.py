"""Captures output that bypasses Python's streams: it goes into pipes, and a thread passes it to the session.

In a child, descriptors 1 and 2 are such pipes, so output of C code, of subprocesses and of ``os.write(1, …)`` is
caught. In a server's process a pipe is made when code calls ``sys.stdout.fileno()``, as
``subprocess.run(stdout=sys.stdout)`` does.
"""

import codecs
import os
import threading
import time

from .. import pipes, threads

# The longest that the end of a cell waits for text still in a pipe, in seconds.
SETTLE = 0.2
# Seconds that the beginning of a line waits for the rest, so that no other output comes between.
REST = 0.02
# The longest such beginning, in characters.
LINE = 1 << 12


class Capture:
    """Reads a session's pipes on one thread, which calls ``emit(name, text)``."""

    def __init__(self, emit):
        self._emit = emit
        self._names = {}  # read end -> stream name
        self._decoders = {}
        self._writers = {}  # stream name -> write end
        self._begun = {}  # read end -> (the beginning of a line, until when it waits for the rest)
        self._busy = False
        self._lock = threading.Lock()
        self._wake_r, self._wake_w = os.pipe()
        self._closed = False
        self._thread = threads.start("capture", self._read)

    def pipe(self, name):
        """The descriptor to write to for stream ``name``; made at the first call."""
        with self._lock:
            if name not in self._writers:
                self._add(name, *os.pipe())
            return self._writers[name]

    def adopt(self, name, r, w):
        """Read from an existing pipe for stream ``name``."""
        with self._lock:
            self._add(name, r, w)

    def _add(self, name, r, w):
        pipes.unblock(r)
        pipes.enlarge(r)
        self._decoders[r] = codecs.getincrementaldecoder("utf-8")("replace")
        self._writers[name] = w
        self._names[r] = name
        os.write(self._wake_w, b".")

    def has(self, name):
        """The write end of stream ``name``'s pipe, or None if there is no pipe yet."""
        return self._writers.get(name)

    def _read(self):
        # It reads only when data is there. So while this thread waits, all that was read has been emitted, except for
        # the beginnings of lines.
        while True:
            ready = pipes.ready([self._wake_r] + list(self._names), REST if self._begun else None)
            self._busy = True
            for fd in ready:
                if fd == self._wake_r:
                    os.read(fd, 4096)
                    if self._closed:
                        return
                    continue
                try:
                    data = os.read(fd, 1 << 16)
                except BlockingIOError:
                    continue
                self._came(fd, self._decoders[fd].decode(data))
            for fd, (piece, until) in list(self._begun.items()):
                if time.monotonic() >= until:
                    del self._begun[fd]
                    self._emit(self._names[fd], piece)
            self._busy = False

    def _came(self, fd, text):
        """Emit whole lines. The beginning of a line after them waits for its rest, at most REST seconds."""
        piece, until = self._begun.pop(fd, ("", time.monotonic() + REST))
        text = piece + text
        end = text.rfind("\n") + 1
        if len(text) - end > LINE:
            end = len(text)
        if text[end:]:
            self._begun[fd] = text[end:], time.monotonic() + REST if end else until
        if end:
            self._emit(self._names[fd], text[:end])

    def settle(self):
        """Wait a moment until everything written has been emitted, because it belongs to the cell that ends now."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            waiting = self._begun or any(pipes.waiting(fd) for fd in list(self._names))
            if not self._busy and not waiting and not self._busy:
                return
            time.sleep(0.0005)

    def close(self):
        """End the thread and close all descriptors; what was written before is still emitted."""
        self.settle()
        self._closed = True
        os.write(self._wake_w, b".")
        if threading.current_thread() is not self._thread:
            self._thread.join(5)
        for fd in list(self._names) + list(self._writers.values()) + [self._wake_r, self._wake_w]:
            try:
                os.close(fd)
            except OSError:
                pass
        self._names.clear()
        self._writers.clear()


class ForkedText:
    """Writes what a forked copy of the process prints to a descriptor, line by line: otherwise copies that print at the
    same time would break each other's lines."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._pid = None
        self._texts = {}  # stream name -> the beginning of a line
        self._lock = threading.Lock()

    def _begin(self):
        if self._pid != os.getpid():  # a line that the parent process has begun is not ours
            self._pid, self._texts, self._lock = os.getpid(), {}, threading.Lock()

    def write(self, name, text):
        """Write the whole lines of ``text``; an unfinished one waits for its end, or for a flush."""
        self._begin()
        with self._lock:
            text = self._texts.pop(name, "") + text
            end = text.rfind("\n") + 1
            if len(text) - end > LINE:
                end = len(text)
            if text[end:]:
                self._texts[name] = text[end:]
            self._send(name, text[:end])

    def flush(self):
        """Write unfinished lines."""
        self._begin()
        with self._lock:
            for name in list(self._texts):
                self._send(name, self._texts.pop(name))

    def _send(self, name, text):
        data = text.encode("utf-8", "replace")
        while data:
            data = data[os.write(self._descriptor(name), data) :]
