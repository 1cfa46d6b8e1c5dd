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
import getpass
import os
import queue
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from .errors import FlameError
from .inbox import Event
from .progress import in_notebook
from .rendering import Rendering
from .session import Session
from .terminal import clean
from .under_way import Reply
from .waits import next_of

# Seconds that Tab waits for the far side.
TAB_PATIENCE = 8.0
# Lines of history that are kept.
MAX_HISTORY = 1000
_LEAVE = ("exit", "exit()", "quit", "quit()")


class Far(Protocol):
    """What a console needs of a `Remote`."""

    @property
    def session(self) -> Session: ...

    def cell(
        self, code: str, sink: Callable[[Event], None], *, request_id: str | None = None, allow_stdin: bool = False
    ) -> Future[Reply]: ...

    def evaluate(self, expression: str) -> Any: ...


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
        self._rendering = Rendering(far.session.target, self._say)

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
        request_id = uuid.uuid4().hex
        told: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        done = self._far.cell(source, told.put, request_id=request_id, allow_stdin=True)
        done.add_done_callback(lambda _: told.put(None))
        while True:
            try:
                self._follow(told)
                break
            except KeyboardInterrupt:
                self._far.session.interrupt(request_id)
        return done.result()

    def _follow(self, told: queue.SimpleQueue[Event | None]) -> None:
        """Show what happens until the statement's end."""
        while (event := next_of(told)) is not None:
            self._show(event)
        while not told.empty():
            late = told.get()
            if late is not None:
                self._show(late)

    def _show(self, event: Event) -> None:
        kind, content = event["type"], event["content"]
        if kind == "stream":
            name = "stderr" if content.get("name") == "stderr" else "stdout"
            _write(name, self._rendering.text(event.get("request"), name, str(content.get("text", ""))))
        elif kind == "input_request":
            self._ask(content)
        else:
            shown = self._rendering.event(event)
            if shown is not None:
                self._show_rich(kind, shown["content"])

    def _show_rich(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "error":
            _write("stderr", "\n".join(map(str, content.get("traceback") or ())).rstrip("\n") + "\n")
        elif kind in ("execute_result", "display_data", "update_display_data"):
            text = (content.get("data") or {}).get("text/plain")
            if isinstance(text, str):
                _write("stdout", text + "\n")

    def _ask(self, content: dict[str, Any]) -> None:
        """``input()`` of the far side."""
        prompt = self._rendering.prompt(str(content.get("prompt", "")))
        answer: str | None = None
        with contextlib.suppress(EOFError), self._without_tab():
            answer = getpass.getpass(prompt) if content.get("password") else input(prompt)
        number = content.get("input_id")
        if isinstance(number, int):
            self._far.session.answer(number, answer)

    def _say(self, request_id: str | None, sentence: str) -> None:
        _write("stderr", sentence + "\n")

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


def _write(name: str, text: str) -> None:
    stream = getattr(sys, name)  # None where there is no console
    if stream is not None:
        stream.write(text)
        stream.flush()


def _readline() -> Any:
    """The readline module, where there is one and somebody types."""
    try:
        if not sys.stdin.isatty():
            return None
        import readline
    except (ImportError, AttributeError, ValueError):
        return None
    return readline
