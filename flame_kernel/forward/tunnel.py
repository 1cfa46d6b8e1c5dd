"""Tunnel: the connection for a session's forwards. It is made again after an outage, and its streams go on.

It has two threads: one runs the pump (see `agent/forward/pump.py`); the other exists only while the connection is down,
to make it again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import Any

from ..agent.forward import channels
from ..agent.forward.listeners import Listener
from ..agent.forward.pump import Pump
from ..agent.forward.streams import Refused
from ..agent.wire import frames
from ..agent.wire.message import FORWARD
from ..connect.connection import Connection
from ..errors import MAX_MESSAGE, CannotConnect, ConnectionLost, FlameError, RemoteError, SessionGone, UnsafeAnswer, cap
from ..session.call_socket import taken_over
from ..session.session import Session
from ..terminal import one_line

# Seconds between two attempts to connect again, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
# Seconds that the far side may take to open a listener.
PATIENCE = 30.0
_COUNT = struct.Struct(">Q")

# Where something listens, or where connections lead: host and port, or the path of a unix socket.
Address = tuple[str, int] | str


class Tunnel:
    """The streams between both sides of ``session``. Connects when it is made; raises CannotConnect, SessionGone.

    on_refused  called with the listener and a sentence when a connection cannot be carried
    on_end      called with the reason when the tunnel has ended by itself
    """

    def __init__(
        self, session: Session, on_refused: Callable[[Listener, str], None], on_end: Callable[[FlameError], None]
    ) -> None:
        self._session = session
        self._name = uuid.uuid4().hex
        self._on_end = on_end
        self._closing = threading.Event()
        self._connection: Connection | None = None
        self._leads: dict[int, Address] = {}  # listeners of the far side, and where they lead here
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self.cuts = 0
        self._pump = Pump(channels.CLIENT, _start, self._where)
        self._pump.on = {channels.LISTENING: self._listening, channels.BYE: self._bye}
        self._pump.streams.on_refused = lambda listener, why: on_refused(listener, _said(why))
        try:
            self._attach(*self._dial())
        except BaseException:  # raised again, whatever it is; nothing stays open
            self._pump.close()
            self._leave()
            raise
        self._thread = threading.Thread(target=self._run, name="flame-forward", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Tunnel to {self._session.location} {self._pump!r}>"

    @property
    def is_up(self) -> bool:
        return bool(self._pump.is_up)

    @property
    def is_closed(self) -> bool:
        return bool(self._pump.closed)

    @property
    def traffic(self) -> tuple[int, int]:
        """The bytes of frames that have come from the far side, and that were made for it."""
        return self._pump.channels.received, self._pump.channels.made

    # -- the connection

    def _dial(self) -> tuple[Connection, socket.socket, Any, Any, int]:
        """A connection that the far side has taken over for the tunnel, its seals, and how much the far side has
        received."""
        target, received, ours = self._session.target, self._pump.channels.received, os.urandom(frames.NONCE)
        request = {"tunnel": self._name, "received": received, "nonce": ours.hex()}
        request["hash"] = self._session.hash
        connection = Connection(target)
        try:
            connection.pickle_protocol = 4
            try:
                wire = taken_over(connection, FORWARD, self._session.wire_message(request))
            except RemoteError as e:
                if e.ename == "KeyError":  # the server lacks our agent
                    raise SessionGone(connection.location, "the server was restarted") from None
                raise
            answer = bytearray(frames.NONCE + _COUNT.size)
            wire.receive(memoryview(answer))
            theirs, (got,) = bytes(answer[: frames.NONCE]), _COUNT.unpack(answer[frames.NONCE :])
            secret = target.key.reveal() if target.key is not None else None
            out, back = channels.both_seals(self._session.hash, secret, ours, theirs, received, got)
            return connection, wire.raw, out, back, got
        except BaseException:  # raised again, whatever it is; the connection is closed
            connection.close()
            raise

    def _attach(self, connection: Connection, link: socket.socket, out: Any, back: Any, received: int) -> None:
        """Go on over this connection. Call it on the pump's thread, or before that runs. Raises UnsafeAnswer."""
        self._connection = connection
        try:
            self._pump.attach(link, out, back, received)
        except channels.Damaged as e:
            raise UnsafeAnswer(self._session.location, f"a tunnel that cannot go on: {e}") from e

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _run(self) -> None:
        error: FlameError | None = None
        while not self._pump.closed:
            try:
                self._pump.run(lambda: True)
            except channels.Damaged as e:
                if not isinstance(e, channels.Tampered):
                    error = UnsafeAnswer(self._session.location, str(e))
            except FlameError as e:
                error = e
            except (OSError, EOFError):
                pass  # the connection broke: a new one will be made
            except BaseException as e:  # a bug of ours: reported like an outage that does not end
                error = FlameError(f"the forwards to {self._session.location} have failed here: {e!r}")
            self._leave()
            if error is not None:
                self._end(error)
            if self.is_closed:
                break
            self.cuts += 1
            _start("dial", self._dial_again)

    def _dial_again(self) -> None:
        """Runs on its own thread, until there is a connection, or none is possible any more."""
        pause = FIRST_PAUSE
        while not self._closing.wait(pause):
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                dialled = self._dial()
            except (CannotConnect, ConnectionLost):
                gone = self._session.gone
                if gone is None:
                    continue
                error: FlameError = gone
            except FlameError as e:
                error = self._session.gone or e  # the session may have a better reason
            else:
                if not self._pump.call(functools.partial(self._attach, *dialled)):
                    dialled[0].close()
                return
            self._pump.call(functools.partial(self._end, error))
            return

    def _end(self, error: FlameError) -> None:
        """End the tunnel; runs on the pump's thread."""
        self._closing.set()
        self._pump.close()
        self._leave()
        for waiting in self._waiting.values():
            waiting.set_exception(error)
        self._waiting.clear()
        self._on_end(error)

    def _bye(self, number: int, payload: Any) -> None:
        self._end(SessionGone(self._session.location, "the server has ended the forwards"))

    def close(self) -> None:
        """End all streams and listeners, on both sides. May be called again."""
        self._closing.set()

        def leave() -> None:
            self._pump.channels.bye()
            self._pump.flush()
            self._pump.close()

        self._pump.call(leave)
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)

    # -- listeners

    def listen_here(self, listener: Listener) -> int:
        """Carry this listener's connections to the far side; returns the number to close it by."""
        number: int = -listener.sock.fileno()
        self._do(lambda: self._pump.streams.listen(number, listener))
        return number

    def listen_there(self, at: Address, to: Address) -> tuple[int, int | None]:
        """Make the far side listen at ``at``, and carry its connections to ``to`` here; returns its number and port."""
        waiting: Future[dict[str, Any]] = Future()

        def ask() -> int:
            made: int = self._pump.channels.listen(as_wire(at))
            self._waiting[made] = waiting
            self._leads[made] = to
            return made

        number: int = self._do(ask)
        try:
            answer = waiting.result(PATIENCE)
        except TimeoutError:
            self.unlisten(number)
            raise ConnectionLost(self._session.location, f"no answer within {PATIENCE:g} s") from None
        if "error" in answer:
            self._leads.pop(number, None)
            raise FlameError(_said(answer["error"]))
        port = answer.get("port")
        if not isinstance(port, int) and not isinstance(at, str):
            raise UnsafeAnswer(self._session.location, "a listener without a port")
        return number, port if isinstance(port, int) else None

    def unlisten(self, number: int) -> None:
        """Close a listener of either side, with its connections."""

        def close() -> None:
            if number < 0:
                self._pump.streams.unlisten(number, abrupt=True)
            elif self._leads.pop(number, None) is not None:
                self._waiting.pop(number, None)
                self._pump.channels.unlisten(number)

        with contextlib.suppress(FlameError):  # the tunnel has ended, and the listener with it
            self._do(close)

    def _listening(self, number: int, answer: dict[str, Any]) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.set_result(answer)

    def _where(self, what: dict[str, Any]) -> Address:
        """Where a connection of a listener there leads: only to the address here that the user named for it."""
        listener = what.get("listener")
        to = self._leads.get(listener) if isinstance(listener, int) else None
        if to is None:
            raise Refused("nothing is forwarded from there")
        return to

    def _do(self, job: Callable[[], Any]) -> Any:
        """Run it on the pump's thread; returns its result. Raises FlameError if the tunnel has ended."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(job())
            except BaseException as e:  # raised where the result is awaited
                done.set_exception(e)

        ended = FlameError(f"the forwards to {self._session.location} have ended")
        if not self._pump.call(run):
            raise ended
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return done.result(0.5)
            except TimeoutError:
                if self._pump.closed or time.monotonic() > deadline:
                    raise ended from None


def as_wire(address: Address) -> dict[str, Any]:
    """An address as it is sent."""
    return {"path": address} if isinstance(address, str) else {"host": address[0], "port": address[1]}


def _start(name: str, work: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=work, args=args, name=f"flame-{name}", daemon=True).start()


def _said(text: object) -> str:
    """The far side's text, short enough to be shown."""
    return cap(one_line(str(text)[: 2 * MAX_MESSAGE]), 300)
