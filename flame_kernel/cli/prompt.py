"""Prompt: a far side's prompt in a terminal, as IPython's: colours, history, Tab, several lines."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir
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

from ..commands.source import Source
from ..errors import FlameError
from ..remote.foreground import Foreground, Left, in_colour, write
from ..remote.remote import Remote
from ..security.terminal import clean
from ..session.requests import Reply
from ..session.session import Session

# Seconds that Tab waits for the far side.
TAB_PATIENCE = 8.0

_LEAVE = ("exit", "exit()", "quit", "quit()")
_STYLE = Style.from_dict({"in": "ansigreen", "number": "ansibrightgreen bold", "where": "ansicyan"})


class Prompt:
    """The prompt of ``remote``'s session; for the main thread, in a terminal."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._source = Source()
        self._count = 1
        self._next = ""  # what stands in the next input already
        self._shown = _Numbered(remote, self)
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            lexer=PygmentsLexer(Python3Lexer),
            completer=_FarCompleter(remote.session),
            complete_in_thread=True,
            complete_while_typing=False,
            complete_style=CompleteStyle.MULTI_COLUMN,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=self._keys(),
            multiline=True,
            style=_STYLE,
            prompt_continuation=lambda width, line, wrapped: " " * max(0, width - 5) + "...: ",
        )

    def __repr__(self) -> str:
        return f"<Prompt [{self._count}] at {self._remote.name}>"

    @property
    def number(self) -> int:
        """Of the cell that is typed, or runs."""
        return self._count

    def interact(self) -> None:
        """Read and run cells until Ctrl-D, ``exit``, or the end of the session."""
        write("stdout", self.banner() + "\n")
        self._take_up()
        while self._remote.session.gone is None:
            try:
                with patch_stdout(raw=True):
                    text = self._session.prompt(self._words(), default=self._next)
                self._next = ""
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            if text.strip() in _LEAVE:
                break
            if text.strip() and not self._run(text):
                break

    def banner(self) -> str:
        """Where cells run, and what the far side is."""
        session = self._remote.session
        ready = session.ready.result()
        shell = f", IPython {ready.get('ipython')}" if ready.get("shell") == "ipython" else ", without IPython"
        return clean(
            f"Python {ready.get('python')}{shell} on {ready.get('host')}, pid {ready.get('pid')}, "
            f"at {session.location} ({session.target.protection}); Ctrl-D leaves"
        )

    def _words(self) -> FormattedText:
        where = clean(self._remote.target.name or "")
        return FormattedText(
            [
                ("class:where", f"{where} " if where else ""),
                ("class:in", "In ["),
                ("class:number", str(self._count)),
                ("class:in", "]: "),
            ]
        )

    # -- cells -------------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Follow what runs in a session that was taken up."""
        session = self._remote.session
        cells = [] if session.server["fresh"] else session.ask("cells").result()
        counts = [one.get("count") for one in cells if isinstance(one, dict)] if isinstance(cells, list) else []
        self._count = max((count for count in counts if isinstance(count, int)), default=0) + 1
        for cell, told in self._remote.taken_up:
            code = str(cell.get("code") or "").strip().partition("\n")[0]
            write("stdout", clean(f"[running: {code[:60]}]") + "\n")
            request = cell["request"]
            self._guarded(partial(self._shown.follow, told, session.follow(request), request))

    def _run(self, text: str) -> bool:
        """Run a cell; False where it asks to leave."""
        if self._remote.session.ready.result().get("shell") == "mini":
            text = self._source.as_python(text)
        return self._guarded(lambda: self._shown.run(text))

    def _guarded(self, cell: Callable[[], Reply]) -> bool:
        try:
            reply = cell()
        except Left as e:
            write("stderr", f"[{e}]\n")
            return True
        except FlameError as e:
            write("stderr", clean(f"{type(e).__name__}: {e}") + "\n")
            return True
        count = reply.get("execution_count")
        self._count = count + 1 if isinstance(count, int) else self._count + 1
        return all(self._payload(one) for one in reply.get("payload") or () if isinstance(one, dict))

    def _payload(self, payload: dict[str, Any]) -> bool:
        """What a cell asks of its front end; False where it asks to leave."""
        source = payload.get("source")
        if source == "page":
            text = (payload.get("data") or {}).get("text/plain")
            if isinstance(text, str):
                write("stdout", text.rstrip("\n") + "\n")
        elif source == "set_next_input":
            self._next = str(payload.get("text") or "")
        return source != "ask_exit"

    # -- keys --------------------------------------------------------------------------------------------------------

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


class _Numbered(Foreground):
    """Cells whose values have their number before them."""

    def __init__(self, remote: Remote, prompt: Prompt) -> None:
        super().__init__(remote, leaves=True)
        self._prompt = prompt

    def result(self, content: dict[str, Any]) -> None:
        text = (content.get("data") or {}).get("text/plain")
        if not isinstance(text, str):
            return
        count = content.get("execution_count")
        label = f"Out[{count if isinstance(count, int) else self._prompt.number}]: "
        shown = f"\x1b[31m{label}\x1b[0m" if in_colour("stdout") else label
        write("stdout", shown + ("\n" if "\n" in text else "") + text + "\n")


class _FarCompleter(Completer):
    """Names as the far side has them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        at = document.cursor_position
        try:
            reply = self._session.complete(uuid.uuid4().hex, document.text, at).result(TAB_PATIENCE)
            start = int(reply["cursor_start"])
            matches = [clean(str(match)) for match in reply["matches"]]
        except (FlameError, futures.TimeoutError, KeyError, TypeError, ValueError):
            return
        for match in matches:
            yield Completion(match, start_position=start - at)


def _history() -> History:
    """A file of the user's own, of mode 0600."""
    path = Path(jupyter_data_dir()) / "flame_prompt_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
