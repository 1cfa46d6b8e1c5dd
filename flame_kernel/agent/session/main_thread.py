"""A session on the server's own main thread (``place = main``): signals, GUI loops and Ctrl-C work as in a script.

Pyro's server waits for clients in its ``loop``, which calls ``self.events(…)`` again and again.  If the main thread
runs that loop, we put our own ``events`` on that server object.  The main thread enters it and stays there: it runs the
session's cells, while another thread accepts connections with the server's own ``events``.  If instead an app calls
``daemon.events()`` in a loop of its own, it *pumps* the server: the thread then runs what is queued and returns to the
app.

The thread is given back when no cell runs and the session is closed or its client detaches.  Then the accept loop, the
signal handlers and the thread's asyncio loop are as they were found.  When a client attaches again, the session takes
the thread again.
"""

import asyncio
import os
import signal
import sys
import threading
import time

from .. import threads
from ..debug.tracing import lines_of
from ..output import streams
from .core import Core
from .lane import LOOP_AGAIN, Lane

# In seconds: how soon an app that pumps its server must call ``events``; the time between two signals for one
# interrupt; how long after one of our SIGINTs another one still counts as ours.
COMES_BY = 2.0
SIGNAL_AGAIN = 0.1
OURS_FOR = 1.0

_LOOPS = ("Pyro4.socketserver.threadpoolserver", "Pyro4.socketserver.multiplexserver")
_INSTEAD = "use place = process or child"


class Unavailable(RuntimeError):
    """This server's main thread cannot be used; the text is a sentence that says why."""


def find():
    """``(server, condition, pumped)``: the Pyro server through which the main thread can be used; raises Unavailable.

    ``condition`` is the function that the server's loop checks before each round, or None.  Call this on a thread that
    is answering a call through Flame.
    """
    if os.name != "posix":
        raise Unavailable("the main thread can be used on POSIX systems only; use place = process")
    main = threads.main_ident()
    server, condition = _loop_in(threads.frames().get(main))
    if server is not None:
        return _unless_taken(server), condition, False
    server = _serving_us()
    if server is None:
        raise Unavailable("the main thread of this server does not run its accept loop; %s" % _INSTEAD)
    for thread_id, frame in threads.frames().items():
        if thread_id != main and _loop_in(frame)[0] is server:
            raise Unavailable("the main thread there belongs to the app: Flame runs in another thread; %s" % _INSTEAD)
    _unless_taken(server)
    if hasattr(server.sock, "context"):
        raise Unavailable("the main thread there is the app's own, which cannot be called by TLS; %s" % _INSTEAD)
    if threading.get_ident() == main:  # a multiplex server, and this call is part of its loop
        problem = _loop_runs()
    else:
        problem = _watch_for_main(server)
    if problem:
        raise Unavailable("%s; %s" % (problem, _INSTEAD))
    return server, None, True


def _loop_in(frame):
    """The Pyro server whose ``loop`` is in a stack, and its condition; ``(None, None)`` if there is none."""
    while frame is not None:
        if frame.f_code.co_name == "loop" and frame.f_globals.get("__name__") in _LOOPS:
            return frame.f_locals.get("self"), frame.f_locals.get("loopCondition")
        frame = frame.f_back
    return None, None


def _serving_us():
    """The Pyro server whose call this thread is answering, or None."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "handleRequest" and frame.f_globals.get("__name__") == "Pyro4.core":
            server = getattr(frame.f_locals.get("self"), "transportServer", None)
            return server if type(server).__module__ in _LOOPS else None
        frame = frame.f_back
    return None


def _unless_taken(server):
    holder = getattr(vars(server).get("events"), "flame_session", None)
    if holder is not None:
        raise Unavailable(
            "the session %s has the main thread of this server, which only one can have at a time; end or detach that "
            "one, or %s" % (holder, _INSTEAD)
        )
    return server


def _watch_for_main(server):
    """Check whether the main thread calls ``server.events`` within COMES_BY: None if it does, else why not."""
    came, found = threading.Event(), vars(server).get("events")
    below = server.events
    problem = []

    def events(sockets):
        if threading.current_thread() is threading.main_thread() and not came.is_set():
            problem.append(_loop_runs())
            came.set()
        return below(sockets)

    server.events = events
    server.wakeup()
    came.wait(COMES_BY)
    if vars(server).get("events") is events:
        _put_back(server, found)
    return problem[0] if problem else "the main thread there is the app's own, and does not serve Flame"


def _loop_runs():
    if asyncio._get_running_loop() is not None:
        return "the main thread there runs an asyncio loop of the app's own"
    return None


def _put_back(server, found):
    if found is None:
        vars(server).pop("events", None)
    else:
        server.events = found


class MainCore(Core):
    """The Core of a session whose cells run on the server's main thread; ``main`` is the MainThread."""

    def __init__(self, session_id, place, main, log, shell, protected_pids):
        self._main_thread = main
        Core.__init__(self, session_id, place, log, shell, protected_pids)

    def start(self):
        """Begin; ``ready`` comes once the main thread has arrived."""
        self._main = self.lanes[""] = MainLane(self, self._main_thread)
        self.interrupt_main = self._main_thread.interrupt
        self._main_thread.acquire(self._main)

    def take_thread(self):
        """A client takes the session up: get the main thread, again if needed. Raises Unavailable."""
        self._main_thread.acquire(self._main)

    def release_thread(self):
        """The client leaves: the thread returns to the server when its cell has ended."""
        self._main_thread.release()

    def close(self):
        lane = self._main
        lane.close()
        if self._main_thread.release():
            if not lane.is_over:
                lane.serve_until(lambda: False)  # finish it here, since no other thread will
            lane.left.set()
        Core.close(self)
        lane.join(2.0)


class MainLane(Lane):
    """The main thread's lane. The thread comes and goes; while it is here it runs ``serve_until``."""

    why_stuck = "that call does not listen to signals"
    next_stop = (
        "The cell ends when that call returns. It has the server's main thread: other clients are served meanwhile."
    )

    def __init__(self, host, main):
        Lane.__init__(self, host, "", on_main=True)
        self.waits = True  # there is something to do: at first, to start the shell
        self.is_over = False
        self._main_thread = main
        self._may_leave = None
        self.left = threading.Event()  # set when the lane has ended and the main thread is back with the server

    def serve_until(self, may_leave):
        """On the main thread: run cells until none is left and ``may_leave()``, or until the lane is closed."""
        self.thread_id = threading.get_ident()
        self.native_id = threading.get_native_id() if hasattr(threading, "get_native_id") else os.getpid()
        self._may_leave = may_leave
        self.host.outer_lines = lines_of(sys._getframe(1))
        self.waits = False
        asyncio.set_event_loop(self.loop)
        streams.set_current(streams.LatestCell(self.host))
        if self.task is None:
            self.task = self.loop.create_task(self._serve())
            self.task.add_done_callback(lambda task: self.loop.stop())
        while True:
            try:
                while not self.task.done() and not self._is_through():
                    self.loop.call_soon(self.leave_if_idle)
                    self.loop.run_forever()
                break
            except (KeyboardInterrupt, SystemExit):  # as in Lane.run
                self.interrupts.cancel_stopped()
                continue
            except Exception:  # a cell has broken what the loop needs
                if self.task.done() or self.loop.is_closed():
                    raise
                self._repair()
                time.sleep(LOOP_AGAIN)
        self.host.debug.leave()
        getattr(self.loop, "_signal_handlers", {}).clear()  # the server's own handlers come back, so forget the loop's
        if self.task.done():
            self._close_loop()
            self.host.lane_ended(self)
            self.is_over = True

    def _is_through(self):
        if self._closing or self._accepted or self.waits or self.host.described is None:
            return False
        return self._may_leave()

    def leave_if_idle(self):
        """Called on the loop: stop the loop if the thread may leave."""
        if self._is_through():
            self.loop.stop()

    async def _perform(self, request):
        await Lane._perform(self, request)
        self.leave_if_idle()

    def call(self, function):
        self.waits = True

        def run():
            self.waits = False
            function()
            self.leave_if_idle()

        Lane.call(self, run)
        self._main_thread.wake()

    def join(self, timeout):
        return self.left.wait(timeout)

    def interrupt(self):
        """Stop the running cell: send SIGINT to the main thread, whose handler calls ``raise_interrupt``."""
        request = self.request
        if request is None:
            return "idle"
        self.interrupts.noticed = None
        self._main_thread.interrupt(request)
        self.interrupts.interrupt_children()
        self.interrupts.report_later(request["id"])
        return "signalled"

    @property
    def is_forced(self):
        """Whether a SIGINT is on its way because the loop did not cancel its cell."""
        return self.interrupts.force

    def raise_interrupt(self):
        """Called in the signal handler: raises KeyboardInterrupt if user code is running."""
        if self.request is not None:
            self.interrupts.by_signal()


class MainThread:
    """A server's main thread, used by one session. Raises Unavailable if it cannot be used."""

    def __init__(self, session_id):
        self.session_id = session_id
        self._lane = None
        self._where = find()  # used by the first ``acquire``
        self._server, self._condition, self._pumped = self._where
        self._found = self._below = self._events = None
        self._is_here = False
        self._released = True
        self._lock = threading.RLock()  # reentrant, because a signal handler takes it too
        self._interrupting = None  # the request that our SIGINT is meant for, until it is handled
        self._signalled_at = None
        self._theirs = None  # a handler of the server's, to be called for a SIGINT that was not ours
        self._state = None

    def __repr__(self):
        return "<MainThread %r %s>" % (self.session_id, "ours" if self._is_here else "the server's")

    def acquire(self, lane):
        """Have the main thread come to ``lane`` soon, or stay there. Raises Unavailable."""
        with self._lock:
            self._lane = lane
            if not self._released:
                return
            if self._is_here:  # it was about to leave, but a cell is still running
                self._released = False
                return
        where, self._where = self._where, None
        server, self._condition, self._pumped = where or find()
        with self._lock:
            self._server = server
            self._released = False
            self._found, self._below = vars(server).get("events"), server.events

            def events(sockets):
                return self._serve_events(sockets)

            events.flame_session = self.session_id
            self._events = server.events = events
        server.wakeup()

    def release(self):
        """Give the thread back when its cell has ended. Returns True if it is not here and will not come."""
        with self._lock:
            was, self._released = self._released, True
            if not self._is_here:
                if not was:
                    self._restore()
                return True
        self._lane.call(lambda: None)
        return False

    def wake(self):
        """There is something to do: have an app that pumps its server call ``events``."""
        if self._pumped and not self._is_here and not self._released:
            self._server.wakeup()

    def _restore(self):
        if vars(self._server).get("events") is self._events:
            _put_back(self._server, self._found)

    # -- on the main thread ------------------------------------------------------------------------------------------

    def _serve_events(self, sockets):
        """Called in place of the server's ``events``."""
        if threading.current_thread() is not threading.main_thread() or self._is_here:
            return self._below(sockets)
        if self._pumped:
            self._below(sockets)
            if not self._lane.waits:
                return None
        with self._lock:
            if self._released:
                return None if self._pumped else self._below(sockets)
            self._is_here = True
        try:
            self._run_cells()
        except KeyboardInterrupt:
            pass  # a Stop too late for its cell; the server's own interrupts are passed on below
        except RuntimeError:  # no thread can be started: the server continues without us
            with self._lock:
                self._released = True
                self._restore()
        theirs, self._theirs = self._theirs, None
        if theirs is not None:
            _pass_on(theirs)
        return None

    def _run_cells(self):
        over = []
        accepting = threads.make("accept", self._accept, over)
        self._state = _ThreadState()
        try:
            signal.signal(signal.SIGINT, self._on_sigint)
            accepting.start()
            self._lane.serve_until(lambda: self._pumped or self._released)
        finally:
            streams.set_current(None)
            over.append(True)
            while accepting.is_alive():
                self._server.wakeup()
                accepting.join(0.5)
            with self._lock:
                self._is_here = False
                if self._released or self._lane.is_over:
                    self._released = True
                    self._restore()
            self._state.restore()
            if self._lane.is_over:
                self._lane.left.set()
            elif self._lane.waits:
                self.wake()

    def _accept(self, over):
        """On a thread of its own, while the main thread runs cells: do the work of the server's loop."""
        server = self._server

        def goes_on():
            return not over and not server.shutting_down and (self._condition is None or self._condition())

        while server.sock is not None and goes_on():
            try:
                if hasattr(server, "handleRequest"):  # multiplex: also serves clients, through its own selector
                    server.loop(goes_on)
                else:
                    self._below([server.sock])
            except (OSError, ValueError):  # ignored as in Pyro's loop: a client's fault, or the socket is closed
                continue
        if not over:  # the server is ending: let the main thread return, so that its loop notices
            self.release()

    def _on_sigint(self, signum, frame):
        request, self._interrupting = self._interrupting, None
        if request is not None or self._lane.is_forced:
            if request is None or request is self._lane.request:  # otherwise too late for its cell
                self._lane.raise_interrupt()
            return
        if self._signalled_at is not None and time.monotonic() - self._signalled_at < OURS_FOR:
            return  # a second signal of ours that was no longer needed
        # It came from the server's terminal, so it is meant for the server.
        handler = self._state.handlers.get(signal.SIGINT)
        if handler == signal.SIG_IGN:
            return
        if callable(handler) and handler is not signal.default_int_handler:
            handler(signum, frame)
            return
        self._theirs = handler
        self.release()
        self._lane.raise_interrupt()

    def interrupt(self, request):
        """Send SIGINT to the main thread until its handler has run; any thread.

        One signal is not enough: if it arrives just before a call blocks, it does not end that call.
        """
        self._interrupting = request
        self._signal_until_handled(request)

    def _signal_until_handled(self, request):
        if self._interrupting is not request:  # its handler has run, or another Stop has begun
            return
        if self._lane.request is not request:
            self._interrupting = None
            return
        self._signalled_at = time.monotonic()
        signal.pthread_kill(threads.main_ident(), signal.SIGINT)
        if signal.getsignal(signal.SIGINT) == self._on_sigint:  # otherwise the cell has a handler of its own
            threads.later(SIGNAL_AGAIN, "interrupt", self._signal_until_handled, request)
        else:
            self._interrupting = None


class _ThreadState:
    """State of the main thread to restore: signal handlers, wakeup descriptor, timer, asyncio loop, trace functions."""

    def __init__(self):
        self.handlers = {}
        for number in range(1, signal.NSIG):
            try:
                handler = signal.getsignal(number)
            except ValueError:
                continue
            if handler is not None:  # None: C code has set it, and Python cannot set it again
                self.handlers[number] = handler
        self._trace, self._profile = sys.gettrace(), sys.getprofile()
        self._timer = signal.getitimer(signal.ITIMER_REAL)
        self._wakeup = signal.set_wakeup_fd(-1)
        policy = getattr(asyncio.events, "_get_event_loop_policy", asyncio.get_event_loop_policy)()
        self._local = getattr(policy, "_local", None)
        self._loop = dict(vars(self._local)) if self._local is not None else {}

    def restore(self):
        """Restore everything. What a cell has set is removed, including a pending alarm."""
        if sys.gettrace() is not self._trace:
            sys.settrace(self._trace)
        if sys.getprofile() is not self._profile:
            sys.setprofile(self._profile)
        asyncio.set_event_loop(self._loop.get("_loop"))
        if self._local is not None:
            vars(self._local).clear()
            vars(self._local).update(self._loop)
        if signal.getsignal(signal.SIGALRM) != self.handlers.get(signal.SIGALRM):
            signal.setitimer(signal.ITIMER_REAL, *self._timer)
        for number, handler in self.handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)


def _pass_on(handler):
    """Do what the SIGINT would have done without us."""
    if callable(handler):
        handler(signal.SIGINT, None)
    else:
        os.kill(os.getpid(), signal.SIGINT)
