"""FarFiles: the far side's files, asked over a connection of their own that the far side's function has taken over.

Requests go out without waiting for the answers of those before, so a folder of small files costs no round trip each.
On a multiplex server, where a function that stays would stop everybody else, the same requests go by short calls.
What is asked and answered is listed in `agent/remote/files.py`.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..agent.wire import frames, trees
from ..agent.wire import message as wire
from ..connect.connection import Connection
from ..connect.target import Target
from ..errors import (
    MAX_MESSAGE,
    MAX_NAME,
    FlameError,
    RemoteError,
    SessionGone,
    TransferError,
    UnsafeAnswer,
    cap,
)
from ..security import answers
from ..session.bootstrap import agent_name
from ..session.taken_over import refusal, taken_over

# Bytes of a file in one call on a multiplex server, which serves nobody else meanwhile.
BURST = 2 << 20
# About how many characters of requests go into one frame; escapes make up to twelve times as many bytes of them.
_MAX_TEXT = 80_000

Message = dict[str, Any]
# Called with each frame of an answer: its kind, and a dict, a memoryview, or a number of zeros.
Handler = Callable[[int, Any], None]


class FarFiles:
    """The far side's file functions at ``target``; for one thread, and for one connection's life.

    message  makes a request of the session's owner of a dict and buffers: it names the session and the epoch
    talk     on a multiplex server the name of a conversation, which the agent gave: no connection is taken over

    Raises what `transport.Connection` raises; where the connection breaks later, ConnectionLost; SessionGone where the
    session has ended there, or is another client's by now.
    """

    def __init__(self, target: Target, message: Callable[..., bytes], talk: str | None = None) -> None:
        self.calls = talk is not None
        self._message = message
        self._talk = talk or ""
        self._number = 1  # of the next call
        self._pending: collections.deque[tuple[str, Handler]] = collections.deque()  # of which op, and who takes it
        self._out = frames.Box()
        self._in = frames.Box()
        self._connection = Connection(target)
        self.location = self._connection.location
        try:
            self._connection.pickle_protocol = 4
            secret = target.key.reveal() if target.key is not None else None
            if self.calls:
                key = frames.call_key(self._talk, self._number)  # Pyro signs these calls itself
                self.frames = frames.Frames(self._out.send, self._in.receive, key, b"client")
            else:
                ours = os.urandom(frames.NONCE)
                request = self._message({"nonce": ours.hex()})
                try:
                    self._wire = taken_over(self._connection, wire.TAKE_FILES, request)
                except RemoteError as e:
                    raise self._gone(e) from None
                theirs = bytearray(frames.NONCE)
                self._wire.receive(memoryview(theirs))
                key = frames.connection_key(secret, ours, bytes(theirs))
                self.frames = frames.Frames(self._wire.send, self._wire.receive, key, b"client")
        except BaseException:  # goes on, whatever it is; the connection is closed
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<FarFiles {self.location}, {len(self._pending)} answers to come>"

    def close(self) -> None:
        """Close the connection. What is under way there ends: a part that is worth it stays."""
        self._connection.close()
        self._pending.clear()

    def _gone(self, error: RemoteError) -> FlameError:
        """The error of a server without our agent: it is another one than the session's."""
        return SessionGone(self.location, "the server was restarted") if error.ename == "KeyError" else error

    # -- requests

    def ask(self, request: Message, handler: Handler) -> None:
        """Send a request; ``handler`` is called with the frames of its answer, within this or a later call of ours."""
        if self.calls and len(self._out.sent) > BURST:
            self.wait()
        self.look()  # or one who asks much and never listens would have both sides wait for the other to listen
        self._pending.append((str(request.get("op")), handler))
        self.frames.send_control(request)

    def ask_all(self, requests: Sequence[tuple[Message, Handler]]) -> None:
        """Several requests, in as few frames as hold them; until all is answered."""
        batch: list[Message] = []
        size = 0
        for request, handler in requests:
            if batch and size + len(str(request)) > _MAX_TEXT:
                self.frames.send_control({"op": "all", "requests": batch})
                self.wait()
                batch, size = [], 0
            self._pending.append((str(request.get("op")), handler))
            batch.append(request)
            size += len(str(request))
        if batch:
            self.frames.send_control({"op": "all", "requests": batch})
        self.wait()

    def tell(self, request: Message) -> None:
        """Send what ends the request before; it has the answer."""
        self.frames.send_control(request)

    def wait(self) -> None:
        """Until all is answered."""
        while self._pending:
            self._take()

    def look(self) -> None:
        """Take what answers have come, without waiting."""
        while not self.calls and self._pending and self._wire.is_readable():
            self._take()

    def request(self, /, **request: Any) -> Message:
        """One request and its answer, behind all that were asked before; TransferError where it is an error."""
        found: list[Message] = []

        def keep(kind: int, payload: Any) -> None:
            if kind == frames.CONTROL and not payload.get("more"):
                found.append(payload)

        self.ask(request, keep)
        self.wait()
        if "error" in found[0]:
            raise TransferError(*error_in(found[0]))
        return found[0]

    def _take(self) -> None:
        if self.calls and self._in.empty:
            self._call()
        try:
            kind, payload = self.frames.receive()
        except frames.Damaged as e:
            self.close()
            raise UnsafeAnswer(self.location, str(e)) from e
        op, handler = self._pending[0]
        if kind == frames.CONTROL:
            try:
                answers.files(op, payload, self.location)
            except UnsafeAnswer:
                self.close()
                raise
            if not payload.get("more"):
                self._pending.popleft()
        handler(kind, payload)

    # -- by calls

    def _call(self) -> None:
        """Send what has gathered, and have the answers."""
        if not self._out.sent:
            self.close()
            raise UnsafeAnswer(self.location, "no answer to what was asked")
        number, self._number = self._number, self._number + 1
        data = self._message({"talk": self._talk, "number": number}, [self._out.sent])
        self._out.sent.clear()
        self.frames.restart(frames.call_key(self._talk, number), frames.call_key(self._talk, number + 1))
        try:
            answer = self._connection.invoke(f"{agent_name()}.{wire.CALL_FILES}", data)
        except RemoteError as e:
            raise self._gone(e) from None
        self._in.refill(self._answered(answer))

    def _answered(self, answer: bytes) -> memoryview:
        """The frames in the answer to a call."""
        try:
            (found,) = wire.decode(answer)[1]
            return memoryview(found)
        except (wire.WireError, ValueError) as e:  # no frames: it says why
            self.close()
            raise refusal(answer, self.location) from e


def error_in(answer: Message) -> tuple[str, str]:
    """The sentence and the code of an answer that is an error, at a length that can be shown."""
    sentence = cap(trees.shown(str(answer.get("error"))[: 2 * MAX_MESSAGE]), MAX_MESSAGE)
    return sentence, cap(trees.shown(str(answer.get("code") or "")[: 2 * MAX_NAME]), MAX_NAME)
