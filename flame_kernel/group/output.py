"""HostOutput: what a cell has shown on one host, kept to be told, folded, or looked at by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import RemoteError
from ..remote.exceptions import raised_there
from ..remote.kept_text import KeptText
from ..remote.remote import Remote
from ..session.inbox import Event
from ..session.screen import allowed, show
from ..terminal import plain_text

# Characters of text, and of rich output, that are kept of one host; more of the text's beginning is left out.
KEPT = 2_000_000


class HostOutput:
    """What a cell has shown on ``host``: a screen for its events.

    text      what it has printed, and its value's text, as they came
    stdout    …  stderr  the streams apart
    displays  MIME bundles that it has shown, its value's last
    value     the text of its value, None where it had none
    raised    what it raised, or None
    seconds   how long it took, None while it runs

    ``on_text`` is told each piece of text as it comes, with its stream's name.
    """

    def __init__(self, host: str, on_text: Callable[[str, str], None] | None = None) -> None:
        self.host = host
        self.displays: list[dict[str, Any]] = []
        self.value: str | None = None
        self.raised: RemoteError | None = None
        self.seconds: float | None = None
        self.state = "waiting"
        self._text = {name: KeptText(KEPT, "a group") for name in ("both", "stdout", "stderr")}
        self._metadata: list[dict[str, Any]] = []
        self._ids: list[str | None] = []
        self._left = KEPT
        self._told: set[str] = set()
        self._on_text = on_text
        self._clears = False
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<output of {self.host}: {self.state}, {len(self.text)} characters, {len(self.displays)} displays>"

    @property
    def text(self) -> str:
        return str(self._text["both"])

    @property
    def stdout(self) -> str:
        return str(self._text["stdout"])

    @property
    def stderr(self) -> str:
        return str(self._text["stderr"])

    @property
    def bundles(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Each display with its metadata."""
        return list(zip(self.displays, self._metadata, strict=True))

    @property
    def pictures(self) -> list[dict[str, Any]]:
        """The displays that are more than text."""
        return [data for data in self.displays if set(data) - {"text/plain"}]

    def sink(self, remote: Remote) -> Callable[[Event], None]:
        """What takes the cell's events, on the events thread: of a server that has not proved who it is not all."""
        rendering = remote.session.target.rendering(lambda request, words: self.stream("stderr", f"[{words}]\n"))

        def take(event: Event) -> None:
            if event["type"] == "input_request":
                number = event["content"].get("input_id")
                if isinstance(number, int):
                    remote.session.answer(number, None)  # nobody can answer fifty hosts at once
                return
            with self._lock:
                may = allowed(event, rendering)
                if may is not None:
                    show(may, self)

        return take

    # -- a screen ------------------------------------------------------------------------------------------------------

    def stream(self, name: str, text: str) -> None:
        self._begin()
        self.state = "running"
        for kept in ("both", name):
            self._text[kept].add(text)
        if self._on_text is not None:
            self._on_text(name, text)

    def display(self, content: dict[str, Any], update: bool = False) -> None:
        self._begin()
        data, metadata = dict(content.get("data") or {}), dict(content.get("metadata") or {})
        known = (content.get("transient") or {}).get("display_id")
        known = known if isinstance(known, str) else None
        if update:
            self._update(known, data, metadata)
        elif self._has_room(len(str(data)), len(str(data))):
            self.displays.append(data)
            self._metadata.append(metadata)
            self._ids.append(known)
            if set(data) <= {"text/plain"}:
                self.stream("stdout", f"{plain_text(str(data.get('text/plain', '')))}\n")

    def _update(self, known: str | None, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Put this in the place of the displays of that id."""
        size = len(str(data))
        for at, one in enumerate(self._ids):
            if one is not None and one == known and self._has_room(size - len(str(self.displays[at])), size):
                self.displays[at], self._metadata[at] = data, metadata

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
        self._clears = False
        for kept in self._text.values():
            kept.clear()
        for one in (self.displays, self._metadata, self._ids):
            one.clear()
        self._left = KEPT

    def comm(self, event: Event) -> None:
        self._once("[widgets of a group's hosts show as text]\n")

    def other(self, event: Event) -> None:
        """What is no output is not shown."""

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
