"""The agent's own threads: daemons named ``flame-…``. Debuggers do not stop them, and lists of stacks omit them.

And how a thread is interrupted that runs the user's code.
"""

import _thread
import ctypes
import signal
import sys
import threading

_set_exception = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
# PyPy has no such function: there, only a cell that awaits, or runs on a main thread, can be interrupted.
CAN_INTERRUPT = _set_exception is not None


_MAIN = threading.main_thread().ident


def main_ident():
    """The main thread's identity, as signals need it; gevent gives the thread object another one."""
    ident = threading.main_thread().ident
    return ident if ident in sys._current_frames() else _MAIN


def signal_main():
    """Send SIGINT to the main thread, whose handler then runs there. On Windows it wakes from ``time.sleep``, too."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_ident(), signal.SIGINT)
    elif hasattr(signal, "raise_signal"):
        signal.raise_signal(signal.SIGINT)
    else:  # Python 3.7
        _thread.interrupt_main()


def leave_alone(thread):
    """Mark a thread so that pydevd neither traces it nor stops it along with others."""
    thread.pydev_do_not_trace = thread.is_pydev_daemon_thread = True


def make(name, work, *args):
    """A thread of ours, not started yet, that runs ``work(*args)``."""
    return _ours(threading.Thread(target=work, args=args), name)


def start(name, work, *args):
    """Start a thread of ours that runs ``work(*args)``."""
    thread = make(name, work, *args)
    thread.start()
    return thread


def later(seconds, name, work, *args):
    """Run ``work(*args)`` on a thread of ours, ``seconds`` from now."""
    _ours(threading.Timer(seconds, work, args), name).start()


def _ours(thread, name):
    thread.name = "flame-" + name
    thread.daemon = True
    leave_alone(thread)
    return thread


def interrupt(thread, noticed):
    """Raise a KeyboardInterrupt in the thread of that id. It calls ``noticed`` when it is created: only then has the
    thread received it. Does nothing unless ``CAN_INTERRUPT``."""

    def begin(self, *args):
        KeyboardInterrupt.__init__(self, *args)
        noticed()

    about = {"__init__": begin, "__reduce__": lambda self: (KeyboardInterrupt, self.args), "__module__": "builtins"}
    kind = type("KeyboardInterrupt", (KeyboardInterrupt,), about)
    if CAN_INTERRUPT:
        _set_exception(ctypes.c_ulong(thread), ctypes.py_object(kind))
        _wake_gevent(thread)


def _wake_gevent(thread):
    """A thread whose greenlets all wait is in gevent's loop, in C; it runs Python when something is called there."""
    frame = sys._current_frames().get(thread)
    if frame is not None and frame.f_globals.get("__name__") == "gevent.hub":
        loop = getattr(frame.f_locals.get("self"), "loop", None)
        if hasattr(loop, "run_callback_threadsafe"):
            loop.run_callback_threadsafe(lambda: None)  # Python code: there an interrupt is noticed
