"""Ctrl-C while somebody waits for the far side: taken down, and dealt with between two things that are shown."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def catch_interrupts(
    caught: Callable[[], None],
) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """While inside, Ctrl-C calls ``caught`` instead of raising anywhere: nothing is shown by halves.

    Gives a context manager within which Ctrl-C is what it was before.  On another thread than the main one, where no
    signal ever arrives, all of it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield contextlib.nullcontext
        return
    before = signal.getsignal(signal.SIGINT)

    def ours(*args: object) -> None:
        caught()

    @contextlib.contextmanager
    def give_back() -> Iterator[None]:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, ours)

    signal.signal(signal.SIGINT, ours)
    try:
        yield give_back
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
