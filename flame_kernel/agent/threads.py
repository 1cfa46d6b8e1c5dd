"""The agent's own threads: daemons named ``flame-…``. Debuggers do not stop them, and lists of stacks omit them."""

import threading


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
