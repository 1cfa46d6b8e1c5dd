"""A child that is started before a session asks for it: the next session in a child takes it, if nothing has changed
since.

A kernel's own server starts one at once. So an interpreter starts, and IPython is imported, while the kernel itself is
still being imported; if no session takes it, it ends after a minute. Other servers keep one where no fork server can
be, see ``spare``.
"""

import os
import threading

from ... import threads
from . import processes
from .frames import WARM, send_frame

# Seconds after which it ends, if no session has taken it.
PATIENCE = 60.0

_lock = threading.Lock()
_begun = []  # the thread that starts it
_there = []  # (process, its ``conditions`` when it was started)
_pids = set()


def begin(bundle, warm):
    """Start it; ``bundle`` returns the agent as ``frames.agent_frames`` makes it; ``warm``: it imports IPython, too."""
    if processes.POSIX:
        _begun.append(threads.start("prestart", _begin, bundle, warm))


def make(bundle, warm):
    """Have one ready, which stays until ``drop``; returns whether there is one."""
    try:
        under, process = processes.conditions(), processes.start()
    except OSError:
        return False
    _pids.add(process.pid)
    try:
        for part in bundle():
            send_frame(process.connect(), part)
        if warm:
            send_frame(process.connect(), WARM)
    except OSError:  # it has ended
        _end(process)
        return False
    process.has_agent = True
    _there.append((process, under))
    return True


def ready():
    """The process id of the one that a session can take now; None if there is none."""
    with _lock:
        return next((process.pid for process, under in _there if _suits(process, under)), None)


def drop():
    """End those that no session has taken."""
    process, _ = _taken()
    while process is not None:
        _end(process)
        process, _ = _taken()


def take():
    """The process, for a session; None if there is none that suits."""
    if _begun:
        _begun.pop().join()
    process, under = _taken()
    if process is None or _suits(process, under):
        return process
    threads.start("prestart", _end, process)
    return None


def pids():
    """Its process id, in a set, unless a session has taken it."""
    return set(_pids)


def _begin(bundle, warm):
    if make(bundle, warm):
        threads.later(PATIENCE, "prestart", drop)


def _suits(process, under):
    return under == processes.conditions() and process.popen.poll() is None


def _taken():
    with _lock:
        process, under = _there.pop() if _there else (None, None)
        if process is not None:
            _pids.discard(process.pid)
        return process, under


def _end(process):
    process.signal(processes.KILL)
    process.reap(float("inf"))
    process.close()
    for pipe in process.pipes:
        os.close(pipe)
    _pids.discard(process.pid)
