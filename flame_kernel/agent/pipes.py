"""What waits in pipes: asked by select, and on Windows, where select takes sockets only, by looking at each."""

import os
import select
import selectors
import struct
import time

from . import windows

try:
    import fcntl
    import termios
except ImportError:
    fcntl = termios = None

# Bytes that a pipe holds, if the system allows it: C code that holds the interpreter lock can print so much. If it
# prints more, it waits for us, and we wait for the lock. 1031 is F_SETPIPE_SZ, on Linux.
SIZE, _SET_SIZE = 1 << 20, 1031
# Seconds between two looks on Windows: short while data comes, longer when none does.
_SOON, _LATE = 0.001, 0.05

_WINDOWS = os.name == "nt"


def ready(numbers, seconds=None):
    """Those of the read ends ``numbers`` that have data or are at their end; waits for one up to ``seconds``, or for
    ever."""
    if not _WINDOWS:
        return select.select(numbers, [], [], seconds)[0]
    pause, deadline = _SOON, None if seconds is None else time.monotonic() + seconds
    while True:
        found = [number for number in numbers if windows.peek(number) != 0]
        left = _LATE if deadline is None else deadline - time.monotonic()
        if found or left <= 0:
            return found
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LATE)


def waiting(number):
    """How many bytes wait in a pipe; 1 if some do and the system does not say how many."""
    if _WINDOWS:
        return windows.peek(number) or 0
    if fcntl is None:
        return len(ready([number], 0))
    try:
        return struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, b"\0\0\0\0"))[0]
    except OSError:
        return 0


def enlarge(number):
    """Let a pipe hold ``SIZE`` bytes, if this system and the user's limits allow it."""
    if fcntl is not None:
        try:
            fcntl.fcntl(number, _SET_SIZE, SIZE)
        except (OSError, ValueError):
            pass


def unblock(number):
    """Let a read return at once when there is nothing; on Windows we read only what ``ready`` has seen."""
    if not _WINDOWS:
        os.set_blocking(number, False)


class Selector:
    """As much of a selector as reading from pipes needs, for Windows."""

    def __init__(self):
        self._keys = {}

    def register(self, fileobj, events, data=None):
        number = fileobj.fileno()
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)

    def unregister(self, fileobj):
        del self._keys[fileobj.fileno()]

    def get_map(self):
        return self._keys

    def select(self, timeout):
        return [(self._keys[number], selectors.EVENT_READ) for number in ready(list(self._keys), timeout)]

    def close(self):
        self._keys.clear()
