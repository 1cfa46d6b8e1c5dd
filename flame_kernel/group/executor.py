"""GroupExecutor distributes calls among the members of a group; each call goes to a free member.

    with group.executor() as executor:
        executor.submit(function, 3).result(); list(executor.map(function, range(1000), chunksize=10))

It is a ``concurrent.futures.Executor``, so ``loop.run_in_executor`` and joblib (``joblib_backend.py``) accept it.

If a host is lost before a call was sent to it, another member makes the call. If the host is lost later, the call may
have run, so it is not repeated unless ``retries`` allows that; its future gets the error.
"""

from __future__ import annotations

import collections
import itertools
import operator
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from functools import partial
from typing import Any, TypeVar

from ..errors import TargetError
from ..remote.remote import Remote
from ..session.user import catch_interrupts, without_our_frames
from .member import AGAIN, Job, Member
from .results import is_lost

T = TypeVar("T")
Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]


class Task:
    """One call, or several calls that one member makes in sequence."""

    __slots__ = ("future", "tries", "work")

    def __init__(self, work: Callable[[Remote], Any], tries: int) -> None:
        self.work = work
        self.tries = tries  # how often it may be started
        self.future: Future[Any] = Future()


class GroupExecutor(Executor):
    """Calls local functions on any member that is free.

    members  the members of a group; the executor does not end their sessions
    retries  how often a call is repeated if its host was lost while it ran; 0: never, because it may have run
    group    kept alive here, because it ends the sessions when it is garbage collected
    """

    def __init__(self, members: Sequence[Member], retries: int = 0, group: object = None) -> None:
        if type(retries) is not int or retries < 0:
            raise TargetError(f"retries is a whole number from 0 on, not {retries!r}")
        self._members = list(members)
        self._group = group
        self._retries = retries
        self._lock = threading.RLock()
        self._waiting: collections.deque[Task] = collections.deque()
        self._free = list(members)
        self._away: dict[Member, tuple[float, Exception]] = {}
        self._running: dict[Member, Task] = {}
        self._jobs: dict[Member, Job] = {}
        self._idle = threading.Condition(self._lock)
        self._is_shut = False
        self._sharing = threading.local()  # ``now``: this thread is in `_share`

    def __repr__(self) -> str:
        with self._lock:
            return f"<GroupExecutor {len(self._running)} of {len(self._members)} busy, {len(self._waiting)} waiting>"

    @property
    def workers(self) -> int:
        """How many calls can run at once."""
        return len(self._members)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` on the next free member."""
        return self.give(lambda remote: remote.run(fn, *args, **kwargs))

    def give(self, work: Callable[[Remote], T]) -> Future[T]:
        """Call ``work`` in this process with the `Remote` of the next free member."""
        task = Task(work, self._retries + 1)
        pressed = threading.Event()
        with catch_interrupts(pressed.set):  # else Ctrl-C could leave a call running whose future nobody has
            with self._lock:
                if self._is_shut:
                    raise RuntimeError("cannot schedule new futures after shutdown")
                self._waiting.append(task)
            self._share()
        if pressed.is_set():
            self._interrupt({task.future})
            raise KeyboardInterrupt
        return task.future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` for each item and yield the results in order; ``chunksize`` items go to a member at a time.

        With ``buffersize``, at most so many chunks are begun before a result is taken, and the iterables are read only
        that far; they may have no end.
        """
        chunksize = operator.index(chunksize)
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        rows = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        futures = (self.give(partial(each_of, fn, chunk)) for chunk in chunks)
        begun: collections.deque[Future[list[T]]] = collections.deque()
        try:
            begun.extend(itertools.islice(futures, buffersize))
        except KeyboardInterrupt as stopped:  # also while the iterables are read
            self._interrupt(set(begun))
            raise without_our_frames(stopped) from None
        return self._in_order(begun, futures, None if timeout is None else time.monotonic() + timeout)

    def _in_order(
        self, begun: collections.deque[Future[list[T]]], more: Iterator[Future[list[T]]], end: float | None
    ) -> Iterator[T]:
        """Yield the items of the futures' lists in order; for each that is taken, one more call is begun.

        If the caller stops early, the calls that wait are cancelled; after Ctrl-C those that run are interrupted, too.
        """
        present = None
        try:
            while begun:
                begun.extend(itertools.islice(more, 1))
                present = begun.popleft()
                yield from present.result(None if end is None else max(0.0, end - time.monotonic()))
        except KeyboardInterrupt as stopped:
            self._interrupt({present, *begun})
            raise without_our_frames(stopped) from None
        finally:
            for future in begun:
                future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; ``cancel_futures`` also cancels the calls that wait. The sessions stay open."""
        with self._lock:
            self._is_shut = True
            if cancel_futures:
                while self._waiting:
                    _cancel(self._waiting.pop())
            if wait:
                self._idle.wait_for(lambda: not self._waiting and not self._running)

    def interrupt(self) -> None:
        """Interrupt running calls, as Ctrl-C would, and cancel waiting ones."""
        self._interrupt(None)

    def _interrupt(self, futures: Collection[Future[Any] | None] | None) -> None:
        """The same for the calls of these futures; None means all."""
        with self._lock:
            every = [*self._waiting, *self._running.values()]
            meant = {task for task in every if futures is None or task.future in futures}
            waiting = [task for task in self._waiting if task in meant]
            self._waiting = collections.deque(task for task in self._waiting if task not in meant)
            jobs = [(member, job) for member, job in self._jobs.items() if self._running.get(member) in meant]
        for task in waiting:
            _cancel(task)
        for member, job in jobs:
            member.stop(job)

    # -- distributing calls --------------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Give waiting calls to free members, until either is used up."""
        if getattr(self._sharing, "now", False):  # a member of a closed group has ended its job at once, in this loop
            return
        self._sharing.now = True
        try:
            while (pair := self._next()) is not None:
                member, task = pair
                job = member.submit(task.work, partial(self._done, member, task))
                with self._lock:
                    if self._running.get(member) is task:
                        self._jobs[member] = job
        finally:
            self._sharing.now = False

    def _next(self) -> tuple[Member, Task] | None:
        """A free member and the call for it; None if there is no free member or no waiting call."""
        with self._lock:
            self._bring_back()
            while self._waiting and self._free:
                task = self._waiting.popleft()
                if not _begins(task):
                    continue
                member = self._free.pop(0)
                self._running[member] = task
                return member, task
            lost: list[Task] = []
            if len(self._away) == len(self._members):
                lost, self._waiting = list(self._waiting), collections.deque()
            error = next(iter(self._away.values()))[1] if lost else None
            self._idle.notify_all()
        for task in lost:
            if _begins(task):
                task.future.set_exception(error)
        return None

    def _bring_back(self) -> None:
        """Make members available again that could not be reached, after a while."""
        now = time.monotonic()
        for member, (since, _) in list(self._away.items()):
            if now - since > AGAIN:
                del self._away[member]
                self._free.append(member)

    def _done(self, member: Member, task: Task, value: Any, error: Exception | None) -> None:
        """Called on the member's thread when a call has ended."""
        never_ran = error is not None and error is member.unreached
        task.tries -= not never_ran
        again = error is not None and (never_ran or (is_lost(error) and task.tries > 0))
        with self._lock:
            del self._running[member]
            self._jobs.pop(member, None)
            if error is not None and never_ran:
                self._away[member] = (float("inf") if member.is_closed else time.monotonic(), error)
            else:
                self._free.append(member)
            if again:
                self._waiting.appendleft(task)
        if not again and error is None:
            task.future.set_result(value)
        elif not again:
            task.future.set_exception(error)
        self._share()


def _cancel(task: Task) -> None:
    """Cancel a call that waits. One that waits to be repeated counts as running, so it gets the error itself."""
    if not task.future.cancel():
        task.future.set_exception(CancelledError())


def _begins(task: Task) -> bool:
    """Whether to make the call; False if it was cancelled while it waited."""
    return task.future.running() or task.future.set_running_or_notify_cancel()


def each_of(fn: Callable[..., T], rows: Sequence[tuple[Any, ...]], remote: Remote) -> list[T]:
    """Call ``fn(*row)`` for each row, all in one request."""
    if len(rows) == 1:
        return [remote.run(fn, *rows[0])]

    def each(rows: Sequence[tuple[Any, ...]]) -> list[T]:
        __tracebackhide__ = True
        found = []
        for row in rows:  # a comprehension has a frame of its own
            found.append(fn(*row))
        return found

    each.__module__ = "__main__"  # so it is sent by source: the far side does not have this module
    each.__annotations__ = {}
    found: list[T] = remote.run(each, rows)
    return found


def each_call(calls: Sequence[Call], remote: Remote) -> list[Any]:
    """Make these calls, all in one request. A callable may be any object that can be sent, as scikit-learn's are."""
    functions = list({id(fn): fn for fn, _, _ in calls}.values())
    numbers = {id(fn): number for number, fn in enumerate(functions)}

    def each(calls: Sequence[tuple[int, Sequence[Any], Mapping[str, Any]]]) -> list[Any]:
        __tracebackhide__ = True
        found = []
        for number, args, kwargs in calls:  # a comprehension has a frame of its own
            found.append(functions[number](*args, **kwargs))
        return found

    each.__module__ = "__main__"  # so it is sent by source: the far side does not have this module
    each.__annotations__ = {}
    found: list[Any] = remote.run(each, [(numbers[id(fn)], args, kwargs) for fn, args, kwargs in calls])
    return found
