"""The debugger: requests of the front end relayed to the far side, where debugpy is, and its responses back.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#debug-request
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

from ..errors import FlameError
from .backend import FarSide
from .dispatch import Overtaking
from .iopub import Publisher

# Seconds that a request waits for a far side that is still being connected.
PATIENCE = 20.0


class Debugging(Overtaking):
    """A kernel whose cells are debugged where they run. Requests are answered one at a time, also while a cell runs or
    is stopped; an interrupt or a shutdown, which come by the same channel, overtake them."""

    _far: FarSide
    _publisher: Publisher

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._debug_turn = asyncio.Lock()

    async def dispatch_control(self, msg: Any) -> None:
        """As ipykernel's, but a debug_request does not hold the channel: its answer may take as long as the far side,
        or what is evaluated there, takes."""
        assert self.session is not None
        seen = self._peek(msg)
        if seen is None:
            return
        if seen[1].get("msg_type") != "debug_request":
            await super().dispatch_control(msg)
            return
        async with self._debug_turn:
            ident, frames = self.session.feed_identities(msg, copy=False)
            try:
                parent = self.session.deserialize(frames, content=True, copy=False)
            except ValueError:
                self.log.error("Invalid Control Message", exc_info=True)
                return
            self._publish_status("busy", "control", parent=parent)
            try:
                await self.debug_request(self.control_stream, ident, parent)
            finally:
                self._publish_status("idle", "control", parent=parent)

    async def debug_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """https://jupyter-client.readthedocs.io/en/stable/messaging.html#debug-request"""
        message = parent["content"] if isinstance(parent["content"], dict) else {}
        try:
            reply = await self._debug(message, ident, parent)
        except asyncio.TimeoutError:
            reply = _failure(message, f"still {self._far.words()}")
        except FlameError as e:
            reply = _failure(message, str(e))
        if self.session is not None:
            self.session.send(stream, "debug_reply", reply, parent, ident)

    async def _debug(self, message: dict[str, Any], ident: Any, parent: dict[str, Any]) -> dict[str, Any]:
        # Shielded: who does not wait any longer must not cancel what a cell waits for too.
        opening = asyncio.shield(asyncio.wrap_future(self._far.session()))
        session = await asyncio.wait_for(opening, PATIENCE)
        request_id = parent["header"]["msg_id"]
        self._publisher.remember(request_id, parent, ident, cell=False)
        self._publisher.belongs(request_id, session)
        reply = await asyncio.wrap_future(session.request("debug", request_id, message=message))
        if reply.get("type") != "response":
            return _failure(message, str(reply.get("evalue") or "the far side has not answered"))
        return self._publisher.rendering(session).debug(reply)


def is_there(far: FarSide) -> bool:
    """Whether the far side is known to have a debugger; a server of our own has what is installed here."""
    session = far.current
    if session is not None and session.ready.done() and session.ready.exception() is None:
        return session.ready.result().get("no_debugger") == ""
    return far.target.location is None and importlib.util.find_spec("debugpy") is not None


def _failure(message: dict[str, Any], reason: str) -> dict[str, Any]:
    return {
        "type": "response",
        "request_seq": message.get("seq", 0),
        "success": False,
        "command": message.get("command", ""),
        "message": reason,
        "body": {},
    }
