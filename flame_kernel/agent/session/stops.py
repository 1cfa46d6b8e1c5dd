"""The ladder of stops of a cell in a child: interrupt, SIGTERM, SIGKILL; one step for each Stop, none by itself.

A cell that still runs some time after a Stop is looked at, and its notebook told where it hangs and what the next Stop
will do.  What is told is what happens: a Stop that comes before that is one more interrupt.  A debugger, a question to
the user and slow cleaning up have all the time they want.

The steps above the interrupt end the child's process, never the server's.
"""

import signal
import threading
import time

from .. import threads

# Seconds after a Stop: when a cell is looked at that has not noticed it, or that has, and cleans up.
UNNOTICED, NOTICED = 1.2, 3.0
# Seconds that it has when the signal was sent again: one that comes just before a call blocks does not end that.
ONCE_MORE = 0.5
# Seconds that the child has to answer the look; if it does not, its interpreter is held by a call.
ANSWER = 2.0
# Seconds that a process has to end on SIGTERM.
TERM_GRACE = 2.0

INTERRUPT, AGAIN, END, KILL = "interrupt", "again", "end", "kill"


def outcome(reply):
    """How a cell has ended of which its notebook was told that it hangs, in words; ``reply`` is the content of its."""
    stopped = reply.get("ename") in ("KeyboardInterrupt", "CancelledError")
    what = "The Stop has ended the cell after all" if stopped else "The cell has ended by itself"
    return what + "; its names are kept.\n"


class Ladder:
    """The stops of one child process. ``child`` is what it stands for in the server; it has

    pid, is_running(request_id), look(request_id, seconds), stuck_in(request_id), strike(request_id, alone),
    nudge(request_id), send_signal(sign), tell(request_id, text)
    """

    def __init__(self, child):
        self._child = child
        self._lock = threading.Lock()
        self._next = {}  # request id -> the step that its notebook was told of
        self._told = set()  # requests whose notebook was told that they hang
        self._unsignalled = set()  # requests that the child was asked to interrupt, as others run beside them
        self._interrupts = {}  # request id -> how often it was interrupted
        self._looks = set()  # requests that will be looked at
        self.sent = None  # the signal with which a Stop has ended the process

    def __repr__(self):
        return "<Ladder %r>" % (self._next,)

    def climb(self, request_id, gently=False, alone=False):
        """A Stop for a request that runs; what was done: signalled, terminated or killed. ``gently`` never ends it;
        ``alone``: whatever else runs is stopped too."""
        with self._lock:
            step = INTERRUPT if gently else self._next.pop(request_id, INTERRUPT)
            if step in (INTERRUPT, AGAIN):
                self._interrupts[request_id] = self._interrupts.get(request_id, 0) + 1
        if step == END:
            self._send(signal.SIGTERM)
            threads.later(TERM_GRACE, "ladder", self._after_term, request_id)
            return "terminated"
        if step == KILL:
            self._send(signal.SIGKILL)
            return "killed"
        if not self._child.strike(request_id, alone):
            with self._lock:
                self._unsignalled.add(request_id)
        self._look_later(UNNOTICED, request_id)
        return "signalled"

    def ended(self, request_id):
        """A request is over; whether its notebook waits to hear that the Stop has worked."""
        with self._lock:
            self._next.pop(request_id, None)
            self._interrupts.pop(request_id, None)
            self._unsignalled.discard(request_id)
            told = request_id in self._told
            self._told.discard(request_id)
            return told

    def _send(self, sign):
        self.sent = sign
        self._child.send_signal(sign)

    # -- some time later ---------------------------------------------------------------------------------------------

    def _look_later(self, seconds, request_id, noticed=False, again=False):
        with self._lock:
            if request_id in self._looks:
                return
            self._looks.add(request_id)
        threads.later(seconds, "ladder", self._look, request_id, noticed, again)

    def _look(self, request_id, noticed, again):
        with self._lock:
            self._looks.discard(request_id)
            count = self._interrupts.get(request_id, 0)
        if not self._child.is_running(request_id):
            return
        began = time.monotonic()
        seen = self._child.look(request_id, ANSWER)
        if seen is None and request_id in self._unsignalled:
            # It cannot hear what it is asked; nothing else can run beside that call, so a signal is for it alone.
            self._unsignalled.discard(request_id)
            self._child.send_signal(signal.SIGINT)
            self._look_later(ONCE_MORE, request_id, again=True)
        elif seen is None:
            where, why = self._child.stuck_in(request_id)
            self._tell(request_id, END, "Interrupt: still in %s; %s." % (where, why))
        elif not seen.get("runs") or seen.get("asks"):
            return  # it is queued, or asks the user: whoever stops it now interrupts it
        elif not seen.get("noticed") and not again:
            self._child.nudge(request_id)
            self._look_later(ONCE_MORE, request_id, again=True)
        elif not seen.get("noticed"):
            words = "Interrupt: still in %s; Python cannot stop that call." % seen.get("where")
            self._tell(request_id, END, words)
        elif not noticed:
            self._look_later(max(0.0, NOTICED - UNNOTICED - (time.monotonic() - began)), request_id, True)
        else:
            words = "Interrupt: the cell has had it, and still runs, in %s; perhaps it cleans up." % seen.get("where")
            self._tell(request_id, AGAIN if count < 2 else END, words)

    def _after_term(self, request_id):
        if self._child.is_running(request_id) and self.sent == signal.SIGTERM:
            self._tell(request_id, KILL, "SIGTERM has not ended it within %g s." % TERM_GRACE)

    def _tell(self, request_id, step, words):
        pid = self._child.pid
        following = {
            AGAIN: "A second Stop interrupts it again; the names are kept.",
            END: "The next Stop ends the session's process %d with SIGTERM, and its names are lost then." % pid,
            KILL: "The next Stop kills the session's process %d (SIGKILL)." % pid,
        }[step]
        with self._lock:
            if not self._child.is_running(request_id):
                return
            self._next[request_id] = step
            self._told.add(request_id)
        self._child.tell(request_id, "%s %s\n" % (words, following))
