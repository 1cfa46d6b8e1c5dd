"""HostOutput: the collected output of a cell on one host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import RemoteError
from ..remote.exceptions import raised_there
from ..remote.kept_text import HasStreams, KeptStreams
from ..remote.remote import Remote
from ..security.rendering import WIDGET, Rendering
from ..session.inbox import Event
from ..session.screen import allowed, show
from ..terminal import plain_text

# Most characters of text and of rich output kept per host; of longer text the beginning is dropped.
KEPT = 2_000_000
_NOBODY_ASKED = "[nobody is asked for input() by a cell on a group: push a value before, or run it on one host alone]\n"


class HostOutput(HasStreams):
    """Collects the output of a cell on ``host`` from its events.

    text            all printed text and the text of the cell's value, in the order in which it came
    stdout, stderr  the text of each stream
    displays        the MIME bundles that the cell has shown; that of its value comes last
    value           the text of the cell's value; None if it had none
    raised          the exception that the cell raised, or None
    seconds         how long the cell took; None while it runs
    status          the exit status of what ran as a program; None for a cell

    ``on_text`` is called with the stream's name and each piece of text as it comes.
    """

    def __init__(self, host: str, on_text: Callable[[str, str], None] | None = None) -> None:
        self.host = host
        self.displays: list[dict[str, Any]] = []
        self.value: str | None = None
        self.raised: RemoteError | None = None
        self.seconds: float | None = None
        self.status: int | None = None
        self.state = "waiting"
        self._text = KeptStreams(KEPT, "a group")
        self._metadata: list[dict[str, Any]] = []
        self._ids: list[str | None] = []
        self._left = KEPT
        self._told: set[str] = set()
        self._on_text = on_text
        self._clears = False
        self._is_open = False  # the last line of the text has no end yet
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<output of {self.host}: {self.state}, {len(self.text)} characters, {len(self.displays)} displays>"

    @property
    def text(self) -> str:
        return self._text.both

    @property
    def bundles(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Each display as a MIME bundle with its metadata."""
        return list(zip(self.displays, self._metadata, strict=True))

    @property
    def pictures(self) -> list[dict[str, Any]]:
        """The displays that are more than text."""
        return [data for data in self.displays if set(data) - {"text/plain"}]

    def withheld(self, words: str) -> None:
        """Called when something is not shown, with a sentence that says so."""
        self.stream("stderr", f"[{words}]\n")

    def sink(self, remote: Remote, rendering: Rendering) -> Callable[[Event], None]:
        """The function that takes the cell's events, on the events thread; ``rendering`` filters them."""

        def take(event: Event) -> None:
            if event["type"] == "input_request":
                number = event["content"].get("input_id")
                if isinstance(number, int):
                    remote.session.answer(number, None)  # end of file: nobody can answer many hosts at once
                    with self._lock:
                        self._once(_NOBODY_ASKED)
                return
            with self._lock:
                may = allowed(event, rendering)
                if may is not None:
                    show(may, self)

        return take

    def exited(self, status: Any) -> None:
        """Record that a program has ended with this exit status; any but 0 counts as an exception."""
        raised = self.raised
        if type(status) is not int:
            status = 1 if raised is not None else 0
            if raised is not None and raised.ename == "SystemExit":
                status = _status_of(raised.evalue)
        self.status = status
        if raised is None or raised.ename == "SystemExit":
            words = raised.evalue if raised is not None and not raised.evalue.isdigit() else f"exit status {status}"
            self.raised = RemoteError("SystemExit", words, "") if status else None

    # -- a screen ------------------------------------------------------------------------------------------------------

    def stream(self, name: str, text: str) -> None:
        self._begin()
        self.state = "running"
        self._is_open = not text.endswith("\n") if text else self._is_open
        self._text.add(name, text)
        if self._on_text is not None:
            self._on_text(name, text)

    def display(self, content: dict[str, Any], update: bool = False) -> None:
        self._begin()
        data, metadata = dict(content.get("data") or {}), dict(content.get("metadata") or {})
        data.pop(WIDGET, None)  # the front end has no model for it: it would show an error in place of the text
        known = (content.get("transient") or {}).get("display_id")
        known = known if isinstance(known, str) else None
        if update:
            self._update(known, data, metadata)
        elif self._has_room(len(str(data)), len(str(data))):
            self.displays.append(data)
            self._metadata.append(metadata)
            self._ids.append(known)
            self._plain(data)

    def _update(self, known: str | None, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Replace the displays with that display id. One of text only is shown as new text, as in a terminal."""
        size = len(str(data))
        for at, one in enumerate(self._ids):
            if one is not None and one == known and self._has_room(size - len(str(self.displays[at])), size):
                self.displays[at], self._metadata[at] = data, metadata
                self._plain(data)

    def _plain(self, data: dict[str, Any]) -> None:
        """Add a display that is only text to the cell's text."""
        if set(data) <= {"text/plain"}:
            start = "\n" if self._is_open else ""
            self.stream("stdout", f"{start}{plain_text(str(data.get('text/plain', '')))}\n")

    def result(self, content: dict[str, Any]) -> None:
        data = dict(content.get("data") or {})
        text = data.get("text/plain")
        self.value = text if isinstance(text, str) else None
        self.display(content)

    def error(self, content: dict[str, Any]) -> None:
        self.raised = raised_there({**content, "bases": [content.get("ename")]}, {})

    def clear(self, wait: bool) -> None:
        if wait:
            self._clears = True
            return
        self._clears = self._is_open = False
        self._text.clear()
        for one in (self.displays, self._metadata, self._ids):
            one.clear()
        self._left = KEPT

    def pages(self, payload: Any) -> None:
        """Add what the reply has for a pager, as of ``name?``, to the cell's text."""
        for one in payload if isinstance(payload, list) else []:
            if isinstance(one, dict) and one.get("source") == "page" and isinstance(one.get("data"), dict):
                with self._lock:
                    self._plain({"text/plain": one["data"].get("text/plain", "")})

    def comm(self, event: Event) -> None:
        self._once("[widgets of a group's hosts show as text]\n")

    def other(self, event: Event) -> None:
        """Events that are not output are ignored."""

    def _has_room(self, grown: int, size: int) -> bool:
        if grown > self._left:
            self._say(f"[a display of {size} characters is left out: a group keeps {KEPT} of each host]\n")
            return False
        self._left -= grown
        return True

    def _begin(self) -> None:
        if self._clears:
            self.clear(False)

    def _once(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            self._say(words)

    def _say(self, words: str) -> None:
        self.stream("stderr", words)


def _status_of(argument: str) -> int:
    """The exit status for what ``sys.exit`` was given."""
    try:
        return int(argument or "0") & 255 if argument != "None" else 0
    except ValueError:  # a text, which Python shows
        return 1
