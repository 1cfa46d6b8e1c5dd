"""From the far side's events to Jupyter's messages: parents, iopub, and prompts on stdin.

Messaging: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ipykernel.jsonutil import json_clean
from jupyter_client.jsonutil import json_default

from ..agent.wire.message import COMMS
from ..commands.sessions import asks
from ..connect.target import Target
from ..security.rendering import WIDGET, Rendering
from ..session.inbox import Event
from ..session.screen import show
from ..session.session import Session
from ..terminal import one_line, plain_text
from .outgoing import Outgoing

# Characters of output that wait here for a cell to appear in; if there are more, the rest waits on the far side.
HELD = 8 << 20
# Requests whose parents are remembered: threads of an old cell may print for a long time.
REMEMBERED = 2000
# Most clients that may ask to take a session over, and characters of the number of such a request.
TAKEOVERS, TAKEOVER_ID = 32, 100
# Most texts that wait to be published where the streams of a cell take turns; the same for a server without trust.
TURNS, TURNS_UNTRUSTED = 1000, 100
# Seconds between checks whether there is room for a message.
PAUSE = 0.02

# A text of more characters is examined before it is encoded.
LONG = 1 << 14
_STREAM = {"name", "text"}
_ESCAPED = bytes(range(32)) + b'"\\'
_encoder = json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False)

_OUTPUT = ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output")


class Source(Protocol):
    """Where events come from: our session, or one that we watch."""

    @property
    def target(self) -> Target: ...

    @property
    def running(self) -> list[dict[str, Any]]: ...


class Publisher:
    """Publishes events with the request that caused them as parent, and of each only what may be shown (``rendering``).

    send        ``Session.send`` of jupyter_client, bound to the iopub socket: ``send(msg_type, content, parent, …)``
    on_result   called with the execution count and the text/plain of an ``execute_result``
    on_input    called with ``(session, event, parent, ident)`` for an ``input_request``; ``(session, None, …)`` when
                the far side is no longer waiting
    outgoing    where ``send`` puts messages: no output is published while that is full
    """

    def __init__(
        self,
        send: Callable[..., Any],
        on_result: Callable[[int, str], None],
        on_input: Callable[[Session, Event, dict[str, Any], Any], None],
        outgoing: Outgoing | None = None,
    ) -> None:
        self._outgoing = outgoing
        self._send = send
        self._on_result = on_result
        self._on_input = on_input
        self._parents: collections.OrderedDict[str, tuple[dict[str, Any], Any]] = collections.OrderedDict()
        self._sessions: weakref.WeakKeyDictionary[Source, _Known] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._latest: tuple[dict[str, Any], Any] = ({}, None)
        self._order = threading.Condition(threading.RLock())  # one publishes at a time
        self._held: list[tuple[Session, list[Event]]] = []
        self._held_size = 0

    def remember(self, request_id: str, parent: dict[str, Any], ident: Any, cell: bool = True) -> None:
        """Output of ``request_id`` belongs to ``parent``; prompts go to the front end ``ident``.

        The first cell gets what came before it: output that was missed, of a session that was taken up.
        """
        with self._order:
            with self._lock:
                self._parents[request_id] = ({"header": parent["header"]}, ident)
                if cell:
                    self._latest = self._parents[request_id]
                while len(self._parents) > REMEMBERED:
                    self._parents.popitem(last=False)
            if cell and self._held:
                held, self._held, self._held_size = self._held, [], 0
                for session, events in held:
                    self._publish_batch(session, events)
                self._order.notify_all()

    def parent(self, request_id: str | None) -> tuple[dict[str, Any], Any]:
        """``(parent, ident)`` of a request. A request that is not known gets those of the latest cell, and keeps
        them."""
        with self._lock:
            found = self._parents.get(request_id or "")
            if found is None:
                found = self._latest
                if request_id and found[0]:
                    self._parents[request_id] = found
            return found

    def belongs(self, request_id: str, session: Session) -> None:
        """``request_id`` is a request to ``session``: what another one sends for it is not shown, unless trusted."""
        known = self._known(session)
        with self._lock:
            known.requests[request_id] = None
            if self._parents.get(request_id) is self._latest:
                known.latest = request_id
            while len(known.requests) > REMEMBERED:
                known.requests.popitem(last=False)

    def rendering(self, session: Source) -> Rendering:
        """What of a session's events and replies may be shown."""
        return self._known(session).rendering

    def _known(self, session: Source) -> _Known:
        with self._lock:
            known = self._sessions.get(session)
            if known is None:
                known = self._sessions[session] = _Known(session.target.rendering(self._say, notebook=True))
                known.requests.update((cell["request"], None) for cell in session.running)
            return known

    def _say(self, request_id: str | None, sentence: str) -> None:
        self.stream(request_id, "stderr", sentence + "\n")

    def publish(self, session: Session, events: list[Event]) -> None:
        """One batch, on the session's events thread. Text of a cell and stream becomes one message.

        It returns when front ends have taken so much of what came before that more may come.
        """
        if self._outgoing is not None:
            self._outgoing.wait_for_room(lambda: session.gone is not None)
        self._publish_batch(session, events)
        self._publish_rest(self._known(session), lambda: session.gone is not None)

    def _publish_rest(self, known: _Known, is_over: Callable[[], bool] = lambda: False) -> None:
        """Publish the text that had no room; its sender waits, because it comes too fast."""
        while known.texts and not is_over():
            time.sleep(PAUSE)
            with self._order:
                _Iopub(self, None, known).flush()

    def has_room(self, session: Session) -> bool:
        """Whether output of a session would be published at once."""
        return not (self._known(session).texts or (self._outgoing is not None and self._outgoing.is_full))

    async def room(self) -> None:
        """Wait until output may be shown."""
        while self._outgoing is not None and self._outgoing.is_full:
            await asyncio.sleep(PAUSE)

    def _publish_batch(self, session: Session, events: list[Event]) -> None:
        with self._order:
            if self._is_early(events):
                self._held.append((session, events))
                self._held_size += sum(len(str(event.get("content"))) for event in events)
                while self._held_size > HELD and session.gone is None:
                    self._order.wait(1.0)
                return
            known = self._known(session)
            if session.missed and not known.greeted:
                known.greeted = True
                name, where = plain_text(session.session_id), plain_text(session.location)
                self.stream(None, "stdout", f"[missed output of session {name} at {where}]\n")
            self._publish(session, known, events)

    def _is_early(self, events: list[Event]) -> bool:
        """Whether there is output, and no cell yet in which it could appear."""
        with self._lock:
            return not self._latest[0] and any(
                event["type"] in _OUTPUT and event.get("request") not in self._parents for event in events
            )

    def _publish(self, session: Session | None, known: _Known, events: list[Event]) -> None:
        screen = _Iopub(self, session, known)
        for event in events:
            screen.event = event
            show(event, screen)
        screen.flush()

    def stream(self, request_id: str | None, name: str, text: str) -> None:
        """Text in a cell's output."""
        parent, _ = self.parent(request_id)
        self._send("stream", {"name": name, "text": text}, parent, topic=f"stream.{name}")

    def message(self, request_id: str | None, msg_type: str, content: dict[str, Any] | bytes, **more: Any) -> None:
        """One iopub message of ours in a cell's output; ``content`` may be JSON text already."""
        parent, _ = self.parent(request_id)
        self._send(msg_type, content, parent, **more)

    def show(self, source: Source, request_id: str, events: list[Event]) -> None:
        """Output of another time or another session, in the output of the cell ``request_id``."""
        mine = [dict(event, request=request_id) for event in events if event["type"] in _OUTPUT]
        if not isinstance(source, Session):  # one that is watched: its widgets are not here
            mine = [_without_widgets(event) for event in mine]
        known = self._known(source)
        with self._order:
            on_result, self._on_result = self._on_result, lambda count, text: None
            try:
                self._publish(None, known, mine)
            finally:
                self._on_result = on_result
        self._publish_rest(known)

    def prompt(self, session: Session) -> None:
        """Ask the user what a session that was taken up waits for, though the client before was asked it already."""
        inputs = session.server.get("inputs")
        for content in inputs if isinstance(inputs, list) else []:
            if isinstance(content, dict) and type(content.get("input_id")) is int:
                event = {"type": "input_request", "request": content.get("request"), "content": content}
                self._publish_batch(session, [event])  # not `publish`: on the kernel's loop, nothing waits for room

    def takeovers(self, session: Session) -> dict[str, str]:
        """The clients that ask to take a session over: ids and names. The caller removes those that are answered."""
        return self._known(session).takeovers

    def result(self, content: dict[str, Any]) -> None:
        """A cell's value was published."""
        if isinstance(content.get("execution_count"), int):
            self._on_result(content["execution_count"], str(content.get("data", {}).get("text/plain", "")))

    def ask(self, session: Session, event: Event) -> None:
        """A question to the user, or the news that it is withdrawn."""
        parent, ident = self.parent(event.get("request"))
        self._on_input(session, event, parent, ident)


class _Iopub:
    """The screen of one batch of events: messages, each with the request that caused it as parent. Text of a cell and
    stream is gathered until something else comes.

    ``session`` is None for output of another time or another session: only what can be seen is published. ``event`` is
    the present event.
    """

    __slots__ = ("_known", "_publisher", "_session", "event")

    def __init__(self, publisher: Publisher, session: Session | None, known: _Known) -> None:
        self.event: Event = {}
        self._publisher = publisher
        self._session = session
        self._known = known

    def stream(self, name: str, text: str) -> None:
        request = self.event.get("request") if self._known.rendering.full else self._own_request()
        self._known.texts.add((request, name), text, TURNS if self._known.rendering.full else TURNS_UNTRUSTED)

    def flush(self) -> None:
        """Publish the text that has come; what there is no room for waits, and more of its cell joins it."""
        texts, rendering = self._known.texts, self._known.rendering
        while texts and rendering.take():
            (request, name), parts = texts.pop()
            text = rendering.text(request, name, "".join(parts))
            if text:
                self._publisher.stream(request, name, text)

    def display(self, content: dict[str, Any], update: bool) -> None:
        self._message()

    def result(self, content: dict[str, Any]) -> None:
        self._message()

    def error(self, content: dict[str, Any]) -> None:
        self._message()

    def clear(self, wait: bool) -> None:
        self._message()

    def comm(self, event: Event) -> None:
        self._message()

    def _message(self) -> None:
        """Publish the event as its message."""
        event, kind = self.event, self.event["type"]
        if not self._known.rendering.full:
            shown = self._known.rendering.event(dict(event, request=self._own_request()))
            if shown is None:
                return
            event = shown
        self.flush()
        content, packed = json_clean(event["content"]), event.get("packed")
        if kind == "execute_result":
            self._publisher.result(content)
        topic = f"comm-{content.get('comm_id')}" if kind in COMMS else kind
        if packed is not None and packed[0] is event["content"]:
            content = packed[1]  # its text as it came: nothing of it was changed here
        more = {"metadata": event.get("metadata"), "buffers": event.get("buffers")}
        self._publisher.message(event.get("request"), kind, content, topic=topic, **more)

    def other(self, event: Event) -> None:
        """An event that is no output. It is ignored if it is of another time or another session."""
        aside = _ASIDE.get(event["type"])
        if aside is not None and self._session is not None and self._known.rendering.admit(event.get("request")):
            self.flush()
            aside(self, self._session, event)

    def _debug(self, session: Session, event: Event) -> None:
        content = json_clean(self._known.rendering.debug(event["content"]))
        self._publisher.message(event.get("request"), event["type"], content)

    def _ask(self, session: Session, event: Event) -> None:
        rendering, content = self._known.rendering, event["content"]
        if not rendering.full and event.get("request") not in self._known.requests:
            session.answer(content.get("input_id"), None)  # nobody is asked for a cell that is not its own
            return
        before, prompt = rendering.question(content.get("prompt", ""))
        if before:
            self._publisher.stream(event.get("request"), "stdout", before)
        self._publisher.ask(session, dict(event, content=dict(content, prompt=prompt)))

    def _takeover(self, session: Session, event: Event) -> None:
        content, takeovers = event["content"], self._known.takeovers
        who, ask_id = one_line(str(content.get("client"))), str(content.get("id"))
        if ask_id in takeovers or len(takeovers) >= TAKEOVERS or len(ask_id) > TAKEOVER_ID:
            return
        takeovers[ask_id] = who
        self._publisher.stream(None, "stderr", asks(who))

    def _cancelled(self, session: Session, event: Event) -> None:
        self._publisher.ask(session, event)

    def _own_request(self) -> str | None:
        """The request of an event from a server that nobody vouches for: one of its own session, never another's."""
        request = self.event.get("request")
        return request if request in self._known.requests else self._known.latest


# What is no output, and what becomes of it.
_ASIDE: dict[str, Callable[[_Iopub, Session, Event], None]] = {
    "debug_event": _Iopub._debug,
    "input_request": _Iopub._ask,
    "input_cancelled": _Iopub._cancelled,
    "takeover_request": _Iopub._takeover,
}


class _Texts:
    """Texts that have come and are not published yet, one for each turn of a cell's streams: stdout and stderr keep
    their order. Where many turns wait, text joins the latest of its stream."""

    def __init__(self) -> None:
        self._waiting: collections.deque[tuple[tuple[str | None, str], list[str]]] = collections.deque()
        self._latest: dict[tuple[str | None, str], list[str]] = {}  # the text of a stream that more of it joins
        self._turn: dict[str | None, str] = {}  # which stream of a request came last

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: tuple[str | None, str], text: str, most: int) -> None:
        parts = self._latest.get(key)
        turns = self._turn.get(key[0], key[1]) != key[1] and len(self._waiting) < most
        self._turn[key[0]] = key[1]
        if parts is None or turns:
            parts = self._latest[key] = []
            self._waiting.append((key, parts))
        parts.append(text)

    def pop(self) -> tuple[tuple[str | None, str], list[str]]:
        """Remove and return the oldest."""
        key, parts = self._waiting.popleft()
        if self._latest.get(key) is parts:
            del self._latest[key]
        if not self._waiting:
            self._turn.clear()
        return key, parts


class _Known:
    """What the publisher knows of one session."""

    def __init__(self, rendering: Rendering) -> None:
        self.rendering = rendering
        self.requests: collections.OrderedDict[str, None] = collections.OrderedDict()
        self.latest: str | None = None
        self.greeted = False  # what was missed has had its header
        self.takeovers: dict[str, str] = {}
        self.texts = _Texts()


def _without_widgets(event: Event) -> Event:
    """A display as text, where its richest form is the view of a widget."""
    data = event["content"].get("data")
    if not isinstance(data, dict) or WIDGET not in data:
        return event
    rest = {mime: value for mime, value in data.items() if mime != WIDGET} or {"text/plain": "[a widget]"}
    return dict(event, content=dict(event["content"], data=rest))


def pack(message: Any) -> bytes:
    """A message as bytes, in place of jupyter_client's packer: a lone surrogate, legal in a str of Python and in no
    JSON that a browser reads, is sent as ``?`` there; a NaN or an infinity as null, as a browser writes them."""
    if isinstance(message, dict) and message.keys() == _STREAM and _is_long(message["text"]):
        return b'{"name": %s, "text": %s}' % (_string(str(message["name"])), _string(message["text"]))
    try:
        encoded = _encoder.encode(message)
    except (TypeError, ValueError):
        encoded = _encoder.encode(_finite(json_clean(message)))
    return encoded.encode("utf-8", "replace")


def _is_long(text: Any) -> bool:
    return isinstance(text, str) and len(text) > LONG


def _string(text: str) -> bytes:
    """A long text as JSON; three times as fast as the encoder if only ends of lines need an escape."""
    data = text.encode("utf-8", "replace")
    escaped = data.replace(b"\n", b"\\n")
    if len(data) - len(data.translate(None, _ESCAPED)) == len(escaped) - len(data):
        return b'"%s"' % escaped
    return _encoder.encode(text).encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
