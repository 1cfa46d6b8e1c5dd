"""Session: cells on a Flame server, as futures, and their output, as events. What the kernel and the magics work with.

Two connections, both opened from here: *calls*, for requests that return at once, and *events*, on which a poll is
parked, so output costs no round trip of its own. Each has a thread. A reply is an event too, in the same numbered log
as the output before it, so it cannot overtake it.

When a connection breaks it is made again, with patience, for as long as the session is wanted: the next poll repeats
the same acknowledgement, and a call repeats its id, which the agent knows. So nothing is lost and nothing runs twice.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from .agent import wire
from .bootstrap import agent_name, push_source
from .config import Target
from .errors import (
    MAX_MESSAGE,
    MAX_NAME,
    AgentError,
    CannotConnect,
    ConnectionLost,
    FlameError,
    RemoteError,
    SessionGone,
    UnsafeAnswer,
    cap,
)
from .inbox import Event, Inbox
from .transport import Connection

# Seconds between two batches of mere text: at most 40 a second, of two streams each.
GAP = 0.025
# Seconds between attempts to reconnect: from the first to the last, doubling.
RETRY_FIRST, RETRY_LAST = 0.1, 2.0
# Answers in a row that are none, after which it is not the line that spoils them.
REFUSALS = 3
# Seconds: a parked poll that has nothing to say ends no sooner; from a server that lets it, the next one waits.
EARLY = 0.05
# A multiplex server serves one call at a time, so nothing may be parked there; seconds between short polls.
POLL_BUSY_FIRST, POLL_BUSY_LAST, POLL_IDLE = 0.002, 0.05, 0.5

Reply = dict[str, Any]


class Session:
    """A session on the server of ``target``: made, or taken up if one of its name lives there.

    on_events   called on the events thread with each batch of events, in order: output, ``input_request``, replies
                (the future of a reply is done right after). It must not raise.
    on_link     called on either thread with a sentence when the link breaks, and with None when it is back
    alive       tells whether the server can still be there; asked before a reconnection (the embedded server's process)

    The constructor connects, pushes the agent if need be, and opens the session; it raises CannotConnect, RemoteError
    or AgentError. ``ready`` is a future of where cells run: host, pid, python, place, shell, …
    """

    def __init__(
        self,
        target: Target,
        on_events: Callable[[list[Event]], None],
        *,
        on_link: Callable[[str | None], None] = lambda sentence: None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self.target = target
        self.session_id = target.session or uuid.uuid4().hex[:12]
        self.ready: Future[Reply] = Future()
        self.lost_since: float | None = None
        self._on_events = on_events
        self._on_link = on_link
        self._alive = alive
        self._nonce = uuid.uuid4().hex[:8]
        self._counter = itertools.count(1)
        self._pending: dict[str, Future[Reply]] = {}
        self._calls: collections.deque[tuple[dict[str, Any], Sequence[Any], Future[Any]]] = collections.deque()
        self._calls_wake = threading.Semaphore(0)
        self._poll_soon = threading.Event()
        self._closing = threading.Event()
        self._gone: FlameError | None = None
        self._lock = threading.Lock()
        self._broken: set[str] = set()
        self._call_link = Connection(target)
        try:
            self.server = self._open(self._call_link)
            try:
                self._event_link = Connection(target)
            except BaseException:
                self._undo_open()
                raise
        except BaseException:
            self._call_link.close()
            raise
        self._raise_pickle_protocol(self._event_link)
        self._inbox = Inbox(0 if self.server["fresh"] else self.server["newest"])
        if self.server["ready"] is not None and not self.server["fresh"]:
            self.ready.set_result(self.server["ready"])
        self._threads = [
            threading.Thread(target=run, name=f"flame-{name}", daemon=True)
            for name, run in (("calls", self._run_calls), ("events", self._run_events))
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        state = "gone" if self._gone else "lost" if self._broken else "busy" if self._pending else "idle"
        return f"<Session {self._call_link.location} {self.session_id!r} {state}, event {self._inbox.ack}>"

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self, link: Connection) -> dict[str, Any]:
        """Open the session by the first call; push the agent if the server does not know it yet."""
        request = {
            "op": "open",
            "session": self.session_id,
            "place": self.target.place,
            "shell": self.target.shell,
            "client": os.environ.get("JPY_SESSION_NAME", ""),
        }
        try:
            answer = self._exchange(link, request)
        except RemoteError as e:
            if e.ename != "KeyError":
                raise
            link.call("execute", push_source())
            answer = self._exchange(link, request)
        server = _checked(answer[0], link.location)
        self._boot = server["boot"]
        self._epoch = server["epoch"]
        self._multiplex = server["servertype"] == "multiplex"
        self._modern = tuple(server["python"]) >= (3, 4)
        self._raise_pickle_protocol(link)
        return server

    def _undo_open(self) -> None:
        """There is no second connection: what the first has made, with a process perhaps, must not stay behind."""
        if self.server["fresh"]:
            with contextlib.suppress(FlameError):
                self._exchange(self._call_link, {"op": "close", "session": self.session_id})

    def _raise_pickle_protocol(self, link: Connection) -> None:
        if self._modern:
            link.pickle_protocol = 4

    def _exchange(
        self, link: Connection, request: dict[str, Any], timeout: float | None = None, buffers: Sequence[Any] = ()
    ) -> tuple[Any, Sequence[Any]]:
        """One op of the agent: ``(result, buffers)``. The answer must echo this call's number: replays do not."""
        n = f"{self._nonce}-{next(self._counter)}"
        message = wire.encode(dict(request, n=n), buffers)
        data = link.invoke(f"{agent_name()}.session.handle", message, timeout=timeout)
        try:
            answer, buffers = wire.decode(data)
        except wire.WireError as e:
            link.close()
            raise UnsafeAnswer(link.location, str(e)) from e
        if answer.get("n") != n:
            link.close()
            raise UnsafeAnswer(link.location, "an answer to another call")
        error = answer.get("error")
        if error is not None:
            error = error if isinstance(error, dict) else {}
            raise AgentError(cap(str(error.get("code")), MAX_NAME), cap(str(error.get("message")), MAX_MESSAGE))
        return answer.get("result"), buffers

    # -- requests ----------------------------------------------------------------------------------------------------

    def execute(
        self,
        request_id: str,
        code: str,
        *,
        silent: bool = False,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        lane: str | None = None,
        cell_id: str | None = None,
    ) -> Future[Reply]:
        """Run a cell; the future holds the content of its execute_reply. ``lane`` is the subshell's id."""
        request = {
            "kind": "execute",
            "id": request_id,
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": user_expressions or {},
            "allow_stdin": allow_stdin,
            "lane": lane or "",
            "cell_id": cell_id,
        }
        return self._submit(request)

    def complete(self, request_id: str, code: str, cursor_pos: int) -> Future[Reply]:
        """The content of a complete_reply, also while a cell runs; ``cursor_pos`` in code points."""
        return self.request("complete", request_id, code=code, cursor_pos=cursor_pos)

    def inspect(
        self, request_id: str, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: tuple[str, ...] = ()
    ) -> Future[Reply]:
        """The content of an inspect_reply, also while a cell runs."""
        request = {"kind": "inspect", "id": request_id, "code": code, "cursor_pos": cursor_pos}
        return self._submit(dict(request, detail_level=detail_level, omit_sections=list(omit_sections)))

    def usage(self, request_id: str) -> Future[Reply]:
        """The content of a usage_reply: CPU and memory of the process in which cells run."""
        return self.request("usage", request_id)

    def open_lane(self, lane: str) -> Future[Reply]:
        """Begin a subshell's thread on the far side."""
        return self.request("open_lane", lane=lane)

    def close_lane(self, lane: str) -> Future[Reply]:
        """End a subshell's thread on the far side, and wait for it."""
        return self.request("close_lane", lane=lane)

    def request(
        self, kind: str, request_id: str | None = None, *, buffers: Sequence[Any] = (), **fields: Any
    ) -> Future[Reply]:
        """Any request of the agent, with an id of its own unless one is given: the content of its ``<kind>_reply``,
        the reply's binary buffers in it as ``buffers`` where it has any."""
        return self._submit({"kind": kind, "id": request_id or uuid.uuid4().hex, **fields}, buffers)

    def comm(self, request_id: str, msg_type: str, message: dict[str, Any], lane: str | None = None) -> Future[Reply]:
        """Deliver a ``comm_open``, ``comm_msg`` or ``comm_close`` of the front end; done when its callbacks are."""
        request: dict[str, Any] = {"kind": "comm", "id": request_id, "msg_type": msg_type, "lane": lane or ""}
        request |= {"content": message["content"], "metadata": message.get("metadata") or {}}
        return self._submit(request, message.get("buffers") or ())

    def comm_info(self) -> Future[Reply]:
        """The content of a comm_info_reply for all targets."""
        return self.request("comm_info")

    def interrupt(self, request_id: str | None = None) -> Future[Any]:
        """Stop the running cell (or only ``request_id``); ``{"done": what was done}``. During an outage the wait for
        the cell ends here, with ConnectionLost; the cell goes on there."""
        if self.lost_since is not None:
            waiting = [request_id] if request_id else list(self._pending)
            for one in waiting:
                self._settle(one, ConnectionLost(self.location, "you stopped waiting; the cell may go on there"))
        return self._call({"op": "interrupt", "request": request_id})

    def answer(self, input_id: int, value: str | None) -> Future[Any]:
        """The user's line for an ``input_request`` event; None is end of file."""
        return self._call({"op": "answer", "input_id": input_id, "value": value})

    def sessions(self) -> Future[Any]:
        """What lives on the server: a list of dicts (session, place, client, pid, age, waiting)."""
        return self._call({"op": "sessions"})

    @property
    def location(self) -> str:
        return self._call_link.location

    @property
    def gone(self) -> FlameError | None:
        """Why the session cannot be used any more, or None."""
        return self._gone

    def _submit(self, request: dict[str, Any], buffers: Sequence[Any] = ()) -> Future[Reply]:
        future: Future[Reply] = Future()
        if self._gone is not None:
            future.set_exception(self._gone)
            return future
        self._pending[request["id"]] = future
        submitted = self._call({"op": "submit", "request": request}, buffers)
        submitted.add_done_callback(lambda done: self._submitted(request["id"], done))
        self._poll_soon.set()
        return future

    def _submitted(self, request_id: str, done: Future[Any]) -> None:
        error = done.exception()
        if error is not None:
            self._settle(request_id, error)

    def _settle(self, request_id: str, outcome: BaseException | Reply) -> None:
        future = self._pending.pop(request_id, None)
        if future is None or future.done():
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _call(self, message: dict[str, Any], buffers: Sequence[Any] = ()) -> Future[Any]:
        future: Future[Any] = Future()
        if self._gone is not None:
            future.set_exception(self._gone)
            return future
        self._calls.append((dict(message, session=self.session_id), buffers, future))
        self._calls_wake.release()
        return future

    # -- the calls thread --------------------------------------------------------------------------------------------

    def _run_calls(self) -> None:
        while True:
            self._calls_wake.acquire()
            if not self._calls:
                return
            message, buffers, future = self._calls.popleft()
            try:
                result = self._insist("calls", message, buffers=buffers)[0]
            except FlameError as e:
                future.set_exception(e)
            except Exception as e:  # a defect of ours: the one who waits shall see it, and the thread goes on
                future.set_exception(e)
            else:
                future.set_result(result)

    def _insist(
        self, which: str, message: dict[str, Any], timeout: float | None = None, buffers: Sequence[Any] = ()
    ) -> tuple[Any, Sequence[Any]]:
        """Do an op, on a new connection after a broken one, until it is answered, refused, or we are closed."""
        delay = RETRY_FIRST
        refused = 0
        while True:
            if self._gone is not None:
                raise self._gone
            link = self._call_link if which == "calls" else self._event_link
            try:
                if not link.is_open:
                    link = self._reconnect(which)
                answer = self._exchange(link, message, timeout, buffers)
            except RemoteError as e:
                if e.ename == "KeyError":  # no module of that name: the server is another one than before
                    self._end(SessionGone(self.location, "the server was restarted"))
                    continue
                raise
            except AgentError as e:
                if e.code in ("no_session", "taken_over"):
                    self._end(SessionGone(self.location, e.message))
                    continue
                raise
            except (ConnectionLost, CannotConnect) as e:
                if self._closing.is_set():
                    raise
                refused = refused + 1 if isinstance(e, UnsafeAnswer) else 0
                if (isinstance(e, CannotConnect) and not e.passing) or refused == REFUSALS:
                    self._end(e)
                    continue
                self._note_lost(which, e)
                if self._closing.wait(delay * random.uniform(0.8, 1.2)):
                    raise
                if not self._alive():
                    self._end(SessionGone(self.location, "the server ended"))
                delay = min(delay * 2, RETRY_LAST)
            else:
                self._note_back(which)
                return answer

    def _reconnect(self, which: str) -> Connection:
        link = Connection(self.target)
        self._raise_pickle_protocol(link)
        if which == "calls":
            self._call_link = link
        else:
            self._event_link = link
        if self._closing.is_set():  # close() may have looked before this one was there
            link.close()
        return link

    def _note_lost(self, which: str, error: FlameError) -> None:
        with self._lock:
            first = not self._broken
            self._broken.add(which)
            if first:
                self.lost_since = time.monotonic()
        if first:
            self._on_link(f"link to {self.location} lost, retrying: {error}")

    def _note_back(self, which: str) -> None:
        if not self._broken:
            return
        with self._lock:
            self._broken.discard(which)
            back = not self._broken
            if back:
                self.lost_since = None
        if back:
            self._on_link(None)

    def _end(self, why: FlameError) -> None:
        """The session is lost for good: whoever waits is told."""
        with self._lock:
            if self._gone is not None:
                return
            self._gone = why
        if not self.ready.done():
            self.ready.set_exception(why)
        for request_id in list(self._pending):
            self._settle(request_id, why)
        self._closing.set()
        self._event_link.abort()
        self._calls_wake.release()

    # -- the events thread -------------------------------------------------------------------------------------------

    def _run_events(self) -> None:
        pause = POLL_BUSY_FIRST
        timeouts = self.target.timeouts
        while not self._closing.is_set():
            poll = {
                "op": "poll",
                "session": self.session_id,
                "epoch": self._epoch,
                "ack": self._inbox.ack,
                "wait": timeouts.poll,
                "gap": 0.0 if self._multiplex else GAP,
            }
            asked = time.monotonic()
            try:
                result, buffers = self._insist("events", poll, timeouts.poll_deadline)
                events = self._inbox.feed(wire.decode_events(result["events"], buffers))
            except (wire.WireError, KeyError, TypeError) as e:
                self._end(UnsafeAnswer(self.location, f"events of the wrong shape: {e}"))
                return
            except FlameError as e:
                if not self._closing.is_set():
                    self._end(e)
                return
            if events:
                self._take(events)
            elif time.monotonic() - asked < EARLY:
                self._closing.wait(EARLY)
            if self._multiplex:
                pause = POLL_BUSY_FIRST if events else min(pause * 1.5, POLL_BUSY_LAST)
                self._poll_soon.clear()
                self._poll_soon.wait(pause if self._pending else POLL_IDLE)

    def _take(self, events: list[Event]) -> None:
        try:
            self._on_events(events)
        except Exception as e:  # content that nobody reckoned with must not end this thread, on which all wait
            self._end(UnsafeAnswer(self.location, f"events that cannot be shown: {type(e).__name__}: {e}"))
            return
        for event in events:
            kind = event["type"]
            if kind.endswith("_reply") and event.get("request") is not None:
                buffers = event.get("buffers")
                self._settle(event["request"], dict(event["content"], buffers=buffers) if buffers else event["content"])
            elif kind == "ready":
                if not self.ready.done():
                    self.ready.set_result(event["content"])
                else:
                    self.ready = Future()
                    self.ready.set_result(event["content"])

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, timeout: float = 5.0) -> None:
        """End the session on the far side, with all it runs, and the connections. Idempotent; never raises."""
        self._finish({"op": "close"}, timeout)

    def detach(self) -> None:
        """Leave: the session lives on there, with the cell that it runs, and can be taken up by its name."""
        self._finish(None, 5.0)

    def _finish(self, last: dict[str, Any] | None, timeout: float) -> None:
        if last is not None and self._gone is None and not self._closing.is_set():
            done = self._call(last)
            # Where the link is down the agent ends the session itself, when nobody comes back.
            with contextlib.suppress(FlameError, futures.TimeoutError):  # not the built-in one before Python 3.11
                done.result(min(timeout, 1.0) if self._broken else timeout)
        self._closing.set()
        self._gone = self._gone or SessionGone(self._call_link.location, "it was closed here")
        self._poll_soon.set()
        self._calls_wake.release()
        for link in (self._event_link, self._call_link):
            link.abort()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)
        for link in (self._event_link, self._call_link):
            link.close()
        for request_id in list(self._pending):
            self._settle(request_id, self._gone)
        if not self.ready.done():
            self.ready.set_exception(self._gone)


# What an agent says of itself, and is relied on here.
_SERVER = {
    "boot": str,
    "epoch": int,
    "fresh": bool,
    "host": str,
    "newest": int,
    "pid": int,
    "place": str,
    "python": list,
    "servertype": str,
}


def _checked(server: Any, location: str) -> dict[str, Any]:
    """The answer to ``open``; UnsafeAnswer where it is not what an agent says."""
    if (
        not isinstance(server, dict)
        or any(not isinstance(server.get(name), kind) for name, kind in _SERVER.items())
        or any(len(server[name]) > MAX_NAME for name in _SERVER if _SERVER[name] is str)
        or len(server["python"]) != 3
        or not all(type(number) is int for number in server["python"])
        or not isinstance(server.get("ready"), (dict, type(None)))
    ):
        raise UnsafeAnswer(location, "an agent that does not say what it is")
    return server
