"""The agent's own threads: daemons named ``flame-…``. No debugger stops them, and lists of stacks leave them out."""

import threading


def leave_alone(thread):
    """No debugger traces that thread, or stops it with others: these are pydevd's marks."""
    thread.pydev_do_not_trace = thread.is_pydev_daemon_thread = True


def make(name, work, *args):
    """A thread of ours that runs ``work(*args)``, not started yet."""
    return _ours(threading.Thread(target=work, args=args), name)


def start(name, work, *args):
    """The same, started."""
    thread = make(name, work, *args)
    thread.start()
    return thread


def later(seconds, name, work, *args):
    """Run ``work(*args)`` on a thread of ours, some time from now."""
    _ours(threading.Timer(seconds, work, args), name).start()


def _ours(thread, name):
    thread.name = "flame-" + name
    thread.daemon = True
    leave_alone(thread)
    return thread
