"""Link: the connections to the agent on one server, made again when they break.

A link has two lines, *calls* and *events*: each is a connection of its own, used by one thread. A line that breaks is
made again, as long as the link is needed, and its request is repeated: the agent recognizes an act by its id, and a
poll by its acknowledgement. So nothing is lost and nothing is done twice.

There are three states of trouble. A line is *broken*: it was reset, cut, or missed its deadline. A server is *silent*:
the line stands but nothing comes, because the server is frozen, busy, or gone; the user is told, and we go on waiting.
A session is *gone*: another server answers in its place, or its process has ended.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from ..agent.wire import message as wire
from ..connect.connection import UNCLEAR, Connection
from ..connect.name_server import found
from ..connect.target import Target
from ..errors import (
    AgentError,
    CallTimeout,
    CannotConnect,
    ConnectionLost,
    FlameError,
    RemoteError,
    SessionGone,
    TakenOver,
    UnsafeAnswer,
)
from ..security import answers
from . import large_messages
from .bootstrap import agent_name, is_missing, with_agent
from .io_threads import IoThreads, Wait
from .line import SILENT, Ahead, Hear, Line, dialled, give_up
from .link_watch import Watch
from .local_process import LocalProcess
from .outage import Outage

# Seconds between attempts to reconnect. The first attempt is made at once; then the time doubles from the first figure
# to the second, plus up to a seventh at random. The last figure is for outages of more than a minute.
RETRY_FIRST, RETRY_LAST, RETRY_LONG = 0.1, 2.0, 10.0
LONG_OUTAGE = 60.0
# After so many unreadable answers in a row, it is not the line that spoils them.
REFUSALS = 3
# Attempts to open a session, if the line breaks each time.
OPENINGS = 5
# The oldest Python on which the agent runs.
OLDEST = [3, 6]
# What is sent with a handshake; if a server does not answer it within so many seconds, we connect again without it.
HELLO = {"op": "hello"}
SWALLOWED = 5.0
Answer = tuple[Any, Sequence[Any]]


class Link:
    """The lines to the server of ``target``. The constructor connects the line *calls*; it raises CannotConnect,
    TargetError.

    for_session a session will be opened: its first request is sent with the handshake, and the connection of the
                second line is made meanwhile
    on_trouble  called with an Outage when there is one, again now and then while it lasts, and with None when it is
                over; on any thread of the link's users or its own
    on_end      called once, when the link is lost for good, with the reason
    is_wanted   whether somebody waits for an answer: only then is a silent server looked for
    beat        called where the server should give a sign of life: an op that it answers at once
    alive       tells whether the server can still be there
    """

    def __init__(
        self,
        target: Target,
        *,
        on_trouble: Callable[[Outage | None], None],
        on_end: Callable[[FlameError], None],
        is_wanted: Callable[[], bool],
        beat: Callable[[], None],
        alive: Callable[[], bool] = lambda: True,
        for_session: bool = False,
    ) -> None:
        self.target = found(target)
        self.closing = threading.Event()
        self.gone: FlameError | None = None
        self.leaving = False  # this side ends the session, whoever hears of it first
        self.boot = ""
        self.round_trip = math.inf  # the least seconds that an answer has taken
        self._on_end = on_end
        self._alive = alive
        self._local_process: LocalProcess | None = None
        self._nonce = uuid.uuid4().hex[:16]
        self._counter = itertools.count(1)
        self._modern = False
        self.max_message = 0
        self._lock = threading.Lock()
        self._broken: dict[str, FlameError] = {}
        self._lost_since = 0.0
        self._mending = threading.Lock()
        self._delay = 0.0
        self._mended = 0  # how often a line was made again
        self._hurry = threading.Event()
        self._with_hello = for_session
        self._second: Future[Connection] | None = None
        try:
            self.calls = Line("calls", *self._greet(self._dial_second if for_session else lambda: None))
        except BaseException:  # raised again, whatever it is; the second connection is closed
            self._give_up_second()
            raise
        self.lines = [self.calls]
        self.watch = Watch(self, on_trouble, is_wanted, beat)

    def __repr__(self) -> str:
        state = "gone" if self.gone else "broken" if self._broken else "silent" if self.watch.trouble else "up"
        return f"<Link {self.location} {state}, {len(self.lines)} lines>"

    @property
    def location(self) -> str:
        return self.calls.connection.location

    @property
    def is_broken(self) -> bool:
        """Whether a line is being reconnected."""
        return bool(self._broken)

    def broken(self) -> tuple[list[FlameError], float]:
        """Why lines are being made again, and since when (monotonic)."""
        with self._lock:
            return list(self._broken.values()), self._lost_since

    # -- opening -----------------------------------------------------------------------------------------------------

    def open(self, request: dict[str, Any]) -> Any:
        """The agent's answer to the first call; the agent is pushed if the server does not know it yet.

        If the line breaks, it is repeated: a second ``open`` attaches to the session that the first one made.
        """
        for attempt in itertools.count(1):
            at_once = self._with_hello
            try:
                if not self.calls.connection.is_open:
                    self.calls.connection, self.calls.ahead = self._greet()
                return with_agent(lambda: self.with_ticket(request), self._execute)
            except (ConnectionLost, CannotConnect) as e:
                if at_once and not self._with_hello and isinstance(e, CallTimeout):
                    continue  # it may have heard the handshake only
                broke = not isinstance(e, (CallTimeout, UnsafeAnswer)) and getattr(e, "cause", "closed") == "closed"
                if isinstance(e, UnsafeAnswer) and e.detail == UNCLEAR:
                    broke = True  # perhaps another client has pushed the agent meanwhile
                if not broke or attempt == OPENINGS:
                    raise
                time.sleep(RETRY_FIRST * attempt)
        raise AssertionError  # not reached: count() has no end

    def _execute(self, source: str) -> None:
        try:
            self.calls.connection = large_messages.execute(self.calls.connection, source, self._connect)
        except RemoteError as e:
            if e.ename != "SyntaxError":
                raise
            found = self.calls.connection.call("evaluate", "list(__import__('sys').version_info[:3])")
            if not isinstance(found, list) or found >= OLDEST:
                raise
            raise CannotConnect(self.location, "old_python", "Python " + ".".join(map(str, found))) from e

    def with_ticket(self, request: dict[str, Any]) -> Any:
        """The result of an op by a client that owns no session yet: its ticket shows that it is not a replay."""
        hello = self.exchange(self.calls, HELLO)[0]
        self.max_message = large_messages.check(hello.get("max_message"), self.location)
        self.calls.connection.max_message = self.max_message
        if request["op"] == "hello":
            return hello
        ticket = hello.get("ticket") if isinstance(hello, dict) else None
        return self.exchange(self.calls, dict(request, ticket=ticket))[0]

    def _connect(self) -> Connection:
        """Connect again; a server found by name may have moved."""
        self.target = found(self.target)
        return Connection(self.target)

    def _greet(self, on_dialled: Callable[[], None] = lambda: None) -> tuple[Connection, Ahead | None]:
        """Connect, and send HELLO with the handshake unless the server failed on that; the next exchange is for it."""
        self.target = found(self.target)
        if self._with_hello:
            n = self.number()
            first = f"{agent_name()}.{wire.HANDLE}", wire.encode(dict(HELLO, n=n))
            try:
                connection = Connection(self.target, first=first, on_dialled=on_dialled)
            except CannotConnect as e:
                if e.cause != "closed":
                    raise
                self._with_hello = False  # perhaps HELLO was the cause; if not, connecting without it shows the cause
            else:
                hear = connection.hear_first
                assert hear is not None
                seconds = min(SWALLOWED, self.target.timeouts.call)
                return connection, (HELLO, n, connection, lambda: hear(seconds))
        return Connection(self.target), None

    def _dial_second(self) -> None:
        with contextlib.suppress(RuntimeError):  # the program ends, and starts no threads: it is dialled later
            self._second = self._second or dialled(self.target)

    def _give_up_second(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            give_up(second)

    def opened(self, server: dict[str, Any]) -> None:
        """The session is open: remember what the server told, to recognize it later."""
        self.boot = server["boot"]
        self._local_process = LocalProcess.of(server)
        self._modern = tuple(server["python"]) >= (3, 4)
        self._know_server(self.calls.connection)

    def add_line(self, name: str) -> Line:
        """Open one more connection."""
        second, self._second = self._second, None
        line = Line(name, second.result() if second is not None else Connection(self.target))
        self._know_server(line.connection)
        self.lines.append(line)
        return line

    def start(self, threads: IoThreads) -> None:
        """Begin to watch the lines."""
        self.watch.start(threads)

    def _know_server(self, connection: Connection) -> None:
        connection.max_message = self.max_message
        if self._modern:
            connection.pickle_protocol = 4

    # -- asking ------------------------------------------------------------------------------------------------------

    def exchange(
        self,
        line: Line,
        request: dict[str, Any],
        timeout: float | None = None,
        buffers: Sequence[Any] = (),
        wait: float = 0.0,
    ) -> Answer:
        """One op of the agent: ``(result, buffers)``. The answer must echo this call's number: replays do not.

        ``wait`` is for how many seconds the server may hold the request.
        """
        line.patience = wait + SILENT
        ahead, line.ahead = line.ahead, None
        if ahead is None or ahead[0] is not request or ahead[2] is not line.connection:
            ahead = line.asked = None
        began = line.asked = line.asked or time.monotonic()
        try:
            answer = self._answer(*(ahead or self._ask(line.connection, request, timeout, buffers)))
        except ConnectionLost:
            if ahead is not None and request is HELLO:
                self._with_hello = False  # the server has answered the handshake, and not what came with it
            raise
        finally:
            line.asked = None
        self.watch.heard = time.monotonic()
        if ahead is None and not wait:
            self.round_trip = min(self.round_trip, self.watch.heard - began)
        return answer

    def prefetch(self, line: Line, request: dict[str, Any], timeout: float | None = None) -> None:
        """Send the request of the next ``exchange`` or ``insist`` of this line now, so that the server works on it
        meanwhile. If that fails, it is sent then."""
        with contextlib.suppress(ConnectionLost):
            line.ahead = self._ask(line.connection, request, timeout, ())

    def await_prefetched(self, line: Line, seconds: float, wait: float) -> Wait | None:
        """What to wait for until the answer to the request sent ahead comes; None if the next ``exchange`` should be
        made at once. ``wait`` as there; after ``seconds`` it is too late, see `give_up_prefetched`."""
        ahead, connection = line.ahead, line.connection
        if ahead is None or ahead[2] is not connection or not connection.is_open:
            return None
        if connection.has_more:
            return None
        line.patience, line.asked = wait + SILENT, line.asked or time.monotonic()
        return Wait(connection.channel.socket, seconds)

    def give_up_prefetched(self, line: Line) -> None:
        """The answer to the request sent ahead is too late: the next ``exchange`` raises that error."""
        if line.ahead is not None:
            request, number, connection, hear = line.ahead
            line.ahead = request, number, connection, lambda: hear(0.0)

    def number(self) -> str:
        """A new number for a call; the agent accepts the owner's numbers only in this order."""
        return f"{self._nonce}-{next(self._counter)}"

    def _ask(
        self, connection: Connection, request: dict[str, Any], timeout: float | None, buffers: Sequence[Any]
    ) -> Ahead:
        n = self.number()
        message = wire.encode(dict(request, n=n), buffers)
        return request, n, connection, large_messages.ask(connection, wire.HANDLE, message, timeout)

    def _answer(self, request: dict[str, Any], n: str, connection: Connection, hear: Hear) -> Answer:
        data = hear()
        try:
            answer, buffers = wire.decode(data)
            if "large" in answer:
                answer, buffers = wire.decode(large_messages.rest(connection, answer["large"]))
        except wire.WireError as e:
            connection.close()
            raise UnsafeAnswer(connection.location, str(e)) from e
        if answer.get("n") != n:
            connection.close()
            raise UnsafeAnswer(connection.location, "an answer to another call")
        error = answer.get("error")
        if error is not None:
            error = error if isinstance(error, dict) else {}
            code, message = error.get("code"), error.get("message")
            raise AgentError(code if isinstance(code, str) else "failed", message if isinstance(message, str) else "")
        try:
            return answers.result(request["op"], answer.get("result"), connection.location), buffers
        except UnsafeAnswer:
            connection.close()
            raise

    def insist(
        self,
        line: Line,
        request: dict[str, Any],
        timeout: float | None = None,
        buffers: Sequence[Any] = (),
        wait: float = 0.0,
        on_broken: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Repeat an op, each time on a new connection, until it is answered or refused, or the link closes.

        ``on_broken`` is called after each attempt that may or may not have been carried out.
        """
        refused = 0
        while True:
            if self.gone is not None:
                raise self.gone
            try:
                if not line.connection.is_open:
                    self._mend(line)
                answer = self.exchange(line, request, timeout, buffers, wait)
            except RemoteError as e:
                if is_missing(e):  # it is another server than before
                    self.end(SessionGone(self.location, "the server was restarted"))
                    continue
                raise
            except AgentError as e:
                if e.code == "taken_over":
                    self.end(TakenOver(self.location, e.message))
                    continue
                if e.code == "no_session":
                    self.end(SessionGone(self.location, e.message))
                    continue
                raise
            except ConnectionLost as e:
                if self.closing.is_set():
                    raise
                refused = refused + 1 if isinstance(e, UnsafeAnswer) else 0
                if refused == REFUSALS:
                    self.end(e)
                    continue
                self._note_lost(line, e)
                on_broken()
            else:
                self._note_back(line)
                return answer

    # -- healing -----------------------------------------------------------------------------------------------------

    def _mend(self, line: Line) -> None:
        """A new connection to the same server for ``line``. One line tries at a time; the others follow it.

        Raises what ``exchange`` raises, if the server is reached but does not prove to be the same one.
        """
        with self._mending:
            while True:
                self._pause(line)
                if self.gone is not None:
                    raise self.gone
                if self.closing.is_set():
                    raise ConnectionLost(self.location, "the session was closed here")
                if not self._alive() or (self._local_process is not None and not self._local_process.lives()):
                    self.end(SessionGone(self.location, "the server ended"))
                    continue
                try:
                    connection, ahead = self._greet()
                except CannotConnect as e:
                    if not e.passing:
                        self.end(e)
                        continue
                    self._note_lost(line, e)
                    continue
                self._know_server(connection)
                line.connection.close()
                line.connection, line.ahead = connection, ahead
                if self.closing.is_set():  # close() may have run before this one existed
                    connection.close()
                    continue
                hello = self.exchange(line, HELLO)[0]
                if hello["boot"] != self.boot:
                    self.end(SessionGone(self.location, "the server was restarted"))
                    continue
                self._mended += 1
                return

    def _pause(self, line: Line) -> None:
        """Wait before an attempt, longer each time. There is no wait before the first one, or if another line has been
        made again since this one broke."""
        if self._mended > line.lost_at:
            return
        delay = self._delay
        with self._lock:
            long = bool(self._broken) and time.monotonic() - self._lost_since > LONG_OUTAGE
        self._delay = min(delay * 2 or RETRY_FIRST, RETRY_LONG if long else RETRY_LAST)
        if delay and not self.closing.is_set() and self.gone is None:
            self._hurry.clear()
            self._hurry.wait(delay * random.uniform(1.0, 1.15))

    def hurry(self) -> None:
        """Reconnect now, without waiting, because there is a request."""
        if not self._hurry.is_set():
            self._hurry.set()
        self.watch.expect()

    def _note_lost(self, line: Line, error: FlameError) -> None:
        line.lost_at = self._mended
        with self._lock:
            if not self._broken:
                self._lost_since = time.monotonic()
            self._broken[line.name] = error
        self.watch.wake()

    def _note_back(self, line: Line) -> None:
        self._delay = 0.0
        if self._broken:
            with self._lock:
                self._broken.pop(line.name, None)
            self.watch.wake()

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self, why: FlameError) -> None:
        """The link is lost for good: tell everyone who waits."""
        with self._lock:
            if self.gone is not None:
                return
            self.gone = why = self._closed_here() if self.leaving else why
        self._on_end(why)
        self.closing.set()
        self._hurry.set()
        self.watch.wake()
        for line in self.lines:
            if line is not self.calls:  # the call that closes gets its own answer; the close ends the poll first
                line.connection.abort()

    def abort(self) -> None:
        """Wake all that wait; send nothing more."""
        self.closing.set()
        self.gone = self.gone or self._closed_here()
        self._hurry.set()
        self.watch.wake()
        for line in self.lines:
            line.connection.abort()

    def _closed_here(self) -> SessionGone:
        return SessionGone(self.location, "it was closed here")

    def close(self, timeout: float = 1.0) -> None:
        """Close the connections; call it when the threads that use them have ended."""
        self.abort()
        self._give_up_second()
        self.watch.wait(timeout)
        for line in self.lines:
            line.connection.close()


def no_agent(location: str) -> AgentError:
    """The error for a server that lacks our agent, and so has no sessions."""
    return AgentError("no_agent", f"there are no sessions at {location}")
