"""One connection to a Flame server. It speaks Pyro4's wire protocol, but does not use Pyro4's code to read answers.

Pyro's Proxy unpickles whatever a server sends, even in the handshake.  So only the header's format and numbers are
taken from Pyro.  Receiving is our own: a whole call has one deadline, `pyro_message.py` reads messages and checks their
signatures, and the inert reader of `security/reader.py` reads their content.
Pyro's process-wide ``config`` is not touched.

Requests are pickles of plain built-ins at protocol 2, which every server accepts.  Each carries a random CORR
annotation.  The server repeats it in its result, and the signature covers it: that shows that the result answers this
call and is not a replay.  Exceptions come without it, so with a key no exception is believed as it comes.  What
Flame's own methods raise is caught on the server and sent as a result (``_CAUGHT``).  If an exception says that
something is missing, a second question checks that.  Any other exception is refused.

Errors of Pyro and of the system are mapped to ours in this file only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from Pyro4 import constants, message

from ..errors import MAX_MESSAGE as MAX_WORDS
from ..errors import (
    MAX_NAME,
    MAX_TRACEBACK,
    CallTimeout,
    CannotConnect,
    ConnectionLost,
    FlameError,
    RemoteError,
    UnsafeAnswer,
    cap,
)
from ..security import reader
from . import other_servers, pyro_message, tls
from .dial import UNIX, Way
from .pyro_message import HEADER, Answer, Channel, Reset, TimeUp
from .serializers import PICKLE, Serializer
from .target import Target

_MAX_REQUEST = 0x7FFFFFFF  # bytes; the most that Pyro's header can state

_MARSHAL = 3  # the serializer that Pyro uses when it refuses a connection
_KNOWN_FLAGS = message.FLAGS_EXCEPTION | message.FLAGS_COMPRESSED | message.FLAGS_ITEMSTREAMRESULT
UNCLEAR = "an exception that does not say which call it answers"

# Runs on the server: calls a method of Flame's object and turns what it raises into a value. The outcome is a pickled
# (True, result) or (False, name, text, traceback); pickling may fail, too. Two frames up is ``invokeBuiltin``, a method
# of that object. Runs on every Python that has Pyro4.
_CAUGHT = """
import pickle, sys, traceback
try:
    outcome = (True, getattr(sys._getframe(2).f_locals["self"], method)(*args))
    outcome = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
except Exception:  # whatever that method, or pickling what it returns, raises
    raised = sys.exc_info()
    texts = raised[0].__name__, str(raised[1]), "".join(traceback.format_exception(*raised))
    outcome = (False,) + tuple(t if isinstance(t, type(u"")) else t.decode("utf-8", "replace") for t in texts)
    outcome = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    del raised
"""
_OUTCOME = "eval(compile(source, '<call>', 'exec'), space) or space['outcome']"
# Runs on the server: whether the function with this dotted name exists.
_FOUND = (
    "__import__('functools').reduce(lambda found, name: getattr(found, name, None), {names!r}, "
    "__import__('sys').modules.get({module!r})) is not None"
)

# If we connect to an HTTP or SMTP server by mistake, it answers only after an end of line. So the handshake contains
# one; otherwise we would wait until the deadline and could not say what it is. Flame servers ignore this note.
_NOTE = "\r\n\r\n"


class _Asked(NamedTuple):
    """A call whose answer has not been read yet; ``seconds`` is how long to wait for it."""

    what: str
    data: bytes
    mark: bytes
    seq: int
    seconds: float
    dotted: str | None  # the name of the called function, if it is called by its dotted name


class _ClosedByFailure:
    """A context: closes the connection if the call in it fails, also by KeyboardInterrupt.

    Otherwise its answer could still come and be taken for the answer to the next call.
    """

    __slots__ = ("_asked", "_connection")

    def __init__(self, connection: Connection, asked: _Asked) -> None:
        self._connection, self._asked = connection, asked

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        connection, asked = self._connection, self._asked
        try:
            if isinstance(error, TimeUp):
                raise CallTimeout(connection.location, asked.what, asked.seconds) from None
            if isinstance(error, Reset):
                why = "the call was aborted" if connection._state == "aborted" else str(error)
                raise ConnectionLost(connection.location, why) from error.__cause__
            if isinstance(error, UnsafeAnswer):
                raise UnsafeAnswer(connection.location, error.detail) from None
        finally:
            connection.close()


class Connection:
    """An open connection to a Flame server. The constructor connects, or raises CannotConnect or TargetError.

    One thread at a time may use it; only ``abort`` may be called from another.  A call that fails with anything but
    RemoteError closes the connection, because bytes that come later could not be matched to a call.

    ``pickle_protocol`` is used for requests.  It starts at 2, which all servers read.  Set it to 4 once the server is
    known to run Python 3.4 or newer; then large bytes are sent as they are instead of as text.  ``max_message`` is the
    server's PYRO_MAX_MESSAGE_SIZE, 0 for no limit; callers split larger requests into parts.

    A daemon may have other objects than Flame's: ``name`` is the object to call, and ``serializer`` what it reads.

    ``first`` is a call, as for ``ask``, sent before the handshake is answered; ``hear_first`` waits for its answer.  If
    connecting then fails as ``closed``, connecting without ``first`` may tell why.
    ``on_dialled`` is called before the handshake.
    """

    def __init__(
        self,
        target: Target,
        *,
        name: str = constants.FLAME_NAME,
        serializer: Serializer = PICKLE,
        first: tuple[str, bytes] | None = None,
        on_dialled: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._name = name
        self._serializer = serializer
        self.timeouts = target.timeouts
        self.pickle_protocol = 2
        self.max_message = 0
        self.calls = 0
        self._key = target.key.reveal() if target.key else None
        self._state = "connecting"
        self._lock = threading.Lock()  # so that abort() cannot shut down a descriptor that close() has just closed
        self._way = Way(target)
        self.location = self._way.location
        self._channel = Channel(self._way.socket, self._key, serializer.number)
        self.hear_first: Callable[..., bytes] | None = None
        try:
            on_dialled()
            self._handshake(self._way.deadline, first)
            self._state = "open"
        finally:
            if self._state != "open":
                self.close()

    def __repr__(self) -> str:
        traffic = f"{self.calls} calls, {self.bytes_sent} bytes out, {self.bytes_received} in"
        return f"<Connection {self.location} {self._state}, {traffic}>"

    @property
    def bytes_sent(self) -> int:
        return self._channel.bytes_sent

    @property
    def bytes_received(self) -> int:
        return self._channel.bytes_received

    @property
    def is_open(self) -> bool:
        """False after ``close``, ``abort`` or a call that failed."""
        return self._state == "open"

    @property
    def channel(self) -> Channel:
        """Its messages; one may wait until its socket is readable, while a call is not answered yet."""
        return self._channel

    @property
    def has_more(self) -> bool:
        """Whether bytes are received but not read yet: ``channel`` does not become readable for these."""
        return self._channel.has_more

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine, and is not reached through ssh."""
        return self._way.is_here

    def close(self) -> None:
        """Close the connection; may be called again. The server frees its thread at once."""
        with self._lock:
            if self._state != "aborted":
                self._state = "closed"
            self._way.close()

    def abort(self) -> None:
        """Make a waiting call and all later calls raise ConnectionLost. May be called from any thread."""
        with self._lock:
            if self._state in ("open", "taken over"):
                self._state = "aborted"
                self._way.shutdown()

    def call(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """The result of the Flame object's ``method``: plain values, `reader.Record` or `reader.Name` for others.

        ``timeout`` is in seconds for the whole call, ``timeouts.call`` if None.  Raises RemoteError if the method
        raised, ConnectionLost, CallTimeout, UnsafeAnswer, and CannotConnect (``not_flame``) if there is no Flame
        object.
        """
        if self._key is None or self._name != constants.FLAME_NAME:
            return self._call(method, args, timeout, reader.PLAIN_ANSWER, method)
        space = {"source": _CAUGHT, "space": {"method": method, "args": args}}
        caught: tuple[Any, ...] = ("eval", (_OUTCOME, space), {})
        pickled = self._call("invokeBuiltin", caught, timeout, reader.AGENT_ANSWER, method)
        outcome = self._outcome(pickled) if type(pickled) is bytes else None
        if type(outcome) is tuple and len(outcome) == 2 and outcome[0] is True:
            return outcome[1]
        if type(outcome) is tuple and len(outcome) == 4 and all(type(text) is str for text in outcome[1:]):
            name, text, traceback = outcome[1:]
            raise RemoteError(cap(name, MAX_NAME), cap(text, MAX_WORDS), traceback[-MAX_TRACEBACK:])
        self.close()
        raise UnsafeAnswer(self.location, f"{method} answered neither with a result nor with an error")

    def _outcome(self, pickled: bytes) -> Any:
        try:
            return reader.read_value(pickled, reader.PLAIN_ANSWER)
        except UnsafeAnswer as error:
            self.close()
            raise UnsafeAnswer(self.location, error.detail) from None

    def invoke(self, dotted: str, *args: Any, timeout: float | None = None) -> bytes:
        """The bytes that ``module.function(*args)`` returns on the server; UnsafeAnswer if it returns anything else."""
        return self.ask(dotted, *args, timeout=timeout)()

    def ask(self, dotted: str, *args: Any, timeout: float | None = None) -> Callable[..., bytes]:
        """Send the call of ``invoke``, and return a function that waits for its answer.

        Call that function before this connection is used again; until then one may only wait until ``channel`` is
        readable.  ``timeout`` counts from that call, which may be given another number of seconds.
        """
        return self._answering(self._sent(self._prepared("invokeModule", (dotted, args, {}), timeout, dotted, dotted)))

    def _answering(self, asked: _Asked) -> Callable[..., bytes]:
        """What waits for the bytes that a called function returns."""

        def answer(seconds: float | None = None) -> bytes:
            result = self._hear(asked, reader.AGENT_ANSWER, seconds=seconds)
            if type(result) is not bytes:
                self.close()
                raise UnsafeAnswer(self.location, f"{asked.what} answered with {type(result).__name__}, not with bytes")
            return result

        return answer

    def take_over(
        self, dotted: str, message: bytes, greeting: bytes, timeout: float | None = None
    ) -> socket.socket | bytes:
        """Call the server function ``dotted(message)``, which takes over this connection; return the socket.

        The function first sends ``greeting``, which is read here.  After that the function and the caller decide what
        is sent, until both agree that the function returns; only ``close`` of this object may be used from now on.
        If the function refuses, the bytes with its reason are returned instead.  Raises what ``invoke`` raises.
        """
        arguments: tuple[Any, ...] = (dotted, (message,), {})
        asked = self._sent(self._prepared("invokeModule", arguments, timeout, dotted, dotted))
        lent = self._hear(asked, reader.AGENT_ANSWER, greeting)
        if isinstance(lent, (socket.socket, bytes)):
            return lent
        self.close()
        raise UnsafeAnswer(self.location, f"{dotted} does not take the connection over")

    # --- one call

    def _call(self, method: str, args: tuple[Any, ...], timeout: float | None, budget: reader.Budget, what: str) -> Any:
        return self._hear(self._sent(self._prepared(method, args, timeout, what)), budget)

    def _sent(self, asked: _Asked) -> _Asked:
        if self._state != "open":
            raise ConnectionLost(self.location, f"the connection is {self._state}")
        with _ClosedByFailure(self, asked):
            self._channel.send(message.MSG_INVOKE, asked.data, asked.mark, time.monotonic() + asked.seconds)
        return asked

    def _prepared(
        self,
        method: str,
        args: tuple[Any, ...],
        timeout: float | None,
        what: str,
        dotted: str | None = None,
        name: str | None = None,
    ) -> _Asked:
        """A call, with the next number, to be sent now. What cannot be pickled is the caller's mistake."""
        data = self._serializer.call(name or self._name, method, args, self.pickle_protocol)
        if len(data) > _MAX_REQUEST:
            raise ValueError(f"a request of {len(data)} bytes: Pyro takes 2 GiB at most, send it in parts")
        self.calls += 1
        self._channel.seq = (self._channel.seq + 1) & 0xFFFF
        seconds = self.timeouts.call if timeout is None else timeout
        return _Asked(what, data, os.urandom(16), self._channel.seq, seconds, dotted)

    def _hear(
        self, asked: _Asked, budget: reader.Budget, greeting: bytes | None = None, seconds: float | None = None
    ) -> Any:
        deadline = time.monotonic() + (asked.seconds if seconds is None else seconds)
        failure = None
        with _ClosedByFailure(self, asked):
            header = self._channel.header(greeting, deadline)
            if header is None:
                self._state = "taken over"
                return self._channel.socket
            answer = self._channel.parse(header, deadline)
            self._check(answer, asked)
            if answer.flags & message.FLAGS_EXCEPTION:
                failure = self._serializer.error(answer.payload(self._serializer.number))
            else:
                result = self._serializer.value(answer.payload(self._serializer.number), budget)
        if failure is not None:  # the far side raised; the connection itself is fine
            raise self._believed(failure, asked)
        return result

    def _believed(self, failure: RemoteError, asked: _Asked) -> FlameError:
        """The error to raise for an exception that the server sent.

        With a key it is believed only if it says that something is missing, and a second question, whose answer
        carries our mark, confirms that. Any other exception may be a replayed answer to another call.
        """
        unknown = failure.ename == "DaemonError" and failure.evalue == "unknown object"
        if self._key is None or (self._is_unknown() if unknown else self._is_missing(failure, asked)):
            if unknown:
                self.close()
                return CannotConnect(self.location, "not_flame")
            return failure
        self.close()
        return UnsafeAnswer(self.location, UNCLEAR)

    def _is_unknown(self) -> bool:
        """Whether the daemon has no object with the name that we call."""
        if self._name == constants.DAEMON_NAME:
            return False
        asked = self._sent(self._prepared("registered", (), None, "registered", name=constants.DAEMON_NAME))
        names = self._hear(asked, reader.PLAIN_ANSWER)
        return isinstance(names, list) and self._name not in names

    def _is_missing(self, failure: RemoteError, asked: _Asked) -> bool:
        """Whether the called function does not exist on the server."""
        if asked.dotted is None or failure.ename not in ("KeyError", "AttributeError"):
            return False
        module, *names = asked.dotted.split(".")
        return self.call("evaluate", _FOUND.format(names=names, module=module)) is False

    def _check(self, answer: Answer, asked: _Asked) -> None:
        """Refuse an answer that is not the result of this call, or that is not signed with our key."""
        if answer.kind != message.MSG_RESULT:
            reader.refuse(f"message type {answer.kind} instead of a result")
        if answer.seq != asked.seq:
            reader.refuse(f"the answer to call {answer.seq} instead of {asked.seq}")
        failed = answer.flags & message.FLAGS_EXCEPTION
        # Flame sends an iterator result as an exception. Any other message with this flag is a stream nobody asked for.
        if answer.flags & ~_KNOWN_FLAGS or (answer.flags & message.FLAGS_ITEMSTREAMRESULT and not failed):
            reader.refuse(f"an answer with flags {answer.flags:#x}")
        self._channel.check_signature(answer)
        echo = answer.annotations.get("CORR")
        # Servers leave the mark out of exceptions. Without a key it only detects mix-ups; a daemon may drop it.
        if echo != asked.mark and not failed and (echo is not None or self._key is not None):
            reader.refuse("the answer to another call")
        if answer.data == asked.data:
            reader.refuse("our own request, reflected")

    # --- connecting

    def _handshake(self, deadline: float, first: tuple[str, bytes] | None) -> None:
        mark, seq = os.urandom(16), self._channel.seq
        try:
            self._channel.send(message.MSG_CONNECT, self._serializer.hello(self._name, _NOTE), mark, deadline)
            if first is not None:
                # In a packet of its own: a server that waits for its socket would not see what TLS has read already.
                asked = self._prepared("invokeModule", (first[0], first[1:], {}), None, first[0], first[0])
                with contextlib.suppress(Reset):  # the server has refused us: its reason is read next
                    self._channel.send(message.MSG_INVOKE, asked.data, asked.mark, deadline)
                self.hear_first = self._answering(asked)
            header = self._read_header(deadline)
            answer = self._channel.parse(header, deadline)
            if answer.kind == message.MSG_CONNECTFAIL:
                raise self._refusal(answer)
            if answer.kind != message.MSG_CONNECTOK:
                raise CannotConnect(self.location, "protocol", f"it answered with message type {answer.kind}")
            if answer.seq != seq or answer.flags & ~message.FLAGS_COMPRESSED:
                reader.refuse("a handshake that answers another one")
            if self._key is not None and not pyro_message.is_signed(self._key, answer.data, answer.annotations):
                raise CannotConnect(self.location, "key_wrong", "its answer is not signed with our key")
            self._channel.check_signature(answer)
            echo = answer.annotations.get("CORR")
            if echo != mark and (echo is not None or self._key is not None):
                reader.refuse("the handshake of another connection")
            self._serializer.value(answer.payload(self._serializer.number), reader.AGENT_ANSWER)
        except TimeUp:
            seen = "it takes connections but does not answer: busy, stopped, or no Pyro server"
            raise CannotConnect(self.location, "timeout", seen) from None
        except Reset as error:
            raise self._closed_at_once(error) from error
        except UnsafeAnswer as error:
            raise CannotConnect(self.location, "protocol", f"refused {error.detail}") from None

    def _closed_at_once(self, error: Reset) -> CannotConnect:
        """The error to raise when the server closed the connection during the Pyro handshake."""
        refusal = self._way.refusal()
        if refusal:
            return self._way.refused(refusal)
        settings = self._target.tls
        if settings is None:
            is_tcp = self._channel.socket.family != UNIX
            if error.hard and is_tcp and not self.bytes_received and self.hear_first is None:
                # Pyro's TLS servers reset without an answer; other TLS servers send an alert, see _other_server.
                if self._speaks_tls():
                    return CannotConnect(self.location, "tls", "it reset the connection at once")
                seen = "it reset the connection at once, as a forwarded port does when nothing listens at its other end"
                return CannotConnect(self.location, "closed", seen)
            return CannotConnect(self.location, "closed", str(error))
        # With TLS 1.3 the server checks our certificate only after our side of the handshake is complete.
        cause = tls.alert(error.__cause__) if isinstance(error.__cause__, ssl.SSLError) else None
        if cause is not None:
            return CannotConnect(self.location, cause)
        if self.bytes_received:
            return CannotConnect(self.location, "closed", str(error))
        cause = "tls_client_missing" if settings.certificate is None else "tls_client_refused"
        return CannotConnect(self.location, cause, "it closed the connection right after the TLS handshake")

    def _speaks_tls(self) -> bool:
        """Whether the server that has reset a plain connection answers TLS on a new one."""
        try:
            way = Way(self._target)
        except FlameError:
            return False
        try:
            return tls.answers(way.socket, min(way.deadline, time.monotonic() + tls.PROBE))
        finally:
            way.close()

    def _read_header(self, deadline: float) -> bytearray:
        """Read a Pyro header; CannotConnect says what kind of server answered if it is another one."""
        data = bytearray()
        try:
            while len(data) < HEADER.size and b"PYRO".startswith(bytes(data[:4])):
                data += self._channel.read(1 if len(data) < 4 else HEADER.size - len(data), deadline)
            if data[:4] == b"PYRO":
                version = int.from_bytes(data[4:6], "big")
                if version != constants.PROTOCOL_VERSION:
                    product = f"Pyro{version // 100}" if version >= 500 else "Pyro4"
                    raise CannotConnect(self.location, "protocol", f"{product}, wire protocol {version}")
                return data
            # Part of the first line is enough to recognize another kind of server; it comes at once or not at all.
            soon = min(deadline, time.monotonic() + 0.5)
            while len(data) < 200 and not data.endswith(b"\n"):
                data += self._channel.read(1, soon)
        except (Reset, TimeUp):
            if b"PYRO".startswith(bytes(data[:4])):  # the connection ended, perhaps in the middle of "PYRO"
                raise
        raise self._other_server(bytes(data))

    def _other_server(self, data: bytes) -> CannotConnect:
        if data[:2] == b"\x15\x03":  # a TLS alert: the server expected a ClientHello
            return CannotConnect(self.location, "tls")
        return CannotConnect(self.location, "not_pyro", other_servers.described(data))

    def _refusal(self, answer: Answer) -> CannotConnect:
        """Our error for the server's refusal. It cannot be verified (we may lack the key), so it is only reported."""
        if answer.serializer == _MARSHAL:
            text = pyro_message.marshal_text(answer.data)
        elif answer.serializer == self._serializer.number:
            value = self._serializer.value(answer.payload(self._serializer.number), reader.AGENT_ANSWER)
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        else:
            text = None
        if not isinstance(text, str):
            reader.refuse("a refusal that is not text")
        if "hmac key config not symmetric" in text:
            return CannotConnect(self.location, "key_missing_there" if self._key is not None else "key_missing_here")
        if "hmac mismatch" in text:
            return CannotConnect(self.location, "key_wrong")
        if "no free workers" in text:
            return CannotConnect(self.location, "pool_full")
        if "serializer that is not accepted" in text:
            return CannotConnect(self.location, "not_flame", "it does not accept pickle, as a Flame server does")
        if "protocol version" in text:
            return CannotConnect(self.location, "protocol", text[:200])
        return CannotConnect(self.location, "closed", f"it said: {text[:200]}")
