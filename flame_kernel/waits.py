"""Waits: what the kernel's event loop waits for on behalf of a cell, until a Stop ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The user stopped a cell that waited for something of ours."""


class Waits:
    """The waits under way; ``stop`` ends them all, from any thread."""

    def __init__(self) -> None:
        self._stops: set[Future[Any]] = set()

    def stop(self) -> None:
        """Stopped is raised where somebody waits."""
        for stop in list(self._stops):
            if not stop.done():
                stop.set_result(None)

    async def until(self, future: Future[T]) -> T:
        """The result of a future that another thread brings about; raises what it raises, and Stopped."""
        stop: Future[Any] = Future()
        self._stops.add(stop)
        wrapped = asyncio.wrap_future(future)
        stopped = asyncio.wrap_future(stop)
        try:
            await asyncio.wait([wrapped, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not wrapped.done():
                raise Stopped
            return wrapped.result()
        finally:
            self._stops.discard(stop)
            stopped.cancel()
            if not wrapped.done():
                wrapped.add_done_callback(lambda f: f.cancelled() or f.exception())


def on_thread(work: Callable[[], T], name: str) -> Future[T]:
    """``work()`` on a thread of its own: it may take long, and ask the user."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except Exception as e:
            future.set_exception(e)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=f"flame-{name}", daemon=True).start()
    return future
