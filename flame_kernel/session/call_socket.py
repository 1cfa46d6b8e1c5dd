"""The socket of a call that a function of the far side has taken over: bytes both ways, until one side closes it."""

from __future__ import annotations

import select
import socket
import ssl
import time

from ..agent.wire import frames
from ..agent.wire import message as wire
from ..connect.connection import Connection
from ..errors import MAX_MESSAGE, AgentError, ConnectionLost, FlameError, SessionGone, UnsafeAnswer, cap
from ..terminal import plain_text
from .bootstrap import agent_name

# Seconds without a byte, either way, after which the connection is given up.
SILENCE = 60.0


class Wire:
    """The socket of a connection that was taken over. Raises ConnectionLost; then the connection's owner closes it.

    ``until`` (monotonic) is the deadline for everything; None: none, as long as bytes come.
    """

    def __init__(self, taken: socket.socket, location: str, until: float | None = None) -> None:
        self._socket = taken
        self._location = location
        self._until = until
        taken.settimeout(SILENCE)

    def __repr__(self) -> str:
        return f"<Wire to {self._location}>"

    @property
    def raw(self) -> socket.socket:
        """The socket itself, for non-blocking use."""
        return self._socket

    def send(self, data: memoryview) -> None:
        self._watch_the_clock()
        try:
            self._socket.sendall(data)
        except OSError as e:
            raise self._lost(e) from e

    def receive(self, view: memoryview) -> None:
        while view:
            self._watch_the_clock()
            try:
                count = self._socket.recv_into(view)
            except OSError as e:
                raise self._lost(e) from e
            if not count:
                raise ConnectionLost(self._location, "the server closed it")
            view = view[count:]

    def _watch_the_clock(self) -> None:
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise ConnectionLost(self._location, "its time is up")
            self._socket.settimeout(min(left, SILENCE))

    def _lost(self, error: OSError) -> ConnectionLost:
        if isinstance(error, TimeoutError) and error.errno is None:
            return ConnectionLost(self._location, f"nothing came for {self._socket.gettimeout():g} s")
        return ConnectionLost(self._location, (error.strerror or str(error)).lower())

    def is_readable(self) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        if not hasattr(select, "poll"):  # eventlet removes it
            return bool(select.select([self._socket], [], [], 0)[0])
        poll = select.poll()  # unlike select, for descriptors of any number
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))


def taken_over(connection: Connection, function: str, message: bytes, until: float | None = None) -> Wire:
    """Call the agent's ``function`` with ``message``; it takes over the connection, whose socket is returned.

    Raises what `refusal` returns for another answer, and what ``Connection.take_over`` raises.
    """
    taken = connection.take_over(f"{agent_name()}.{function}", message, frames.GREETING)
    if isinstance(taken, bytes):
        raise refusal(taken, connection.location)
    return Wire(taken, connection.location, until)


def refusal(answer: bytes, location: str) -> FlameError:
    """The error for ``answer`` of the agent: ConnectionLost if another attempt may work, SessionGone if the session is
    missing or has another owner, UnsafeAnswer if it is no error."""
    try:
        error = wire.decode(answer)[0]["error"]
        code, sentence = str(error["code"]), cap(plain_text(str(error["message"])[: 2 * MAX_MESSAGE]), MAX_MESSAGE)
    except (wire.WireError, ValueError, KeyError, TypeError) as e:
        return UnsafeAnswer(location, f"an answer that cannot be read ({type(e).__name__})")
    if code == "stale":  # the agent has forgotten this transfer, because there were many; a new one continues it
        return ConnectionLost(location, sentence)
    if code in ("no_session", "taken_over"):
        return SessionGone(location, sentence)
    return AgentError(code, sentence)
