"""Prompt: reads statements in a terminal by prompt_toolkit, with colours, history and Tab from the far side."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style
from pygments.lexers.python import Python3Lexer

from ..commands.cell_text import Source
from ..errors import FlameError
from ..security import private_files
from ..security.completions import offered
from ..session.session import Session

# Seconds that Tab waits for an answer of the far side.
TAB_PATIENCE = 8.0

_STYLE = Style.from_dict({"in": "ansigreen", "number": "ansibrightgreen bold", "where": "ansicyan"})


class Prompt:
    """The prompt of ``session`` in a terminal.

    history   the history file; None: keep the history only in memory
    more      returns the prompt of the second and later lines, given the width of the first prompt in columns
    """

    def __init__(self, session: Session, history: Path | None, more: Callable[[int], str]) -> None:
        self._source = Source()
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            lexer=PygmentsLexer(Python3Lexer),
            completer=_FarCompleter(session),
            complete_in_thread=True,
            complete_while_typing=False,
            complete_style=CompleteStyle.MULTI_COLUMN,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=self._keys(),
            multiline=True,
            style=_STYLE,
            prompt_continuation=lambda width, line, wrapped: more(width),
        )

    def read(self, words: Sequence[tuple[str, str]], default: str = "") -> str:
        """Read a statement after the prompt ``words`` (pairs of style and text).

        Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C.
        """
        with patch_stdout(raw=True):
            return self._session.prompt(FormattedText(words), default=default, in_thread=_is_loop_running())

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.complete_state = None
                return
            after = buffer.document.text_after_cursor
            state = self._source.is_complete(buffer.text)
            if not buffer.text.strip() or (not after.strip() and state["status"] != "incomplete"):
                buffer.validate_and_handle()
                return
            before = buffer.document.current_line_before_cursor
            indent = before[: len(before) - len(before.lstrip())]
            buffer.insert_text("\n" + (indent if after.strip() else state.get("indent") or ""))

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("tab")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if not buffer.document.current_line_before_cursor.strip():
                buffer.insert_text("    ")
            elif buffer.complete_state:
                buffer.complete_next()
            else:
                buffer.start_completion(insert_common_part=True)

        return keys


class _FarCompleter(Completer):
    """Completes names by asking the far side."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        at = document.cursor_position
        try:
            reply = self._session.complete(uuid.uuid4().hex, document.text, at).result(TAB_PATIENCE)
        except (FlameError, futures.TimeoutError):
            return
        found = offered(reply, document.text, at)
        for one in found.offers:
            yield Completion(one.text, start_position=found.start - at)


def _is_loop_running() -> bool:
    """Whether this thread runs an event loop; then prompt_toolkit must run its own in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _history(path: Path | None) -> History:
    """A history in a file of mode 0600; in memory if the file cannot be used."""
    if path is None:
        return InMemoryHistory()
    try:
        private_files.append(path, b"")
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
