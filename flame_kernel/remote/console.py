"""Console: the interactive Python prompt of the far side, as Flame's own, over a session.

    with pi.console() as console:
        console.interact()          # again and again; Ctrl-D ends it

What a statement prints appears while it runs; ``input()`` there asks here; Ctrl-C stops the far side. In a terminal
statements are typed at a `Prompt`, with history and Tab. In a notebook each line is an input box, and where standard
input is no terminal its lines are read. Names are those of the session's cells.
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

from ..errors import FlameError
from ..security.terminal import clean
from ..session.requests import Reply
from ..session.user import in_notebook
from .foreground import Far, Foreground, Left, in_colour, write

if TYPE_CHECKING:
    from .prompt import Prompt

_LEAVE = ("exit", "exit()", "quit", "quit()")


def history_file() -> Path:
    """Where what is typed in a terminal is kept."""
    return Path(jupyter_data_dir()) / "flame_console_history"


class Console:
    """The far side's prompt. ``history`` is the file of its lines, None for one that is forgotten."""

    def __init__(self, far: Far, history: Path | None = None) -> None:
        self._far = far
        self._history = history
        self._prompt: Prompt | None = None  # made when it is needed: it takes long to load
        self._next = ""  # what stands in the next input already
        self._foreground = _Cells(far, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._far.session.location}>"

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
                if in_notebook():  # no Ctrl-D in a notebook: Stop at the prompt is the way out
                    break
                continue
            if text.strip() in _LEAVE or (text.strip() and not self._run(text)):
                break
        self.end()

    # -- how it looks

    def begin(self) -> None:
        """Called before the first prompt."""

    def end(self) -> None:
        """Called behind the last one."""
        write("stdout", "(Remote session ended)\n")

    def words(self) -> Sequence[tuple[str, str]]:
        """What stands before a statement: styles, and text."""
        return [("class:in", ">>> ")]

    def more(self, columns: int) -> str:
        """What stands before the second line, and those below it, where ``words`` took so many columns."""
        return "... "

    def label(self, content: dict[str, Any]) -> str:
        """What stands before the value of a statement, an execute_result."""
        return ""

    def ran(self, reply: Reply) -> None:
        """Called behind each statement."""

    # -- statements

    def _read_typed(self) -> str:
        if self._prompt is None:
            from .prompt import Prompt

            self._prompt = Prompt(self._far.session, self._history, self.more)
        text = self._prompt.read(self.words(), self._next)
        self._next = ""
        return text

    def run(self, source: str) -> Reply:
        """Run one statement, and show what it does while it does it; raises FlameError where its end is not heard of.

        Ctrl-C stops it there; pressed again and again, it ends the waiting.
        """
        return self._foreground.run(source)

    def _run(self, text: str) -> bool:
        """Run a statement of the user's; False where it asks to leave."""
        return self.guarded(lambda: self.run(self._for_shell(text)))

    def _for_shell(self, text: str) -> str:
        """``text`` as the far side's shell knows it: one without IPython is given magics and ``!cmd`` as calls."""
        if self._far.session.ready.result().get("shell") != "mini":
            return text
        from ..commands.source import Source  # IPython's transformations take long to load

        return Source().as_python(text)

    def guarded(self, cell: Callable[[], Reply]) -> bool:
        """Run ``cell``, and say what went wrong; False where it asks to leave."""
        try:
            reply = cell()
        except Left as e:
            write("stderr", f"[{e}]\n")
            return True
        except FlameError as e:
            name = type(e).__name__
            write("stderr", (f"\x1b[31m{name}\x1b[0m" if in_colour("stderr") else name) + clean(f": {e}") + "\n")
            return True
        self.ran(reply)
        return all(self._payload(one) for one in reply.get("payload") or () if isinstance(one, dict))

    def _payload(self, payload: dict[str, Any]) -> bool:
        """What a statement asks of its front end; False where it asks to leave."""
        source = payload.get("source")
        if source == "page":
            text = (payload.get("data") or {}).get("text/plain")
            if isinstance(text, str):
                write("stdout", clean(text).rstrip("\n") + "\n")
        elif source == "set_next_input":
            self._next = clean(str(payload.get("text") or ""))
        return source != "ask_exit"


class _Cells(Foreground):
    """Cells of a console: their values are labelled, and their questions are no lines of a history."""

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
    """Statements from lines of text: of a pipe, or of a notebook's input boxes.

    Where a statement ends is Python's own rule for lines: here nobody can press Esc Enter to run what IPython takes for
    incomplete. What this Python cannot read is the far side's to judge, which may have another one, and ``%magics``.
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
                if lines:  # what was begun is run: it may be whole but for its empty line
                    break
                raise
            except KeyboardInterrupt:
                write("stdout", "\n")
                raise
            if line == "\x04":  # what a front end without a terminal can send for Ctrl-D
                write("stdout", "\n")
                raise EOFError
            lines.append(line)
        return "\n".join(lines)

    def _is_complete(self, source: str) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are the far side's to give
                return self._compile(source, "<console>", "single") is not None
        except (SyntaxError, ValueError, OverflowError):
            return True


def _is_terminal() -> bool:
    """Whether somebody sits at a terminal, and sees it."""
    with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
        return not in_notebook() and sys.stdin.isatty() and sys.stdout.isatty()
    return False


@contextlib.contextmanager
def _unremembered() -> Iterator[None]:
    """Where Python's own prompt keeps a history, what is typed in here is none of its lines."""
    readline: Any = sys.modules.get("readline")
    before = readline.get_completer() if readline is not None else None
    if readline is not None:
        readline.set_auto_history(False)
        readline.set_completer(None)  # Tab is a tab
    try:
        yield
    finally:
        if readline is not None:
            readline.set_auto_history(True)
            readline.set_completer(before)
