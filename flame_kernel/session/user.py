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
import types
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..connect.keys import Ask

T = TypeVar("T")

# Seconds between two checks for a Ctrl-C that came just before a wait began: such a one does not end the wait.
AWAKE = 1.0
_PACKAGE = __name__.partition(".")[0]


def in_notebook() -> bool:
    """Whether this is a kernel's process, whose prompts and output a front end shows."""
    get_ipython = sys.modules["IPython"].get_ipython if "IPython" in sys.modules else None
    shell = get_ipython() if get_ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def ask_line(prompt: str, password: bool) -> str | None:
    """The line that the user types where ``input`` reads; a ``password`` is not shown.

    None at end of file, or if there is no prompt.
    """
    try:
        return getpass.getpass(prompt) if password else input(prompt)
    except (EOFError, NotImplementedError):  # IPython's StdinNotImplementedError is a NotImplementedError
        return None


def agrees(ask: Ask, question: str) -> bool:
    """Whether the user says yes; anything else, and no answer, is a no."""
    return (ask(f"{question} [y/N] ", False) or "").strip().lower() in ("y", "yes")


def _stdin_is_console() -> bool:
    """Whether stdin is a console of Windows, where the null device counts as a terminal, too."""
    if sys.platform == "win32" and sys.stdin is not None:
        import ctypes
        import msvcrt

        with contextlib.suppress(OSError, ValueError):  # it is closed, or no file
            handle = ctypes.c_void_p(msvcrt.get_osfhandle(sys.stdin.fileno()))
            return bool(ctypes.WinDLL("kernel32").GetConsoleMode(handle, ctypes.byref(ctypes.c_ulong())))
    return False


def ask_here(prompt: str, password: bool) -> str | None:
    """The line that the user types at the terminal, even if stdin is something else; None if there is no terminal.

    On Windows, stdin must be the terminal.
    """
    if os.name == "nt":
        return ask_line(prompt, password) if _stdin_is_console() else None
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

    Raises queue.Empty if nothing comes by ``deadline``, a ``time.monotonic()``; and KeyboardInterrupt.
    """
    while True:
        left = AWAKE if deadline is None else max(0.0, min(AWAKE, deadline - time.monotonic()))
        try:
            return told.get(timeout=left)
        except queue.Empty:
            if deadline is not None and time.monotonic() >= deadline:
                raise


def without_our_frames(stopped: KeyboardInterrupt) -> KeyboardInterrupt:
    """``stopped``, changed so that IPython shows only the user's frames, not ours or those that ours call."""

    def lines() -> list[str]:
        steps, step, where = [], stopped.__traceback__, None
        while step is not None and not _is_ours(step.tb_frame):
            steps.append(step)
            step = step.tb_next
        for step in reversed(steps):
            where = types.TracebackType(where, step.tb_frame, step.tb_lasti, step.tb_lineno)
        shell = sys.modules["IPython"].get_ipython()
        shown: list[str] = shell.InteractiveTB.structured_traceback(KeyboardInterrupt, stopped, where, 1)
        return shown

    stopped._render_traceback_ = lines  # type: ignore[attr-defined]
    return stopped


def _is_ours(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


@contextlib.contextmanager
def catch_interrupts(
    caught: Callable[[], None],
) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """A context in which Ctrl-C calls ``caught`` and raises nothing, so that nothing is left half done.

    It yields a context manager in which Ctrl-C works as before.  On a thread other than the main one, which gets no
    signals, both do nothing.
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
