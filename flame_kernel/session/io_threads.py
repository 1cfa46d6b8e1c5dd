"""IoThreads: a few threads that do the work of all sessions of this process, in turns.

A session has three tasks: its calls, its events, and the watch over its link.  A task that waits (for a socket, for a
time, or to be woken) uses no thread: one thread waits for all tasks together, and a few others do the turns that are
due.  If all of these are held up, for example by servers that do not answer, more are started; they end when they have
nothing to do.  The thread that did a turn waits itself for a moment: an answer that comes soon needs no second thread.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# Threads for turns that are kept while there is a session: a program that is ending can start no new ones.
KEPT = 2
# Up to FEW threads are started at once; one more only if turns that are due have waited for STALLED seconds.
FEW, STALLED = 4, 0.01
# Seconds after which a thread beyond KEPT ends, if there is nothing to do.
LINGER = 0.2
# Seconds for which a thread itself waits for the socket of the task whose turn it did; one thread at a time does so.
STAY = 0.02
# Seconds to wait for the threads when the last session has ended.
END = 1.0


class Wait(NamedTuple):
    """What a task waits for between two turns: for a socket to be readable, for a time in seconds, or to be woken; or
    only until the turns of others that are due have begun."""

    socket: socket.socket | None = None
    seconds: float | None = None
    is_last: bool = False


# Why a turn happens.
READY, LATE, WOKEN = "ready", "late", "woken"
Turn = Callable[[str], Wait | None]


class Task:
    """Work in turns, one at a time. ``turn(why)`` returns what to wait for, or None at the end."""

    def __init__(self, threads: IoThreads, turn: Turn) -> None:
        self.turn = turn
        self.over = threading.Event()
        self._threads = threads
        self.state = "waiting"  # … due, running
        self.why = WOKEN
        self.is_woken = False  # while its turn ran
        self.number = 0  # of its present wait: the times of earlier waits are ignored
        self.socket: socket.socket | None = None
        self.thread: int | None = None

    def __repr__(self) -> str:
        return f"<Task {'over' if self.over.is_set() else self.state}>"

    def wake(self) -> None:
        """Do a turn soon; if one is running, another one after it."""
        self._threads.wake(self)

    def wake_in(self, seconds: float) -> None:
        """Do a turn in so many seconds, unless one happens before."""
        self._threads.wake_in(self, seconds)

    def wait(self, seconds: float) -> None:
        """Wait until the task is over; returns at once if its own turn asks."""
        if self.thread != threading.get_ident():
            self.over.wait(seconds)


class IoThreads:
    """The threads; `enter` starts them and `leave` ends them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._due: collections.deque[Task] = collections.deque()
        self._last: collections.deque[Task] = collections.deque()  # due, too, but after those
        self._times: list[tuple[float, int, Task, int]] = []
        self._most_times = 1000
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._ears, self._mouth = socket.socketpair()
        self._ears.setblocking(False)
        self._mouth.setblocking(False)
        self._selector.register(self._ears, selectors.EVENT_READ)
        self._until = 0.0  # when the waiting thread looks again by itself
        self._stalled: float | None = None  # since when turns are due and nobody is free
        self._threads: list[threading.Thread] = []
        self._count = 0
        self._idle: list[threading.Lock] = []  # wake the threads that have nothing to do; the latest last
        self._stays = False  # a thread waits for the socket of its last task
        self._users = 0
        self._is_over = False
        self._waiter = threading.Thread(target=self._wait, name="flame-io", daemon=True)
        self._waiter.start()
        with self._lock:
            for _ in range(KEPT):
                self._start(is_kept=True)

    def __repr__(self) -> str:
        return f"<IoThreads {self._count}, {len(self._idle)} idle, {len(self._due)} turns due, {self._users} users>"

    # -- for tasks -----------------------------------------------------------------------------------------------------

    def task(self, turn: Turn) -> Task:
        """A task; its first turn happens when it is woken."""
        return Task(self, turn)

    def wake(self, task: Task) -> None:
        if os.getpid() != self.pid:
            return
        with self._lock:
            if task.state == "running":
                task.is_woken = True
            elif task.state == "waiting" and not task.over.is_set():
                self._make_due(task, WOKEN)

    def wake_in(self, task: Task, seconds: float) -> None:
        if os.getpid() != self.pid:
            return
        with self._lock:
            if task.state == "running":
                task.is_woken = True
            elif task.state == "waiting":
                self._note_time(task, seconds)

    def _note_time(self, task: Task, seconds: float) -> None:
        """The task's next turn is in so many seconds, unless one happens before; called with the lock."""
        at = time.monotonic() + seconds
        if len(self._times) > self._most_times:  # most of them are of waits that are over
            self._times = [one for one in self._times if one[2].number == one[3]]
            heapq.heapify(self._times)
            self._most_times = max(1000, 2 * len(self._times))
        heapq.heappush(self._times, (at, next(self._numbers), task, task.number))
        self._call(at)

    def _make_due(self, task: Task, why: str, is_last: bool = False) -> None:
        """The task's wait is over; called with the lock."""
        if task.socket is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):  # it was closed meanwhile
                self._selector.unregister(task.socket)
            task.socket = None
        task.number = next(self._numbers)
        task.state, task.why = "due", why
        (self._last if is_last else self._due).append(task)
        if is_last:  # the calling thread looks for turns itself, but what it finds first may take long
            self._note_stall()
            return
        if self._idle:
            self._idle.pop().release()
        elif self._count < FEW:
            self._start()
        else:
            self._note_stall()

    def _note_stall(self) -> None:
        if self._stalled is None:
            self._stalled = time.monotonic()
            self._call(self._stalled + STALLED)

    def _start(self, is_kept: bool = False) -> None:
        self._count += 1
        thread = threading.Thread(target=self._work, args=(is_kept,), name="flame-io-turns", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the program ends: the existing threads do the work
            self._count -= 1
        else:
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]

    def _call(self, at: float) -> None:
        """Make the waiting thread look again when the monotonic clock says ``at``, or before."""
        if at < self._until:
            self._until = at
            with contextlib.suppress(BlockingIOError):  # its buffer is full, so the thread wakes anyway
                self._mouth.send(b"!")

    # -- threads for turns ---------------------------------------------------------------------------------------------

    def _work(self, is_kept: bool) -> None:
        """Do turns that are due: until the last session ends, or while there are any."""
        told = threading.Lock()
        told.acquire()
        while (task := self._next(is_kept, told)) is not None:
            task.thread = threading.get_ident()
            wait = None
            try:
                wait = task.turn(task.why)
                while wait is not None and self._stay(task, wait):
                    wait = task.turn(READY)
            except BaseException:  # a defect: the interpreter shows it, and this thread ends
                with self._lock:
                    self._count -= 1
                raise
            finally:
                task.thread = None
                self._park(task, wait)

    def _next(self, is_kept: bool, told: threading.Lock) -> Task | None:
        """The next turn, for the thread that ``told`` wakes; None: the thread ends."""
        while True:
            with self._lock:
                if self._due or self._last:
                    task = (self._due or self._last).popleft()
                    self._stalled = self._stalled and (time.monotonic() if self._due or self._last else None)
                    task.state, task.is_woken = "running", False
                    return task
                if self._is_over:
                    self._count -= 1
                    return None
                self._idle.append(told)
            if told.acquire(timeout=-1 if is_kept else LINGER):
                continue
            with self._lock:
                if told not in self._idle:  # it was woken just now
                    told.acquire()
                    continue
                self._idle.remove(told)
                if self._idle:  # else it is the spare one
                    self._count -= 1
                    return None

    def _stay(self, task: Task, wait: Wait) -> bool:
        """Wait for the socket for a moment, unless other turns are due. Returns whether there is something to read."""
        with self._lock:
            if wait.socket is None or self._stays or self._due or task.is_woken or self._is_over:
                return False
            self._stays = True
        is_ready = False
        try:
            is_ready = _is_readable(wait.socket, STAY if wait.seconds is None else min(STAY, wait.seconds))
        finally:
            with self._lock:
                self._stays = False
                is_ready = is_ready and not task.is_woken
        return is_ready

    def _park(self, task: Task, wait: Wait | None) -> None:
        with self._lock:
            task.state = "waiting"
            if wait is None:
                task.over.set()
                return
            if task.is_woken:
                self._make_due(task, WOKEN)
                return
            if wait.is_last:
                self._make_due(task, READY, is_last=True)
                return
            if wait.socket is not None and not self._listen(task, wait.socket):
                self._make_due(task, READY)
            elif wait.seconds is not None:
                self._note_time(task, wait.seconds)

    def _listen(self, task: Task, one: socket.socket) -> bool:
        """Also wait for the socket; False if it is closed, which its next use reports. Called with the lock."""
        try:
            try:
                self._selector.register(one, selectors.EVENT_READ, task)
            except KeyError:  # a socket of that number was closed by somebody else
                self._selector.unregister(one)
                self._selector.register(one, selectors.EVENT_READ, task)
        except (ValueError, OSError):
            return False
        task.socket = one
        if not self._is_live:
            self._call(0.0)
        return True

    # -- the thread that waits -----------------------------------------------------------------------------------------

    @property
    def _is_live(self) -> bool:
        """Whether a wait that has begun also covers sockets that are added later."""
        return type(self._selector).__name__ in ("EpollSelector", "KqueueSelector", "DevpollSelector")

    def _wait(self) -> None:
        while True:
            with self._lock:
                if self._is_over:
                    break
                now = time.monotonic()
                self._look(now)
                at = self._times[0][0] if self._times else now + 3600
                if self._stalled is not None:
                    at = min(at, self._stalled + STALLED)
                self._until = at
            found = self._selector.select(max(0.0, at - now))
            with self._lock:
                for key, _ in found:
                    task = key.data
                    if task is None:
                        with contextlib.suppress(BlockingIOError):
                            self._ears.recv(4096)
                    elif task.state == "waiting" and task.socket is key.fileobj:
                        self._make_due(task, READY)
        with self._lock:
            self._selector.close()
            self._ears.close()
            self._mouth.close()

    def _look(self, now: float) -> None:
        """Make tasks due whose time has come; start a thread if due turns wait too long. Called with the lock."""
        while self._times and (self._times[0][0] <= now or self._times[0][2].number != self._times[0][3]):
            _, _, task, number = heapq.heappop(self._times)
            if task.number == number and task.state == "waiting" and not task.over.is_set():
                self._make_due(task, LATE)
        if self._stalled is not None and now >= self._stalled + STALLED:
            self._stalled = now if self._due or self._last else None
            if self._stalled and self._idle:
                self._idle.pop().release()
            elif self._stalled:
                self._start()

    # -- the beginning and the end -------------------------------------------------------------------------------------

    def use(self, more: int) -> int:
        """Count ``more`` sessions that use the threads; returns how many do. At 0 the threads end."""
        with self._lock:
            self._users += more
            if not self._users:
                self._is_over = True
                while self._idle:
                    self._idle.pop().release()
                self._call(0.0)
            return self._users

    def join(self, seconds: float) -> None:
        """Wait until the threads have ended, but not for the calling one, and not longer than so many seconds."""
        deadline = time.monotonic() + seconds
        for thread in [self._waiter, *self._threads]:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def forked(self) -> None:
        """In a forked child, which has none of the threads: close its copies of the descriptors."""
        for one in (self._ears, self._mouth):
            one.close()
        fileno = getattr(self._selector, "fileno", None)
        if fileno is not None:
            with contextlib.suppress(OSError):
                os.close(fileno())


def _is_readable(one: socket.socket, seconds: float) -> bool:
    """Whether there is something to read within so many seconds; False at once if the socket is closed."""
    try:
        if not hasattr(select, "poll"):
            return bool(select.select([one], [], [], seconds)[0])
        poll = select.poll()
        poll.register(one, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    except (ValueError, OSError):
        return False


_present: IoThreads | None = None
_lock = threading.Lock()


def enter() -> IoThreads:
    """Count one more session; returns the threads."""
    global _present
    with _lock:
        if _present is None:
            _present = IoThreads()
        _present.use(1)
        return _present


def leave(threads: IoThreads) -> None:
    """A session has ended: with the last one, the threads end. Does nothing in a forked child, which has no threads."""
    global _present
    if threads.pid != os.getpid():
        return
    with _lock:
        is_last = not threads.use(-1)
        if is_last and _present is threads:
            _present = None
    if is_last:
        threads.join(END)


def _forked() -> None:
    global _present, _lock
    if _present is not None:
        _present.forked()
    _present, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
