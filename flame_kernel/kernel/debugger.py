"""The debugger: requests of the front end relayed to the far side, where debugpy is, and its responses back.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#debug-request
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

from ..connect.keys import without_key
from ..errors import FlameError
from ..session.session import Session
from ..terminal import plain_text
from .backend import FarSide
from .iopub import Publisher

# This sends a package where it cannot be downloaded.
_SENT = "%flame pip install debugpy"
# Seconds that a request waits for a far side that is still being connected.
PATIENCE = 20.0


class Debugger:
    """Answers debug requests where the cells run: one at a time, also while a cell runs or is stopped.

    far         the side of the cells
    """

    def __init__(self, far: FarSide, publisher: Publisher, log: logging.Logger) -> None:
        self._far = far
        self._publisher = publisher
        self._log = log
        self._turn = asyncio.Lock()
        self._told: Session | None = None  # the session without a debugger that a cell was told of

    async def answer(self, msg: Any, messages: Any, publish_status: Callable[..., None], stream: Any) -> None:
        """Answer a ``debug_request`` on ``stream``, in its turn: what is evaluated there may take as long as it likes,
        so the control channel does not wait for it."""
        async with self._turn:
            ident, frames = messages.feed_identities(msg, copy=False)
            try:
                parent = messages.deserialize(frames, content=True, copy=False)
            except ValueError:
                self._log.error("Invalid Control Message", exc_info=True)
                return
            publish_status("busy", "control", parent=parent)
            try:
                messages.send(stream, "debug_reply", await self._reply(parent, ident), parent, ident)
            finally:
                publish_status("idle", "control", parent=parent)

    async def _reply(self, parent: dict[str, Any], ident: Any) -> dict[str, Any]:
        """The content of the ``debug_reply``: a response of the Debug Adapter Protocol, also after a failure.

        https://jupyter-client.readthedocs.io/en/stable/messaging.html#debug-request
        """
        message = _keyless(parent["content"]) if isinstance(parent["content"], dict) else {}
        try:
            return await self._ask(message, ident, parent)
        except asyncio.TimeoutError:
            return _failure(message, f"still {self._far.words()}")
        except FlameError as e:
            return _failure(message, str(e))

    async def _ask(self, message: dict[str, Any], ident: Any, parent: dict[str, Any]) -> dict[str, Any]:
        if self._far.group is not None:
            return _failure(
                message, "the debugger is for one host, and cells run on a group; connect to one of its hosts"
            )
        # Shielded: giving up here must not cancel the connection that a cell waits for too.
        opening = asyncio.shield(asyncio.wrap_future(self._far.session()))
        session = await asyncio.wait_for(opening, PATIENCE)
        request_id = parent["header"]["msg_id"]
        self._publisher.remember(request_id, parent, ident, cell=False)
        self._publisher.belongs(request_id, session)
        self._tell_of_debugpy(session, message)
        reply = await asyncio.wrap_future(session.request("debug", request_id, message=message))
        if reply.get("type") != "response":
            return _failure(message, str(reply.get("evalue") or "the far side has not answered"))
        return self._publisher.rendering(session).debug(reply)

    def _tell_of_debugpy(self, session: Session, message: dict[str, Any]) -> None:
        """Tell in the last cell, once per session, why the debugger does not start: front ends do not show the
        reason."""
        ready = session.ready.result() if session.ready.done() and session.ready.exception() is None else {}
        if message.get("command") == "initialize" and ready.get("no_debugger") and self._told is not session:
            self._told = session
            words = f"the debugger needs debugpy at {session.location}: %pip install debugpy, then restart the kernel"
            self._publisher.stream(None, "stderr", plain_text(f"{words}; without internet there: {_SENT}\n"))


def is_there(far: FarSide) -> bool:
    """Whether the far side is known to have a debugger; a server of our own has what is installed here."""
    session = far.own
    if session is not None and session.ready.done() and session.ready.exception() is None:
        return session.ready.result().get("no_debugger") == ""
    return far.group is None and far.target.location is None and importlib.util.find_spec("debugpy") is not None


def _keyless(message: dict[str, Any]) -> dict[str, Any]:
    """``message`` without a key that is typed in a cell: a front end sends all cells when debugging begins."""
    arguments = message.get("arguments")
    if not isinstance(arguments, dict):
        return message
    return {**message, "arguments": {name: without_key(value) for name, value in arguments.items()}}


def _failure(message: dict[str, Any], reason: str) -> dict[str, Any]:
    return {
        "type": "response",
        "request_seq": message.get("seq", 0),
        "success": False,
        "command": message.get("command", ""),
        "message": reason,
        "body": {},
    }
