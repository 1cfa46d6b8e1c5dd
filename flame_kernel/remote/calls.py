"""Calls: the requests about objects of a session, from any thread; each call is one request and waits for its reply.

The thread that waits also prints the call's output and asks the user for input, so the output appears where that
thread's own output does.  Ctrl-C there interrupts the far side, and is then raised as KeyboardInterrupt.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ..agent.wire import scalars, values
from ..commands.library_rails import Chains
from ..errors import CallTimeout, CannotTravel, FlameError, ObjectGone, SessionGone, UnsafeAnswer
from ..security.trust import offered, opener, pickler
from ..session.inbox import Event
from ..session.requests import Reply
from ..session.screen import allowed
from ..session.session import Session
from ..session.user import ask_line, next_of, without_our_frames
from ..terminal import one_line
from .bulk import Bulk
from .callbacks import Handed
from .exceptions import Known, of_call, sent
from .foreground import show_before, write
from .functions import Shipment
from .records import sent_class

# Libraries whose values we can decode, if they are installed here.
LIBRARIES = ("numpy", "pandas", "pyarrow", "polars", "torch")
# How many past requests keep their output routes, because threads that they have started may still print.
REMEMBERED = 256
# Seconds after which the far side is told of garbage-collected stand-ins, unless a call takes the message along.
RELEASE_AFTER = 0.5

Sink = Callable[[Event], None]
Step = tuple[Any, ...]
Value = TypeVar("Value")
# The kinds of answers that each mode allows.
_ANSWERS = {
    "auto": ("value", "pieces", "held"),
    "value": ("value", "pieces"),
    "keep": ("held",),
    "items": ("items",),
    "none": ("none",),
}


class Calls:
    """The calls of one session.

    session   the session
    stand_in  makes a stand-in from the description of a remote object: ``stand_in(calls, description)``
    reference returns the id of a stand-in, or None for anything else
    show      an attribute: takes output that is not text; None: such output is dropped

    ``timeout`` is in seconds for a call; None: no limit. ``allow_stdin`` says whether ``input()`` on the far side may
    ask here; None: if a user is there to answer.
    """

    def __init__(
        self,
        session: Session,
        stand_in: Callable[[Calls, dict[str, Any]], Any],
        reference: Callable[[Calls, Any], str | None],
    ) -> None:
        self.session = session
        self.timeout: float | None = None
        self.allow_stdin: bool | None = None
        self.show: Sink | None = None
        self.write: Callable[[str, str], None] = write
        self.on_takeover: Callable[[str, str], None] = lambda ask_id, client: None
        self._bulk = Bulk(session)
        self._chains = Chains(session)
        self._stand_in = stand_in
        self._reference = reference
        self._pid = os.getpid()
        self._sinks: collections.OrderedDict[str, Sink] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._rendering = session.target.rendering(lambda request, words: self.write("stderr", f"[{words}]\n"))
        self._rendering_lock = threading.RLock()
        self._libraries = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
        # SimpleQueue.put is reentrant, so a destructor may call it.
        self._released: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._releaser: threading.Thread | None = None
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"<Calls of {self.session!r}>"

    @property
    def location(self) -> str:
        return self.session.location

    @property
    def name(self) -> str:
        """The server's name, for people."""
        return self.session.target.name or self.session.location

    # -- events ------------------------------------------------------------------------------------------------------

    def on_events(self, events: Sequence[Event]) -> None:
        """Pass each event to the waiting call, or else to the default. Called by the session, on its events thread."""
        for event in events:
            if event["type"].endswith("_reply"):
                continue
            with self._lock:
                sink = self._sinks.get(event.get("request") or "")
            if sink is not None:
                sink(event)
            else:
                self.default(event)

    def take(self, events: Sequence[Event]) -> list[Event]:
        """Pass on the events of these calls, and return the others: for a session that others use too."""
        with self._lock:
            ours = [event.get("request") in self._sinks for event in events]
        self.on_events([event for event, is_ours in zip(events, ours, strict=True) if is_ours])
        return [event for event, is_ours in zip(events, ours, strict=True) if not is_ours]

    def default(self, event: Event) -> None:
        """Handle output that no call waits for: text goes to this process's own streams."""
        if event["type"] == "input_request":
            self._answer(event, None)
        elif event["type"] == "callback_request":
            known = event["content"].get("callback_id")
            self.session.request("object", op="callback", callback_id=known, status="over")
        elif event["type"] == "takeover_request":
            self.on_takeover(str(event["content"].get("id")), one_line(str(event["content"].get("client"))))
        else:
            self._display(event)

    def route(self, request_id: str, sink: Sink) -> None:
        """From now on pass the events of a request to ``sink``, on the events thread."""
        with self._lock:
            self._sinks[request_id] = sink
            while len(self._sinks) > REMEMBERED:
                self._sinks.popitem(last=False)

    def unroute(self, request_id: str) -> None:
        with self._lock:
            self._sinks.pop(request_id, None)

    def bundle(self, data: dict[str, Any], metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The MIME bundle of an object and its metadata as a front end may show them; filtered for an unauthenticated
        server."""
        content = {"data": data, "metadata": metadata, "transient": {}}
        with self._rendering_lock:
            shown = self._rendering.event({"type": "display_data", "request": "", "content": content})
        content = {} if shown is None else shown["content"]
        return dict(content.get("data") or {}), dict(content.get("metadata") or {})

    # -- calls -------------------------------------------------------------------------------------------------------

    def perform(self, root: list[Any], steps: Sequence[Step], mode: str = "auto", **options: Any) -> Any:
        """Evaluate a chain on the far side (see ``agent/remote/objects.py``); return the value, or a stand-in for it.

        ``timeout=`` overrides ``self.timeout``; ``begun=`` is called with a function that interrupts the request.
        Raises the far side's exception (a RemoteError that is also of the same built-in class), CannotTravel,
        ObjectGone, CallTimeout, SessionGone, KeyboardInterrupt.
        """
        timeout, begun = options.pop("timeout", self.timeout), options.pop("begun", None)
        handed = None if mode == "none" and root[0] == "names" else Handed(self.sent)
        request, parts = self.prepared(root, steps, mode, handed, timeout=timeout, **options)
        reply = self._wait(request, parts, timeout, handed, begun)
        raised = None if handed is None else handed.raised(reply.get("raised"))
        if raised is not None:
            raise raised
        if reply.get("how") == "held":
            self._chains.reached(str(reply["held"].get("id")), root, steps)
        return self.answer(reply, mode, timeout)

    def prepared(
        self,
        root: list[Any],
        steps: Sequence[Step],
        mode: str,
        handed: Handed | None,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], Sequence[Any]]:
        """The request for a chain, and its buffers; large values are sent at once. Raises CannotTravel."""
        self._check()
        self._chains.hold(root, steps)
        trust = self.session.target.trust and offered()
        shipment = self._shipment(handed)
        if root[0] == "function":
            root = ["function", shipment.entry(root[1])]
        parts, things = self._parts(list(steps), shipment)
        request = {"root": root, "mode": mode, "libraries": self._libraries, "trust": trust, **options, **things}
        request["called"] = bool(steps) and steps[-1][0] == "call"
        request["allow_stdin"] = self._may_ask() if self.allow_stdin is None else self.allow_stdin
        ticket = self._bulk.stage(parts, timeout)
        if ticket is not None:
            request["staged"], parts = ticket, []
        return request, parts

    def forget(self, known: str) -> None:
        """Note that a stand-in was garbage-collected. Called on any thread, also by destructors, so it never waits."""
        self._chains.forget(known)
        if os.getpid() == self._pid:
            self._released.put(known)

    def close(self) -> None:
        """Accept no more calls. Idempotent."""
        self._closed.set()
        self._released.put(None)
        releaser, self._releaser = self._releaser, None
        if releaser is not None and releaser is not threading.current_thread():
            releaser.join()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise FlameError(
                f"this connection to {self.location} belongs to process {self._pid}; connect again in this one"
            )

    def _shipment(self, handed: Handed | None = None) -> Shipment:
        pickles = pickler if self.session.target.trust else None
        return Shipment(lambda one: self._reference(self, one), pickles, self.session.server.get("python"), handed)

    def _parts(self, value: Any, shipment: Shipment) -> tuple[list[Any], dict[str, Any]]:
        """The parts of a value and of what it needs, and the request fields that describe them."""
        parts = self._encode(value, shipment)
        things = shipment.parts()
        if not things:
            return parts, {}
        return [*parts, *(part for one in things for part in one)], {"things": [len(parts), *map(len, things)]}

    def _encode(self, value: Any, shipment: Shipment) -> list[Any]:
        chain = values.encode_chain(value)
        if chain is not None:
            return list(chain)
        try:
            return list(values.encode(value, shipment.reference, shipment.pickles))
        except scalars.NotPlain as error:
            advice = "" if self.session.target.trust else f"; {ADVICE}"
            raise CannotTravel(f"cannot send this to {self.name}: {error}{advice}") from None

    def _wait(
        self,
        request: dict[str, Any],
        parts: Sequence[Any],
        timeout: float | None,
        handed: Handed | None,
        begun: Callable[[Callable[[], object]], None] | None,
    ) -> Reply:
        """Send a request, and handle its events until its reply comes."""
        request_id = os.urandom(16).hex()
        told: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.route(request_id, told.put)
        deadline = None if timeout is None else time.monotonic() + timeout
        stopped: KeyboardInterrupt | None = None
        try:
            future: Future[Reply] | None = None
            while True:
                try:
                    if future is None:
                        future = self.session.request(
                            "object", request_id, buffers=parts, release=self._collected(), **request
                        )
                        future.add_done_callback(lambda done: told.put(None))
                        if begun is not None:
                            begun(functools.partial(self.session.interrupt, request_id, gently=True))
                    event = next_of(told, deadline)
                    if event is None:
                        break
                    if event["type"] == "callback_request":
                        self._called_back(event, handed)
                    else:
                        self._serve(event, bool(request["allow_stdin"]))
                except KeyboardInterrupt as error:
                    self.session.interrupt(request_id)
                    if stopped is not None or future is None:
                        raise  # pressed twice: stop waiting
                    stopped = error
                except queue.Empty:
                    self.session.interrupt(request_id, gently=True)
                    raise CallTimeout(self.location, "the call", timeout or 0.0) from None
        finally:
            self.unroute(request_id)
        while not told.empty():  # the call's own output comes before the reply, so this is from its threads
            late = told.get()
            if late is not None:
                self.default(late)
        if stopped is not None:
            raise without_our_frames(stopped.with_traceback(None))
        return future.result()

    def _called_back(self, event: Event, handed: Handed | None) -> None:
        """Run a callback for the far side, on the thread that waits for the call."""
        try:
            if handed is None:
                raise TypeError("a callback where none was handed over")
            arguments = values.decode(event.get("buffers") or (), self._object, None, Known())
            fields, value, raised = handed.use(event["content"], arguments)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self.wrong_shape(error) from None
        try:
            parts, things = self._parts(value, self._shipment(handed))
        except Exception as error:  # the far side waits for an answer, whatever the value's own code raises
            fields, value, raised = handed.failed(error)
            parts, things = self._parts(value, self._shipment())
        fields |= {
            "callback_id": event["content"]["callback_id"],
            "trust": self.session.target.trust and offered(),
            **things,
        }
        ticket = self._bulk.stage(parts, None)
        if ticket is not None:
            fields["staged"], parts = ticket, []
        self.session.request("object", op="callback", buffers=parts, **fields)
        if isinstance(raised, KeyboardInterrupt):
            raise raised

    def answer(self, reply: Reply, mode: str, timeout: float | None = None) -> Any:
        """The value of a reply, or raise its error; UnsafeAnswer if it is malformed."""
        try:
            status, buffers = reply.get("status"), list(reply.get("buffers") or ())
            if status == "ok":
                how = reply["how"]
                if how not in _ANSWERS[mode]:
                    raise KeyError(how)
                if how == "none":
                    return None
                if how == "value":
                    return self.decoded(buffers, reply.get("held"))
                if how == "held":
                    return self._object(reply["held"])
                if how == "pieces":
                    return self.decoded(self._bulk.fetch(reply["ticket"], reply["sizes"], timeout), reply.get("held"))
                if how == "items":
                    return reply
            elif status == "gone":
                raise ObjectGone(self.location)
            elif status == "refused":
                raise self._refusal(reply)
            elif status == "error":
                raised = self.error(reply, buffers)
            else:
                raise KeyError(status)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FlameError):
                raise
            raise self.wrong_shape(error) from None
        raise raised

    def _refusal(self, reply: Reply) -> CannotTravel:
        message, why = str(reply["message"])[:2000], reply.get("why")
        if why == "lacks":
            return CannotTravel(_LACKS % (self.name, message, (top := message.partition(".")[0]), top))
        if why in ("unreadable", "not installed"):
            step = "; install it there: %flame pip install " + next((n for n in LIBRARIES if n in message), "NAME")
            return CannotTravel(f"{self.name} cannot read what was sent: {message}{step * (why == 'not installed')}")
        advice = "" if self.session.target.trust else f"; {FETCH_ADVICE}"
        return CannotTravel(f"cannot fetch this from {self.name}: {message}{advice}")

    def _object(self, description: dict[str, Any]) -> Any:
        """A stand-in for an object of the far side; if that is a class that was sent from here, this class."""
        stands = self._stand_in(self, description)
        own = sent_class(description.get("key"))
        return stands if own is None else own

    def demand(self, root: list[Any], steps: Sequence[Step], kind: type[Value], **options: Any) -> Value:
        """The value of a chain, which must be of class ``kind``; UnsafeAnswer if it is of another class."""
        value = self.perform(root, steps, "value", **options)
        if type(value) is not kind:
            raise UnsafeAnswer(self.location, f"a {type(value).__name__} where a {kind.__name__} is due")
        return value

    def wrong_shape(self, error: Exception) -> FlameError:
        """The error to raise if a reply is malformed, or has a value of a library that is not installed here."""
        if isinstance(error, scalars.BadValue) and error.missing:
            return CannotTravel(f"{self.name} sent {error}; install it here")
        return UnsafeAnswer(self.location, f"a reply of the wrong shape ({error})")

    def decoded(self, buffers: Sequence[Any], held: dict[str, Any] | None = None) -> Any:
        """The value in the buffers of a reply; a stand-in for it, from the description ``held``, where its class is not
        known here."""
        known = Known()
        loads = opener(self.session.target.trust, sent_class)
        if not held:
            return values.decode(buffers, None, loads, known)
        there = self._stand_in(self, held)
        try:
            value = values.decode(buffers, None, loads, known)
        except CannotTravel:  # a pickle of a class that cannot be imported here
            return there
        return value if known.all else there

    def error(self, reply: dict[str, Any], buffers: Sequence[Any]) -> Exception:
        """The exception in a reply with status ``error``."""
        if reply.get("ename") == "SessionDied":
            return SessionGone(self.location, str(reply.get("evalue"))[:2000].partition(";")[0])
        facts = values.decode(buffers, lambda about: self._stand_in(self, about), None, Known()) if buffers else {}
        return of_call(reply, facts if isinstance(facts, dict) else {})

    def sent(self, error: BaseException) -> dict[str, Any]:
        """The description of a local exception, from which the far side makes one."""
        return sent(error, self._travels)

    def _travels(self, value: Any, is_argument: bool) -> bool:
        try:
            self._encode(value, self._shipment())
        except FlameError:
            return False
        return True

    # -- garbage-collected stand-ins ---------------------------------------------------------------------------------

    def keep(self) -> None:
        """Called for a new stand-in: start the thread that reports garbage-collected ones if no call does."""
        with self._lock:
            if self._releaser is None and not self._closed.is_set():
                self._releaser = threading.Thread(target=self._release, name="flame-release", daemon=True)
                self._releaser.start()

    def _collected(self) -> list[str]:
        """The ids of garbage-collected stand-ins, to send with a request."""
        found: list[str] = []
        with contextlib.suppress(queue.Empty):
            while True:
                one = self._released.get_nowait()
                if one is None:
                    self._released.put(None)  # None is for the releaser thread
                    break
                found.append(one)
        return found

    def _release(self) -> None:
        while not self._closed.is_set():
            first = self._released.get()
            if first is None or self._closed.wait(RELEASE_AFTER):
                return
            self.session.request("object", op="release", release=[first, *self._collected()])

    # -- output and input --------------------------------------------------------------------------------------------

    def _serve(self, event: Event, may_ask: bool) -> None:
        """Handle an event of a call, on the thread that waits for it."""
        if event["type"] == "input_request":
            self._answer(event, self._ask(event["content"]) if may_ask else None)
        else:
            self._display(event)

    def _display(self, event: Event) -> None:
        """Write text to this process's own streams; pass other displays to ``show``."""
        if event["type"] != "stream" and self.show is None:
            return
        with self._rendering_lock:
            may = allowed(event, self._rendering)
        if may is None:
            return
        if may["type"] == "stream":
            self.write(may["content"]["name"], may["content"]["text"])
        elif self.show is not None:
            self.show(may)

    def _may_ask(self) -> bool:
        """Whether a user can be asked: in a terminal or a notebook, and on the thread that can ask."""
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            return hasattr(builtins, "__IPYTHON__") or bool(sys.stdin.isatty())
        except (ValueError, AttributeError):  # stdin is closed or missing
            return False

    def _ask(self, content: dict[str, Any]) -> str | None:
        """The user's line; None at end of file."""
        before, prompt = self._rendering.question(content.get("prompt", ""))
        show_before(before)
        return ask_line(prompt, bool(content.get("password")))

    def _answer(self, event: Event, line: str | None) -> None:
        number = event["content"].get("input_id")
        if isinstance(number, int):
            self.session.answer(number, line)


ADVICE = (
    "send plain data (numbers, text, bytes, containers, arrays), run a function by pi.run, or connect with "
    "flame.connect(…, trust=True), which sends such things as pickles"
)
_LACKS = "%s has no module %s, which a function uses; send it with sendmodule(%r), or by %%flame pip install %s"
FETCH_ADVICE = (
    "fetch a plain part of it, or connect with flame.connect(…, trust=True), which brings such things as pickles: "
    "they run code here"
)
