"""Awaits things of the far side on a local event loop, which keeps running; each wait has a thread of its own.

If the ``await`` is cancelled here (``task.cancel()``, ``asyncio.wait_for``, ``asyncio.timeout``, Ctrl-C in
``asyncio.run``), what it awaits is cancelled there: its coroutine gets an ``asyncio.CancelledError``, and code that
blocks there a KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from .calls import Calls, Step

# Seconds to wait until what was cancelled has ended there.
GRACE = 2.0


class _Stop:
    """Interrupts a request, also if that has not begun when the interrupt is due."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None
        self._is_due = False

    def begun(self, interrupt: Callable[[], object]) -> None:
        with self._lock:
            self._interrupt = interrupt
            due = self._is_due
        if due:
            interrupt()

    def now(self) -> None:
        with self._lock:
            self._is_due = True
            interrupt = self._interrupt
        if interrupt is not None:
            interrupt()


async def awaited(one: Any, *steps: Step) -> Any:
    """Await what ``steps`` make of a stand-in's object on the far side, and return the result.

    The stand-in is an argument so that it stays alive meanwhile.
    """
    calls: Calls = one._flame_calls
    loop, stop = asyncio.get_running_loop(), _Stop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    options: dict[str, Any] = {"await": "any"}

    def settle(value: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def work() -> None:
        value, error = None, None
        try:
            value = calls.perform(one._flame_root, (*one._flame_steps, *steps), begun=stop.begun, **options)
        except BaseException as e:  # whatever it is, it is raised where the result is awaited
            error = e
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, value, error)

    work_here = contextvars.copy_context().run  # so that output belongs to the cell that awaits
    threading.Thread(target=work_here, args=(work,), name="flame-await", daemon=True).start()
    try:
        value, error = await asyncio.shield(done)
    except asyncio.CancelledError:
        stop.now()
        await asyncio.wait({done}, timeout=GRACE)
        raise
    if error is not None:
        try:
            raise error
        finally:
            del error  # else a reference cycle through the traceback
    return value
