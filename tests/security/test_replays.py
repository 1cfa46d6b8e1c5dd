"""What somebody in between can do on a plain link with a key: he may keep, repeat and swap messages, and write none."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import evil
import pytest
from farside import FlameServer, LiveApp, random_key
from recorder import Recorder, send_again

from flame_kernel.agent.wire import call_numbers
from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.keys import Secret
from flame_kernel.connect.target import Location, Target, Timeouts
from flame_kernel.errors import (
    AgentError,
    CannotConnect,
    ConnectionLost,
    FlameError,
    RemoteError,
    SessionGone,
    UnsafeAnswer,
)
from flame_kernel.security.reader import PLAIN_ANSWER
from flame_kernel.session.agent_client import AgentClient
from flame_kernel.session.bootstrap import agent_name
from flame_kernel.session.call_socket import taken_over
from flame_kernel.session.session import Session

PLACES = [("child", "thread"), ("process", "thread"), ("child", "multiplex"), ("process", "multiplex")]


@pytest.fixture(params=PLACES, ids="-".join)
def far(
    request: pytest.FixtureRequest, flame_server: Callable[..., FlameServer], live_app: Callable[..., LiveApp]
) -> Iterator[tuple[Target, Recorder]]:
    """A server with a key, and who listens before it."""
    place, servertype = request.param
    key = random_key()
    server = (flame_server if place == "child" else live_app)(key=key, servertype=servertype)
    with contextlib.closing(Recorder(server.location)) as recorder:
        yield Target(Location.parse(server.location), Secret(key.encode()), place=place), recorder


def through(target: Target, recorder: Recorder, **more: Any) -> Target:
    return Target(Location.parse(recorder.location), target.key, place=target.place, **more)


def living(target: Target) -> list[dict[str, Any]]:
    with contextlib.closing(AgentClient(target)) as client:
        return client.sessions()


def value(session: Session, expression: str) -> str:
    reply = session.execute(uuid.uuid4().hex, "", user_expressions={"v": expression}).result(20)
    return str(reply["user_expressions"]["v"]["data"]["text/plain"])


def replay(target: Target, recorder: Recorder) -> None:
    """All that was said, each connection again."""
    for sent in [bytes(sent) for sent in recorder.sent]:
        send_again(str(target.location), sent)


def test_nothing_that_acts_acts_again(far: tuple[Target, Recorder]) -> None:
    """Cells, debug requests, comms, questions, Stop, calls of the library: while the session lives, and after it."""
    target, recorder = far
    with contextlib.closing(Session(through(target, recorder, session="mine"), lambda events: None)) as session:
        count = "import builtins; builtins.ran = getattr(builtins, 'ran', 0) + 1"
        assert session.execute("one", count).result(20)["status"] == "ok"
        session.complete("two", "pri", 3).result(20)
        session.open_lane("side").result(20)
        session.comm("three", "comm_open", {"content": {"comm_id": "c", "target_name": "none", "data": {}}}).result(20)
        session.interrupt().result(20)
        session.ask("consent", id="1", allow=True).result(20)
        replay(target, recorder)
        assert value(session, "ran") == "1"
        assert session.gone is None
    assert living(target) == []
    replay(target, recorder)
    assert living(target) == []  # not even an empty session


def test_an_old_opening_takes_over_no_later_session(far: tuple[Target, Recorder]) -> None:
    """Nor does one that took by force, and no leaving, ending or answer of an earlier session reaches a later one."""
    target, recorder = far
    for attach in (None, "force"):
        with contextlib.closing(
            Session(through(target, recorder, session="same"), lambda e: None, attach=attach)
        ) as one:
            one.answer(1, "line").result(20)
            one.interrupt().result(20)
    with contextlib.closing(Session(through(target, recorder, session="same"), lambda events: None)) as one:
        one.detach()
    with contextlib.closing(AgentClient(target)) as client:
        assert client.kill("same")
    with contextlib.closing(Session(Target(target.location, target.key, session="same"), lambda e: None)) as later:
        later.execute("x", "x = 1").result(20)
        replay(target, recorder)
        assert value(later, "x") == "1"
        assert later.gone is None
        assert [one["attached"] for one in living(target)] == [True]


def test_a_kill_is_for_one_life(far: tuple[Target, Recorder]) -> None:
    """Of a session by whoever may use the server; of a later one of that name it says nothing."""
    target, recorder = far
    named = Target(target.location, target.key, session="train", place=target.place)
    with contextlib.closing(Session(named, lambda events: None)):
        listed = living(target)
        with contextlib.closing(AgentClient(through(target, recorder))) as client:
            assert client.end(listed[0])
            assert not client.end(listed[0])
    with contextlib.closing(Session(named, lambda events: None)) as later:
        replay(target, recorder)
        with contextlib.closing(AgentClient(target)) as client:
            assert not client.end(listed[0])
            for more in ({}, {"life": None}, {"life": "0" * 16}):
                with contextlib.suppress(AgentError):
                    assert client.ask("kill", session="train", **more) == {"closed": False}
            with pytest.raises(AgentError):
                client.ask("close", session="train")  # without an epoch
        assert value(later, "6 * 7") == "42"


def test_a_request_to_take_over_is_asked_once(flame_server: Callable[..., FlameServer]) -> None:
    key = random_key()
    target = Target(Location.parse(flame_server(key=key).location), Secret(key.encode()), session="asked")
    heard: list[dict[str, Any]] = []
    with (
        contextlib.closing(Recorder(str(target.location))) as recorder,
        contextlib.closing(Session(target, heard.extend)) as session,
    ):
        with contextlib.closing(AgentClient(through(target, recorder))) as client:
            asked = client.ask("ask", session="asked", client="ben", client_id="b")["asked"]
            assert session.ask("consent", id=asked, allow=False).result(20) == {"done": True}
            replay(target, recorder)
            assert client.ask("asked", session="asked", id=asked) == {"state": "refused"}
        session.execute("x", "").result(20)
        assert sum(event["type"] == "takeover_request" for event in heard) == 1


def test_an_act_needs_its_epoch_and_a_number_of_its_own(flame_server: Callable[..., FlameServer]) -> None:
    """By a client that has the key and sends what it likes: acts without them are refused, whatever they are."""
    key = random_key()
    target = Target(Location.parse(flame_server(key=key).location), Secret(key.encode()), session="s")
    acts: list[dict[str, Any]] = [
        {"op": "submit", "request": {"kind": "execute", "id": "i", "code": "ran = 1"}},
        {"op": "interrupt", "request": "i"},
        {"op": "answer", "input_id": 1, "value": "x"},
        {"op": "consent", "id": "1", "allow": True},
        {"op": "close"},
        {"op": "open", "attach": "force", "client": "c"},
        {"op": "ask", "client": "c", "client_id": "d"},
    ]
    with (
        contextlib.closing(Session(target, lambda events: None)) as session,
        contextlib.closing(Connection(target)) as connection,
    ):
        epoch, number = session._epoch, session._link.number()
        caller = number.rpartition("-")[0]

        def refused(act: dict[str, Any], **how: Any) -> str:
            message = wire.encode({**act, "session": "s", **how})
            answer = wire.decode(connection.invoke(f"{agent_name()}.{wire.HANDLE}", message))[0]
            return str(answer["error"]["code"])

        for act in acts:
            assert refused(act) in ("bad_request", "stale")
            assert refused(act, n="other-9999", epoch=epoch) == "stale"
            assert refused(act, n=f"{caller}-1", epoch=epoch) == "stale"  # used
            assert refused(act, n=f"{caller}-99999", epoch=epoch - 1) in ("taken_over", "stale")
            assert refused(act, n=f"{caller}-99999", epoch=None) in ("taken_over", "stale")
            assert refused(act, n=None, epoch=epoch, ticket="0" * 32) == "stale"
            assert refused(act, n=[1], epoch=epoch, ticket=["x"]) in ("stale", "failed")
        assert value(session, "'ran' in globals()") == "False"
        assert session.gone is None


def test_a_large_value_is_carried_once(flame_server: Callable[..., FlameServer]) -> None:
    """The call that lends its connection: again, in another order, of another epoch."""
    key = random_key()
    target = Target(Location.parse(flame_server(key=key).location), Secret(key.encode()), session="s")
    request = {"way": "put", "ticket": "t", "at": 0, "sizes": [10], "nonce": "00" * 32, "size": 10}

    def carry(message: bytes) -> None:
        with contextlib.closing(Connection(target)) as connection:
            taken_over(connection, wire.CARRY, message)

    with contextlib.closing(Session(target, lambda events: None)) as session:
        first, second = session.wire_message(request), session.wire_message(request)
        carry(second)
        carry(first)  # several threads carry values
        for message in (first, second):
            with pytest.raises(ConnectionLost, match="nothing was done"):
                carry(message)
        with contextlib.closing(Session(target, lambda events: None, attach="force")), pytest.raises(SessionGone):
            carry(session.wire_message(request))


def test_a_ticket_is_for_its_connection_and_for_once(flame_server: Callable[..., FlameServer]) -> None:
    key = random_key()
    target = Target(Location.parse(flame_server(key=key).location), Secret(key.encode()))
    with contextlib.closing(AgentClient(target)) as one, contextlib.closing(AgentClient(target)) as other:
        one.begin()
        asked: dict[str, Any] = {"session": "t", "client": "c", "client_id": "d", "shell": "mini"}
        ticket = one.ask("hello")["ticket"]
        for client, shown in ((other, ticket), (one, "x"), (one, ticket)):  # one try, whatever it was
            with pytest.raises(AgentError, match="say hello first"):
                client.ask("open", ticket=shown, **asked)
        ticket = one.ask("hello")["ticket"]
        assert one.ask("open", ticket=ticket, **asked)["fresh"]
        with pytest.raises(AgentError, match="say hello first"):
            one.ask("open", ticket=ticket, **asked)
        assert one.kill("t")


def test_call_numbers() -> None:
    strict, loose = call_numbers.Numbers("me", 5), call_numbers.Numbers("me", 5, apart=3)
    assert [strict.use(f"me-{n}") for n in (5, 6, 6, 9, 8, 10)] == [False, True, False, True, False, True]
    assert [loose.use(f"me-{n}") for n in (9, 8, 8, 7, 6, 10, 9)] == [True, True, False, True, False, True, False]
    for call in (None, 1, "", "me", "me-", "me--11", "you-11", "me-x", "me-1 1", "me-11\n", "me-" + "9" * 16, b"me-11"):
        assert not strict.use(call)
    for n in range(20, 2000):
        assert loose.use(f"me-{n}")
        assert not loose.use(f"me-{n}")
    assert len(loose._used) < 20


# -- answers -----------------------------------------------------------------------------------------------------------


class Swapper(evil.Server):
    """Passes messages on one by one; what is kept of the answers takes the place of others, while ``swap`` is set."""

    def __init__(self, location: str) -> None:
        host, _, port = location.rpartition(":")
        self._address = (host, int(port))
        self.kept: list[tuple[Any, bytes]] = []  # exceptions: the fields of the header, and what follows
        self.swap: Callable[[bytes], bool] = lambda request: False
        self.swapped = 0
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        with socket.create_connection(self._address, 10) as far, contextlib.suppress(OSError, EOFError):
            far.settimeout(20)
            while True:
                _, request = _message(connection, far)
                fields, body = _message(far, None)
                if fields[3] & 1:
                    self.kept.append((fields, body))
                elif self.kept and self.swap(request):
                    kept, body = self.kept[0]
                    fields = (*fields[:3], kept[3], fields[4], *kept[5:9], 0)
                    self.swapped += 1
                total = sum(fields[1:8]) + 0x34E9
                connection.sendall(evil.HEADER.pack(*fields[:9], total & 0xFFFF) + body)


def _message(source: socket.socket, sink: socket.socket | None) -> tuple[Any, bytes]:
    head = evil._exactly(source, evil.HEADER.size)
    fields = evil.HEADER.unpack(head)
    body = evil._exactly(source, fields[5] + fields[7])
    if sink is not None:
        sink.sendall(head + body)
    return fields, body


@pytest.fixture
def swapped(flame_server: Callable[..., FlameServer]) -> Iterator[tuple[Target, Swapper, Target]]:
    key = random_key()
    server = flame_server(key=key)
    secret = Secret(key.encode())
    with contextlib.closing(Swapper(server.location)) as swapper:
        where = Location.parse(swapper.location)
        yield (
            Target(where, secret, timeouts=Timeouts(call=20)),
            swapper,
            Target(Location.parse(server.location), secret),
        )


# Calls whose answers are exceptions that say nothing of the call: kept to be given for others.
EXCEPTIONS: dict[str, Callable[[Target], Any]] = {
    "no such module": lambda target: _raised(target, lambda c: c.invoke("no_such_module.handle", b"")),
    "our agent is not there": lambda target: _raised(target, lambda c: c.invoke(f"{agent_name()}.{wire.HANDLE}", b"")),
    "no such name": lambda target: _raised(target, lambda c: c.invoke("sys.no_such_name", b"")),
    "a wrong call": lambda target: _raised(target, lambda c: c.invoke("os.getpid", b"")),
    "of no pickle": lambda target: _raised(target, lambda c: c.invoke("sys._getframe")),
    "no such object": lambda target: _raised(target, lambda c: c.call("x"), "nobody"),
    "by Flame itself": lambda target: _raised(
        target, lambda c: c._call("evaluate", ("1/0",), 5, PLAIN_ANSWER, "evaluate")
    ),
}


def _raised(target: Target, call: Callable[[Connection], Any], name: str = "Pyro.Flame") -> None:
    with contextlib.closing(Connection(target, name=name)) as connection, contextlib.suppress(FlameError):
        call(connection)


@pytest.mark.parametrize("kind", EXCEPTIONS)
def test_an_exception_that_answers_another_call(kind: str, swapped: tuple[Target, Swapper, Target]) -> None:
    """It is no answer, whatever it says: what was done is not said to have failed, and nothing follows from it."""
    target, swapper, direct = swapped
    EXCEPTIONS[kind](target)
    assert swapper.kept
    with contextlib.closing(Connection(direct)) as connection:
        swapper.swap = lambda request: b"executed" in request
        with contextlib.closing(Connection(target)) as attacked, pytest.raises(UnsafeAnswer):
            attacked.call("execute", "__import__('builtins').executed = True")
        assert swapper.swapped == 1
        assert connection.call("evaluate", "executed")
    # A session, whose first call it answers, goes on or says that the link fails; it does not push, open or end.
    swapper.swap = lambda request: b"submit" in request and swapper.swapped < 2
    with contextlib.closing(Session(target, lambda events: None)) as session:
        assert session.execute("one", "1").result(20)["status"] == "ok"  # asked again, on a new connection
        assert swapper.swapped == 2


def test_what_is_missing_is_asked_once_more(swapped: tuple[Target, Swapper, Target]) -> None:
    """The honest ways: a server without our agent, an object that is not there, an error of Flame's own."""
    target, _, _ = swapped
    with contextlib.closing(Connection(target)) as connection:
        with pytest.raises(RemoteError) as caught:
            connection.invoke(f"{agent_name()}.{wire.HANDLE}", b"")
        assert caught.value.ename == "KeyError"
        with pytest.raises(RemoteError, match="ZeroDivisionError: division by zero") as caught:
            connection.call("evaluate", "1/0")
        assert "ZeroDivisionError" in caught.value.traceback
        assert connection.call("evaluate", "6 * 7") == 42
        with pytest.raises(UnsafeAnswer):
            connection.invoke("os.getpid", b"")
        assert not connection.is_open
    with contextlib.closing(Connection(target, name="nobody")) as connection, pytest.raises(CannotConnect) as missing:
        connection.call("x")
    assert missing.value.cause == "not_flame"


def test_a_link_that_lies_always(swapped: tuple[Target, Swapper, Target]) -> None:
    """Every answer but the handshake is an old exception: an error in the end, and no wait without one."""
    target, swapper, _ = swapped
    EXCEPTIONS["our agent is not there"](target)
    swapper.swap = lambda request: b"invoke" in request
    with pytest.raises(ConnectionLost):
        Session(target, lambda events: None)
    assert swapper.swapped
