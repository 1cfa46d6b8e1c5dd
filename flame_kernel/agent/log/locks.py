"""The locks of a log, which producers release at any moment: raw locks as events, and a lock that knows its thread."""

import _thread
import threading


def signal():
    """A raw lock used as an event; starts unset."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


def wake(lock):
    """Set a raw lock that is used as an event; safe on any thread, at any moment, any number of times."""
    if lock.locked():
        try:
            lock.release()
        except RuntimeError:  # another producer has released it first
            pass


class Lock:
    """A lock that knows which thread holds it."""

    def __init__(self):
        self._lock = threading.Lock()
        self.owner = None

    def __enter__(self):
        self._lock.acquire()
        self.owner = _thread.get_ident()

    def __exit__(self, *exc_info):
        self.owner = None
        self._lock.release()
