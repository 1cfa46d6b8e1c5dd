"""A user at an IPython of this process: cells are run, and what they show is kept.

with ipython(folder) as shell:
    ran = shell.run("%flame eval 6 * 7")
    assert ran.value == 42 and not ran.err
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@dataclass(frozen=True)
class Ran:
    """What a cell showed: text without colours, its last value, and what it raised."""

    out: str
    err: str
    value: Any
    error: BaseException | None
    seconds: float

    @property
    def text(self) -> str:
        return self.out + self.err


class _Seen(io.StringIO):
    """A stream that others may read while it is written to."""

    encoding = "utf-8"  # type: ignore[assignment]


class Shell:
    """One IPython, and the streams of the cell that runs."""

    def __init__(self, shell: Any) -> None:
        self.ip = shell
        self.out, self.err = _Seen(), _Seen()
        self.running = False

    @property
    def names(self) -> dict[str, Any]:
        """The user's namespace."""
        return dict(self.ip.user_ns)

    def __getitem__(self, name: str) -> Any:
        return self.ip.user_ns[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.ip.user_ns[name] = value

    def run(self, code: str) -> Ran:
        """Run a cell."""
        self.running = True
        self.out, self.err = _Seen(), _Seen()
        began = time.monotonic()
        try:
            with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
                result = self.ip.run_cell(code, store_history=True)
        finally:
            self.running = False
        seconds = time.monotonic() - began
        error = result.error_in_exec or result.error_before_exec
        return Ran(_plain(self.out.getvalue()), _plain(self.err.getvalue()), result.result, error, seconds)

    def ok(self, code: str) -> Ran:
        """Run a cell that must not fail."""
        ran = self.run(code)
        assert ran.error is None, ran.text
        return ran

    def complete(self, code: str) -> list[str]:
        """What Tab offers at the end of ``code``."""
        from IPython.core.completer import provisionalcompleter

        with provisionalcompleter(), self.ip.builtin_trap:
            found = list(self.ip.Completer.completions(code, len(code)))
        return [code[: one.start] + one.text for one in found]

    def when_seen(self, text: str, do: Callable[[], Any]) -> threading.Thread:
        """Call ``do`` on another thread as soon as a cell that is run next has shown ``text``; join it after."""
        old = self.out

        def watch() -> None:
            while self.out is old or text not in self.out.getvalue() + self.err.getvalue():
                if self.out is not old and not self.running:
                    return  # the cell is over, and never showed it
                time.sleep(0.005)
            do()

        thread = threading.Thread(target=watch)
        thread.start()
        return thread

    def ctrl_c(self) -> None:
        """What the terminal does for Ctrl-C; while a cell runs, else it would be the test's."""
        if self.running:
            os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def ipython(folder: Path) -> Iterator[Shell]:
    """A fresh IPython with the extension loaded, its history below ``folder``; all it made is undone at the end, and
    the IPython that was there before is there again."""
    config = Config()
    config.HistoryManager.hist_file = str(folder / "history.sqlite")
    config.InteractiveShell.colors = "nocolor"
    before = {name: sys.modules.get(name) for name in ("__main__",)}
    hooks = sys.excepthook, sys.displayhook
    display = getattr(builtins, "display", None)
    other = InteractiveShell._instance
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    try:
        shell.run_line_magic("load_ext", "flame")
        yield Shell(shell)
    finally:
        shell.run_line_magic("unload_ext", "flame")
        thread, database = shell.history_manager.save_thread, shell.history_manager.db
        shell._atexit_once()
        if thread is not None:
            thread.stop()  # older IPythons leave both to the end of the process
        database.close()
        InteractiveShell.clear_instance()
        for kind in InteractiveShell._walk_mro():
            kind._instance = other
        sys.excepthook, sys.displayhook = hooks
        for name, module in before.items():
            if module is not None:
                sys.modules[name] = module
        if display is None and hasattr(builtins, "display"):
            del builtins.display


def is_one_sentence(ran: Ran, *words: str) -> None:
    """A cell has failed with one line that has ``words``, and with no traceback of ours."""
    lines = [line for line in ran.text.splitlines() if line.strip()]
    assert len(lines) == 1, ran.text
    assert "Traceback" not in ran.text
    assert "File " not in ran.text
    assert ran.error is not None
    for word in words:
        assert word in ran.text


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
