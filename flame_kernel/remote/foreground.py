"""Foreground: runs cells for a terminal or a pipe, with separate stdout and stderr, input and Ctrl-C."""

from __future__ import annotations

import contextlib
import getpass
import os
import queue
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from ..commands import rails
from ..commands.looking import trial as asked_trial
from ..errors import FlameError
from ..session.inbox import Event
from ..session.requests import Reply
from ..session.screen import allowed, show
from ..session.session import Session
from ..session.user import catch_interrupts, in_notebook, next_of
from ..terminal import COLOUR, clean
from .exceptions import raised_there

# After so many Ctrl-C for one cell we stop waiting for it instead of interrupting it again.
LAST_PRESS = 4


class Far(Protocol):
    """The part of `Remote` that this file uses."""

    @property
    def session(self) -> Session: ...

    def cell(
        self,
        code: str,
        sink: Callable[[Event], None],
        *,
        request_id: str | None = None,
        allow_stdin: bool = False,
        silent: bool = False,
        store_history: bool = True,
        program: dict[str, Any] | None = None,
        held: bool = False,
        trial: dict[str, Any] | None = None,
    ) -> Future[Reply]: ...

    @property
    def write(self) -> Callable[[str, str], None]: ...

    def perform(self, root: list[Any], steps: Sequence[Any]) -> Any: ...


class Left(FlameError):
    """The user has given up waiting for a cell that does not stop."""


class _Interrupt:
    """Put into the queue of events when Ctrl-C was pressed."""


class Terminal:
    """Shows output on the process's own stdout and stderr: text, and the text form of other output."""

    def stream(self, name: str, text: str) -> None:
        write(name, text)

    def display(self, content: dict[str, Any], update: bool = False) -> None:
        """Show the text of a display. An update is shown as new text."""
        text = (content.get("data") or {}).get("text/plain")
        if isinstance(text, str):
            self.stream("stdout", text + "\n")

    def result(self, content: dict[str, Any]) -> None:
        """Show the value of a cell."""
        self.display(content)

    def error(self, content: dict[str, Any]) -> None:
        """Show an error with its traceback."""
        text = "\n".join(map(str, content.get("traceback") or ())).rstrip("\n") or str(content.get("ename"))
        self.stream("stderr", (text if in_colour("stderr") else COLOUR.sub("", text)) + "\n")

    def clear(self, wait: bool) -> None:
        """Does nothing: a terminal's output cannot be cleared."""

    def comm(self, event: Event) -> None:
        """Does nothing: a terminal has no widgets."""

    def other(self, event: Event) -> None:
        """Does nothing for events that are not output."""


class Foreground(Terminal):
    """Runs cells one after the other, and shows their output on the thread that waits.

    leaves   whether repeated Ctrl-C ends the waiting; it then raises Left
    presses  how often Ctrl-C was pressed during the last cell
    """

    def __init__(self, far: Far, *, leaves: bool = False) -> None:
        self.presses = 0
        self._far = far
        self._leaves = leaves
        self._rendering = far.session.target.rendering(lambda request, sentence: write("stderr", sentence + "\n"))

    def run(
        self,
        source: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        request_id: str | None = None,
        program: dict[str, Any] | None = None,
        trial: dict[str, Any] | None = None,
    ) -> Reply:
        """Run one cell and return the content of its execute_reply. Raises FlameError if the reply never comes.

        Every Ctrl-C interrupts the cell on the far side. ``program``, ``trial``: see ``Session.execute``.
        """
        request_id = request_id or uuid.uuid4().hex
        self.presses = 0
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        over = threading.Event()

        def sink(event: Event) -> None:
            """Take an event. After the cell's end its threads may still print, but not ask for input."""
            if not over.is_set():
                told.put(event)
            elif event["type"] != "input_request":
                self.show(event)
            else:
                self._answer(event["content"], None)

        done = self._far.cell(
            source,
            sink,
            request_id=request_id,
            allow_stdin=True,
            silent=silent,
            store_history=store_history,
            program=program,
            trial=trial,
            held=True,
        )
        self.begun(request_id)
        try:
            return self.follow(told, done, request_id)
        finally:
            over.set()
            self._drain(told)

    def begun(self, request_id: str) -> None:
        """Called when a cell has been sent."""

    def follow(self, told: queue.SimpleQueue[Any], done: Future[Reply], request_id: str) -> Reply:
        """Show the events in ``told`` until ``done``, the future of cell ``request_id``, is done; return its result."""
        done.add_done_callback(lambda _: told.put(None))
        with catch_interrupts(lambda: told.put(_Interrupt)) as give_back:
            while (event := next_of(told)) is not None:
                if event is _Interrupt:
                    self._press(request_id)
                    continue
                try:
                    if event["type"] == "input_request":
                        with give_back():
                            self.answer(event["content"])
                    else:
                        self.show(event)
                except KeyboardInterrupt:  # at the prompt
                    self._press(request_id)
            self._drain(told)
        return self._rendering.reply(request_id, done.result())

    def _drain(self, told: queue.SimpleQueue[Any]) -> None:
        while not told.empty():
            late = told.get()
            if isinstance(late, dict) and late["type"] != "input_request":
                self.show(late)

    def _press(self, request_id: str) -> None:
        self.presses += 1
        if self._leaves and self.presses == LAST_PRESS:
            raise Left("it does not stop; no longer waiting for it")
        self._far.session.interrupt(request_id)

    # -- showing -----------------------------------------------------------------------------------------------------

    def show(self, event: Event) -> None:
        """Show one event of a cell."""
        may = allowed(event, self._rendering)
        if may is not None:
            show(may, self)

    # -- questions ---------------------------------------------------------------------------------------------------

    def answer(self, content: dict[str, Any]) -> None:
        """Answer ``input()`` of the far side. Ctrl-C at the prompt is raised."""
        text, password = content.get("prompt", ""), bool(content.get("password"))
        line: str | None
        try:
            if is_typed() or password:  # a password is asked on the terminal, even if stdin is not one
                before, prompt = self._rendering.question(text)
                show_before(before)
            else:
                prompt = text if self._rendering.full else clean(text)  # for a pipe, so without the name of the server
            line = self.ask(prompt, password)
        except EOFError:
            line = None
        self._answer(content, line)

    def _answer(self, content: dict[str, Any], line: str | None) -> None:
        number = content.get("input_id")
        if isinstance(number, int):
            self._far.session.answer(number, line)

    def ask(self, prompt: str, password: bool) -> str:
        """Ask the user and return the line; EOFError at the end of the input."""
        if password:
            return getpass.getpass(prompt)
        if is_typed():
            return input(prompt)
        write("stdout", prompt)
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise EOFError
        return line.removesuffix("\n")


class _Shown(Foreground):
    """Writes what a trial prints to where the calls of the library write; its error is raised."""

    def stream(self, name: str, text: str) -> None:
        self._far.write(name, text)

    def error(self, content: dict[str, Any]) -> None:
        """Does nothing: the error is raised."""


def tried(remote: Any, code: str, seconds: float | None) -> None:
    """Try code; raises what it raised, as RemoteError, and FlameError."""
    how = asked_trial(seconds)
    rails.hold(remote.session, code, tried=True)
    shown = _Shown(remote)
    reply = shown.run(code, store_history=False, trial=how)
    if shown.presses:
        raise KeyboardInterrupt
    if reply.get("status") == "error":
        raise raised_there({**reply, "bases": [reply.get("ename")]}, {})


def write(name: str, text: str) -> None:
    """Write text to stdout or stderr and flush; characters that the encoding lacks become question marks.

    Raises FlameError if it cannot be written, and BrokenPipeError.
    """
    stream = getattr(sys, name)  # None if there is no console
    if stream is None:
        return
    with _writing(name, stream):
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()


def write_bytes(name: str, data: bytes) -> None:
    """Write bytes unchanged; but for a terminal that is not UTF-8, convert the text to its encoding."""
    stream = getattr(sys, name)
    below = getattr(stream, "buffer", None)
    encoding = str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    if below is None or (encoding != "utf8" and _is_tty(stream)):
        write(name, data.decode("utf-8", "replace"))
        return
    with _writing(name, stream):
        stream.flush()
        below.write(data)
        below.flush()


def flush_output() -> None:
    """Flush stdout; FlameError if that fails, BrokenPipeError if nobody reads."""
    if sys.stdout is not None:
        with _writing("stdout", sys.stdout):
            sys.stdout.flush()


@contextlib.contextmanager
def _writing(name: str, stream: Any) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as e:
        leave_output(stream)
        raise FlameError(f"cannot write to {name}: {e.strerror or e}") from e


def leave_output(stream: Any) -> None:
    """Discard what the stream holds and what is written to it from now on, because it cannot be written."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def show_before(text: str) -> None:
    """Print output above a prompt, and reset the colours of earlier output, which could hide the prompt."""
    colours = "\x1b[0m" if sys.stdout is not None and _is_tty(sys.stdout) else ""
    if text or colours:
        write("stdout", text + colours)


def is_typed() -> bool:
    """Whether a user types what is read from stdin: in a terminal or a notebook's input box."""
    return sys.stdin is not None and (in_notebook() or _is_tty(sys.stdin))


def one_output() -> bool:
    """Whether stdout and stderr lead to one file or terminal (`2>&1`)."""
    try:
        out, err = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    except (AttributeError, OSError, ValueError):  # there is none, or it has no descriptor
        return False
    return (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino) and out.st_ino != 0


def in_colour(name: str) -> bool:
    """Whether colours are wanted in stdout or stderr (https://no-color.org)."""
    stream = getattr(sys, name)
    return stream is not None and not os.environ.get("NO_COLOR") and (in_notebook() or _is_tty(stream))


def _is_tty(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except ValueError:  # the stream is closed
        return False
