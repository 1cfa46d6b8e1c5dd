"""Stops the running cell of a lane: how its KeyboardInterrupt gets there, and what the user is told if it does not end.

A KeyboardInterrupt must be raised only in user code, never in asyncio's or our own: ``Guard`` knows when user code is
running on the thread. Python raises an asynchronous exception between two bytecodes, so a call that blocks in C delays
it. An interrupt that comes too late is caught and dropped, because taking it back by ``PyThreadState_SetAsyncExc(id,
NULL)`` makes CPython 3.11 hang in sys.settrace.

In a child a Stop may go further, to the end of the process: see ``child/stops``.
"""

import asyncio
import threading

from .. import processes, threads
from ..output import streams
from .monitor import stacks

# Seconds for the loop to cancel a cell that awaits; seconds until we tell the user that a call blocks.
CANCEL_GRACE = 0.3
REPORT_AFTER = 0.7
# Seconds until we tell the user that a cell has received its interrupt but still runs.
NOTICED_AFTER = 3.0


class Guard:
    """Knows whether user code is running on a lane's thread, and raises KeyboardInterrupt in it."""

    def __init__(self, by_signal):
        self.by_signal = by_signal  # on a main thread: a signal handler raises, nothing is posted
        self.running = False
        self._posted = False
        self._lock = threading.Lock()
        self._thread = None

    def enter(self):
        with self._lock:
            self._thread = threading.get_ident()
            self.running = True

    def leave(self):
        with self._lock:
            self.running = False
            posted, self._posted = self._posted, False
        if posted:
            try:
                for _ in range(1000):
                    pass
            except KeyboardInterrupt:
                pass

    def post(self, noticed=lambda: None):
        """Raise KeyboardInterrupt in the thread if it runs user code; returns whether it does. ``noticed`` is called
        there when the exception is raised."""
        with self._lock:
            if not self.running:
                return False
            self._posted = True
            threads.interrupt(self._thread, noticed, lambda: self._posted)
            return True


class Interrupts:
    """The Stops of a lane's cells.

    noticed   id of the latest interrupted request whose code has received the KeyboardInterrupt
    force     whether a SIGINT is on its way because the loop did not cancel its cell
    """

    def __init__(self, lane, by_signal):
        self._lane = lane
        self.guard = Guard(by_signal)
        self.noticed = None
        self.force = False
        self._stopped = None  # id of a request that awaits and is to be cancelled
        self._before = set()  # the tasks that there were when the running request began; None: it can begin none
        self._reported = None  # request id for which the user was told that the next Stop abandons it
        self._told = None  # (request id, how many reports said that the interrupted cell still runs)
        self._will_report = None  # request id that will be checked soon

    def begin(self, request):
        """A request is about to run."""
        self.force = False
        self._before = tasks_of(self._lane.loop) if _may_begin_tasks(request) else None

    def ended(self, request, reply):
        """A request has ended; ``reply`` is its reply's content. If it was reported as hanging, the user is told."""
        if self._told is not None and self._told[0] == request["id"]:
            self._lane.host.tell(request["id"], outcome(reply))

    # -- a Stop ------------------------------------------------------------------------------------------------------

    def interrupt(self):
        """Stop the running cell. Returns what was done: idle, raised, cancelled, signalled or abandon.

        ``abandon``: the user was already told that this cell is stuck in a call; the host must give it up.
        """
        lane, request = self._lane, self._lane.request
        if request is None:
            return "idle"
        if self._reported == request["id"] and not self.guard.by_signal:
            return "abandon"
        if self.guard.by_signal:
            return self.by_signal()
        self.noticed = None
        if self.guard.post(self._notice):
            lane.host.debug.resume()
            lane.call(lambda: None)  # wakes a loop that the cell itself runs (nest_asyncio) from its C call
            done = "raised"
        else:
            self._cancel(request["id"])
            done = "cancelled"
        self.interrupt_children()  # now; the exception ends processes that start later
        self.report_later(request["id"])
        return done

    def interrupt_again(self, request_id):
        """Interrupt a request again, because Python has dropped its interrupt."""
        request = self._lane.request
        if request is None or request["id"] != request_id:
            return
        if self.guard.by_signal:
            self._lane.host.interrupt_main(request)
        else:
            self.guard.post(self._notice)

    def by_signal(self):
        """Called by the SIGINT handler on a main thread: may raise KeyboardInterrupt."""
        self._notice()
        self._lane.host.debug.resume()
        if self.guard.running or self.force:
            self.force = False
            raise KeyboardInterrupt
        self._cancel(self._lane.request["id"])
        return "cancelled"

    def interrupt_children(self):
        """Interrupt the processes that the lane's thread has started and waits for, so that subprocess.run ends."""
        lane = self._lane
        processes.interrupt(lane.thread_id, lane.native_id, lane.host.protected_pids())

    def _notice(self):
        """The interrupt has reached the running code; called on the lane's thread."""
        request = self._lane.request
        if request is not None:
            self.noticed = request["id"]

    # -- a cell that awaits ------------------------------------------------------------------------------------------

    def _cancel(self, request_id):
        """Cancel a cell that awaits; if other code blocks the loop, raise KeyboardInterrupt in that."""
        lane = self._lane
        answered = threading.Event()
        self._stopped = request_id

        def cancel():
            answered.set()
            self.cancel_stopped()

        lane.loop.call_soon_threadsafe(cancel)

        def insist():
            if answered.is_set() or lane.request is None or lane.request["id"] != request_id:
                return
            if self.guard.by_signal:
                self.force = True
                threads.signal_main()
            else:
                threads.interrupt(lane.thread_id, self._notice, lambda: lane.request is not None)
                lane.host.debug.resume()

        threads.later(CANCEL_GRACE, "interrupt", insist)

    def cancel_stopped(self):
        """Cancel the cell if a Stop was for it and it awaits; once for each Stop; on the lane's thread."""
        lane = self._lane
        stopped, self._stopped = self._stopped, None
        if lane.request is not None and lane.request["id"] == stopped and lane.awaits is not None:
            self._notice()
            lane.task.cancel()
            for task in self._tasks_of_cell():
                task.cancel()

    def _tasks_of_cell(self):
        """The tasks that the running cell has begun, also those that it does not wait for. Before Python 3.12 a task
        does not tell who began it: then the list is empty if an earlier cell has left tasks, which may begin others."""
        if self._before is None:
            return []
        lane = self._lane
        new = tasks_of(lane.loop) - self._before - {lane.task}
        if any(hasattr(task, "get_context") for task in new):
            return [task for task in new if streams.is_of(task.get_context(), lane.request["id"])]
        return [] if any(task is not lane.task and not task.done() for task in self._before) else new

    # -- what the user is told ---------------------------------------------------------------------------------------

    def report_later(self, request_id):
        """Check soon whether an interrupted cell still runs."""
        if self._will_report != request_id:
            self._will_report = request_id
            threads.later(REPORT_AFTER, "interrupt", self._report, request_id)

    def _report(self, request_id, noticed=False):
        """Some time after an interrupt: if the cell still runs, tell the user where, and what the next Stop will do.

        A cell that has not noticed the interrupt is stuck in a call. One that has may be cleaning up, and gets more
        time.
        """
        lane, request = self._lane, self._lane.request
        self._will_report = None
        if request is None or request["id"] != request_id or lane.abandoned or lane.host.asks(lane):
            return
        has_noticed = self.noticed == request_id
        if has_noticed and not noticed:
            self._will_report = request_id
            threads.later(NOTICED_AFTER - REPORT_AFTER, "interrupt", self._report, request_id, True)
            return
        where = stacks.call(lane.host, lane)
        before = self._told[1] if self._told is not None and self._told[0] == request_id else 0
        self._told = (request_id, before + 1)
        if not has_noticed:
            self._tell_next(request_id, "Interrupt: still in %s; %s." % (where, lane.why_stuck))
            return
        why = "Interrupt: the cell received it and still runs, in %s; perhaps it is cleaning up." % where
        if before:
            self._tell_next(request_id, why)
        else:
            lane.host.tell(request_id, why + " A second Stop interrupts it again.\n")

    def _tell_next(self, request_id, why):
        """Tell the user what the next Stop will do to a cell that interrupts do not end, and remember to do it."""
        self._reported = request_id
        self._lane.host.tell(request_id, "%s %s\n" % (why, self._lane.next_stop))


def outcome(reply):
    """A sentence that says how a cell that was reported as hanging has ended; ``reply`` is the content of its reply."""
    stopped = reply.get("ename") in ("KeyboardInterrupt", "CancelledError")
    what = "The Stop has ended the cell after all" if stopped else "The cell has ended by itself"
    return what + "; its variables are kept.\n"


def tasks_of(loop):
    """The tasks of a loop that are not done."""
    return set(asyncio.all_tasks(loop)) if hasattr(asyncio, "all_tasks") else set(asyncio.Task.all_tasks(loop))


def _may_begin_tasks(request):
    """Whether a request's code may begin tasks of the lane's loop: not a call for an object that awaits nothing."""
    if request["kind"] != "object" or request.get("await"):
        return True
    how, code = request["root"][0], str(request["root"][-1])
    return how in ("eval", "exec") and ("await" in code or "async" in code)
