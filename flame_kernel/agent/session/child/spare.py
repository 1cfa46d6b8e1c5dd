"""A process that is kept ready for the next child of this server, so that only the first child starts slowly.

It is a fork server; where there can be none, a child that waits for its session, see ``prestart``. It is started half a
second after a child came, or later if that runs a cell. It ends when no child came for five minutes, and ten seconds
after the last child has ended.

A kernel's own server keeps none, because it has one session; nor does one with FLAME_SPARE=0 in its environment, nor
one on a machine with little memory left.
"""

import os
import threading
import time

from ... import pyro, threads
from . import fork_server, prestart

# Seconds from a child's start to that of the process for the next one.
SOON = 0.5
# Seconds without a new child after which that ends; and those after the last child has ended.
IDLE, LEFT = 300.0, 10.0
# Bytes of memory that others must be able to use yet; a process takes some 40 MB of them.
LEAST_FREE = 256 << 20
# The environment variable by which the owner of a server forbids it.
VARIABLE = "FLAME_SPARE"

_lock = threading.Lock()
_wake = threading.Event()
_keeper = []  # the thread that starts and ends it
_wanted = []  # (bundle, warm, is_busy) of the latest child, until there is a process for the next one
_since = [0.0]  # when the latest child came, or the last one ended
_forbidden = []


def forbid():
    """Keep none: this server has one session."""
    _forbidden.append(True)


def take(bundle, warm, others):
    """A process for a child, or None: an interpreter is to be started. ``warm``: it needs IPython; ``others``: how
    many children live."""
    return prestart.take() or fork_server.start(bundle, warm, others)


def keep(bundle, warm, is_busy, living):
    """A child came: have a process ready for the next one. ``is_busy()``: whether it runs a cell; ``living()``: the
    process ids of all children."""
    if _forbidden or os.environ.get(VARIABLE) == "0" or pyro.is_multiplex():
        return
    with _lock:
        _since[0] = time.monotonic()
        _wanted[:] = [(bundle, warm, is_busy)]
        if not _keeper:
            _keeper.append(threads.start("spare", _keep, living))
    _wake.set()


def child_ended():
    """A child has ended; it may have been the last one."""
    _since[0] = time.monotonic()
    _wake.set()


def pid(keep=False):
    """The process id of the one that is ready now; None if there is none."""
    return fork_server.ready(keep) or prestart.ready()


def _keep(living):
    """The keeper's thread: it ends with what it keeps, or if there is nothing to keep."""
    while True:
        with _lock:
            there, age = pid(keep=True) is not None, time.monotonic() - _since[0]
            if there or not living():
                del _wanted[:]
            left = (IDLE if living() else LEFT) - age
            if left <= 0 or not (there or _wanted):
                del _wanted[:], _keeper[:]
                fork_server.drop()
                prestart.drop()
                return
            wanted = _wanted[0] if _wanted else None
        if wanted is None:
            _wake.wait(left)
        elif age < SOON or wanted[2]():
            _wake.wait(SOON)
        elif _is_scarce() or not (fork_server.make(*wanted[:2]) or prestart.make(*wanted[:2])):
            with _lock:
                del _wanted[:]
        _wake.clear()


def _is_scarce():
    """Whether there is little memory left, as far as the system tells."""
    try:
        with open("/proc/meminfo") as f:
            free = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return False
    return free < LEAST_FREE
