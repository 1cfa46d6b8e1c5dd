"""Questions of cells to the user: ``input()``, ``getpass()``, lines of ``sys.stdin``. Each is an event, and waits."""

import _thread
import sys
import threading

from . import streams


class StdinNotImplementedError(NotImplementedError):
    """Stands in for IPython's error of this name if IPython is missing."""


class QuitsPdb(BaseException):
    """A KeyboardInterrupt for code in pdb, which would catch the real class and ask again."""

    def _render_traceback_(self):
        return ["KeyboardInterrupt: %s" % self]


QuitsPdb.__name__ = QuitsPdb.__qualname__ = "KeyboardInterrupt"
QuitsPdb.__module__ = "builtins"


def _asked_by_pdb(frame):
    """Whether a pdb that catches interrupts is asking the user."""
    while frame is not None:
        if frame.f_code.co_name == "_cmdloop":
            debugger = frame.f_locals.get("self")
            return type(debugger).__name__ != "InterruptiblePdb" and hasattr(debugger, "set_trace")
        frame = frame.f_back
    return False


class Prompts:
    """The questions of a session that wait for answers.

    append  called with an event's type, its request and its content
    settle  called before a question, so that output printed earlier comes first
    closed  called to learn whether the session has ended, so that nobody will answer
    """

    def __init__(self, append, settle, closed):
        self._append = append
        self._settle = settle
        self._closed = closed
        self._waiting = {}  # id -> [raw lock, the user's line, the asking request, the asking thread]
        self._count = 0
        self._lock = threading.Lock()

    def __repr__(self):
        return "<Prompts %d waiting>" % len(self._waiting)

    def ask(self, prompt="", password=False):
        """Ask the user for a line and return it. Raises EOFError, or StdinNotImplementedError (IPython's, if it is
        there) if the calling cell's front end does not answer questions."""
        cell = streams.current()
        if not cell.allow_stdin:
            name = "getpass" if password else "raw_input"
            raise _stdin_error()("%s was called, but this frontend does not support input requests." % name)
        answered = _thread.allocate_lock()
        answered.acquire()
        with self._lock:
            self._count += 1
            input_id = self._count
            self._waiting[input_id] = [answered, None, cell.request_id, _thread.get_ident()]
        self._settle()
        content = {"prompt": prompt, "password": bool(password), "input_id": input_id}
        try:
            self._append("input_request", cell.request_id, content)
            while not answered.acquire(timeout=0.05):  # short, so that an asynchronous interrupt gets through
                if self._closed():
                    raise EOFError("the session is closed")
            value = self._waiting[input_id][1]
        except KeyboardInterrupt:
            self._append("input_cancelled", cell.request_id, {"input_id": input_id})
            kind = KeyboardInterrupt
            if _asked_by_pdb(sys._getframe(1)):
                kind = QuitsPdb
                sys.settrace(None)
            raise kind("Interrupted by user") from None  # the wait above is ours
        finally:
            self._waiting.pop(input_id, None)
        if value is None or value == "\x04":
            raise EOFError
        return value

    def asks(self, request_id, thread_id):
        """Whether a request waits for the user on this thread."""
        return any(one[2:] == [request_id, thread_id] for one in list(self._waiting.values()))

    def answer(self, input_id, value):
        """Pass the user's line to a question; returns whether it was still waiting."""
        waiting = self._waiting.get(input_id)
        if waiting is None:
            return False
        waiting[1] = value
        if waiting[0].locked():
            waiting[0].release()
        return True


def _stdin_error():
    module = sys.modules.get("IPython.core.error")
    return getattr(module, "StdinNotImplementedError", StdinNotImplementedError)
