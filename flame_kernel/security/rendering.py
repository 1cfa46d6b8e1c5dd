"""What a front end gets to see of what a server sends: all of it, or only what can do no harm.

A notebook's front end runs what it is shown: scripts in HTML, widgets, text that lands in the next cell. So it is shown
everything (``full``) only of a server that has proved who it is (by a key, TLS or ssh), of one that we started
ourselves, and under ``trust``.  Any other server is shown as text and pictures (``safe``):

- text/plain without terminal escapes but colours, image/png and image/jpeg that are such and bear decoding
- no comms, so no widgets; no payload but the text of a pager, and ``exit``
- updates of its own displays only, output in its own cells only, and no more messages than a front end can take

That rich output is off is said once a session, with what to do; what else is withheld, once a cell, in one line.

Whatever the level, a prompt of a server that is not our own names it: the user should know whom a password is given to.
Such a prompt is one short line with the name in front; what a program asks beyond that is output above it.

Display data: https://jupyter-client.readthedocs.io/en/stable/messaging.html#display-data
"""

from __future__ import annotations

import collections
import re
import time
import unicodedata
from collections.abc import Callable
from typing import Any

from ..terminal import Cleaner, Colours, clean, coloured_text, one_line, plain_text
from . import pictures

FULL, SAFE = "full", "safe"

# The form of a display that is the view of a widget.
WIDGET = "application/vnd.jupyter.widget-view+json"

# Messages a second of any kind, and how many may come at once: where jupyter_server's own limit is.
RATE, BURST = 1000.0, 3000.0
MAX_TEXT = 32 * 1024 * 1024  # characters of one text/plain
# What gives a terminal back its own colours.
_PLAIN = "\x1b[0m"
_MAX_DEPTH = 50
# Of how many requests is remembered what was said, and how much is said of each.
_REQUESTS, _SENTENCES = 500, 8
_DISPLAYS = 10_000
_MIME = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)

# Columns of a prompt with the name in it: it shall not go on in the next line of a terminal. And of the name.
PROMPT_WIDTH, _NAME_WIDTH = 78, 40
MAX_PROMPT = 2000

_NO_KEY = "this server has no key"


class Rendering:
    """What of one session's events is shown; used on the session's events thread, and for replies on any.

    level     FULL or SAFE
    name      of the server, for its prompts, as the user named it; empty for one of our own
    location  of the server, which tells its displays from those of others
    say       called with ``(request id, sentence)`` for what is withheld
    hint      what is said once where rich output is off; "" where there is nobody who could show it
    """

    def __init__(
        self,
        level: str,
        name: str,
        location: str,
        say: Callable[[str | None, str], None],
        clock: Callable[[], float] = time.monotonic,
        hint: str = "",
    ) -> None:
        self._hint = hint
        self.level = level
        self.full = self.level == FULL
        self._name = one_line(name, _NAME_WIDTH)
        # The front end knows displays by their ids alone, whoever made them. So a server's are told apart.
        self._prefix = f"{location}/"
        self._say = say
        self._clock = clock
        self._tokens, self._filled = BURST, clock()
        self._refused = -1e9  # when it was said last that too much comes
        self._said: collections.OrderedDict[str | None, set[str]] = collections.OrderedDict()
        self._streams: collections.OrderedDict[tuple[str | None, str], Cleaner] = collections.OrderedDict()
        self._displays: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._colours = Colours()

    def __repr__(self) -> str:
        return f"<Rendering {self._name or 'our own server'}: {self.level}>"

    def question(self, text: str) -> tuple[str, str]:
        """What ``input(text)`` of the far side asks here: ``(output to show before, prompt)``.

        The prompt is the last line of ``text``, in characters that are seen, behind the name of the server that asks,
        and fits into a line of a terminal. The output is the rest: whole lines, or "".
        """
        if not self._name:
            return "", text
        above, _, last = text.replace("\r\n", "\n").rpartition("\n")
        room = PROMPT_WIDTH - _columns(self._name) - len("[] ")
        head, line = _tail(one_line(last, MAX_PROMPT), room)
        before = [above] if above.strip() else []
        before += [head] if head else []
        blank = " " if line and plain_text(last)[-1:].isspace() else ""
        shown = "".join(f"{part}\n" for part in before)
        if not self.full:
            shown = self._noted(clean(shown))
            if self._colours.are_on:  # a terminal would show the prompt in these, and they can hide it
                shown = self._noted(f"{shown}{_PLAIN}")
        return shown, f"[{self._name}] {line}{blank}"

    def text(self, request: str | None, name: str, text: str) -> str:
        """Text of a stream."""
        if self.full:
            return text
        cleaner = self._streams.get((request, name))
        if cleaner is None:
            cleaner = self._streams[request, name] = Cleaner()
            while len(self._streams) > _REQUESTS:
                self._streams.popitem(last=False)
        before = cleaner.removed
        text = cleaner.feed(text)
        if cleaner.removed > before:
            self.withhold(request, "terminal control sequences")
        return self._noted(text)

    def _noted(self, text: str) -> str:
        """``text``, which is shown; the colours that it leaves on are remembered."""
        self._colours.feed(text)
        return text

    def event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """An event other than text as it may be shown, or None."""
        if self.full:
            return event
        request, kind, content = event.get("request"), event["type"], event["content"]
        if kind.startswith("comm_"):
            self._off(request)
            return None
        if kind == "clear_output" and request is None:
            return None  # it has no cell of its own to clear
        if not self.admit(request):
            return None
        shown: dict[str, Any] | None
        if kind == "error":
            shown = self._error(content)
        elif kind == "clear_output":
            shown = {"wait": content.get("wait") is True}
        else:
            shown = self._display(request, kind, content)
        return None if shown is None else {"type": kind, "request": request, "content": shown}

    def reply(self, request: str | None, content: dict[str, Any]) -> dict[str, Any]:
        """The content of a reply (execute, complete, inspect, …) as it may be passed on; nothing is said for "", which
        stands for a question of an editor."""
        if self.full:
            return content
        shown: dict[str, Any] = _tidy({k: v for k, v in content.items() if k not in ("payload", "data", "metadata")})
        if "data" in content:
            shown["data"], shown["metadata"] = self._bundle(request, content), {}
        elif "metadata" in content:
            shown["metadata"] = _tidy(content["metadata"])
        if "payload" in content:
            payload = content["payload"] if isinstance(content["payload"], list) else []
            shown["payload"] = [kept for one in payload if (kept := self._payload(request, one)) is not None]
        expressions = content.get("user_expressions")
        if isinstance(expressions, dict):
            shown["user_expressions"] = {
                clean(name): self.reply(request, one) for name, one in expressions.items() if isinstance(one, dict)
            }
        return shown

    def debug(self, message: dict[str, Any]) -> dict[str, Any]:
        """A response or an event of the debugger: text, and the forms of a value."""
        if self.full:
            return message
        shown: dict[str, Any] = _tidy(message)
        body = message.get("body")
        if isinstance(body, dict) and isinstance(body.get("data"), dict):
            shown["body"] = self.reply("", body)
        return shown

    def _off(self, request: str | None) -> None:
        """Say once that rich output is not shown, and what to do about it."""
        if self._hint and request != "" and self.take():
            self._say(request, self._hint)
            self._hint = ""

    def withhold(self, request: str | None, what: str, advice: str = _NO_KEY) -> None:
        """Say that ``what`` is not shown; once a request, and not at all where messages come too fast."""
        if request != "" and self.take():
            self._withhold(request, what, advice)

    def _withhold(self, request: str | None, what: str, advice: str) -> None:
        if request == "":
            return
        said = self._said.setdefault(request, set())
        if len(self._said) > _REQUESTS:
            self._said.popitem(last=False)
        if what in said or len(said) > _SENTENCES:
            return
        said.add(what)
        if len(said) > _SENTENCES:
            what = "and more"
        self._say(request, f"{what} not shown: {advice}" if advice else f"{what} not shown")

    def admit(self, request: str | None) -> bool:
        """Whether one more message may come now that is no text; said once a request, and once a second, if not."""
        if self.take():
            return True
        if self._clock() - self._refused >= 1.0:
            self._refused = self._clock()
            self._withhold(request, f"output beyond {RATE:g} messages a second", "")
        return False

    def take(self) -> bool:
        """Whether there is room for one more message; then it has that. There always is for a server that has proved
        who it is: it is held back where front ends do not take what it sends."""
        if self.full:
            return True
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _error(self, content: dict[str, Any]) -> dict[str, Any]:
        shown = content.get("traceback")
        return {
            "ename": one_line(str(content.get("ename", ""))),
            "evalue": plain_text(str(content.get("evalue", ""))),
            "traceback": [self._noted(coloured_text(one)) for one in shown if isinstance(one, str)]
            if isinstance(shown, list)
            else [],
        }

    def _display(self, request: str | None, kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
        transient = content.get("transient")
        display_id = transient.get("display_id") if isinstance(transient, dict) else None
        shown_id = f"{self._prefix}{display_id}" if isinstance(display_id, str) and len(display_id) <= 200 else None
        if kind == "update_display_data" and shown_id not in self._displays:
            self.withhold(request, "a change of a display that is not its own")
            return None
        data = self._bundle(request, content)
        if not data:
            return None
        shown: dict[str, Any] = {"data": data, "metadata": _sizes(content.get("metadata"), data)}
        if kind == "execute_result":
            count = content.get("execution_count")
            shown["execution_count"] = count if type(count) is int else None
        if shown_id is not None:
            shown["transient"] = {"display_id": shown_id}
            self._displays[shown_id] = None
            if len(self._displays) > _DISPLAYS:
                self._displays.popitem(last=False)
        else:
            shown["transient"] = {}
        return shown

    def _bundle(self, request: str | None, content: dict[str, Any]) -> dict[str, Any]:
        """The parts of a MIME bundle that can do no harm."""
        shown: dict[str, Any] = {}
        data = content.get("data")
        rich: list[str] = []
        for mime, value in data.items() if isinstance(data, dict) else ():
            if mime == "text/plain":
                if not isinstance(value, str) or len(value) > MAX_TEXT:
                    self.withhold(request, f"a text of more than {MAX_TEXT // 2**20} million characters", "")
                    continue
                shown[mime] = self._noted(clean(value))
                if shown[mime] != value:
                    self.withhold(request, "terminal control sequences")
            elif mime in pictures.READERS:
                try:
                    pictures.check(mime, value)
                except pictures.NoPicture as reason:
                    self.withhold(request, mime, str(reason))
                else:
                    shown[mime] = value
            else:
                rich.append(mime if _MIME.fullmatch(mime) else "output of an unknown type")
        if rich:
            self._off(request)
            if not shown:  # the cell would look as if it had nothing to show
                self.withhold(request, rich[0])
        return shown

    def _payload(self, request: str | None, payload: Any) -> dict[str, Any] | None:
        """A pager's text (``name?``), and ``exit``, which a server has by ending anyway; others change the notebook."""
        source = payload.get("source") if isinstance(payload, dict) else None
        if source == "ask_exit":
            return {"source": "ask_exit", "keepkernel": payload.get("keepkernel") is True}
        if source != "page":
            named = source if isinstance(source, str) and re.fullmatch(r"\w{1,40}", source, re.ASCII) else "unknown"
            self.withhold(request, f"a payload ({named})")
            return None
        start = payload.get("start")
        data = self._bundle(request, payload)
        return {"source": "page", "data": data, "start": start if type(start) is int else 0} if data else None


def _columns(text: str) -> int:
    """How wide a terminal shows ``text``."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _tail(text: str, room: int) -> tuple[str, str]:
    """``text`` in two: its end, of at most ``room`` columns and whole words, and what is before that."""
    at = len(text)
    while at and room > 0:
        room -= _columns(text[at - 1])
        at -= room >= 0
    if at:
        at = text.find(" ", at - 1) + 1 or at
    return text[:at].rstrip(), text[at:]


def _sizes(metadata: Any, data: dict[str, Any]) -> dict[str, Any]:
    """How large pictures are to be shown; nothing else in metadata is for text and pictures."""
    shown: dict[str, Any] = {}
    for mime in data:
        one = metadata.get(mime) if isinstance(metadata, dict) else None
        if mime in pictures.READERS and isinstance(one, dict):
            shown[mime] = {
                side: one[side]
                for side in ("width", "height")
                if type(one.get(side)) in (int, float) and 0 < one[side] <= pictures.MAX_SIDE
            }
    return shown


def _tidy(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """A value of JSON with its text cleaned; what lies deeper than anything honest does is None."""
    if isinstance(value, str):
        return clean(value)
    if depth == 0 and isinstance(value, (dict, list)):
        return None
    if isinstance(value, dict):
        return {clean(str(key)): _tidy(item, depth - 1) for key, item in value.items()}
    return [_tidy(item, depth - 1) for item in value] if isinstance(value, list) else value
