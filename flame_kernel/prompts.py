"""Prompts: what the far side asks the user, over the stdin channel.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#messages-on-the-stdin-router-dealer-channel
"""

from __future__ import annotations

import logging
from typing import Any

from zmq.eventloop.zmqstream import ZMQStream

from .inbox import Event
from .session import Session

END_OF_FILE = "\x04"


class Prompts:
    """One prompt at a time, as front ends have it; a line that nobody waits for is dropped, as ipykernel does.

    messages      the kernel's ``jupyter_client.session.Session``
    stdin_socket  its ROUTER socket for prompts
    """

    def __init__(self, messages: Any, stdin_socket: Any, log: logging.Logger) -> None:
        self._messages = messages
        self._socket = stdin_socket
        self._log = log
        self._io_loop: Any = None
        self._stream: ZMQStream | None = None
        self._asking: tuple[Session, int, str | None] | None = None

    def start(self, io_loop: Any) -> None:
        """Listen for the user's lines; on the thread of ``io_loop``, the kernel's main one."""
        self._io_loop = io_loop
        self._stream = ZMQStream(self._socket, io_loop)
        self._stream.on_recv(self._on_reply)

    def on_event(self, session: Session, event: Event, parent: dict[str, Any], ident: Any) -> None:
        """``input_request``, or ``input_cancelled``; called by the publisher on the session's events thread."""
        self._io_loop.add_callback(self._ask, session, event, parent, ident)

    def forget(self, request_id: str) -> None:
        """The request has ended: it waits for no line."""
        if self._asking is not None and self._asking[2] == request_id:
            self._asking = None

    def _ask(self, session: Session, event: Event, parent: dict[str, Any], ident: Any) -> None:
        if event["type"] == "input_cancelled":
            self._asking = None
            return
        content = event["content"]
        self._asking = (session, content["input_id"], event.get("request"))
        prompt = {"prompt": str(content.get("prompt", "")), "password": bool(content.get("password"))}
        self._messages.send(self._stream, "input_request", prompt, parent=parent, ident=ident)

    def _on_reply(self, frames: list[bytes]) -> None:
        try:
            _, parts = self._messages.feed_identities(frames)
            value = str(self._messages.deserialize(parts)["content"]["value"])
        except Exception:  # whatever a client sends: the next one may be right
            self._log.warning("invalid message on the stdin channel", exc_info=True)
            return
        if self._asking is not None:
            session, input_id, _ = self._asking
            self._asking = None
            session.answer(input_id, None if value == END_OF_FILE else value)
