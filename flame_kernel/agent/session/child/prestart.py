"""A child that is started before a session asks for it, by a kernel's own server: its session comes next.

So an interpreter starts, and IPython is imported, while the kernel itself is still being imported. The first session in
a child takes it, if nothing has changed since; if none does, it ends after a minute.
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
        _begun.append(threads.start("prestart", _start, bundle, warm))


def take():
    """The process, for a session; None if there is none that suits."""
    if _begun:
        _begun.pop().join()
    process, under = _taken()
    if process is None or (under == processes.conditions() and process.popen.poll() is None):
        return process
    threads.start("prestart", _end, process)
    return None


def pids():
    """Its process id, in a set, unless a session has taken it."""
    return set(_pids)


def _start(bundle, warm):
    under = processes.conditions()
    try:
        process = processes.start()
    except OSError:
        return
    _pids.add(process.pid)
    try:
        for part in bundle():
            send_frame(process.connect(), part)
        if warm:
            send_frame(process.connect(), WARM)
    except OSError:  # it has ended
        _end(process)
        return
    process.has_agent = True
    _there.append((process, under))
    threads.later(PATIENCE, "prestart", _give_up)


def _taken():
    with _lock:
        process, under = _there.pop() if _there else (None, None)
        if process is not None:
            _pids.discard(process.pid)
        return process, under


def _give_up():
    process, _ = _taken()
    if process is not None:
        _end(process)


def _end(process):
    process.signal(processes.KILL)
    process.reap(float("inf"))
    process.close()
    for pipe in process.pipes:
        os.close(pipe)
    _pids.discard(process.pid)
