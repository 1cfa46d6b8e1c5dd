"""How a cell in a child is stopped: by interrupt, SIGTERM, SIGKILL. Each Stop takes one step; nothing is automatic.

If a cell still runs some time after a Stop, it is checked, and its notebook is told where it hangs and what the next
Stop will do.  A Stop before that is just another interrupt.  A cell that a debugger holds, that asks the user or that
cleans up slowly gets all the time it needs.

The steps after the interrupt end the child's process, never the server's.
"""

import os
import signal
import threading
import time

from ... import threads

# Seconds after a Stop when a cell is checked: if it has not noticed, and if it has noticed but is cleaning up.
UNNOTICED, NOTICED = 1.2, 3.0
# Seconds to wait after a second signal, which is needed because one just before a call blocks does not end that call.
ONCE_MORE = 0.5
# Seconds for the child to report on its cell; if it does not, a call is blocking its interpreter.
ANSWER = 2.0
# Seconds for a process to end after SIGTERM.
TERM_GRACE = 2.0

# The signals of the last steps, and what their names are on Windows, where Ctrl-Break goes to the child's group.
TERM, SIGKILL = signal.SIGTERM, getattr(signal, "SIGKILL", 9)
NAMES = ("Ctrl-Break", "TerminateProcess") if os.name == "nt" else ("SIGTERM", "SIGKILL")

INTERRUPT, AGAIN, END, KILL = "interrupt", "again", "end", "kill"


class Stops:
    """The Stops of one child process, and which step comes next. ``child`` is its ChildCore, of which these are used:

    pid, is_running(request_id), check(request_id, seconds), stuck_in(request_id), send_interrupt(request_id, alone),
    ask_to_interrupt(request_id), send_signal(sign), tell(request_id, text)
    """

    def __init__(self, child):
        self._child = child
        self._lock = threading.Lock()
        self._next = {}  # request id -> the next step, as its notebook was told
        self._told = set()  # requests whose notebook was told that they hang
        self._unsignalled = set()  # requests that the child was asked to interrupt itself, because others run too
        self._interrupts = {}  # request id -> how often it was interrupted
        self._checks = set()  # requests that will be checked
        self.sent = None  # the signal by which a Stop has ended the process

    def __repr__(self):
        return "<Stops %r>" % (self._next,)

    def stop(self, request_id, gently=False, alone=False):
        """Stop a running request; returns what was done: signalled, terminated or killed. ``gently`` never ends the
        process; ``alone``: everything else that runs is stopped too."""
        with self._lock:
            step = INTERRUPT if gently else self._next.pop(request_id, INTERRUPT)
            if step in (INTERRUPT, AGAIN):
                self._interrupts[request_id] = self._interrupts.get(request_id, 0) + 1
        if step == END:
            self._send(TERM)
            threads.later(TERM_GRACE, "stop", self._after_term, request_id)
            return "terminated"
        if step == KILL:
            self._send(SIGKILL)
            return "killed"
        if not self._child.send_interrupt(request_id, alone):
            with self._lock:
                self._unsignalled.add(request_id)
        self._check_later(UNNOTICED, request_id)
        return "signalled"

    def ended(self, request_id):
        """A request has ended; returns whether its notebook was told that it hangs."""
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

    def _check_later(self, seconds, request_id, noticed=False, again=False):
        with self._lock:
            if request_id in self._checks:
                return
            self._checks.add(request_id)
        threads.later(seconds, "stop", self._check, request_id, noticed, again)

    def _check(self, request_id, noticed, again):
        with self._lock:
            self._checks.discard(request_id)
            count = self._interrupts.get(request_id, 0)
        if not self._child.is_running(request_id):
            return
        began = time.monotonic()
        seen = self._child.check(request_id, ANSWER)
        if seen is None and request_id in self._unsignalled:
            # The child cannot hear requests now, and nothing else can run during that call, so a signal affects only
            # this cell.
            self._unsignalled.discard(request_id)
            self._child.send_signal(signal.SIGINT)
            self._check_later(ONCE_MORE, request_id, again=True)
        elif seen is None:
            where, why = self._child.stuck_in(request_id)
            self._tell(request_id, END, "Interrupt: still in %s; %s." % (where, why))
        elif not seen.get("runs") or seen.get("asks"):
            return  # it is queued or asks the user: the next Stop will interrupt it
        elif not seen.get("noticed") and not again:
            self._child.ask_to_interrupt(request_id)
            self._check_later(ONCE_MORE, request_id, again=True)
        elif not seen.get("noticed"):
            words = "Interrupt: still in %s; Python cannot stop that call." % seen.get("where")
            self._tell(request_id, END, words)
        elif not noticed:
            self._check_later(max(0.0, NOTICED - UNNOTICED - (time.monotonic() - began)), request_id, True)
        else:
            words = ("Interrupt: the cell received it and still runs, in %s; perhaps it is cleaning up.") % seen.get(
                "where"
            )
            self._tell(request_id, AGAIN if count < 2 else END, words)

    def _after_term(self, request_id):
        if self._child.is_running(request_id) and self.sent == TERM:
            self._tell(request_id, KILL, "%s has not ended it within %g s." % (NAMES[0], TERM_GRACE))

    def _tell(self, request_id, step, words):
        pid = self._child.pid
        following = {
            AGAIN: "A second Stop interrupts it again; the variables are kept.",
            END: "The next Stop ends the session's process %d with %s; its variables are then lost." % (pid, NAMES[0]),
            KILL: "The next Stop kills the session's process %d (%s)." % (pid, NAMES[1]),
        }[step]
        with self._lock:
            if not self._child.is_running(request_id):
                return
            self._next[request_id] = step
            self._told.add(request_id)
        self._child.tell(request_id, "%s %s\n" % (words, following))
