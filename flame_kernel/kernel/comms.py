"""Comms: passes messages of the front end's widgets to the far side; the answers come as events.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import FlameError
from ..terminal import plain_text
from .completion import Editor
from .iopub import Publisher
from .sides import Sides


class Comms:
    """Delivers comm messages of the front end, and lists the open comms."""

    def __init__(self, sides: Sides, editor: Editor, publisher: Publisher) -> None:
        self._sides = sides
        self._editor = editor
        self._publisher = publisher

    async def deliver(self, parent: dict[str, Any], ident: Any) -> None:
        """Deliver a ``comm_open``, ``comm_msg`` or ``comm_close``; returns when its callbacks there are done."""
        header = parent["header"]
        request_id = header["msg_id"]
        session = self._sides.far.own
        self._publisher.remember(request_id, parent, ident, cell=False)
        if session is None:
            return
        self._publisher.belongs(request_id, session)
        try:
            lane = header.get("subshell_id")
            await asyncio.wrap_future(session.comm(request_id, header["msg_type"], parent, lane))
        except FlameError as e:
            words = f"{header['msg_type']} not delivered: {plain_text(str(e))}\n"
            self._publisher.stream(request_id, "stderr", words)

    async def info(self, target_name: str | None) -> dict[str, Any]:
        """The content of a comm_info_reply: the open comms, or those of one target."""
        reply = await self._editor.ask(lambda session: session.comm_info(), {"status": "ok", "comms": {}})
        comms = {
            known: {"target_name": one["target_name"]}
            for known, one in reply["comms"].items()
            if not target_name or one["target_name"] == target_name
        }
        session = self._sides.far.own
        hidden = session is not None and not self._publisher.rendering(session).full
        if hidden or self._sides.far.group is not None:
            comms = {}  # their messages are not shown, so nobody should wait for them
        return {"status": "ok", "comms": comms}
