"""Waits: the waits of the kernel's event loop that a Stop can end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The user stopped a cell that waited for something of ours."""


class _Cell:
    """A cell that can be stopped: whether Stop was pressed for it, and the future that its wait ends with."""

    def __init__(self) -> None:
        self.stopped = False
        self.waiting: Future[None] | None = None


class Waits:
    """The kernel's open cells and their waits; ``stop`` ends the waits, on any thread.

    A Stop between two waits of a cell ends the next one, so that none is lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cells: set[_Cell] = set()
        self._current: ContextVar[_Cell] = ContextVar("cell")

    @contextlib.contextmanager
    def cell(self) -> Iterator[None]:
        """A context for one cell, from its first message to its reply."""
        cell = _Cell()
        token = self._current.set(cell)
        with self._lock:
            self._cells.add(cell)
        try:
            yield
        finally:
            self._current.reset(token)
            with self._lock:
                self._cells.discard(cell)

    def stop(self) -> None:
        """Raise Stopped where a cell waits now, or will wait next."""
        with self._lock:
            for cell in self._cells:
                cell.stopped = True
                if cell.waiting is not None and not cell.waiting.done():
                    cell.waiting.set_result(None)

    def begin(self, work: Callable[[], T]) -> T:
        """Call ``work()``, which must not wait, and passes the cell to where it can be stopped in another way. A Stop
        comes either before it, which raises Stopped, or after it."""
        with self._lock:
            _check(self._current.get())
            return work()

    async def until(self, future: Future[T]) -> T:
        """The result of a future that another thread sets; raises what it raises, and Stopped. Call it in a cell."""
        cell = self._current.get()
        with self._lock:
            _check(cell)
            if future.done():
                return future.result()
            stop = cell.waiting = Future()
        wrapped: asyncio.Future[Any] = asyncio.wrap_future(future)
        stopped: asyncio.Future[Any] = asyncio.wrap_future(stop)
        try:
            await asyncio.wait([wrapped, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not wrapped.done():
                _check(cell)
            result: T = wrapped.result()
            return result
        finally:
            cell.waiting = None
            stopped.cancel()
            if not wrapped.done():
                wrapped.add_done_callback(lambda f: f.cancelled() or f.exception())


def _check(cell: _Cell) -> None:
    if cell.stopped:
        cell.stopped = False  # the Stop was heeded
        raise Stopped


def on_thread(work: Callable[[], T], name: str) -> Future[T]:
    """Run ``work()`` on a thread of its own, because it may take long or ask the user."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except Exception as e:  # raised again where the result is waited for
            future.set_exception(e)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=f"flame-{name}", daemon=True).start()
    return future
