"""Session: cells on a Flame server, as futures, and their output, as events. What the kernel and the magics work with.

A session has a link of two lines, which reconnects by itself: *calls*, for requests that return at once, and *events*,
on which the server holds a poll, so output needs no round trip of its own. The lines share threads with other sessions:
see `io_threads`. A reply is an event in the same numbered log as the output, so it cannot overtake the output.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

from ..agent.wire import message as wire
from ..agent.wire import seals
from ..connect.target import Target
from ..errors import AgentError, ConnectionLost, FlameError, NotSent, SessionGone, UnsafeAnswer
from ..security import answers
from ..security.rendering import FULL
from . import io_threads
from .handshake import opening
from .inbox import Event, Inbox
from .io_threads import IoThreads
from .link import Link
from .outage import Outage
from .polling import AtOnce, Polling
from .requests import CELLS, Call, Reply, Request
from .sending import Sending

# Seconds within which the agent notices that a client was killed, so that its session is free.
AWAY = 4.0
# Types of events that are questions to `Session.services`, and are shown nowhere.
SERVED = ("hot_request",)


@contextlib.contextmanager
def held_back(on_events: Callable[[list[Event]], None]) -> Iterator[Callable[[list[Event]], None]]:
    """``on_events`` for a Session made in this block: its first events wait until the block has ended."""
    made = threading.Event()

    def take(events: list[Event]) -> None:
        made.wait()
        on_events(events)

    try:
        yield take
    finally:
        made.set()


class Session:
    """A session on the server of ``target``: a new one, or the existing one of that name.

    on_events   called on the events thread with each batch of events, in order: output, ``input_request``, replies
                (the future of a reply is done right after). It must not raise.
    on_link     called with a sentence when the link breaks or the server is silent, with another one now and then, and
                with None when it is over; on a thread of the link
    alive       tells whether the server can still be there; asked before a reconnection (the embedded server's process)
    attach      None or "take": attach to the session, or make it if there is none; "must": never make one;
                "force": take it even from another client that has it
    client_id   names this client to the agent; after ``ask``, the id that was given there

    The constructor connects, pushes the agent if need be, and opens the session; it raises CannotConnect, RemoteError
    or AgentError. ``ready`` is a future of where cells run: host, pid, python, place, shell, …
    ``running`` lists the cells that already ran in an existing session, the oldest first; see ``follow``.
    """

    def __init__(
        self,
        target: Target,
        on_events: Callable[[list[Event]], None],
        *,
        on_link: Callable[[str | None], None] = lambda sentence: None,
        alive: Callable[[], bool] = lambda: True,
        attach: str | None = None,
        client_id: str | None = None,
    ) -> None:
        self.target = target
        self.session_id = target.session or uuid.uuid4().hex[:12]
        self.client_id = client_id or uuid.uuid4().hex
        self.ready: Future[Reply] = Future()
        self.before_end: list[Callable[[], None]] = []  # called when we leave, while the link still works
        self.before_cells: list[Callable[[], None]] = []  # called before a cell is sent; they do not wait
        self.services: dict[str, Callable[[Event], None]] = {}  # who answers the far side's questions, by their type
        self._on_events = on_events
        self._on_link = on_link
        self._pending: dict[str, Request] = {}
        self._lock = threading.Lock()
        self._stopping: set[str] = set()  # cells whose interrupt is not answered yet
        self._link = Link(
            target,
            on_trouble=self._tell,
            on_end=self._ended,
            is_wanted=self._is_waiting,
            beat=self._give_sign,
            alive=alive,
            for_session=True,
        )
        self.target = self._link.target
        self._sending = Sending(self._link, self.target, self._decoded)
        try:
            self.server = self._open(attach)
            try:
                self._events = self._link.add_line("events")
            except BaseException:  # raised again, whatever it is; the session does not stay there
                self._undo_open()
                raise
        except BaseException:  # raised again, whatever it is; the connection is closed
            self._link.close()
            raise
        fresh = self.server["fresh"]
        self.running: list[dict[str, Any]] = [] if fresh else self.server.get("running", [])
        for cell in self.running:
            self._pending[cell["request"]] = Request("execute", "begun")
        self.told_gone = False  # the user has been told that it is gone
        self._followed = {cell["request"]: self._pending[cell["request"]].future for cell in self.running}
        self._inbox = Inbox(0 if fresh else self.server.get("acknowledged", self.server["newest"]))
        self.missed = 0 if fresh else self.server["newest"] - self._inbox.ack
        if self.server["ready"] is not None and not fresh:
            self.ready.set_result(self.server["ready"])
        timeouts, multiplex = self.target.timeouts, self.server["servertype"] == "multiplex"
        self._polling = Polling(
            self._link, self._events, self._inbox, timeouts, multiplex, self._message, self._take, self._is_busy
        )
        self._sending.polling = self._polling
        self._threads: IoThreads | None = io_threads.enter()
        for part in (self._sending, self._polling, self._link):
            part.start(self._threads)

    def __repr__(self) -> str:
        state = "gone" if self.gone else "lost" if self._link.is_broken else "busy" if self._pending else "idle"
        return f"<Session {self.location} {self.session_id!r} {state}, event {self._inbox.ack}>"

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self, attach: str | None) -> dict[str, Any]:
        request = opening(self.target, self.session_id, self.client_id, attach)
        deadline = time.monotonic() + AWAY
        while True:
            try:
                server: dict[str, Any] = self._link.open(request)
                break
            except AgentError as e:  # perhaps its client was just killed, and the agent has not noticed yet
                if e.code != "in_use" or time.monotonic() > deadline:
                    raise
                time.sleep(AWAY / 10)
        self._epoch: int = server["epoch"]
        self._link.opened(server)
        return server

    def _undo_open(self) -> None:
        """End the session that was just made, because there is no second connection for it."""
        if self.server["fresh"]:
            with contextlib.suppress(FlameError):
                self._link.exchange(self._link.calls, self._message({"op": "close"}))

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
        raw: str | None = None,
        count: int | None = None,
        program: dict[str, Any] | None = None,
        trial: dict[str, Any] | None = None,
    ) -> Future[Reply]:
        """Run a cell; the future holds the content of its execute_reply. ``lane`` is the subshell's id.
        ``raw`` is the cell's text if ``code`` differs from it: a debugger knows the cell by its text. ``count`` is the
        cell's number here; without it, the far side counts. ``program`` says how it runs as a program: see
        ``agent/session/program.py``; ``trial`` that it is only tried: ``agent/session/trial.py``."""
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
            "raw": raw,
            "count": count,
            "text_only": self.target.rendering_level != FULL,
        }
        how = {"program": program, "trial": trial}
        return self._submit(request | {name: value for name, value in how.items() if value})

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
        """Send any request, with a new id unless one is given; a future of the content of its ``<kind>_reply``. Binary
        buffers of the reply are in it as ``buffers``."""
        return self._submit({"kind": kind, "id": request_id or os.urandom(16).hex(), **fields}, buffers)

    def comm(self, request_id: str, msg_type: str, message: dict[str, Any], lane: str | None = None) -> Future[Reply]:
        """Deliver a ``comm_open``, ``comm_msg`` or ``comm_close`` of the front end; done when its callbacks are."""
        request: dict[str, Any] = {"kind": "comm", "id": request_id, "msg_type": msg_type, "lane": lane or ""}
        request |= {"content": message["content"], "metadata": message.get("metadata") or {}}
        return self._submit(request, message.get("buffers") or ())

    def comm_info(self) -> Future[Reply]:
        """The content of a comm_info_reply for all targets."""
        return self.request("comm_info")

    def interrupt(self, request_id: str | None = None, gently: bool = False) -> Future[Any]:
        """Stop the running cells, or only ``request_id``; ``{"done": what was done}``.

        A cell that still runs says in its output where it hangs, and what the next interrupt will do: abandon its
        thread, or end the child with all variables. With ``gently`` a child is never ended.

        Each interrupt has its cell's id, so it never stops a later cell, however late it comes. A cell that is not sent
        yet will not be sent. During an outage the wait for the cell ends with ConnectionLost, which says what is known
        about the cell; the interrupt is sent as soon as the link is back. If the server is only silent, the first
        interrupt waits with the cell, and the second one ends the wait.
        """
        stoppable = (*CELLS, "comm")
        cells = [i for i, one in list(self._pending.items()) if one.kind in stoppable and request_id in (None, i)]
        done: Future[Any] = Future()
        done.set_result({"done": "idle"})
        trouble = self._link.watch.trouble
        for cell in cells:
            one = self._pending.get(cell)
            if one is None:
                continue
            if one.state == "queued" and one.call is not None and one.call.future.cancel():
                self._settle(cell, NotSent(self.location))
                continue
            again, fate = cell in self._stopping, one.fate
            how = {"gently": True} if gently else {}
            done = self._call({"op": "interrupt", "request": cell, "id": uuid.uuid4().hex, **how})
            if trouble is not None and (self._link.is_broken or again):
                when = "it is interrupted when the link is back"
                self._settle(cell, ConnectionLost(self.location, f"you stopped waiting; {fate}; {when}"))
                continue
            self._stopping.add(cell)
            done.add_done_callback(lambda _, cell=cell: self._stopping.discard(cell))  # type: ignore[misc]
        return done

    def follow(self, request_id: str) -> Future[Reply]:
        """The future reply of a cell that already ran when we attached."""
        return self._followed[request_id]

    def ask(self, op: str, buffers: Sequence[Any] = (), **fields: Any) -> Future[Any]:
        """Send any op; a future of its result. Buffers are in the result, or in its events."""
        return self._call({"op": op, **fields}, buffers)

    def wire_message(self, request: dict[str, Any], buffers: Sequence[Any] = ()) -> bytes:
        """A request of this session as bytes, to send on the caller's own connection."""
        return bytes(wire.encode(self._message(dict(request, n=self._link.number())), buffers))

    def answer(self, input_id: int, value: str | None) -> Future[Any]:
        """Answer an ``input_request`` event with the user's line; None means end of file."""
        return self._call({"op": "answer", "input_id": input_id, "value": value})

    @property
    def max_message(self) -> int:
        """The largest message that the server takes, in bytes; 0: no limit."""
        return self._link.max_message

    @functools.cached_property
    def hash(self) -> str:
        """The name of the keyed hash for data on a taken-over connection: the one that is fastest for both sides."""
        return str(seals.fastest(self.server.get("hashes") or {}))

    def take_at_once(self, has_room: Callable[[], bool] | None = None) -> None:
        """Answers to cells bring their events, while ``has_room`` (then ``on_events`` must not wait for long). Or with
        None, answers to cells and calls bring their replies, where nothing else has come."""
        self._polling.at_once = AtOnce.replies() if has_room is None else AtOnce.cells(has_room)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """A context manager: requests made in it are sent in one call at its end."""
        return self._sending.together()

    def sessions(self) -> Future[Any]:
        """The sessions on the server: a list of dicts (session, place, client, pid, age, waiting)."""
        return self._call({"op": "sessions"})

    @property
    def location(self) -> str:
        return self._link.location

    @property
    def gone(self) -> FlameError | None:
        """Why the session cannot be used any more, or None."""
        return self._link.gone

    @property
    def trouble(self) -> Outage | None:
        """What is wrong with the link, or None."""
        return self._link.watch.trouble

    def _submit(self, request: dict[str, Any], buffers: Sequence[Any] = ()) -> Future[Reply]:
        one = Request(request["kind"], op=request.get("op", ""))
        if self.gone is not None:
            one.future.set_exception(self.gone)
            return one.future
        if request["kind"] in CELLS and "op" not in request:
            for before in list(self.before_cells):
                before()
        one.call = Call(self._message({"op": "submit", "request": request}), buffers, one)
        self._pending[request["id"]] = one
        one.call.future.add_done_callback(lambda done: self._submitted(request["id"], done))
        self._put(one.call)
        self._polling.wake()
        return one.future

    def _submitted(self, request_id: str, done: Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._settle(request_id, error)

    def _settle(self, request_id: str, outcome: BaseException | Reply) -> None:
        one = self._pending.pop(request_id, None)
        if one is None or one.future.done():
            return
        if outcome is self.gone and one.kind in CELLS:
            self.told_gone = True
        if isinstance(outcome, SessionGone) and not outcome.fate:
            outcome = type(outcome)(outcome.location, outcome.reason, one.fate)
        if isinstance(outcome, BaseException):
            one.future.set_exception(outcome)
        else:
            one.future.set_result(outcome)

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        return dict(message, session=self.session_id, epoch=self._epoch)

    def _call(self, message: dict[str, Any], buffers: Sequence[Any] = ()) -> Future[Any]:
        call = Call(self._message(message), buffers)
        self._put(call)
        return call.future

    def _put(self, call: Call) -> None:
        if not self._sending.put(call):
            call.future.set_exception(self.gone or SessionGone(self.location, "it was closed here"))
        self._link.hurry()

    # -- calls --------------------------------------------------------------------------------------------------------

    def _decoded(self, events: list[Any], buffers: Sequence[Any]) -> list[Event]:
        """Check and decode events that an op returned; raises UnsafeAnswer."""
        try:
            return answers.events(wire.decode_events(events, buffers))
        except wire.WireError as e:
            raise UnsafeAnswer(self.location, f"events of the wrong shape: {e}") from e

    def _is_busy(self) -> bool:
        return bool(self._pending)

    def _is_waiting(self) -> bool:
        return any(one.kind in CELLS for one in list(self._pending.values()))

    def _give_sign(self) -> None:
        """Ask for a sign of life: the link has heard nothing for a while, and a cell runs."""
        if self._sending.is_idle:
            sign = Call({"op": "hello", "session": self.session_id})
            sign.future.add_done_callback(self._signed)
            self._sending.put(sign)

    def _signed(self, sign: Future[Any]) -> None:
        """The server has answered. If it has sent events that have not come, the line for events is dead."""
        if not sign.cancelled() and sign.exception() is None:
            self._link.watch.owes(self._events, sign.result().get("newest", 0) > self._inbox.ack)

    def _tell(self, trouble: Outage | None) -> None:
        waits = "; the interrupt waits for it, Stop again ends the wait" if self._stopping else ""
        self._on_link(f"{trouble}{waits}" if trouble else None)

    def _ended(self, why: FlameError) -> None:
        """The session is lost for good: tell everyone who waits."""
        if not self.ready.done():
            self.ready.set_exception(why)
        for request_id in list(self._pending):
            self._settle(request_id, why)
        self._sending.end()

    # -- events ------------------------------------------------------------------------------------------------------

    def _take(self, events: list[Event]) -> None:
        asked = [event for event in events if event["type"] in SERVED]
        try:
            for event in asked:
                self._serve(event)
            self._on_events([event for event in events if event["type"] not in SERVED] if asked else events)
        except Exception as e:  # unexpected content must not end this thread, which all wait for
            self._link.end(UnsafeAnswer(self.location, f"events that cannot be shown: {type(e).__name__}: {e}"))
            return
        for event in events:
            kind = event["type"]
            if kind.endswith("_reply") and event.get("request") is not None:
                self._replied(event)
            elif kind == "ready":
                if self.ready.done():
                    self.ready = Future()
                self.ready.set_result(event["content"])

    def _serve(self, event: Event) -> None:
        """Pass a question of the far side to the service for it, or answer that there is none."""
        answer = self.services.get(event["type"])
        if answer is not None:
            answer(event)
        else:
            words = f"{event['content']['name']} is hot code, and this client serves none: begin with %flame hot"
            self.request("hot", op="answer", hot_id=event["content"]["hot_id"], problem=words)

    def _replied(self, event: Event) -> None:
        """A reply has come: set the future of its request, or its error if the reply is refused."""
        one = self._pending.get(event["request"])
        if one is None:
            return
        try:
            if event["type"] != f"{one.kind}_reply":
                raise UnsafeAnswer(self.location, f"a reply of another kind than {one.kind}")
            content = answers.reply(one.shape, event["content"], self.location)
        except UnsafeAnswer as error:
            self._settle(event["request"], error)
            return
        buffers = event.get("buffers")
        self._settle(event["request"], dict(content, buffers=buffers) if buffers else content)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, timeout: float = 3.0) -> None:
        """End the session on the far side, with all it runs, and the connections. Idempotent; never raises."""
        self._finish("close", timeout)

    def detach(self, timeout: float = 3.0) -> None:
        """Disconnect: the session and its running cell go on there; attach to it by its name."""
        self._finish("detach", timeout)

    def _finish(self, op: str, timeout: float) -> None:
        while self.before_end:
            self.before_end.pop()()
        self._link.leaving = True
        if self.gone is None and not self._link.closing.is_set():
            done = self._call({"op": op, "ack": self._polling.shown})
            # If nothing answers, the agent ends the session itself, after nobody has come back for some time.
            deadline = time.monotonic() + timeout
            while not done.done() and time.monotonic() < deadline:
                with contextlib.suppress(FlameError, futures.TimeoutError):  # not the built-in one before Python 3.11
                    done.result(min(timeout, AWAY / 10))
                if self._link.is_broken or self.trouble is not None:
                    deadline = min(deadline, time.monotonic() + AWAY / 10)
        self._link.abort()
        self._polling.wake()
        self._sending.end()
        deadline = time.monotonic() + min(timeout, 1.0)
        for part in (self._sending, self._polling):
            part.wait(max(0.0, deadline - time.monotonic()))
        self._link.close()
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            io_threads.leave(threads)
        gone = self.gone or SessionGone(self.location, "it was closed here")
        for request_id in list(self._pending):
            self._settle(request_id, gone)
        if not self.ready.done():
            self.ready.set_exception(gone)
