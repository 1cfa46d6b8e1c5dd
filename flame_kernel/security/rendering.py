"""Filters what a front end shows of a server's output: everything, or only what can do no harm.

A notebook's front end runs what it is shown: scripts in HTML, widgets, text that is put into the next cell. So all
output (``full``) is shown only if the server has proved its identity (by a key, TLS or ssh), if we started it, or
under ``trust`` or ``rich``.  From any other server only text and pictures are shown (``safe``):

- text/plain without terminal escapes except colours; image/png and image/jpeg that pass a check
- no comms, so no widgets; no payloads except the text of a pager, and ``exit``
- updates only of its own displays, output only in its own cells, and a limited rate of messages

Once per session a line says that rich output is off, and what to do. Anything else withheld is said in one line, once
per cell.

At both levels, prompts name the server unless it is our own, so that the user knows who gets a password. Such a prompt
is one short line that begins with the name; the rest of what a program asks is output above it.

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

# The MIME type of a widget's view.
WIDGET = "application/vnd.jupyter.widget-view+json"

# Messages per second of any kind, and the largest burst: the limits of jupyter_server.
RATE, BURST = 1000.0, 3000.0
MAX_TEXT = 32 * 1024 * 1024  # characters of one text/plain
# Resets the colours of a terminal.
_PLAIN = "\x1b[0m"
_MAX_DEPTH = 50
# For how many requests we remember what was said, and how many sentences each may get.
_REQUESTS, _SENTENCES = 500, 8
_DISPLAYS = 10_000
_MIME = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)

# Most columns of a prompt with the name, so that it fits on one line of a terminal; and of the name alone.
PROMPT_WIDTH, _NAME_WIDTH = 78, 40
MAX_PROMPT = 2000

_NO_KEY = "this server has no key"


class Rendering:
    """The filter for one session's output. Events are filtered on the session's events thread, replies on any thread.

    level     FULL or SAFE
    name      the server's name for prompts, as the user gave it; empty for a server of our own
    location  the server's location, to distinguish its displays from those of other servers
    say       called with ``(request id, sentence)`` when something is withheld
    hint      said once when rich output is withheld; "" if the front end could not show rich output anyway
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
        # A front end identifies displays only by their ids, so each server's ids get a prefix of their own.
        self._prefix = f"{location}/"
        self._say = say
        self._clock = clock
        self._tokens, self._filled = BURST, clock()
        self._refused = -1e9  # when we last said that there are too many messages
        self._said: collections.OrderedDict[str | None, set[str]] = collections.OrderedDict()
        self._streams: collections.OrderedDict[tuple[str | None, str], Cleaner] = collections.OrderedDict()
        self._displays: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._colours = Colours()

    def __repr__(self) -> str:
        return f"<Rendering {self._name or 'our own server'}: {self.level}>"

    def question(self, text: str) -> tuple[str, str]:
        """How to ask here what ``input(text)`` asks on the far side: ``(output to show before, prompt)``.

        The prompt is the name of the server and the last line of ``text``, in visible characters, and fits on one line
        of a terminal. The output is the rest of ``text``: whole lines, or "".
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
            if self._colours.are_on:  # the prompt would be shown in these colours, which may hide it
                shown = self._noted(f"{shown}{_PLAIN}")
        return shown, f"[{self._name}] {line}{blank}"

    def text(self, request: str | None, name: str, text: str) -> str:
        """The text of a stream as it may be shown."""
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
        """Return ``text``, and remember which colours it leaves on."""
        self._colours.feed(text)
        return text

    def event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """An event that is not text, as it may be shown; None if it may not."""
        if self.full:
            return event
        request, kind, content = event.get("request"), event["type"], event["content"]
        if kind.startswith("comm_"):
            self._off(request)
            return None
        if kind == "clear_output" and request is None:
            return None  # it belongs to no cell, so there is no output of its own to clear
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
        """The content of a reply (execute, complete, inspect, …) as it may be passed on.

        Request "" is for questions of an editor: then nothing is said about what is withheld.
        """
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
        """A response or event of the debugger as it may be shown: clean text, and filtered MIME bundles of a value."""
        if self.full:
            return message
        shown: dict[str, Any] = _tidy(message)
        body = message.get("body")
        if isinstance(body, dict) and isinstance(body.get("data"), dict):
            shown["body"] = self.reply("", body)
        return shown

    def _off(self, request: str | None) -> None:
        """Say, once per session, that rich output is not shown, and what to do about it."""
        if self._hint and request != "" and self.take():
            self._say(request, self._hint)
            self._hint = ""

    def withhold(self, request: str | None, what: str, advice: str = _NO_KEY) -> None:
        """Say that ``what`` is not shown; once per request, and not at all if there are too many messages."""
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
        """Whether one more message (not text) may be shown now; if not, that is said, at most once per second."""
        if self.take():
            return True
        if self._clock() - self._refused >= 1.0:
            self._refused = self._clock()
            self._withhold(request, f"output beyond {RATE:g} messages a second", "")
        return False

    def take(self) -> bool:
        """Count one more message; False if it is over the limit.

        At level ``full`` there is no limit here: such a server is slowed down when front ends do not keep up.
        """
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
        """The parts of a MIME bundle that are safe to show."""
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
            if not shown:  # otherwise the cell would seem to have no output
                self.withhold(request, rich[0])
        return shown

    def _payload(self, request: str | None, payload: Any) -> dict[str, Any] | None:
        """A payload as it may be passed on: only a pager's text (``name?``) and ``exit``; others alter the notebook."""
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
    """The number of terminal columns that ``text`` takes."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _tail(text: str, room: int) -> tuple[str, str]:
    """Split ``text``: its end (whole words, at most ``room`` columns), and the part before that."""
    at = len(text)
    while at and room > 0:
        room -= _columns(text[at - 1])
        at -= room >= 0
    if at:
        at = text.find(" ", at - 1) + 1 or at
    return text[:at].rstrip(), text[at:]


def _sizes(metadata: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The part of the metadata that gives the shown size of pictures; the rest is dropped."""
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
    """A JSON value with its text cleaned; parts nested deeper than ``depth`` become None."""
    if isinstance(value, str):
        return clean(value)
    if depth == 0 and isinstance(value, (dict, list)):
        return None
    if isinstance(value, dict):
        return {clean(str(key)): _tidy(item, depth - 1) for key, item in value.items()}
    return [_tidy(item, depth - 1) for item in value] if isinstance(value, list) else value
