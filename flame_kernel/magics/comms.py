"""Comms of a far side in an ordinary notebook: for each of them, the kernel here has a stand-in with the same id.

Messages of a comm there are passed to the front end, and messages of the front end to the stand-in are sent there, with
their buffers. So widgets made by ``%%flame`` appear here, and their callbacks run on the far side.

Comms: https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..session.inbox import Event

# ``(msg_type, message)``: sends a message of the front end to the far side, and waits until it is handled there.
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
        """Called by the manager for a ``comm_msg``, on the thread of the shell or subshell that received it."""
        self._forward("comm_msg", message)

    def handle_close(self, message: dict[str, Any]) -> None:
        """The same, for the front end's ``comm_close``; the manager has forgotten the comm by then."""
        self._forward("comm_close", message)


class Relay:
    """The comms of one session; ``kernel`` is the ipykernel of the notebook that shows them."""

    def __init__(self, kernel: Any, forward: Forward) -> None:
        self._manager = kernel.comm_manager
        self._forward = forward

    def __repr__(self) -> str:
        return f"<Relay of {sum(self._is_ours(one) for one in self._manager.comms)} comms>"

    def __call__(self, event: Event, request_id: str) -> Event | None:
        """What of a comm event goes to the front end, for its request ``request_id``; None: nothing.

        An Output widget names the request whose output it captures: there it is the far side's request for this cell,
        and here the front end's.
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
