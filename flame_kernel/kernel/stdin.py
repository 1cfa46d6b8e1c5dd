"""Prompts: questions of the far side to the user, over the stdin channel.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#messages-on-the-stdin-router-dealer-channel
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from zmq.eventloop.zmqstream import ZMQStream

from ..connect.keys import Ask
from ..session.inbox import Event
from ..session.session import Session

END_OF_FILE = "\x04"


class Prompts:
    """Shows one prompt at a time, as front ends do; a line that nobody waits for is dropped, as in ipykernel.

    messages      the kernel's ``jupyter_client.session.Session``
    stdin_socket  its ROUTER socket for prompts
    """

    def __init__(self, messages: Any, stdin_socket: Any, log: logging.Logger) -> None:
        self._messages = messages
        self._socket = stdin_socket
        self._log = log
        self._io_loop: Any = None
        self._stream: ZMQStream | None = None
        self._asking: tuple[Callable[[str | None], Any], str | None] | None = None  # what takes the line; the request
        self._may_ask: set[str] = set()

    def start(self, io_loop: Any) -> None:
        """Listen for the user's lines, on the thread of ``io_loop``, the kernel's main loop."""
        self._io_loop = io_loop
        self._stream = ZMQStream(self._socket, io_loop)
        self._stream.on_recv(self._on_reply)

    def on_event(self, session: Session, event: Event, parent: dict[str, Any], ident: Any) -> None:
        """``input_request``, or ``input_cancelled``; called by the publisher on the session's events thread."""
        self._io_loop.add_callback(self._ask, session, event, parent, ident)

    def forget(self, request_id: str) -> None:
        """The request has ended and waits for no line any more."""
        self._may_ask.discard(request_id)
        if self._asking is not None and self._asking[1] == request_id:
            self._drop()

    def asker(self, request_id: str, parent: dict[str, Any], ident: Any) -> Ask:
        """A function by which the kernel itself asks the user something for a cell; for any thread but the main one.

        It returns None if the front end allows no prompts, and when the cell has ended.
        """
        if parent.get("content", {}).get("allow_stdin"):
            self._may_ask.add(request_id)

        def ask(prompt: str, password: bool) -> str | None:
            line: Future[str | None] = Future()

            def begin() -> None:
                if request_id not in self._may_ask:
                    line.set_result(None)
                    return
                self._drop()
                self._asking = (line.set_result, request_id)
                content = {"prompt": prompt, "password": password}
                self._messages.send(self._stream, "input_request", content, parent=parent, ident=ident)

            self._io_loop.add_callback(begin)
            return line.result()

        return ask

    def _drop(self) -> None:
        """No line is awaited any more; if the kernel itself asked, it gets None."""
        asking, self._asking = self._asking, None
        if asking is not None and not isinstance(asking[0], _Answer):
            asking[0](None)

    def _ask(self, session: Session, event: Event, parent: dict[str, Any], ident: Any) -> None:
        if event["type"] == "input_cancelled":
            self._drop()
            return
        content = event["content"]
        self._drop()
        self._asking = (_Answer(session, content["input_id"]), event.get("request"))
        prompt = {"prompt": str(content.get("prompt", "")), "password": bool(content.get("password"))}
        self._messages.send(self._stream, "input_request", prompt, parent=parent, ident=ident)

    def _on_reply(self, frames: list[bytes]) -> None:
        try:
            _, parts = self._messages.feed_identities(frames)
            value = self._messages.deserialize(parts)["content"]["value"]
            if not isinstance(value, str):
                raise TypeError(f"a line that is a {type(value).__name__}")
        except Exception:  # a client may send anything; the next line may be right
            self._log.warning("invalid message on the stdin channel", exc_info=True)
            return
        if self._asking is not None:
            take, _ = self._asking
            self._asking = None
            take(None if value == END_OF_FILE else value)


class _Answer:
    """Takes the user's line to the far side."""

    def __init__(self, session: Session, input_id: int) -> None:
        self._session = session
        self._input_id = input_id

    def __call__(self, line: str | None) -> None:
        self._session.answer(self._input_id, line)
