"""The agent's own threads: daemons named ``flame-…``. Debuggers do not stop them, and lists of stacks omit them.

And how a thread is interrupted that runs the user's code.
"""

import _thread
import ctypes
import signal
import sys
import threading
import weakref

_set_exception = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
# PyPy has no such function: there, only a cell that awaits, or runs on a main thread, can be interrupted.
CAN_INTERRUPT = _set_exception is not None


_MAIN = threading.main_thread().ident


def main_ident():
    """The main thread's identity, as signals need it; gevent gives the thread object another one."""
    ident = threading.main_thread().ident
    return ident if ident in frames() else _MAIN


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


# If an app has replaced threads by greenlets: the greenlets on which cells run, by what is their thread's id there.
_greenlets = weakref.WeakValueDictionary()


def own_ident():
    """This thread's id. If it is really a greenlet, that is kept for `interrupt`."""
    ident, greenlet = threading.get_ident(), sys.modules.get("greenlet")
    if greenlet is not None and ident not in frames():
        _greenlets[ident] = greenlet.getcurrent()
    return ident


NO_FRAMES = (
    "uWSGI has forked this worker without telling Python, which would look for the stacks of the master's threads: "
    "start it with --py-call-osafterfork, or with --lazy-apps"
)


def frames(must=False):
    """The innermost frame of each thread, by its id; also that of greenlets on which cells run. Where looking
    would crash Python: empty, or RuntimeError if there ``must`` be some."""
    uwsgi = sys.modules.get("uwsgi")
    if getattr(uwsgi, "worker_id", int)() and not {"py-call-osafterfork", "lazy-apps", "lazy"}.intersection(uwsgi.opt):
        if must:
            raise RuntimeError(NO_FRAMES)
        return {}
    found = sys._current_frames()
    found.update((ident, greenlet.gr_frame) for ident, greenlet in list(_greenlets.items()) if greenlet.gr_frame)
    return found


def interrupt(thread, noticed, wanted):
    """Raise a KeyboardInterrupt in the thread of that id. The exception calls ``noticed`` when it is created: only then
    has the thread received it. A greenlet receives it in its loop's next round, if ``wanted()`` is true then. Does
    nothing to a thread unless ``CAN_INTERRUPT``."""

    def begin(self, *args):
        KeyboardInterrupt.__init__(self, *args)
        noticed()

    about = {"__init__": begin, "__reduce__": lambda self: (KeyboardInterrupt, self.args), "__module__": "builtins"}
    kind = type("KeyboardInterrupt", (KeyboardInterrupt,), about)
    if thread in _greenlets:
        _throw(_greenlets[thread], kind, wanted)
    elif CAN_INTERRUPT:
        _set_exception(ctypes.c_ulong(thread), ctypes.py_object(kind))
        _wake_gevent(thread)


def _throw(greenlet, kind, wanted):
    """Raise an exception in a greenlet that waits: only its loop may do so, which is its parent with gevent."""

    def throw():
        if wanted():
            greenlet.throw(kind)

    loop = getattr(greenlet.parent, "loop", None)
    if hasattr(loop, "run_callback_threadsafe"):
        loop.run_callback_threadsafe(throw)
    elif "eventlet.hubs" in sys.modules:
        sys.modules["eventlet.hubs"].get_hub().schedule_call_global(0, throw)


def _wake_gevent(thread):
    """A thread whose greenlets all wait is in gevent's loop, in C; it runs Python when something is called there."""
    frame = frames().get(thread)
    if frame is not None and frame.f_globals.get("__name__") == "gevent.hub":
        loop = getattr(frame.f_locals.get("self"), "loop", None)
        if hasattr(loop, "run_callback_threadsafe"):
            loop.run_callback_threadsafe(lambda: None)  # Python code: there an interrupt is noticed
