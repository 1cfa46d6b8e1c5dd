"""The program that is this process's Python, and the processes that a thread has started: found by ``/proc`` on Linux,
by the thread's stack elsewhere."""

import os
import signal
import subprocess
import sys

from . import threads, windows


def own_python():
    """The program that runs code as this process does. Empty if there is none: in programs that embed Python, and where
    an app and its Python are frozen into one program, which would only start once more."""
    return "" if getattr(sys, "frozen", False) else sys.executable or ""


def interrupt(thread, native_id, protected):
    """Interrupt all descendants of the processes that a thread has started, except ``protected`` ones. An interrupt
    does not end a shell itself, because it waits for the command that it runs.

    Only Linux says which thread has started a process. Elsewhere it is the process that the thread waits for, with its
    descendants; Windows can only end one that does not listen to Ctrl-Break.
    """
    if sys.platform != "linux" or not os.path.isdir("/proc/self/task"):
        process = _waited_for(thread)
        if not getattr(process, "pid", None) or process.poll() is not None:  # it is just being started, or has ended
            return
        if os.name == "nt":
            windows.terminate(process.pid)
            return
        found = [pid for pid in [process.pid] + _below(process.pid) if pid not in protected]
    else:
        found = _started_by(native_id, protected)
    for pid in reversed(found):
        try:
            os.kill(pid, signal.SIGTERM if _ignores_interrupts(pid) else signal.SIGINT)
        except OSError:  # it has ended, or belongs to another user
            pass


def _started_by(native_id, protected):
    """The descendants of a thread, parents first. On Linux."""
    todo, found = _children("self", native_id), []
    while todo:
        pid = todo.pop()
        if pid not in protected and pid not in found:
            found.append(pid)
            todo += [child for task in _tasks(pid) for child in _children(pid, task)]
    return found


def _below(pid):
    """The descendants of a process, parents first, if psutil is there to tell them."""
    try:
        import psutil
    except ImportError:
        return []
    try:
        return [one.pid for one in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _waited_for(thread):
    """The ``subprocess.Popen`` in whose method a thread is, or None."""
    frame = threads.frames().get(thread)
    while frame is not None:
        if frame.f_globals.get("__name__") == "subprocess" and isinstance(frame.f_locals.get("self"), subprocess.Popen):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def _tasks(pid):
    try:
        return os.listdir("/proc/%d/task" % pid)
    except OSError:
        return []


def _children(pid, thread):
    try:
        with open("/proc/%s/task/%s/children" % (pid, thread)) as f:
            return [int(pid) for pid in f.read().split()]
    except (OSError, ValueError):
        return []  # not Linux, or a kernel without that file


def _ignores_interrupts(pid):
    """Whether a process was started with SIGINT ignored, as below a server that a shell runs in the background."""
    try:
        with open("/proc/%d/status" % pid) as f:
            masks = [line.split()[1] for line in f if line.startswith("SigIgn")]
        return bool(masks) and bool(int(masks[0], 16) >> (signal.SIGINT - 1) & 1)
    except (OSError, ValueError):
        return False


def native_id():
    """The kernel's id of this thread on Python 3.6 and 3.7 (Linux); 0 if unknown."""
    try:
        with open("/proc/thread-self/stat") as f:
            return int(f.read().split(" ", 1)[0])
    except (OSError, ValueError):
        return 0
