"""DaemonThreads: an Executor that still works while the interpreter ends.

A ThreadPoolExecutor accepts nothing from then on. But that is when a cluster is closed that its program has left open.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

Call = Callable[[], None]


class DaemonThreads(Executor):
    """At most ``most`` threads, begun as they are needed."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count = self._idle = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<DaemonThreads {self._name} {self._count}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` on a thread; RuntimeError after ``shutdown``."""
        future: Future[Any] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as e:  # whatever it is belongs to the future
                    future.set_exception(e)

        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name} was shut down")
            self._calls.put(call)
            if self._idle:
                self._idle -= 1
            elif self._count < self._most:
                self._begin()
        return future

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}_{self._count}", daemon=True)
        # While the interpreter ends, newer Pythons begin no thread: then those that there are do it.
        with contextlib.suppress(RuntimeError) if self._count else contextlib.nullcontext():
            thread.start()
            self._count += 1

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                self._calls.put(None)  # for the others
                return
            call()
            del call  # what it refers to must not live until the next one
            with self._lock:
                self._idle += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; threads end after those that wait."""
        with self._lock:
            self._closed = True
        self._calls.put(None)
