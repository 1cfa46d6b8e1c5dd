"""Captures output that bypasses Python's streams: it goes into pipes, and a thread passes it to the session.

In a child, descriptors 1 and 2 are such pipes, so output of C code, of subprocesses and of ``os.write(1, …)`` is
caught. In a server's process a pipe is made when code calls ``sys.stdout.fileno()``, as
``subprocess.run(stdout=sys.stdout)`` does.
"""

import codecs
import fcntl
import os
import select
import struct
import termios
import threading
import time

from .. import threads

# The longest that the end of a cell waits for text still in a pipe, in seconds.
SETTLE = 0.2


class Capture:
    """Reads a session's pipes on one thread, which calls ``emit(name, text)``."""

    def __init__(self, emit):
        self._emit = emit
        self._names = {}  # read end -> stream name
        self._decoders = {}
        self._writers = {}  # stream name -> write end
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
        os.set_blocking(r, False)
        self._decoders[r] = codecs.getincrementaldecoder("utf-8")("replace")
        self._writers[name] = w
        self._names[r] = name
        os.write(self._wake_w, b".")

    def has(self, name):
        """The write end of stream ``name``'s pipe, or None if there is no pipe yet."""
        return self._writers.get(name)

    def _read(self):
        # Reads only after select, so while this thread waits, everything read from the pipes has been emitted.
        while True:
            ready, _, _ = select.select([self._wake_r] + list(self._names), [], [])
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
                text = self._decoders[fd].decode(data)
                if text:
                    self._emit(self._names[fd], text)
            self._busy = False

    def settle(self):
        """Wait a moment until everything written has been emitted, because it belongs to the cell that ends now."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            if not self._busy and not any(_readable(fd) for fd in list(self._names)) and not self._busy:
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


def _readable(fd):
    """How many bytes wait in a pipe."""
    try:
        return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
    except OSError:
        return 0
