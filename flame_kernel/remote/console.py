"""Console: an interactive Python prompt for the far side, like stock Flame's, over a session.

    with pi.console() as console:
        console.interact()          # may be called again; Ctrl-D ends it

Output appears while a statement runs; ``input()`` on the far side asks here; Ctrl-C interrupts the far side. In a
terminal, statements are typed at a `Prompt` with history and Tab. In a notebook, each line is typed in an input box. If
standard input is not a terminal, its lines are read. The namespace is that of the session's cells.
"""

from __future__ import annotations

import codeop
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_data_dir

from ..commands import rails
from ..errors import FlameError
from ..session.requests import Reply
from ..session.user import in_notebook
from ..terminal import coloured_text, plain_text
from .foreground import Far, Foreground, Left, in_colour, write

if TYPE_CHECKING:
    from .prompt import Prompt

_LEAVE = ("exit", "exit()", "quit", "quit()")


def history_file() -> Path:
    """The path of the history file for terminals."""
    return Path(jupyter_data_dir()) / "flame_console_history"


class Console:
    """The far side's prompt. ``history`` is the history file; None: keep no history."""

    def __init__(self, far: Far, history: Path | None = None) -> None:
        self._far = far
        self._history = history
        self._prompt: Prompt | None = None  # made on first use: it takes long to load
        self._next = ""  # text that is already in the next input line
        self._foreground = _Cells(far, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._far.session.location}>"

    def __enter__(self) -> Console:  # noqa: PYI034, typing.Self came with Python 3.11
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Does nothing: the session stays open."""

    def banner(self) -> str:
        """The text at the start: the far side's Python, platform and location."""
        found = self._far.perform(["eval", "(lambda s: (s.version, s.platform))(__import__('sys'))"], ())
        version, platform = found if isinstance(found, tuple) and len(found) == 2 else ("?", "?")
        return plain_text(f"Python {version} on {platform}\n(Remote console on {self._far.session.location})")

    def interact(self, banner: str | None = None) -> None:
        """Read and run statements until the end of the input, ``exit()``, or the end of the session.

        Raises FlameError if the session has ended before the start.
        """
        write("stdout", (self.banner() if banner is None else banner) + "\n")
        self.begin()
        read = self._read_typed if _is_terminal() else _Lines().read
        while self._far.session.gone is None:
            try:
                text = read()
            except EOFError:
                break
            except KeyboardInterrupt:
                write("stdout", "KeyboardInterrupt\n")
                if in_notebook():  # a notebook has no Ctrl-D: Stop at the prompt ends the console
                    break
                continue
            if text.strip() in _LEAVE or (text.strip() and not self._run(text)):
                break
        self.end()

    # -- how it looks

    def begin(self) -> None:
        """Called before the first prompt."""

    def end(self) -> None:
        """Called after the last prompt."""
        write("stdout", "(Remote session ended)\n")

    def words(self) -> Sequence[tuple[str, str]]:
        """The prompt of a statement, as pairs of style and text."""
        return [("class:in", ">>> ")]

    def more(self, columns: int) -> str:
        """The prompt of the second and later lines, if the first prompt took ``columns`` columns."""
        return "... "

    def label(self, content: dict[str, Any]) -> str:
        """The label in front of a statement's value (an execute_result)."""
        return ""

    def ran(self, reply: Reply) -> None:
        """Called after each statement."""

    # -- statements

    def _read_typed(self) -> str:
        if self._prompt is None:
            from .prompt import Prompt

            self._prompt = Prompt(self._far.session, self._history, self.more)
        text = self._prompt.read(self.words(), self._next)
        self._next = ""
        return text

    def run(self, source: str) -> Reply:
        """Run one statement and show its output as it comes; raises FlameError if its reply never comes.

        Ctrl-C interrupts the statement; pressed several times, it ends the waiting.
        """
        return self._foreground.run(source)

    def _run(self, text: str) -> bool:
        """Run a statement of the user's; False if it asks to leave the console."""
        return self.guarded(lambda: self._held(text))

    def _held(self, text: str) -> Reply:
        """Run it, unless the rails of the target hold it back."""
        rails.hold(self._far.session, text)
        return self.run(self._for_shell(text))

    def _for_shell(self, text: str) -> str:
        """``text`` for the far side's shell: without IPython there, magics and ``!cmd`` are turned into calls."""
        if self._far.session.ready.result().get("shell") != "mini":
            return text
        from ..commands.cell_text import Source  # IPython's transformations take long to load

        return Source().as_python(text)

    def guarded(self, cell: Callable[[], Reply]) -> bool:
        """Run ``cell``, and print errors; False if it asks to leave the console."""
        try:
            reply = cell()
        except Left as e:
            write("stderr", f"[{e}]\n")
            return True
        except FlameError as e:
            name = type(e).__name__
            write("stderr", (f"\x1b[31m{name}\x1b[0m" if in_colour("stderr") else name) + plain_text(f": {e}") + "\n")
            return True
        self.ran(reply)
        return all(self._payload(one) for one in reply.get("payload") or () if isinstance(one, dict))

    def _payload(self, payload: dict[str, Any]) -> bool:
        """Handle a statement's payload for the front end; False if it asks to leave the console."""
        source = payload.get("source")
        if source == "page":
            text = (payload.get("data") or {}).get("text/plain")
            if isinstance(text, str):
                write("stdout", coloured_text(text).rstrip("\n") + "\n")
        elif source == "set_next_input":
            self._next = plain_text(str(payload.get("text") or ""))
        return source != "ask_exit"


class _Cells(Foreground):
    """The cells of a console: values get labels, and answers to ``input()`` are not added to the history."""

    def __init__(self, far: Far, console: Console) -> None:
        super().__init__(far, leaves=True)
        self._console = console

    def result(self, content: dict[str, Any]) -> None:
        text = (content.get("data") or {}).get("text/plain")
        if isinstance(text, str):
            label = self._console.label(content)
            write("stdout", label + ("\n" if label and "\n" in text else "") + text + "\n")

    def ask(self, prompt: str, password: bool) -> str:
        with _unremembered():
            return super().ask(prompt, password)


class _Lines:
    """Reads statements from lines of text: from a pipe, or from a notebook's input boxes.

    Python's own rule (`codeop`) decides where a statement ends, because here nobody can press Esc Enter to run a
    statement that IPython considers incomplete. Text that the local Python cannot parse is sent to the far side, which
    may have another version of Python, and ``%magics``.
    """

    def __init__(self) -> None:
        self._compile = codeop.CommandCompiler()

    def read(self) -> str:
        """The next statement. EOFError at the end of the input, KeyboardInterrupt for Stop."""
        lines: list[str] = []
        while not lines or not self._is_complete("\n".join(lines)):
            try:
                line = input("... " if lines else ">>> ")
            except EOFError:
                write("stdout", "\n")
                if lines:  # run what was entered so far: it may be complete except for the empty line
                    break
                raise
            except KeyboardInterrupt:
                write("stdout", "\n")
                raise
            if line == "\x04":  # Ctrl-D as sent by a front end without a terminal
                write("stdout", "\n")
                raise EOFError
            lines.append(line)
        return "\n".join(lines)

    def _is_complete(self, source: str) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the far side gives the warnings
                return self._compile(source, "<console>", "single") is not None
        except (SyntaxError, ValueError, OverflowError):
            return True


def _is_terminal() -> bool:
    """Whether stdin and stdout are a terminal."""
    with contextlib.suppress(AttributeError, ValueError):  # a stream is missing or closed
        return not in_notebook() and sys.stdin.isatty() and sys.stdout.isatty()
    return False


@contextlib.contextmanager
def _unremembered() -> Iterator[None]:
    """Keep lines typed inside this context out of the history of Python's own prompt."""
    readline: Any = sys.modules.get("readline")
    before = readline.get_completer() if readline is not None else None
    if readline is not None:
        readline.set_auto_history(False)
        readline.set_completer(None)  # so Tab enters a tab
    try:
        yield
    finally:
        if readline is not None:
            readline.set_auto_history(True)
            readline.set_completer(before)
