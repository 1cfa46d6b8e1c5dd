"""Console: the interactive Python prompt of the far side, as Flame's own, over a session.

    with pi.console() as console:
        console.interact()          # again and again; Ctrl-D ends it

What a statement prints appears while it runs; ``input()`` there asks here; Ctrl-C stops the far side; Tab and the
history are readline's where there is one.  In a notebook each prompt is an input box.  Names are those of the
session's cells.  Whether a statement is complete is judged here, without a round trip; what this Python cannot read is
the far side's to judge, whose Python may be another one, and which may know ``%magics``.
"""

from __future__ import annotations

import codeop
import contextlib
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

from ..errors import FlameError
from ..security.terminal import clean
from ..session.requests import Reply
from ..session.user import in_notebook
from .foreground import Far, Foreground

# Seconds that Tab waits for the far side.
TAB_PATIENCE = 8.0
# Lines of history that are kept.
MAX_HISTORY = 1000
_LEAVE = ("exit", "exit()", "quit", "quit()")


class _Asking(Foreground):
    """Cells that ask at a prompt of their own."""

    def __init__(self, far: Far, apart: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        super().__init__(far)
        self._apart = apart

    def ask(self, prompt: str, password: bool) -> str:
        with self._apart():
            return super().ask(prompt, password)


class Console:
    """The far side's prompt. ``history`` is the file of its lines, None for one that is forgotten."""

    def __init__(self, far: Far, history: Path | None = None) -> None:
        self._far = far
        self._history = history
        self._lines: list[str] = []  # of the statement that is being typed
        self._past: list[str] = []
        self._compile = codeop.CommandCompiler()
        self._tab: tuple[str, list[str]] = ("", [])
        self._in_notebook = in_notebook()
        self._foreground = _Asking(far, self._without_tab)

    def __repr__(self) -> str:
        return f"<Console on {self._far.session.location}>"

    def __enter__(self) -> Console:  # noqa: PYI034, typing.Self came with Python 3.11
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left to close: the session goes on."""

    def banner(self) -> str:
        """The far side's Python, its platform, and where it is."""
        version, platform = self._far.evaluate("(lambda s: (s.version, s.platform))(__import__('sys'))")
        return clean(f"Python {version} on {platform}\n(Remote console on {self._far.session.location})")

    def interact(self, banner: str | None = None) -> None:
        """Read and run statements until the end of the input, ``exit()``, or the end of the session.

        Raises FlameError where there is no session any more when it begins.
        """
        print(self.banner() if banner is None else banner)
        self._in_notebook = in_notebook()
        self._lines.clear()
        with self._line_editing():
            while True:
                reading = True
                try:
                    line = self._read("... " if self._lines else ">>> ")
                    reading = False
                    if (not self._lines and line.strip() in _LEAVE) or not self._push(line):
                        break
                except EOFError:
                    print()
                    break
                except KeyboardInterrupt:
                    print("\nKeyboardInterrupt")
                    if reading and self._in_notebook:  # no Ctrl-D in a notebook: Stop at the prompt is the way out
                        break
                    self._lines.clear()
        print("(Remote session ended)")

    # -- statements --------------------------------------------------------------------------------------------------

    def _read(self, prompt: str) -> str:
        line = input(prompt)
        if line == "\x04":  # what a front end without a terminal can send for it
            raise EOFError
        return line

    def _push(self, line: str) -> bool:
        """A line of the user's: run the statement if it is complete. False when the session is gone."""
        self._lines.append(line)
        source = "\n".join(self._lines)
        if not self._is_complete(source):
            return True
        self._lines.clear()
        if not source.strip():
            return True
        try:
            self.run(source)
        except FlameError as e:
            print(clean(f"{type(e).__name__}: {e}"), file=sys.stderr)
            return self._far.session.gone is None
        return True

    def _is_complete(self, source: str) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are the far side's to give
                return self._compile(source, "<console>", "single") is not None
        except (SyntaxError, ValueError, OverflowError):
            return True

    def run(self, source: str) -> Reply:
        """Run one statement, and show what it does while it does it; raises FlameError where its end is not heard of.

        Ctrl-C stops it there, however often.
        """
        return self._foreground.run(source)

    # -- readline ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _line_editing(self) -> Iterator[None]:
        """History and Tab of this console's own, where input comes from a terminal; as it was afterwards."""
        readline = _readline() if not self._in_notebook else None
        if readline is None:
            yield
            return
        before = [readline.get_history_item(i + 1) for i in range(readline.get_current_history_length())]
        completer, delimiters = readline.get_completer(), readline.get_completer_delims()
        readline.clear_history()
        for line in self._past or self._load_history():
            readline.add_history(line)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?")
        editline = "libedit" in (getattr(readline, "__doc__", "") or "")
        readline.parse_and_bind("bind ^I rl_complete" if editline else "tab: complete")
        try:
            yield
        finally:
            count = readline.get_current_history_length()
            self._past = [str(readline.get_history_item(i + 1)) for i in range(count)][-MAX_HISTORY:]
            readline.clear_history()
            for line in before:
                readline.add_history(line)
            readline.set_completer(completer)
            readline.set_completer_delims(delimiters)
            self._save_history()

    @contextlib.contextmanager
    def _without_tab(self) -> Iterator[None]:
        """While a program there asks, Tab is a tab, and the answer no line of the history."""
        readline = _readline() if not self._in_notebook else None
        if readline is None:
            yield
            return
        completer, count = readline.get_completer(), readline.get_current_history_length()
        readline.set_completer(None)
        try:
            yield
        finally:
            readline.set_completer(completer)
            while readline.get_current_history_length() > count:
                readline.remove_history_item(readline.get_current_history_length() - 1)

    def _load_history(self) -> list[str]:
        with contextlib.suppress(OSError):
            if self._history is not None:
                return self._history.read_text("utf-8", "replace").splitlines()[-MAX_HISTORY:]
        return []

    def _save_history(self) -> None:
        with contextlib.suppress(OSError):
            if self._history is not None:
                self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                fd = os.open(self._history, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
                    file.writelines(line + "\n" for line in self._past)

    def _complete(self, text: str, state: int) -> str | None:
        """readline's question: the ``state``-th completion of ``text``; what is raised here, it would swallow."""
        readline = _readline()
        if readline is None:
            return None
        line, begin, end = readline.get_line_buffer(), readline.get_begidx(), readline.get_endidx()
        if state == 0:
            if not line[:end].strip():
                self._tab = (line, ["    "])  # Tab at the beginning of a line indents
            else:
                self._tab = (line, self._completions(line, begin, end))
        found = self._tab[1]
        return found[state] if state < len(found) else None

    def _completions(self, line: str, begin: int, end: int) -> list[str]:
        """What could stand in place of ``line[begin:end]``, as the far side has it."""
        before = "".join(one + "\n" for one in self._lines)
        session = self._far.session
        try:
            reply = session.complete(uuid.uuid4().hex, before + line, len(before) + end).result(TAB_PATIENCE)
            start = int(reply["cursor_start"]) - len(before)
            matches = [clean(str(match)) for match in reply["matches"]]
        except (FlameError, futures.TimeoutError, KeyError, TypeError, ValueError):
            return []
        if start <= begin:
            return [match[begin - start :] for match in matches]
        return [line[begin:start] + match for match in matches]


def _readline() -> Any:
    """The readline module, where there is one and somebody types."""
    try:
        if not sys.stdin.isatty():
            return None
        import readline
    except (ImportError, AttributeError, ValueError):
        return None
    return readline
