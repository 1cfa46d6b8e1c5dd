"""A lane: one thread with an asyncio loop, on which cells run one after another; and how to stop a cell.

A session has one lane, plus one for each subshell. In a server's process the lane makes its thread; in a child it uses
the main thread. The loop keeps running, so tasks that a cell started continue between cells, as in ipykernel.

An interrupt is a KeyboardInterrupt. It must be raised only in user code, never in asyncio's or our own: ``Guard`` knows
when user code is running on the thread. Python raises an asynchronous exception between two bytecodes, so a call that
blocks in C delays it. An interrupt that comes too late is caught and dropped, because taking it back by
``PyThreadState_SetAsyncExc(id, NULL)`` makes CPython 3.11 hang in sys.settrace.
"""

import asyncio
import collections
import os
import platform
import threading
import time
import types

from .. import own, processes, threads
from ..output import streams
from .child.stops import outcome
from .monitor import stacks

# Seconds for the loop to cancel a cell that awaits; seconds until we tell the user that a call blocks.
CANCEL_GRACE = 0.3
REPORT_AFTER = 0.7
# Seconds until we tell the user that a cell has received its interrupt but still runs.
NOTICED_AFTER = 3.0
# Seconds before a loop that has failed is run again.
LOOP_AGAIN = 0.001


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


class Lane:
    """Runs the requests of one shell channel.

    host      the session core; its coroutine ``host.perform(request)`` carries out one request
    on_main   True in a child: ``run()`` is then called on the main thread; otherwise the lane makes its thread
    debugged  whether the debugger may stop code that runs here
    """

    why_stuck = "Python cannot stop that call from outside"
    if not threads.CAN_INTERRUPT:
        why_stuck = (
            "%s cannot stop code in a thread; with place = child a Stop ends it" % platform.python_implementation()
        )

    def __init__(self, host, name, on_main=False, debugged=True):
        self.host = host
        self.name = name
        self.debugged = debugged
        self.request = None  # the running request
        self.since = time.monotonic()  # when that began
        self.noticed = None  # id of the latest interrupted request whose code has received the KeyboardInterrupt
        self.abandoned = False
        self.thread_id = None
        self.native_id = None
        self.loop = asyncio.new_event_loop()
        self._keep_time()
        self._guard = Guard(by_signal=on_main)
        self._queue = collections.deque()
        self._accepted = collections.deque()  # one item per unfinished request: atomic, unlike a number
        self._wakes = None  # a future of the loop, while the lane waits for a request
        self._task = None
        self._suspended = False
        self._before = set()  # the tasks that there were when the running request began; None: it can begin none
        self._stopped = None  # id of a request that awaits and is to be cancelled
        self._closing = False
        self._reported = None  # request id for which the user was told that the next Stop abandons it
        self._told = None  # (request id, how many reports said that the interrupted cell still runs)
        self._will_report = None  # request id that will be checked soon
        self._coroutine = None
        self._force = False
        if not on_main:
            self._thread = threading.Thread(
                target=self.run, name="flame-%s-%s" % (host.session_id[:8], name or "cells")
            )
            self._thread.daemon = True
            if not debugged:
                threads.leave_alone(self._thread)
            self._thread.start()

    def __repr__(self):
        return "<Lane %r %s>" % (self.name, "idle" if self.request is None else "busy")

    def _keep_time(self):
        """Give the loop our own clock: a cell that replaces ``time.monotonic`` would stop or break it."""
        try:
            if isinstance(self.loop, asyncio.BaseEventLoop):
                self.loop.time = time.monotonic
        except AttributeError:  # another loop class, which does not allow that
            pass

    # -- the thread --------------------------------------------------------------------------------------------------

    def run(self):
        """Run the lane until it is closed, or until it is abandoned and its cell has ended."""
        self.thread_id = threads.own_ident()
        self.native_id = threading.get_native_id() if hasattr(threading, "get_native_id") else processes.native_id()
        asyncio.set_event_loop(self.loop)
        # What the loop itself prints, for example about a failed callback, belongs to the cell that ran last.
        with streams.thread_of(streams.LatestCell(self.host)):
            self._run()
        self.host.lane_ended(self)

    def _run(self):
        self._task = self.loop.create_task(self._serve())
        while not self._task.done():
            try:
                self.loop.run_until_complete(self._task)
            except (KeyboardInterrupt, SystemExit):
                # From a task or callback of the cell, or one left in the background: that one has ended, the lane
                # continues. A Stop ends the cell too, before the tasks that it waits for have their turn.
                self._cancel_stopped()
                continue
            except asyncio.CancelledError:
                break
            except Exception:  # a cell has called ``loop.stop()``, or broken what the loop needs
                self._repair()
                if self._task.done() or self.loop.is_closed():
                    break
                time.sleep(LOOP_AGAIN)
        self._close_loop()

    def _close_loop(self):
        try:
            tasks = _tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        except (RuntimeError, KeyboardInterrupt):
            pass  # user code failed; the loop's descriptors are closed anyway
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _serve(self):
        await self._step(self.host.prepare(self))
        while not self.abandoned:
            while self._queue and not self.abandoned:
                await self._perform(self._queue.popleft())
            if self._closing or self.abandoned:
                return
            self._wakes = self.loop.create_future()
            if not self._queue and not self._closing:
                await self._wakes

    async def _perform(self, request):
        self._force = False
        self._before = _tasks(self.loop) if _may_begin_tasks(request) else None
        self.since = time.monotonic()
        self.request = request
        reply = None
        try:
            if not request.get("cancelled"):
                reply = await self._step(self.host.perform(request))
        except (KeyboardInterrupt, asyncio.CancelledError):
            pass
        except Exception as e:  # a cell may have broken anything that we use; the lane goes on
            self._repair()
            reply = self.host.failed_reply(request, e)
        if hasattr(self._task, "uncancel"):
            self._task.uncancel()
        self._end_if_forked(reply)
        if self.abandoned:
            return
        self._repair()
        self.request = None
        if reply is None:
            reply = self.host.interrupted_reply(request)
        if self._told is not None and self._told[0] == request["id"]:
            self.host.tell(request["id"], outcome(reply[0] if isinstance(reply, tuple) else reply))
        self._accepted.popleft()
        self.host.finish(request, reply)

    def _repair(self):
        """Put back essential functions that the cell has broken, and tell the user."""
        names, request = own.repair(), self.request
        if names and request is not None:
            what = "a cell replaced %s by something that does not work; the original is back." % ", ".join(names)
            self.host.tell(request["id"], what + "\n")

    def _end_if_forked(self, reply):
        """End a copy of the process that a cell has forked, when it comes to the cell's end: it shares the loop's
        descriptors, and would take what should wake the session's own loop."""
        if os.getpid() != self.host.pid:
            self.host.flush_fork()
            content = (reply[0] if isinstance(reply, tuple) else reply) or {"status": "error"}
            status = content.get("evalue") or "0" if content.get("ename") == "SystemExit" else "1"
            if content["status"] == "ok":
                status = str(content.get("exit_status", 0))  # a script's
            os._exit(int(status) & 255 if status.isdigit() else 1)

    @types.coroutine
    def _step(self, coroutine):
        """``await coroutine``, while the guard knows when the coroutine's code, which is the user's, is running."""
        send, value = coroutine.send, None
        guard, self._coroutine = self._guard, coroutine
        while True:
            waits_for = result = None
            done = False
            try:
                try:
                    guard.enter()
                    try:
                        waits_for = send(value)
                    except StopIteration as stop:
                        result, done = stop.value, True
                finally:
                    guard.leave()
            except KeyboardInterrupt:  # raised between the user's code and ours
                guard.leave()
                if not done:
                    if waits_for is None:
                        raise
                    value, send = KeyboardInterrupt(), coroutine.throw
                    continue
            if done:
                self._coroutine = None
                return result
            self._suspended = True
            try:
                value = yield waits_for
                send = coroutine.send
            except BaseException as e:  # an error of what the cell awaits, or a cancellation: raised in the cell
                e.__traceback__ = e.__traceback__.tb_next  # without this frame: the cell shows what it awaits
                value, send = e, coroutine.throw
            finally:
                self._suspended = False

    # -- from other threads ------------------------------------------------------------------------------------------

    def submit(self, request):
        """Queue a request; any thread."""
        self._accepted.append(True)
        self._queue.append(request)
        self._wake_up()

    def cancel(self, request_id):
        """Let a queued request end as if interrupted, without running it; returns whether it was queued."""
        for request in list(self._queue):
            if request["id"] == request_id:
                request["cancelled"] = True
                return True
        return False

    @property
    def is_idle(self):
        """Whether a request that comes now would run at once."""
        return not self._accepted and self.request is None and not self._closing

    def call(self, function):
        """Run ``function`` on the lane's thread as soon as no cell's code is running there; any thread."""
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass  # the loop was just closed

    def run_callback(self, request, function):
        """Called by the loop on the lane's thread: run the user's ``function``, which can be stopped like a cell.

        If it runs between two steps of a cell that awaits, a Stop is for the cell; ``function`` is stopped if it does
        not end.
        """
        if self.request is not None:
            function()
            return
        self.request = request
        try:
            self._guard.enter()
            try:
                function()
            finally:
                self._guard.leave()
        except KeyboardInterrupt:  # raised between the user's code and ours
            self._guard.leave()
        if self.abandoned:
            self._wake_up()
        else:
            self.request = None

    def _wake_up(self):
        self.call(self._wake)

    def _wake(self):
        if self._wakes is not None and not self._wakes.done():
            self._wakes.set_result(None)

    def close(self):
        """End the lane: at once if it is idle, otherwise when its cell has ended."""
        self._closing = True
        self._queue.clear()
        self._wake_up()

    def join(self, timeout):
        """Wait for the thread to end; returns whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def awaits(self):
        """The coroutine of the running cell if it is awaiting something; else None."""
        return self._coroutine if self._suspended else None

    # -- stopping a cell ---------------------------------------------------------------------------------------------

    def interrupt(self):
        """Stop the running cell. Returns what was done: idle, raised, cancelled, signalled or abandon.

        ``abandon``: the user was already told that this cell is stuck in a call; the host must give it up.
        """
        request = self.request
        if request is None:
            return "idle"
        if self._reported == request["id"] and not self._guard.by_signal:
            return "abandon"
        if self._guard.by_signal:
            return self._by_signal()
        self.noticed = None
        if self._guard.post(self._notice):
            self.host.debug.resume()
            self.call(lambda: None)  # wakes a loop that the cell itself runs (nest_asyncio) from its C call
            done = "raised"
        else:
            self._cancel(request["id"])
            done = "cancelled"
        self.interrupt_children()  # now; the exception ends processes that start later
        self.report_later(request["id"])
        return done

    def interrupt_again(self, request_id):
        """Interrupt a request again, because Python has dropped its interrupt."""
        request = self.request
        if request is None or request["id"] != request_id:
            return
        if self._guard.by_signal:
            self.host.interrupt_main(request)
        else:
            self._guard.post(self._notice)

    def report_later(self, request_id):
        """Check soon whether an interrupted cell still runs."""
        if self._will_report != request_id:
            self._will_report = request_id
            threads.later(REPORT_AFTER, "interrupt", self._report, request_id)

    def _by_signal(self):
        """Called by the SIGINT handler on a main thread: may raise KeyboardInterrupt."""
        self._notice()
        self.host.debug.resume()
        if self._guard.running or self._force:
            self._force = False
            raise KeyboardInterrupt
        self._cancel(self.request["id"])
        return "cancelled"

    def _cancel(self, request_id):
        """Cancel a cell that awaits; if other code blocks the loop, raise KeyboardInterrupt in that."""
        answered = threading.Event()
        self._stopped = request_id

        def cancel():
            answered.set()
            self._cancel_stopped()

        self.loop.call_soon_threadsafe(cancel)

        def insist():
            if answered.is_set() or self.request is None or self.request["id"] != request_id:
                return
            if self._guard.by_signal:
                self._force = True
                threads.signal_main()
            else:
                threads.interrupt(self.thread_id, self._notice, lambda: self.request is not None)
                self.host.debug.resume()

        threads.later(CANCEL_GRACE, "interrupt", insist)

    def _cancel_stopped(self):
        """Cancel the cell if a Stop was for it and it awaits; once for each Stop; on the lane's thread."""
        stopped, self._stopped = self._stopped, None
        if self.request is not None and self.request["id"] == stopped and self._suspended:
            self._notice()
            self._task.cancel()
            for task in self._tasks_of_cell():
                task.cancel()

    def _tasks_of_cell(self):
        """The tasks that the running cell has begun, also those that it does not wait for. Before Python 3.12 a task
        does not tell who began it: then the list is empty if an earlier cell has left tasks, which may begin others."""
        if self._before is None:
            return []
        new = _tasks(self.loop) - self._before - {self._task}
        if any(hasattr(task, "get_context") for task in new):
            return [task for task in new if streams.is_of(task.get_context(), self.request["id"])]
        return [] if any(task is not self._task and not task.done() for task in self._before) else new

    def interrupt_children(self):
        """Interrupt the processes that this thread has started and waits for, so that subprocess.run ends."""
        processes.interrupt(self.thread_id, self.native_id, self.host.protected_pids())

    def _notice(self):
        """The interrupt has reached the running code; called on the lane's thread."""
        request = self.request
        if request is not None:
            self.noticed = request["id"]

    def _report(self, request_id, noticed=False):
        """Some time after an interrupt: if the cell still runs, tell the user where, and what the next Stop will do.

        A cell that has not noticed the interrupt is stuck in a call. One that has may be cleaning up, and gets more
        time.
        """
        request = self.request
        self._will_report = None
        if request is None or request["id"] != request_id or self.abandoned or self.host.asks(self):
            return
        has_noticed = self.noticed == request_id
        if has_noticed and not noticed:
            self._will_report = request_id
            threads.later(NOTICED_AFTER - REPORT_AFTER, "interrupt", self._report, request_id, True)
            return
        where = stacks.call(self.host, self)
        before = self._told[1] if self._told is not None and self._told[0] == request_id else 0
        self._told = (request_id, before + 1)
        if not has_noticed:
            self.tell_next(request_id, "Interrupt: still in %s; %s." % (where, self.why_stuck))
            return
        why = "Interrupt: the cell received it and still runs, in %s; perhaps it is cleaning up." % where
        if before:
            self.tell_next(request_id, why)
        else:
            self.host.tell(request_id, why + " A second Stop interrupts it again.\n")

    def tell_next(self, request_id, why):
        """Tell the user what the next Stop will do to a cell that interrupts do not end, and remember to do it."""
        self._reported = request_id
        following = "A second Stop abandons it: the cell then ends, and the session goes on in a fresh thread with its"
        self.host.tell(request_id, "%s %s names.\n" % (why, following))

    def abandon(self):
        """Give up the running cell: its thread ends when its call returns. Returns the cell's request."""
        request, self.request = self.request, None
        self.abandoned = True
        self._closing = True
        self._guard.post()
        return request


def _may_begin_tasks(request):
    """Whether a request's code may begin tasks of the lane's loop: not a call for an object that awaits nothing."""
    if request["kind"] != "object" or request.get("await"):
        return True
    how, code = request["root"][0], str(request["root"][-1])
    return how in ("eval", "exec") and ("await" in code or "async" in code)


def _tasks(loop):
    """The tasks of a loop that are not done."""
    return set(asyncio.all_tasks(loop)) if hasattr(asyncio, "all_tasks") else set(asyncio.Task.all_tasks(loop))
