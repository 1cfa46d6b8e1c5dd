"""A session is opened in two trips: what it begins with goes with the handshake, and its second line comes meanwhile.

A server that does not bear that is asked step by step.
"""

from __future__ import annotations

import contextlib
import marshal
import socket
import threading
from collections.abc import Callable

import evil
import pytest
from farside import FlameServer, wait_until
from hostile import OK, FakeAgent

import flame
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.location import Location
from flame_kernel.connect.target import Target
from flame_kernel.errors import CannotConnect
from flame_kernel.session import link
from flame_kernel.session.session import Session

_SESSIONS = "sum(len(m.sessions) for n, m in __import__('sys').modules.items() if n.endswith('.session.registry'))"


def session_at(agent: FakeAgent) -> contextlib.closing[Session]:
    return contextlib.closing(Session(agent.target(), lambda events: None))


class Patient(FakeAgent):
    """Answers a handshake when the call behind it is there, and ``open`` when there is a second connection."""

    def __init__(self) -> None:
        self.lines = 0
        self.two = threading.Event()
        super().__init__({"open": lambda agent, request: self.two.wait(20) and agent._open(request)})

    def serve(self, connection: socket.socket) -> None:
        self.lines += 1
        if self.lines == 2:
            self.two.set()
        elif self.lines == 1:
            wait_until(lambda: b"flame_agent_" in connection.recv(1 << 16, socket.MSG_PEEK), "a call")
        super().serve(connection)


def test_nothing_waits_that_need_not() -> None:
    with contextlib.closing(Patient()) as agent, session_at(agent) as session:
        assert session.execute("cell", "1").result(20) == OK
        assert agent.lines == 2
        assert [request["op"] for request in agent.requests].count("hello") == 1


class Strict(FakeAgent):
    """Does ``harm`` where something comes behind a handshake that is not answered yet."""

    def __init__(self, harm: str) -> None:
        self.how = harm
        self.met = 0
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        seq, _ = evil.read_message(connection)
        connection.settimeout(0.5)
        begun = b""
        with contextlib.suppress(TimeoutError):
            begun = connection.recv(1, socket.MSG_PEEK)
            self.met += bool(begun)
            if self.how == "closes":
                return
            evil.read_message(connection)  # … and forgets it
        connection.settimeout(None)
        connection.sendall(evil.message(evil.CONNECTOK, evil.HELLO, seq))
        if self.how == "closes later" and begun:
            return
        self.answer_calls(connection)


@pytest.mark.parametrize("how", ["closes", "closes later", "forgets"])
def test_a_server_that_does_not_bear_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SWALLOWED", 0.5)
    with contextlib.closing(Strict(how)) as agent, session_at(agent) as session:
        assert session.execute("cell", "1").result(20) == OK
        for line in session._link.lines:
            line.connection.abort()
        assert session.execute("again", "1").result(20) == OK
        assert agent.met == 1  # it is known then


def test_when_the_second_line_is_refused(flame_server: Callable[..., FlameServer]) -> None:
    """The session that was made is ended, and the reason told."""
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    target = Target(Location.parse(server.location), place="process")
    with contextlib.closing(Connection(target)) as other:
        with pytest.raises(CannotConnect) as raised:
            Session(target, lambda events: None)
        assert raised.value.cause == "pool_full"
        assert other.call("evaluate", _SESSIONS) == 0


def test_a_multiplex_server(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server(env={"PYRO_SERVERTYPE": "multiplex"}).location, place="process") as pi:
        assert pi.evaluate("1 + 1") == 2


class Refuses(evil.Server):
    """Refuses the first connection when there is a second one, which it takes."""

    def __init__(self) -> None:
        self.lines = 0
        self.closed = threading.Event()
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        self.lines += 1
        is_first = self.lines == 1
        seq, _ = evil.read_message(connection)
        if is_first:
            wait_until(lambda: self.lines == 2, "the second line")
            refusal = marshal.dumps("no free workers, increase server threadpool size")
            connection.sendall(evil.message(evil.CONNECTFAIL, refusal, seq, serializer=evil.MARSHAL))
        else:
            connection.sendall(evil.message(evil.CONNECTOK, evil.HELLO, seq))
            if not connection.recv(1):
                self.closed.set()


def test_the_second_line_of_what_is_refused_is_closed() -> None:
    with contextlib.closing(Refuses()) as server:
        with pytest.raises(CannotConnect, match="free connection"):
            Session(Target(Location.parse(server.location)), lambda events: None)
        assert server.closed.wait(20)
