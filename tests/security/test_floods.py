"""What a server may put on a front end: so many messages of whatever kind, and so much that it has not taken yet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from farside import FlameServer, random_key, wait_until
from jupyter_client.session import Session
from kernels import remote_flame
from tornado.ioloop import IOLoop

from flame_kernel.connect.target import Location, Target
from flame_kernel.kernel import outgoing
from flame_kernel.kernel.iopub import TAKEOVERS, Publisher
from flame_kernel.kernel.outgoing import Outgoing
from flame_kernel.security.rendering import BURST, RATE

COUNT = 20_000
CELLS = 700  # more than are remembered of what was said


class Told:
    """A session on a server that nobody vouches for, and what a front end is told of it."""

    def __init__(self) -> None:
        self.target = Target(Location.parse("localhost:1"))
        self.running: list[Any] = []
        self.missed = 0
        self.session_id, self.location = "x", "l"
        self.gone = None
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.asked = 0
        self.answered = 0
        self.publisher = Publisher(self._send, lambda *_: None, self._ask)
        for number in range(CELLS):
            self.publisher.remember(f"r{number}", {"header": {"msg_id": f"r{number}"}}, b"i")
            self.publisher.belongs(f"r{number}", self)  # type: ignore[arg-type]

    def _send(self, kind: str, content: dict[str, Any], *_: Any, **__: Any) -> None:
        self.sent.append((kind, content))

    def _ask(self, *_: Any) -> None:
        self.asked += 1

    def answer(self, *_: Any) -> None:
        self.answered += 1


def event(kind: str, number: int, request: str | None = None, **content: Any) -> dict[str, Any]:
    return {"type": kind, "request": request or f"r{number % CELLS}", "content": content}


TEXT = {"name": "stdout", "text": "x"}
SHOWN = {"data": {"text/plain": "y"}}
KINDS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "text between displays": lambda n: [event("stream", 0, **TEXT), event("display_data", 0, **SHOWN)],
    "text of all cells between displays": lambda n: [event("stream", n, **TEXT), event("display_data", n, **SHOWN)],
    "text of two streams": lambda n: [event("stream", n, name="stderr", text="x"), event("stream", n, **TEXT)],
    "text between what is withheld": lambda n: [event("stream", n, **TEXT), event("comm_open", n, comm_id="c")],
    "text between debug events": lambda n: [event("stream", n, **TEXT), event("debug_event", n, event="output")],
    "text between strange events": lambda n: [event("stream", n, **TEXT), event("strange", n)],
    "what is withheld": lambda n: [event("display_data", n, data={"text/html": "<b>"}), event("comm_msg", n)],
    "changes of others' displays": lambda n: [event("update_display_data", n, transient={"display_id": str(n)})],
    "clear_output": lambda n: [event("clear_output", n, wait=False), event("stream", n, **TEXT)],
    "errors": lambda n: [event("error", n, ename="E", evalue="v", traceback=["t"])],
    "debug events": lambda n: [event("debug_event", n, event="output", body={})],
    "prompts": lambda n: [event("input_request", n, input_id=n, prompt="p")],
    "prompts of no cell": lambda n: [event("input_request", n, request="else", input_id=n, prompt="p")],
    "prompts and their ends": lambda n: [event("input_request", n, input_id=n), event("input_cancelled", n)],
    "takeovers": lambda n: [event("takeover_request", n, id=str(n), client="z")],
    "one takeover": lambda n: [event("takeover_request", n, id="1", client="z")],
    "takeovers of long names": lambda n: [event("takeover_request", n, id="x" * 200 + str(n), client="z")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_whatever_kind(kind: str) -> None:
    told = Told()
    began = time.monotonic()
    events = [one for number in range(COUNT) for one in KINDS[kind](number)]
    told.publisher.publish(told, events)  # type: ignore[arg-type]
    most = BURST + RATE * (time.monotonic() - began) + 100
    assert len(told.sent) + told.asked + told.answered <= most
    assert len(told.publisher.takeovers(told)) <= TAKEOVERS  # type: ignore[arg-type]
    texts = sum(
        len(content["text"]) for sent, content in told.sent if sent == "stream" and set(content["text"]) == {"x"}
    )
    assert texts == sum(one["type"] == "stream" for one in events)  # no text is lost for that


def test_honest_events_pass() -> None:
    """Prompts, requests to take over and debug events at the pace of people, beside much text."""
    told = Told()
    for number in range(20):
        events = [event("stream", 0, **TEXT)] * 1000 + [event("input_request", 0, input_id=number, prompt="p")]
        events += [event("debug_event", 0, event="stopped"), event("takeover_request", 0, id=str(number), client="z")]
        told.publisher.publish(told, events)  # type: ignore[arg-type]
    kinds = [kind for kind, _ in told.sent]
    assert (told.asked, kinds.count("debug_event"), len(told.publisher.takeovers(told))) == (20, 20, 20)  # type: ignore[arg-type]


# -- what is not taken -------------------------------------------------------------------------------------------------


class Channel:
    """iopub as the kernel has it, in this process, and front ends that listen to it."""

    def __init__(self, folder: Path, session: Session | None = None) -> None:
        self.context = zmq.Context()
        self.url = f"ipc://{folder}/iopub"
        socket = self.context.socket(zmq.XPUB)
        socket.linger = 0
        outgoing.prepare(socket)
        socket.bind(self.url)
        made: Future[Outgoing] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(socket, session, made),))
        self._thread.start()
        self.out = made.result()
        self._clients: list[zmq.Socket[bytes]] = []

    async def _serve(self, socket: zmq.Socket[bytes], session: Session | None, made: Future[Outgoing]) -> None:
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        out = Outgoing(socket, IOLoop.current(), session)
        out.start()
        made.set_result(out)
        await self._over.wait()
        out.stop()
        out.close()

    def front(self) -> zmq.Socket[bytes]:
        """One more front end, which keeps little itself."""
        front = self.context.socket(zmq.SUB)
        front.rcvhwm, front.rcvbuf, front.linger = 1, 4096, 0
        front.subscribe(b"")
        front.connect(self.url)
        self._clients.append(front)
        said = threading.Event()

        def hello() -> None:
            while not said.wait(0.01):
                self.out.send_multipart([b"hello", b""])

        thread = threading.Thread(target=hello)
        thread.start()
        front.recv_multipart()
        said.set()
        thread.join()
        return front

    def say(self, number: int, size: int = 4096) -> None:
        self.out.send_multipart([b"kernel.1.stream", b"%d" % number, bytes(size)])

    def idle(self, number: int) -> None:
        self.out.send_multipart(
            [b"kernel.1.status", b"%d" % number, b"%d" % number, b"", b'{"execution_state": "idle"}']
        )

    def close(self) -> None:
        for front in self._clients:
            front.close()
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self.context.term()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    with contextlib.closing(Channel(tmp_path)) as made:
        yield made


def read(front: zmq.Socket[bytes], until: Callable[[list[bytes]], bool], seconds: float = 20) -> list[list[bytes]]:
    """What a front end takes, up to a message."""
    found = []
    while front.poll(seconds * 1000):
        msg = front.recv_multipart()
        if msg[0] != b"hello":
            found.append(msg)
            if until(msg):
                return found
    raise AssertionError(f"not heard; {len(found)} messages came")


def is_status(number: int) -> Callable[[list[bytes]], bool]:
    return lambda msg: msg[0].endswith(b"status") and msg[1] == b"%d" % number


def test_nothing_is_lost_for_one_that_is_slow(channel: Channel) -> None:
    """Many more messages than ZeroMQ keeps, and statuses: all of them, in their order."""
    front = channel.front()
    for number in range(5000):
        channel.say(number, 100)
        if number % 100 == 0:
            channel.idle(number)
    channel.idle(-1)
    heard = read(front, is_status(-1))
    assert [int(msg[1]) for msg in heard if msg[0].endswith(b"stream")] == list(range(5000))
    assert sum(msg[0].endswith(b"status") for msg in heard) == 51


def test_output_waits_where_nobody_takes_it(channel: Channel) -> None:
    """And no more: statuses go, and who ends meanwhile does not wait; then all is there."""
    front = channel.front()
    sent = itertools.count()
    gone = threading.Event()
    said: list[int] = []

    def flood() -> None:
        while not gone.is_set():
            channel.out.wait_for_room(gone.is_set)
            said.append(next(sent))
            channel.say(said[-1], 100_000)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        wait_until(lambda: channel.out.is_full, "it is full")
        count = len(said)
        assert count * 100_000 < 2 * outgoing.MOST
        channel.idle(7)  # does not wait, and is not lost
        assert len(said) <= count + 1
    finally:
        gone.set()
        thread.join(10)
    assert not thread.is_alive()
    heard = read(front, is_status(7))
    assert [int(msg[1]) for msg in heard if msg[0].endswith(b"stream")][:count] == list(range(count))
    wait_until(lambda: not channel.out.is_full, "there is room again")


def test_one_that_takes_nothing_is_given_up(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on, with everything; when it comes back it hears that the cells have ended."""
    monkeypatch.setattr(outgoing, "GIVE_UP", 0.3)
    monkeypatch.setattr(outgoing, "AGAIN", 0.2)
    stuck, reader = channel.front(), channel.front()
    heard: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: heard.extend(read(reader, is_status(3))))
    thread.start()
    for number in range(1000):
        channel.say(number)
    for number in (1, 2, 3):
        channel.idle(number)
    thread.join(30)
    assert [int(msg[1]) for msg in heard if msg[0].endswith(b"stream")] == list(range(1000))
    missing = {b"1", b"2", b"3"}

    def is_last(msg: list[bytes]) -> bool:
        if msg[0].endswith(b"status"):
            missing.discard(msg[1])
        return not missing

    read(stuck, is_last)


def test_one_that_goes_away_holds_up_nobody(channel: Channel) -> None:
    stuck, reader = channel.front(), channel.front()
    heard: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: heard.extend(read(reader, is_status(1))))
    thread.start()
    for number in range(1000):
        channel.say(number)
    channel.idle(1)
    wait_until(lambda: channel.out._stuck_since is not None, "it is stuck")
    stuck.close()
    thread.join(20)
    assert len(heard) == 1001


def test_front_ends_are_greeted_while_others_are_served(tmp_path: Path) -> None:
    """What sending takes from the channel's descriptor is looked for: the news of one more front end."""
    with contextlib.closing(Channel(tmp_path, Session(key=b""))) as channel:

        def serve() -> None:  # on the loop, as the kernel's own messages are
            for number in range(0 if channel.out._queue else 500):
                channel.idle(number)
            if not over.is_set():
                channel.loop.call_soon(serve)

        over = threading.Event()
        channel.loop.call_soon_threadsafe(serve)
        try:
            for number in range(30):
                with channel.context.socket(zmq.SUB) as front:
                    front.linger = 0
                    front.subscribe(b"for %d" % number)
                    front.connect(channel.url)
                    assert front.poll(10_000)
                    assert b"iopub_welcome" in b"".join(front.recv_multipart())
        finally:
            over.set()


def test_it_ends_while_one_takes_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    with contextlib.closing(Channel(tmp_path)) as channel:
        channel.front()
        for number in range(1000):
            channel.say(number)
    assert time.monotonic() - began < outgoing.GIVE_UP


@pytest.mark.timeout(120)
def test_a_front_end_that_sleeps(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    """The kernel keeps little of 120 MB of displays, which are all there when it wakes up, and so is the end."""
    over = tmp_path / "over"
    server = flame_server(key=random_key())
    with remote_flame(env=server.environ()) as k:
        k.execute("from IPython.display import display")
        process = psutil.Process(k.pid)
        before = process.memory_info().rss
        run = k.submit(f"for _ in range(1500): display('x' * 80_000)\nopen({str(over)!r}, 'w').close()")
        wait_until(over.exists, "the cell has ended there", 60)  # nothing is read here meanwhile
        assert process.memory_info().rss < before + (80 << 20)
        k.wait(run, 60)
        assert run.error is None
        assert len(run.of_type("display_data")) == 1500
        assert k.execute("6 * 7").result == "42"
