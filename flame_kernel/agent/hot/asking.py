"""Asks the client for files of hot code, while code here waits in an import.

Each question is an event ``hot_request`` (``{"hot_id", "what": "module" or "data", "name"}``).  The answer comes as
requests ``hot`` with op ``answer``: the first one tells the ``size`` of the file, and each has some of its bytes.  The
thread that receives requests takes them, so an import may wait on any other thread, also in the middle of a cell.
"""

import _thread
import os
import threading
import time

from ..output import streams
from ..wire.units import size_in_words

# Seconds without an answer of the client after which an import fails; and the same for the imports after that one.
PATIENCE, ONCE_AWAY = 10.0, 1.0
# A file that takes longer than this, in seconds, gets a line that says how much of it has come; then how often it is
# updated.
SHOW_AFTER, SHOW_EVERY = 1.0, 0.5


class Asking:
    """The questions of one session; ``host`` is the session core."""

    def __init__(self, host):
        self._host = host
        self._waiting = {}  # number -> _Question
        self._count = 0
        self._lock = threading.Lock()
        self._is_away = False
        self.patience = PATIENCE

    def __repr__(self):
        return "<Asking for %d files>" % len(self._waiting)

    def fetch(self, what, name):
        """``(the answer's fields, its bytes)`` for a module's dotted name or a data file's path; raises ImportError."""
        host = self._host
        if os.getpid() != host.pid:
            raise ImportError("%s is hot code, which a forked process cannot fetch: import it before the fork" % name)
        question = _Question(what, name)
        with self._lock:
            self._count += 1
            known = self._count
            self._waiting[known] = question
        try:
            host.append("hot_request", None, {"hot_id": known, "what": what, "name": name})
            self._wait(question)
        finally:
            self._waiting.pop(known, None)
        if question.problem:
            raise ImportError(question.problem, name=name)
        return question.answer, b"".join(question.pieces)

    def _wait(self, question):
        patience = ONCE_AWAY if self._is_away else self.patience
        while not question.over:
            question.told.acquire(timeout=0.05)  # short, so that an asynchronous interrupt gets through
            now = time.monotonic()
            if self._host.closed:
                question.fail("%s is hot code, and the session has ended" % question.name)
            elif not question.over and now - question.heard > patience:
                self._is_away = True
                question.fail(
                    "%s is hot code, served from the client's disk, and the client has not answered for %.3g s: the "
                    "link is down, or the client has left. Import it again when it is back" % (question.name, patience)
                )
            elif question.come and now - question.begun > SHOW_AFTER:
                self._show(question, now)

    def _show(self, question, now):
        """Show in the cell how much of a large file has come."""
        if now - question.shown < SHOW_EVERY and not question.over:
            return
        question.shown = now
        cell = streams.current() or self._host.latest
        text = "\r%s: %s of %s" % (question.name, size_in_words(question.come), size_in_words(question.size))
        self._host.tell(None if cell is None else cell.request_id, text + ("\n" if question.over else ""))

    def answer(self, request):
        """Take a part of the client's answer; returns whether it is still wanted."""
        question = self._waiting.get(request.get("hot_id"))
        self._is_away = False
        if question is None or question.over:
            return False
        question.take(request)
        return not question.over


class _Question:
    """One file that is asked for."""

    def __init__(self, what, name):
        self.what = what
        self.name = name
        self.begun = self.heard = time.monotonic()
        self.shown = 0.0
        self.size = self.come = 0
        self.pieces = []
        self.answer = None
        self.problem = ""
        self.over = False
        self.told = _thread.allocate_lock()
        self.told.acquire()

    def take(self, request):
        self.heard = time.monotonic()
        if request.get("problem"):
            self.fail(str(request["problem"]))
            return
        if self.answer is None:
            self.answer, self.size = request, int(request["size"])
        if request.get("at") == self.come:  # else it came before, and was sent again after the link was cut
            self.pieces += [bytes(piece) for piece in request.get("buffers") or ()]
            self.come = sum(map(len, self.pieces))
        if self.come >= self.size:
            self._end()

    def fail(self, problem):
        self.problem = problem
        self._end()

    def _end(self):
        self.over = True
        if self.told.locked():
            self.told.release()
