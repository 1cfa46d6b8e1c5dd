"""A lane: one thread with an asyncio loop, on which cells run one after another. ``interrupt`` stops them.

A session has one lane, plus one for each subshell. In a server's process the lane makes its thread; in a child it uses
the main thread. The loop keeps running, so tasks that a cell started continue between cells, as in ipykernel.
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
from .interrupt import Interrupts, tasks_of

# Seconds before a loop that has failed is run again.
LOOP_AGAIN = 0.001
# Seconds for which a new session's shell waits for the first request: to make it holds up the answer of op ``open``.
LATE = 0.01


class Lane:
    """Runs the requests of one shell channel.

    host      the session core; its coroutine ``host.perform(request)`` carries out one request
    on_main   True in a child: ``run()`` is then called on the main thread; otherwise the lane makes its thread
    debugged  whether the debugger may stop code that runs here
    """

    # What the user is told of a cell that interrupts do not end: why, and what the next Stop does.
    next_stop = (
        "A second Stop abandons it: the cell then ends, and the session goes on in a fresh thread with its names."
    )
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
        self.abandoned = False
        self.thread_id = None
        self.native_id = None
        self.loop = asyncio.new_event_loop()
        self._keep_time()
        self.interrupts = Interrupts(self, by_signal=on_main)
        self._queue = collections.deque()
        self._accepted = collections.deque()  # one item per unfinished request: atomic, unlike a number
        self._wakes = None  # a future of the loop, while the lane waits for a request
        self.task = None
        self._suspended = False
        self._closing = False
        self._coroutine = None
        self._on_main = on_main
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
        self.task = self.loop.create_task(self._serve())
        while not self.task.done():
            try:
                self.loop.run_until_complete(self.task)
            except (KeyboardInterrupt, SystemExit):
                # From a task or callback of the cell, or one left in the background: that one has ended, the lane
                # continues. A Stop ends the cell too, before the tasks that it waits for have their turn.
                self.interrupts.cancel_stopped()
                continue
            except asyncio.CancelledError:
                break
            except Exception:  # a cell has called ``loop.stop()``, or broken what the loop needs
                self._repair()
                if self.task.done() or self.loop.is_closed():
                    break
                time.sleep(LOOP_AGAIN)
        self._close_loop()

    def _close_loop(self):
        try:
            tasks = tasks_of(self.loop)
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
        if not (self._on_main or self.name or self._queue):
            self._wakes = self.loop.create_future()
            await asyncio.wait([self._wakes], timeout=LATE)
        if self._closing:
            return
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
        self.interrupts.begin(request)
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
        if hasattr(self.task, "uncancel"):
            self.task.uncancel()
        self._end_if_forked(reply)
        if self.abandoned:
            return
        self._repair()
        self.request = None
        if reply is None:
            reply = self.host.interrupted_reply(request)
        self.interrupts.ended(request, reply[0] if isinstance(reply, tuple) else reply)
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
        guard, self._coroutine = self.interrupts.guard, coroutine
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
            self.interrupts.guard.enter()
            try:
                function()
            finally:
                self.interrupts.guard.leave()
        except KeyboardInterrupt:  # raised between the user's code and ours
            self.interrupts.guard.leave()
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
        """Stop the running cell; returns what was done, see ``Interrupts.interrupt``."""
        return self.interrupts.interrupt()

    def abandon(self):
        """Give up the running cell: its thread ends when its call returns. Returns the cell's request."""
        request, self.request = self.request, None
        self.abandoned = True
        self._closing = True
        self.interrupts.guard.post()
        return request
