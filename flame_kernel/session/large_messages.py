"""Messages larger than the server's PYRO_MAX_MESSAGE_SIZE: they cross in parts, see `agent/session/large_messages.py`.
The agent itself is pushed in parts, too."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

from ..agent.wire import message as wire
from ..connect.connection import Connection
from ..errors import CallTimeout, CannotConnect, ConnectionLost, UnsafeAnswer
from ..security.limits import MAX_ANSWER
from .bootstrap import agent_name
from .call_socket import refusal

# Bytes of a message that a server must take at least.
LEAST = 4 * wire.SPARE

_ASK_LIMIT = "__import__('Pyro4').config.MAX_MESSAGE_SIZE"


def check(most: object, location: str) -> int:
    """The largest message that a server says it takes; 0: no limit. Raises CannotConnect if that is too small to work
    with."""
    limit = most if type(most) is int else 0
    if 0 < limit < LEAST:
        raise CannotConnect(location, "message_size", f"{limit} bytes")
    return limit


def ask(connection: Connection, function: str, message: bytes, timeout: float | None = None) -> Callable[..., bytes]:
    """Begin a call of the agent's ``function``; the returned function waits for the answer, which may be ``large``."""
    most = connection.max_message
    if not most or len(message) + wire.SPARE <= most:
        return connection.ask(f"{agent_name()}.{function}", message, timeout=timeout)
    whole, size, at = memoryview(message), most - wire.SPARE, 0
    while True:
        piece = whole[at : at + size]
        last = at + len(piece) == len(whole)
        part = wire.encode({"of": function, "at": at, "last": last}, [piece])
        if last:
            return connection.ask(f"{agent_name()}.{wire.PART}", part, timeout=timeout)
        answer = connection.invoke(f"{agent_name()}.{wire.PART}", part, timeout=timeout)
        if answer:
            raise refusal(answer, connection.location)
        at += len(piece)


def rest(connection: Connection, size: object) -> bytes:
    """Fetch an answer of ``size`` bytes that the server could not send at once. Raises UnsafeAnswer if it has another
    size."""
    whole = bytearray()
    if type(size) is not int or not 0 < size <= MAX_ANSWER:
        raise _unsafe(connection, "an answer of a size that none has")
    while len(whole) < size:
        answer = connection.invoke(f"{agent_name()}.{wire.REST}", wire.encode({"at": len(whole)}))
        try:
            (piece,) = wire.decode(answer)[1]
        except (wire.WireError, ValueError) as e:
            connection.close()
            raise refusal(answer, connection.location) from e
        if not 0 < len(piece) <= size - len(whole):
            raise _unsafe(connection, "a part of an answer that does not fit")
        whole += piece
    return bytes(whole)


def _unsafe(connection: Connection, what: str) -> UnsafeAnswer:
    connection.close()
    return UnsafeAnswer(connection.location, what)


def execute(connection: Connection, source: str, again: Callable[[], Connection]) -> Connection:
    """Have Flame execute ``source``. Returns the connection to use from now on.

    If the server ends the connection, ``again`` makes another one, and the server is asked for its limit on messages;
    if ``source`` is larger, it is sent in parts.
    """
    try:
        connection.call("execute", source)
        return connection
    except ConnectionLost as e:
        if isinstance(e, (CallTimeout, UnsafeAnswer)):
            raise
        fresh = again()
        try:
            most = check(fresh.call("evaluate", _ASK_LIMIT), fresh.location)
            if not 0 < most < len(source) + wire.SPARE:
                raise
            for step in _steps(source, most - wire.SPARE):
                fresh.call("execute", step)
        except BaseException:  # raised again, whatever it is; the connection is closed
            fresh.close()
            raise
        return fresh


def _steps(source: str, size: int) -> Iterator[str]:
    """Statements of about ``size`` characters that together execute ``source``; the last one leaves nothing."""
    modules, name = "__import__('sys').modules", f"{agent_name()}.{uuid.uuid4().hex}"
    yield f"{modules}[{name!r}] = []"
    for at in range(0, len(source), size // 2):  # quotes and backslashes count twice
        yield f"{modules}[{name!r}].append({source[at : at + size // 2]!r})"
    yield f"exec(''.join({modules}.pop({name!r})))"
