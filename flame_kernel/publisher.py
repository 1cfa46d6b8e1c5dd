"""From the far side's events to Jupyter's messages: parents, iopub, and prompts on stdin.

Messaging: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import collections
import json
import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ipykernel.jsonutil import json_clean
from jupyter_client.jsonutil import json_default

from .inbox import Event
from .rendering import Rendering
from .session import Session

# Requests whose parents are remembered: threads of an old cell may print for a long time.
REMEMBERED = 2000

_COMMS = ("comm_open", "comm_msg", "comm_close")
_STREAMS = ("stdout", "stderr")
_IOPUB = ("display_data", "update_display_data", "execute_result", "error", "clear_output", *_COMMS)


class Publisher:
    """Publishes events with the request that caused them as parent, and of each only what may be shown (``rendering``).

    send        ``Session.send`` of jupyter_client, bound to the iopub socket: ``send(msg_type, content, parent, …)``
    on_result   called with the execution count and the text/plain of an ``execute_result``
    on_input    called with ``(session, event, parent, ident)`` for an ``input_request``; ``(session, None, …)`` when
                the far side does not wait any more
    """

    def __init__(
        self,
        send: Callable[..., Any],
        on_result: Callable[[int, str], None],
        on_input: Callable[[Session, Event, dict[str, Any], Any], None],
    ) -> None:
        self._send = send
        self._on_result = on_result
        self._on_input = on_input
        self._parents: collections.OrderedDict[str, tuple[dict[str, Any], Any]] = collections.OrderedDict()
        self._sessions: weakref.WeakKeyDictionary[Session, _Known] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._latest: tuple[dict[str, Any], Any] = ({}, None)
        self._counter = 0

    def remember(self, request_id: str, parent: dict[str, Any], ident: Any, cell: bool = True) -> None:
        """Output of ``request_id`` belongs to ``parent``; prompts go to the front end ``ident``."""
        with self._lock:
            self._parents[request_id] = ({"header": parent["header"]}, ident)
            if cell:
                self._latest = self._parents[request_id]
            while len(self._parents) > REMEMBERED:
                self._parents.popitem(last=False)

    def parent(self, request_id: str | None) -> tuple[dict[str, Any], Any]:
        """``(parent, ident)`` of a request; the latest cell's for output of which nothing better is known."""
        with self._lock:
            return self._parents.get(request_id or "", self._latest)

    def belongs(self, request_id: str, session: Session) -> None:
        """``request_id`` is a request to ``session``: what another one sends for it is not shown, unless trusted."""
        known = self._known(session)
        with self._lock:
            known.requests[request_id] = None
            if self._parents.get(request_id) is self._latest:
                known.latest = request_id
            while len(known.requests) > REMEMBERED:
                known.requests.popitem(last=False)

    def rendering(self, session: Session) -> Rendering:
        """What of a session's events and replies may be shown."""
        return self._known(session).rendering

    def _known(self, session: Session) -> _Known:
        with self._lock:
            known = self._sessions.get(session)
            if known is None:
                known = self._sessions[session] = _Known(Rendering(session.target, self._say))
            return known

    def _say(self, request_id: str | None, sentence: str) -> None:
        self.stream(request_id, "stderr", sentence + "\n")

    def publish(self, session: Session, events: list[Event]) -> None:
        """One batch, on the session's events thread. Text of a cell and stream becomes one message."""
        known = self._known(session)
        full = known.rendering.full
        texts: dict[tuple[str | None, str], list[str]] = {}
        for event in events:
            if event["type"] == "stream":
                content = event["content"]
                request, name = event.get("request"), str(content.get("name"))
                if not full:
                    request, name = self._own_request(known, event), name if name in _STREAMS else "stdout"
                texts.setdefault((request, name), []).append(str(content.get("text")))
                continue
            self._flush(known.rendering, texts)
            self._one(session, known, event)
        self._flush(known.rendering, texts)

    def _own_request(self, known: _Known, event: Event) -> str | None:
        """The request of an event from a server that nobody vouches for: one of its own session, never another's."""
        request = event.get("request")
        return request if request in known.requests else known.latest

    def stream(self, request_id: str | None, name: str, text: str) -> None:
        """Text in a cell's output."""
        parent, _ = self.parent(request_id)
        self._send("stream", {"name": name, "text": text}, parent, topic=f"stream.{name}")

    def message(self, request_id: str | None, msg_type: str, content: dict[str, Any], **more: Any) -> None:
        """One iopub message of ours in a cell's output."""
        parent, _ = self.parent(request_id)
        self._send(msg_type, content, parent, **more)

    def _flush(self, rendering: Rendering, texts: dict[tuple[str | None, str], list[str]]) -> None:
        for (request_id, name), pieces in texts.items():
            text = rendering.text(request_id, name, "".join(pieces))
            if text:
                self.stream(request_id, name, text)
        texts.clear()

    def _one(self, session: Session, known: _Known, event: Event) -> None:
        kind = event["type"]
        if kind in _IOPUB:
            if not known.rendering.full:
                shown = known.rendering.event(dict(event, request=self._own_request(known, event)))
                if shown is None:
                    return
                event = shown
            parent, _ = self.parent(event.get("request"))
            content = json_clean(event["content"])
            if kind == "execute_result" and isinstance(content.get("execution_count"), int):
                self._on_result(content["execution_count"], str(content.get("data", {}).get("text/plain", "")))
            topic = f"comm-{content.get('comm_id')}" if kind in _COMMS else kind
            self._send(kind, content, parent, topic=topic, metadata=event.get("metadata"), buffers=event.get("buffers"))
        elif kind == "input_request":
            if not known.rendering.full and event.get("request") not in known.requests:
                session.answer(event["content"].get("input_id"), None)  # nobody is asked for a cell that is not its own
                return
            prompt = known.rendering.prompt(str(event["content"].get("prompt", "")))
            parent, ident = self.parent(event.get("request"))
            self._on_input(session, dict(event, content=dict(event["content"], prompt=prompt)), parent, ident)
        elif kind == "input_cancelled":
            parent, ident = self.parent(event.get("request"))
            self._on_input(session, event, parent, ident)


class _Known:
    """What is known of one session here."""

    def __init__(self, rendering: Rendering) -> None:
        self.rendering = rendering
        self.requests: collections.OrderedDict[str, None] = collections.OrderedDict()
        self.latest: str | None = None


def pack(message: Any) -> bytes:
    """A message as bytes, in place of jupyter_client's packer: a lone surrogate, legal in a str of Python and in no
    JSON that a browser reads, is sent as ``?`` there; a NaN or an infinity as null, as a browser writes them."""
    try:
        text = json.dumps(message, default=json_default, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(_finite(json_clean(message)), default=json_default, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
