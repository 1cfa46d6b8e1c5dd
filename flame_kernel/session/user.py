"""The user in front of this process: asked for a line, waited for, and heard when they press Ctrl-C."""

from __future__ import annotations

import contextlib
import getpass
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..connect.keys import Ask

T = TypeVar("T")

# Seconds between two looks for a Ctrl-C that came just before a wait began: it is noted, and does not end the wait.
AWAKE = 1.0


def in_notebook() -> bool:
    """Whether this is a kernel's process, whose prompts and output a front end shows."""
    get_ipython = sys.modules["IPython"].get_ipython if "IPython" in sys.modules else None
    shell = get_ipython() if get_ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def ask_line(prompt: str, password: bool) -> str | None:
    """The line that the user types where ``input`` reads, unseen if it is a ``password``.

    None for end of file, or if there is no prompt.
    """
    try:
        return getpass.getpass(prompt) if password else input(prompt)
    except (EOFError, NotImplementedError):  # of the latter kind is IPython's StdinNotImplementedError
        return None


def agrees(ask: Ask, question: str) -> bool:
    """Whether the user says yes; anything else, and no answer, is a no."""
    return (ask(f"{question} [y/N] ", False) or "").strip().lower() in ("y", "yes")


def ask_here(prompt: str, password: bool) -> str | None:
    """The line that the user types at the terminal, wherever standard input comes from; None where there is none."""
    try:
        if password:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)
                return getpass.getpass(prompt)
        with open(os.ctermid(), "r+", encoding="utf-8", errors="replace", buffering=1) as terminal:
            terminal.write(prompt)
            terminal.flush()
            line = terminal.readline()
            return line.rstrip("\n") if line else None
    except (OSError, EOFError, getpass.GetPassWarning):
        return None


def next_of(told: queue.SimpleQueue[T], deadline: float | None = None) -> T:
    """The next thing that another thread has put into ``told``; the main thread notices Ctrl-C meanwhile.

    Raises queue.Empty where there is none by ``deadline``, a ``time.monotonic()``; and KeyboardInterrupt.
    """
    while True:
        left = AWAKE if deadline is None else max(0.0, min(AWAKE, deadline - time.monotonic()))
        try:
            return told.get(timeout=left)
        except queue.Empty:
            if deadline is not None and time.monotonic() >= deadline:
                raise


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
