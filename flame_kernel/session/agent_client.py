"""AgentClient: works with a server's sessions without a session of its own: lists, asks for, watches and ends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..agent.wire import message as wire
from ..connect.connection import UNCLEAR, Connection
from ..connect.target import Target
from ..errors import FlameError, RemoteError, UnsafeAnswer
from ..security import answers
from ..security.shapes import WrongShape
from .bootstrap import is_missing
from .inbox import Event
from .link import Link, no_agent

# Seconds that a server may hold a watcher's request; seconds between requests to a multiplex server, which holds none.
WATCH_WAIT, WATCH_PAUSE = 10.0, 0.25


class AgentClient:
    """A connection to the server of ``target``. Use it on one thread; ``close`` may be called on any.

    The constructor connects; it raises CannotConnect, TargetError.
    """

    def __init__(self, target: Target) -> None:
        self.running: list[dict[str, Any]] = []
        self._link = Link(
            target, on_trouble=lambda _: None, on_end=lambda _: None, is_wanted=lambda: False, beat=lambda: None
        )
        self.target = self._link.target
        self._wait = 0.0

    def __repr__(self) -> str:
        return f"<AgentClient {self._link!r}>"

    def close(self) -> None:
        """Close the connection; calls that wait raise an error."""
        self._link.close()

    @property
    def connection(self) -> Connection:
        """The connection, for Flame's own methods."""
        return self._link.calls.connection

    def begin(self) -> Any:
        """The agent's description of itself; the agent is pushed if it is missing."""
        return self._link.open({"op": "hello"})

    def ask(self, op: str, **fields: Any) -> Any:
        """The answer to one op; raises AgentError (``no_agent`` if the agent is missing), ConnectionLost."""
        try:
            if op == "ask":
                return self._link.with_ticket({"op": op, **fields})
            return self._link.exchange(self._link.calls, {"op": op, **fields})[0]
        except RemoteError as e:
            if not is_missing(e):
                raise
            raise no_agent(self._link.location) from None

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions on the server."""
        try:
            return list(self.ask("sessions"))
        except UnsafeAnswer as e:
            if e.detail != UNCLEAR:
                raise
            self.begin()  # another client has pushed the agent just now, it seems
            return list(self.ask("sessions"))
        except FlameError as e:
            if getattr(e, "code", "") != "no_agent":
                raise
            return []

    def kill(self, name: str) -> bool:
        """End the session that has this name now, and all that it runs; False if there is none."""
        return any(self.end(one) for one in self.sessions() if one.get("session") == name)

    def end(self, session: dict[str, Any]) -> bool:
        """End this session of ``sessions``, but not a later one with its name; False if it had already ended."""
        done = self.ask("kill", session=session.get("session"), life=session.get("life"))
        return isinstance(done, dict) and done.get("closed") is True

    def replay(self, session_id: str, request_id: str) -> Iterator[list[Event]]:
        """The output of one cell in order: what its owner has received and the server still keeps."""
        after = 0
        while True:
            request = {"op": "replay", "session": session_id, "request": request_id, "after": after}
            result, buffers = self._link.exchange(self._link.calls, dict(request, limit=1 << 18))
            events = self._decoded(result["events"], buffers)
            after = events[-1]["number"] if events else after
            yield events
            if result["done"] or not events:
                return

    def _decoded(self, events: list[Any], buffers: Any) -> list[Event]:
        try:
            batch = answers.events(wire.decode_events(events, buffers))
            answers.numbers(batch)
        except (wire.WireError, WrongShape) as e:
            raise UnsafeAnswer(self._link.location, f"events of the wrong shape: {e}") from e
        return batch

    def watch(self, session_id: str) -> Iterator[list[Event]]:
        """The events of a session as they come, from the beginning of the running cell; endless. The session does not
        notice.

        The connection is made again if it breaks. Raises AgentError if there is no such session.
        """
        hello = self.ask("hello")
        self._link.boot = hello["boot"]
        wait = 0.0 if hello["servertype"] == "multiplex" else WATCH_WAIT
        after = None
        while not self._link.closing.is_set():
            request = {"op": "watch", "session": session_id, "after": after, "wait": wait, "limit": 1 << 18}
            result, buffers = self._link.insist(self._link.calls, request, wait + 15.0, wait=wait)
            events = self._decoded(result["events"], buffers)
            after = events[-1]["number"] if events else after if after is not None else result["newest"]
            yield events
            if not events and not wait:
                self._link.closing.wait(WATCH_PAUSE)
