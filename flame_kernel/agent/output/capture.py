"""Output that does not pass through Python's streams: it goes through pipes, and a thread brings it to the session.

In a child descriptors 1 and 2 are such pipes, so output of C code, of subprocesses and of ``os.write(1, …)`` is seen.
In a server's process a pipe is made when code calls ``sys.stdout.fileno()``, as ``subprocess.run(stdout=sys.stdout)``
does.
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

# Seconds that the end of a cell waits for text that is still in a pipe.
SETTLE = 0.2


class Capture:
    """One reader thread for the pipes of a session. ``emit(name, text)`` is called there."""

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
        """Read for stream ``name`` from a pipe that is there already."""
        with self._lock:
            self._add(name, r, w)

    def _add(self, name, r, w):
        os.set_blocking(r, False)
        self._decoders[r] = codecs.getincrementaldecoder("utf-8")("replace")
        self._writers[name] = w
        self._names[r] = name
        os.write(self._wake_w, b".")

    def has(self, name):
        """The write end of stream ``name`` where it was made already, else None."""
        return self._writers.get(name)

    def _read(self):
        # Read only after select: so while this thread waits, all that has left the pipe is emitted.
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
        """Wait a moment until all that was written is emitted: it belongs to the cell that ends now."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            if not self._busy and not any(_readable(fd) for fd in list(self._names)) and not self._busy:
                return
            time.sleep(0.0005)

    def close(self):
        """End the thread and close every descriptor; what was written before is emitted."""
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
    """Bytes that wait in a pipe."""
    try:
        return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
    except OSError:
        return 0
