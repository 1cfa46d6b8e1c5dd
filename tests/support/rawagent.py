"""A client of the agent without any of ours in between: one op at a time, each answer as it comes."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import farside

from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.keys import Secret
from flame_kernel.connect.target import Location, Target
from flame_kernel.errors import AgentError, FlameError, RemoteError
from flame_kernel.session.bootstrap import agent_name, push_source
from flame_kernel.session.inbox import Inbox


class RawAgent:
    """One connection to a server, on which ops of the agent are called; and what a client must remember of a session.

    ``events`` are those that ``poll`` has brought, each once, in order.  ``entry`` and ``source`` are those of another
    version of the agent: its ``handle``, and what ``execute`` is given to push it.
    """

    def __init__(
        self,
        location: str,
        session: str = "bench",
        client: str = "tester",
        *,
        key: str | None = None,
        entry: str | None = None,
        source: str | None = None,
    ) -> None:
        self.location = location
        self.session = session
        self.client = client
        self.client_id = uuid.uuid4().hex
        self.epoch = 0
        self.inbox = Inbox()
        self.events: list[dict[str, Any]] = []
        self.link = Connection(Target(Location.parse(location), key=Secret(key.encode()) if key else None))
        self.entry = entry or f"{agent_name()}.{wire.HANDLE}"
        self._nonce = uuid.uuid4().hex[:8]
        self._count = itertools.count(1)
        try:
            self.op("hello")
        except RemoteError:
            self.link.call("execute", source or push_source())
            self.op("hello")

    def op(self, op: str, *, n: str | None = None, timeout: float | None = None, **fields: Any) -> Any:
        """One op for the session: its result. Raises AgentError."""
        if op in ("open", "ask") and "ticket" not in fields:
            fields["ticket"] = self.op("hello")["ticket"]
        elif op in ("close", "kill") and "epoch" not in fields and "life" not in fields:
            name = fields.get("session", self.session)
            op, fields["life"] = "kill", next((s["life"] for s in self.op("sessions") if s["session"] == name), "")
        n = n or self.number()
        message = wire.encode({"session": self.session, "epoch": self.epoch, **fields, "op": op, "n": n})
        answer, buffers = wire.decode(self.link.invoke(self.entry, message, timeout=timeout))
        assert answer["n"] == n
        if "error" in answer:
            raise AgentError(answer["error"]["code"], answer["error"]["message"])
        result = answer["result"]
        if isinstance(result, dict) and "events" in result:
            result["events"] = wire.decode_events(result["events"], buffers)
        return result

    def number(self) -> str:
        """The next call's."""
        return f"{self._nonce}-{next(self._count)}"

    def open(self, attach: str | None = None, **fields: Any) -> dict[str, Any]:
        """Make or take up the session; what was not acknowledged comes first."""
        named = {"client": self.client, "client_id": self.client_id, "shell": "mini"}
        if attach is not None:
            named["attach"] = attach
        opened = dict(self.op("open", **{**named, **fields}))
        self.epoch, self.inbox = opened["epoch"], Inbox(opened["acknowledged"])
        return opened

    def submit(self, code: str, request: str | None = None) -> str:
        """Begin a cell; its id."""
        request = request or uuid.uuid4().hex
        self.op("submit", request={"kind": "execute", "id": request, "code": code, "allow_stdin": True})
        return request

    def poll(self, wait: float = 0.0, limit: int = 1 << 20) -> list[dict[str, Any]]:
        """What is new; it is acknowledged by the next one."""
        result = self.op("poll", epoch=self.epoch, ack=self.inbox.ack, wait=wait, limit=limit)
        fresh = self.inbox.feed(result["events"])
        self.events += fresh
        return fresh

    def wait_for(self, kind: str, request: str | None = None) -> dict[str, Any]:
        """Poll until an event of a type has come: that event."""

        def found() -> dict[str, Any] | None:
            for event in self.events:
                if event["type"] == kind and (request is None or event["request"] == request):
                    return event
            self.poll(wait=1.0)
            return None

        return dict(farside.wait_until(found, f"{kind} of {request}", 40))

    def run(self, code: str) -> str:
        """Run a cell to its end, which must be good: what it printed, and its value."""
        request = self.submit(code)
        reply = self.wait_for("execute_reply", request)["content"]
        assert reply["status"] == "ok", reply
        return self.output(request)

    def output(self, request: str) -> str:
        """Of a cell: its text, and its value."""
        mine = [e["content"] for e in self.events if e["request"] == request]
        return "".join(c["text"] for c in mine if "text" in c) + "".join(
            c["data"]["text/plain"] for c in mine if "data" in c
        )

    def listed(self) -> dict[str, Any] | None:
        """The session as ``sessions`` has it."""
        found = [one for one in self.op("sessions") if one["session"] == self.session]
        return dict(found[0]) if found else None

    def evaluate(self, expression: str) -> Any:
        """Flame's own ``evaluate``, on the same connection."""
        return self.link.call("evaluate", expression)

    def execute(self, code: str) -> None:
        """Flame's own ``execute``."""
        self.link.call("execute", code)

    def close(self) -> None:
        """The connection only."""
        self.link.close()


@contextmanager
def raw_agent(location: str, session: str = "bench", client: str = "tester", **more: Any) -> Iterator[RawAgent]:
    """A RawAgent whose connection ends here, and its session with it."""
    agent = RawAgent(location, session, client, **more)
    try:
        yield agent
    finally:
        with contextlib.suppress(FlameError):
            agent.op("close")
        agent.close()
