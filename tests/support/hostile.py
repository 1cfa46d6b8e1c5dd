"""An agent that means harm: a server that speaks Pyro and our wire, and answers what a test wants it to.

``FakeAgent`` is honest where nothing else is asked for.  Run as a program, this is a client that is watched: it opens a
``Session`` at each server named on its stdin, runs a cell, and tells what came of it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pickle
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import evil

from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.target import Location, Target, Timeouts
from flame_kernel.errors import FlameError
from flame_kernel.session.session import Session

# (agent, request) -> the result, or (result, buffers), or bytes that are sent as the agent's whole answer.
Op = Callable[["FakeAgent", dict[str, Any]], Any]


class FakeAgent(evil.Server):
    """A server that keeps to Pyro's protocol and to ours.

    ops     what is done in place of the honest thing, by op: ``open``, ``submit``, ``poll``, …
    harm    an ``evil.Answer`` for the op named ``at``, below the level of our wire
    events  what ``poll`` gives, by ``say``; numbered there
    """

    def __init__(self, ops: dict[str, Op] | None = None, *, harm: evil.Answer | None = None, at: str = "") -> None:
        self.ops = ops or {}
        self.harm = harm
        self.at = at
        self.events: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.news = threading.Condition()
        super().__init__()

    def target(self, **timeouts: float) -> Target:
        return Target(Location.parse(self.location), timeouts=Timeouts(**timeouts))

    def close(self) -> None:
        """End it, and every connection."""
        self.over.set()
        with self.news:
            self.news.notify_all()
        super().close()

    def say(self, *events: dict[str, Any]) -> None:
        """Put events into the log: ``request`` and ``content`` may be left out."""
        with self.news:
            for event in events:
                whole = {"type": "stream", "request": None, "content": {}, "number": len(self.events) + 1}
                self.events.append({**whole, **event})
            self.news.notify_all()

    def serve(self, connection: socket.socket) -> None:
        seq, _ = evil.read_message(connection)
        connection.sendall(evil.message(evil.CONNECTOK, evil.HELLO, seq))
        self.answer_calls(connection)

    def answer_calls(self, connection: socket.socket) -> None:
        """Answer what comes after the handshake."""
        while not self.over.is_set():
            seq, self.last_request = evil.read_message(connection)
            _, method, args, _ = pickle.loads(self.last_request)
            assert method == "invokeModule", method
            request, _ = wire.decode(args[1][0])
            self.requests.append(request)
            if (
                self.harm is not None
                and {"submits": "submit", "do": "submit"}.get(request["op"], request["op"]) == self.at
            ):
                self.harm(self, connection, seq)
            else:
                answer = self._carry_out(request)
                connection.sendall(evil.message(evil.RESULT, pickle.dumps(answer, 4), seq))

    def _carry_out(self, request: dict[str, Any]) -> bytes:
        if request["op"] == "submits":  # several in one call: each as if it had come by itself
            for one in (request["request"], *(one for one, _ in request["more"])):
                answer = self._carry_out({**request, "op": "submit", "request": one})
            return answer
        if request["op"] == "do" and "do" not in self.ops:  # the events come by a poll
            answer = self._carry_out({**request, "op": "submit"})
            message, buffers = wire.decode(answer)
            if isinstance(message.get("result"), dict):
                message["result"] = {"events": [], **message["result"]}
            return wire.encode(message, buffers)
        op = self.ops.get(request["op"]) or getattr(self, "_" + request["op"])
        result = op(request) if op.__name__ == "_" + request["op"] else op(self, request)
        if isinstance(result, bytes):
            return result
        result, buffers = result if isinstance(result, tuple) else (result, ())
        return wire.encode({"n": request["n"], "result": result}, buffers)

    def _hello(self, request: dict[str, Any]) -> Any:
        return dict(HELLO)

    def _open(self, request: dict[str, Any]) -> Any:
        return dict(HELLO)

    def _submit(self, request: dict[str, Any]) -> Any:
        one = request["request"]
        if one["kind"] == "execute":
            self.reply(one["id"])
        else:
            self.answer(one)
        return {"new": True}

    def answer(self, request: dict[str, Any]) -> None:
        """The honest answer to an editor that there is nothing."""
        content = {"status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}, "found": False}
        self.say({"type": request["kind"] + "_reply", "request": request["id"], "content": content})

    def reply(self, request_id: str) -> None:
        """The honest end of a cell."""
        self.say(
            {"request": request_id, "content": {"name": "stdout", "text": "ran\n"}},
            {"type": "execute_reply", "request": request_id, "content": dict(OK)},
        )

    def _poll(self, request: dict[str, Any]) -> Any:
        with self.news:
            self.news.wait_for(lambda: len(self.events) > request["after"] or self.over.is_set(), request["wait"])
            return {"events": self.events[request["after"] :]}

    def _read(self, request: dict[str, Any]) -> Any:
        return {}

    def _answer(self, request: dict[str, Any]) -> Any:
        return {"accepted": True}

    def _interrupt(self, request: dict[str, Any]) -> Any:
        return {"done": "idle"}

    def _close(self, request: dict[str, Any]) -> Any:
        return {"closed": True}

    def _detach(self, request: dict[str, Any]) -> Any:
        return {}


HELLO: dict[str, Any] = {
    "protocol": wire.PROTOCOL,
    "boot": "00ff",
    "ticket": "00" * 16,
    "host": "fake",
    "pid": 1,
    "python": [3, 11, 7],
    "servertype": "thread",
    "bare": True,
    "main": "",
    "epoch": 1,
    "fresh": True,
    "place": "child",
    "newest": 0,
    "ready": None,
}

READY = {
    "type": "ready",
    "content": {"host": "fake", "pid": 1, "python": "3.11.7", "place": "child", "shell": "ipython", "ipython": "9"},
}

OK = {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []}


# --- the watched client

WATCHED = tuple(name for name in evil._WATCHED if name != "socket.connect")


def one_session(location: str, seconds: float) -> dict[str, Any]:
    """Open a session, run a cell, wait: the class of the error, or ``value``; seconds; what was said."""
    target = Target(
        Location.parse(location), timeouts=Timeouts(connect=seconds, call=seconds, poll=0.2, poll_deadline=seconds)
    )
    began = time.monotonic()
    session = None
    try:
        session = Session(target, lambda events: None)
        session.take_at_once(lambda: True)
        cell = session.execute("cell", "1")
        try:
            outcome, shown = "value", repr(cell.result(8 * seconds))[:200]
        except concurrent.futures.TimeoutError:
            # The link is made again for as long as the session is wanted; a Stop ends the wait.
            outcome = "waiting"
            session.interrupt()
            with contextlib.suppress(FlameError):
                cell.result(1)
                raise AssertionError("a cell that was stopped has a value") from None
            shown = str(cell.exception(0))
    except FlameError as error:
        outcome, shown = type(error).__name__, str(error)[:300]
    except BaseException as error:  # whatever else comes out is a fault, and is to be told
        outcome, shown = "FAULT", repr(error)[:300]
    ended = time.monotonic() - began
    if session is not None:
        session.close(1.0)
    return {"outcome": outcome, "shown": shown, "seconds": ended}


def watch() -> None:
    """Lines ``name location`` come in on stdin, the first an honest one; a JSON line for each goes out."""
    events: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event.startswith(WATCHED):
            events.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:

        def tell(name: str, location: str) -> None:
            found = one_session(location, 1.0)
            with told:
                print(json.dumps({"name": name, **found}), flush=True)

        told = threading.Lock()
        first = sys.stdin.readline().split()
        list(pool.map(lambda n: one_session(first[1], 1.0), range(10)))  # what is made once, is made now
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        watching = True
        futures = [pool.submit(tell, *line.split()) for line in sys.stdin]
        for future in futures:
            future.result()
        watching = False
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("flame-")]
    print(json.dumps({"name": "", "events": events, "grown": grown, "threads": threads}), flush=True)


if __name__ == "__main__":
    os.environ.pop("JPY_SESSION_NAME", None)
    watch()
