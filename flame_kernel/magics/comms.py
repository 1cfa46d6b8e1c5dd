"""Comms of a far side in an ordinary notebook: the kernel here has a stand-in of the same id for each of them.

What a comm there sends goes on to the front end, and what the front end sends to the stand-in goes there, buffers and
all; so widgets made by ``%%flame`` are seen here, and their callbacks run on the far side.

Comms: https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..session.inbox import Event

# ``(msg_type, message)``: brings a message of the front end to the far side, and waits until it is dealt with there.
Forward = Callable[[str, dict[str, Any]], None]


class StandIn:
    """Stands in the kernel's comm manager for a comm of the far side."""

    def __init__(self, comm_id: str, target_name: str, forward: Forward) -> None:
        self.comm_id = comm_id
        self.target_name = target_name
        self._forward = forward

    def __repr__(self) -> str:
        return f"<StandIn {self.target_name} {self.comm_id}>"

    def handle_msg(self, message: dict[str, Any]) -> None:
        """Called by the manager, on the thread of the shell or subshell that the front end has sent it by."""
        self._forward("comm_msg", message)

    def handle_close(self, message: dict[str, Any]) -> None:
        """The same, for the front end's ``comm_close``; the manager has forgotten the comm by then."""
        self._forward("comm_close", message)


class Relay:
    """The comms of one session, for the ipykernel ``kernel`` of the notebook that shows them."""

    def __init__(self, kernel: Any, forward: Forward) -> None:
        self._manager = kernel.comm_manager
        self._forward = forward

    def __repr__(self) -> str:
        return f"<Relay of {sum(self._is_ours(one) for one in self._manager.comms)} comms>"

    def __call__(self, event: Event, request_id: str) -> Event | None:
        """The part of a comm event that goes to the front end, for its request ``request_id``; None for nothing.

        An Output widget names the request whose output it takes. That is the far side's for this cell, and here the
        front end's.
        """
        kind, content = event["type"], event["content"]
        comm_id = content.get("comm_id")
        if not isinstance(comm_id, str) or (comm_id in self._manager.comms and not self._is_ours(comm_id)):
            return None
        if kind == "comm_open":
            self._manager.register_comm(StandIn(comm_id, str(content.get("target_name")), self._forward))
        elif comm_id not in self._manager.comms:
            return None
        if kind == "comm_close":
            del self._manager.comms[comm_id]
        data = content.get("data")
        state = data.get("state") if isinstance(data, dict) else None
        if isinstance(state, dict) and event.get("request") and state.get("msg_id") == event["request"]:
            content = {**content, "data": {**data, "state": {**state, "msg_id": request_id}}}
        return {**event, "content": content}

    def _is_ours(self, comm_id: str) -> bool:
        found = self._manager.comms.get(comm_id)
        return isinstance(found, StandIn) and found._forward is self._forward
