"""FarFiles: requests about the far side's files, on a connection of their own that a function there has taken over.

Requests are sent without waiting for earlier answers, so small files do not cost a round trip each.
On a multiplex server such a function would block everybody else, so there the same requests are sent in short calls.
If the server has no thread for another connection, or for a few small files, they are sent in calls on the session's
own connection.
`agent/remote/files.py` lists the requests and answers.
"""

from __future__ import annotations

import collections
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError
from typing import Any

from ..agent.wire import frames
from ..agent.wire import message as wire
from ..agent.wire.files import file_names
from ..connect.connection import Connection
from ..errors import (
    MAX_MESSAGE,
    MAX_NAME,
    AgentError,
    CannotConnect,
    ConnectionLost,
    FlameError,
    RemoteError,
    SessionGone,
    TransferError,
    UnsafeAnswer,
    cap,
)
from ..security import answers
from ..session import large_messages
from ..session.call_socket import refusal, taken_over
from ..session.session import Session

# Most bytes of a file in one call on a multiplex server, which serves nobody else meanwhile.
BURST = 2 << 20
# Most characters of requests in one frame; with JSON's escapes they take up to twelve times as many bytes.
_MAX_TEXT = 80_000
# Most bytes, and most files, of a transfer that needs no connection of its own.
SMALL, FEW = 64 << 10, 16
# Seconds that the session's own connection may take to bring an answer.
_PATIENCE = 60.0

Message = dict[str, Any]
# Conversations on a session's own connection that have ended well, each with the number of its next call. They are used
# again, because beginning one takes a round trip.
_kept: weakref.WeakKeyDictionary[Session, list[tuple[str, int]]] = weakref.WeakKeyDictionary()
# Called with each frame of an answer: its kind, and a dict, a memoryview, or a number of zeros.
Handler = Callable[[int, Any], None]


class SlowFiles(ConnectionLost):
    """Files there do not answer soon, so they get a connection of their own: others must not wait for them."""


class FarFiles:
    """The far side's file functions for ``session``; for one thread, and for one connection's life.

    calls  whether requests are sent in calls, and no connection is taken over
    own    whether it has its own connection; otherwise it uses the session's
    soon   whether the far side is to refuse what takes long

    Raises what `Connection` raises; ConnectionLost if the connection breaks later; SessionGone if the session has
    ended, or belongs to another client now.
    """

    def __init__(self, session: Session, *, calls: bool = False, own: bool = True, soon: bool = False) -> None:
        self.calls = calls
        self._soon = soon
        self._session = session
        self._talk, self._number = "", 1  # the conversation, and the number of its next call
        if calls:
            kept = [] if own else _kept.setdefault(session, [])
            self._talk, self._number = kept.pop() if kept else (_talk(session), 1)
        self._is_kept = calls and not own  # whether the conversation may go on later
        self._pending: collections.deque[tuple[str, Handler]] = collections.deque()  # the op, and what takes the answer
        self._out = frames.Box()
        self._in = frames.Box()
        self.location = session.location
        self._connection = Connection(session.target) if own else None
        try:
            if self._connection is not None:
                self._connection.pickle_protocol = 4
                self._connection.max_message = session.max_message
            if self._connection is None or self.calls:
                key = frames.call_key(self._talk, self._number)  # Pyro signs these calls itself
                self.frames = frames.Frames(self._out.send, self._in.receive, key, b"client")
            else:
                secret = session.target.key.reveal() if session.target.key is not None else None
                ours = os.urandom(frames.NONCE)
                request = session.wire_message({"nonce": ours.hex(), "hash": session.hash})
                try:
                    self._wire = taken_over(self._connection, wire.TAKE_FILES, request)
                except RemoteError as e:
                    raise self._gone(e) from None
                theirs = bytearray(frames.NONCE)
                self._wire.receive(memoryview(theirs))
                key = frames.connection_key(secret, ours, bytes(theirs))
                self.frames = frames.Frames(self._wire.send, self._wire.receive, key, b"client", session.hash)
        except BaseException:  # raised again, whatever it is; the connection is closed
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<FarFiles {self.location}, {len(self._pending)} answers to come>"

    def close(self) -> None:
        """Close the connection. The current file ends there; its part is kept if it is worth resuming."""
        if self._connection is not None:
            self._connection.close()
        if self._is_kept:
            self._is_kept = False
            _kept.setdefault(self._session, []).append((self._talk, self._number))
        self._pending.clear()

    def _gone(self, error: RemoteError) -> FlameError:
        """The error for a server without our agent: it is not the session's server any more."""
        return SessionGone(self.location, "the server was restarted") if error.ename == "KeyError" else error

    # -- requests

    def ask(self, request: Message, handler: Handler) -> None:
        """Send a request; ``handler`` is called with the frames of its answer, within this or a later call of ours."""
        if self.calls and len(self._out.sent) > BURST:
            self.wait()
        self.look()  # otherwise many requests without reading answers would make both sides wait for each other
        self._pending.append((str(request.get("op")), handler))
        self.frames.send_control(request)

    def ask_all(self, requests: Sequence[tuple[Message, Handler]]) -> None:
        """Send several requests in as few frames as possible, and wait for all answers."""
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
        """Send the frame that completes the last request; the answer comes to that request."""
        self.frames.send_control(request)

    def wait(self) -> None:
        """Wait until everything is answered."""
        while self._pending:
            self._take()

    def look(self) -> None:
        """Handle the answers that have come, without waiting."""
        while not self.calls and self._pending and self._wire.is_readable():
            self._take()

    def request(self, /, **request: Any) -> Message:
        """Send one request, after all earlier ones, and return its answer; TransferError if that is an error."""
        found: list[Message] = []

        def keep(kind: int, payload: Any) -> None:
            if kind == frames.CONTROL and not payload.get("more"):
                found.append(payload)

        self.ask(request, keep)
        self.wait()
        if "error" in found[0]:
            sentence, code = error_in(found[0])
            if request["op"] in ("where", "find"):  # then the sentence has no name in it
                name = file_names.shown(request["path"] if request["op"] == "where" else request["sources"][0])
                sentence = f"'{cap(name, MAX_NAME)}' on {self.location}: {sentence}"
            raise TransferError(sentence, code)
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
        """Send the collected requests, and handle the answers."""
        if not self._out.sent:
            self.close()
            raise UnsafeAnswer(self.location, "no answer to what was asked")
        number, self._number = self._number, self._number + 1
        data, asked = bytes(self._out.sent), {"talk": self._talk, "number": number}
        self._out.sent.clear()
        self.frames.restart(frames.call_key(self._talk, number), frames.call_key(self._talk, number + 1))
        if self._connection is None:
            was, self._is_kept = self._is_kept, False  # without its answer nobody knows which number is the next
            self._in.refill(self._by_session(asked, data))
            self._is_kept = was
            return
        try:
            message = self._session.wire_message(asked, [data])
            answer = large_messages.ask(self._connection, wire.CALL_FILES, message)()
        except RemoteError as e:
            raise self._gone(e) from None
        self._in.refill(self._answered(self._connection, answer))

    def _answered(self, connection: Connection, answer: bytes) -> memoryview:
        """The frames in the answer to a call."""
        try:
            said, found = wire.decode(answer)
            if "large" in said:
                found = wire.decode(large_messages.rest(connection, said["large"]))[1]
            (one,) = found
            return memoryview(one)
        except (wire.WireError, ValueError) as e:  # no frames, but an error
            self.close()
            raise refusal(answer, self.location) from e

    def _by_session(self, asked: Message, data: bytes) -> memoryview:
        """The same, on the session's own connection."""
        try:
            (found,) = self._session.ask("call_files", [data], soon=self._soon, **asked).result(_PATIENCE)["buffers"]
        except TimeoutError:
            raise ConnectionLost(self.location, f"nothing came for {_PATIENCE:g} s") from None
        except AgentError as e:
            if e.code == "slow":
                raise SlowFiles(self.location, e.message) from e
            if e.code == "stale":  # it was done before a cut, and its answer is lost: continue in a new conversation
                raise ConnectionLost(self.location, e.message) from e
            raise
        except (KeyError, ValueError) as e:
            raise UnsafeAnswer(self.location, "an answer that is not a message") from e
        return memoryview(found)


def far_files(session: Session, *, small: bool = False) -> FarFiles:
    """Make FarFiles of the kind that suits the server; ``small``: for requests that are small and quick there."""
    if small:
        return FarFiles(session, calls=True, own=False, soon=True)
    if session.server.get("servertype") == "multiplex":
        return FarFiles(session, calls=True)
    try:
        return FarFiles(session)
    except CannotConnect as e:
        if e.cause != "pool_full":
            raise
    return FarFiles(session, calls=True, own=False)


def is_little(sources: Sequence[tuple[str, int]]) -> bool:
    """Whether what is copied, of these kinds and sizes, needs no connection of its own."""
    few = len(sources) <= FEW and all(kind == "file" for kind, _ in sources)
    return few and sum(size for _, size in sources) <= SMALL


def _talk(session: Session) -> str:
    """Begin a conversation about files by calls; returns the agent's name for it."""
    try:
        answer = session.ask("files").result(_PATIENCE)
    except TimeoutError:
        raise ConnectionLost(session.location, f"nothing came for {_PATIENCE:g} s") from None
    talk = answer.get("talk") if isinstance(answer, dict) else None
    if not isinstance(talk, str) or len(talk) > MAX_NAME:
        raise UnsafeAnswer(session.location, "a conversation without a name")
    return talk


def error_in(answer: Message) -> tuple[str, str]:
    """The sentence and the code of an error answer, short enough to be shown."""
    sentence = cap(file_names.shown(str(answer.get("error"))[: 2 * MAX_MESSAGE]), MAX_MESSAGE)
    return sentence, cap(file_names.shown(str(answer.get("code") or "")[: 2 * MAX_NAME]), MAX_NAME)
