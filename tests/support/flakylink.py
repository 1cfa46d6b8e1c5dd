"""A link that can be spoilt: a proxy before a server that cuts, swallows answers, delays, drips and goes silent.

    with FlakyLink(server.location) as link, remote_flame(env={"FLAME_TARGET": link.location}) as k:
        link.cut_every(64_000)

What is random comes from one seed, which is printed, and from ``FLAME_TEST_SEED`` where that is set.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import selectors
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

Way = Literal["up", "down"]  # to the server, and from it
How = Literal["rst", "fin"]

T = TypeVar("T")

_HEADER = struct.Struct("!4sHHHHiHHHH")  # Pyro4's
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a RST
# Bytes of one way of a connection that are held here; beyond it the sender has to wait, as on a real link.
HELD = 256 << 10
# Seconds between two drops of a link that drips.
DROP = 0.02


class _Flow:
    """One way of a connection: what came out of ``source`` and is not yet in ``sink``."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.held: collections.deque[tuple[float, bytes]] = collections.deque()
        self.size = 0
        self.ended = False  # the source has said all
        self.closed = False  # … and the sink has heard it
        self.next_drop = 0.0

    def put(self, due: float, data: bytes) -> None:
        if data:
            self.held.append((due, data))
            self.size += len(data)


class _Pair:
    """A client's connection, and the one to the server that was made for it."""

    def __init__(self, client: socket.socket, server: socket.socket, left: float) -> None:
        self.flows: dict[Way, _Flow] = {"up": _Flow(client, server), "down": _Flow(server, client)}
        self.left = left  # bytes until it is cut
        self.unread = bytearray()  # of the client: what is not yet a whole message
        self.request = b""  # the last whole one
        self.taken_over = False  # what passes now is no Pyro messages
        self.quiet = False  # nothing came since from the server
        self.lost = False  # nothing passes any more
        self.swallow: How | None = None  # the next answer is not delivered
        self.dying: tuple[How, Way] | None = None  # cut when that way has delivered what it holds
        self.draining: float | None = None  # said FIN both ways at this time; what still comes is thrown away

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        return self.flows["up"].source, self.flows["down"].source


class FlakyLink(contextlib.AbstractContextManager["FlakyLink"]):
    """Forwards to ``target`` (``host:port`` or ``./u:path``); a context manager, which ends it and all connections.

    location     where clients connect to: of the same kind as the target
    delay        seconds that every byte takes, each way; may be changed at any time
    rate         bytes a second of each connection and way; None for as many as come
    accepted     the connections that were made to it, those that were refused at once included
    cuts         the connections that were cut by it
    passed       the bytes that came from either end to pass it, by way
    messages     (seconds of the monotonic clock, data) of each Pyro message of the clients
    """

    def __init__(self, target: str, *, seed: int | None = None, delay: float = 0.0, rate: float | None = None) -> None:
        if seed is None:
            seed = int(os.environ.get("FLAME_TEST_SEED") or random.randrange(1 << 32))
        self.seed = seed
        self.random = random.Random(seed)
        self.delay = delay
        self.rate = rate
        self.accepted = 0
        self.cuts = 0
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self.messages: list[tuple[float, bytes]] = []
        self._pairs: list[_Pair] = []
        self._cut_size: int | None = None
        self._cut_how: How = "rst"
        self._cut_at: tuple[Way, int, How] | None = None
        self._swallow: tuple[bytes, int, How] | None = None
        self._state: Literal["up", "refuse", "rst", "fin", "silent"] = "up"
        self._commands: collections.deque[Callable[[], None]] = collections.deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._over = False
        self._folder: str | None = None
        self._target = _address(target)
        self._place: Any = ("127.0.0.1", 0)
        if isinstance(self._target, str):
            self._folder = tempfile.mkdtemp(prefix="l-")
            self._place = os.path.join(self._folder, "s")
        self._listener = self._bind()
        self._listener.listen(512)
        if self._folder is None:
            self._place = self._listener.getsockname()
            self.location = f"127.0.0.1:{self._place[1]}"
        else:
            self.location = f"./u:{self._place}"
        print(f"flaky link {self.location} to {target}: seed {seed}")
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="flaky link")
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and every connection."""
        self._over = True
        self._wake.send(b"x")
        self._thread.join()
        for one in (self._listener, self._wake, self._woken):
            one.close()
        if self._folder:
            shutil.rmtree(self._folder)

    # -- faults, from any thread; done when the call returns -----------------------------------------------------------

    def cut(self, how: How = "rst", asking: bytes = b"") -> int:
        """Cut every connection now, or those whose last request has ``asking`` in it; how many that were."""

        def command() -> int:
            chosen = [pair for pair in self._pairs if asking in pair.request and pair.draining is None]
            for pair in chosen:
                self._cut(pair, how)
            return len(chosen)

        return self._do(command)

    def cut_every(self, size: int | None, how: How = "rst") -> None:
        """Cut each connection when about ``size`` bytes of both ways have passed, at a random point; None: no more."""

        def command() -> None:
            self._cut_size, self._cut_how = size, how
            for pair in self._pairs:
                pair.left = self._budget()

        self._do(command)

    def cut_at(self, way: Way, offset: int | None, how: How = "rst") -> None:
        """Let ``offset`` bytes more pass one way, of all connections together; then cut the one of the last byte.
        None takes that back."""

        def command() -> None:
            self._cut_at = None if offset is None else (way, offset, how)

        self._do(command)

    @property
    def cut_is_due(self) -> bool:
        """Whether the cut of ``cut_at`` is still to come."""
        return self._cut_at is not None

    def waits(self, asking: bytes) -> bool:
        """Whether a request with ``asking`` in it was delivered, and nothing has come or gone there since."""

        def command() -> bool:
            return any(asking in pair.request and pair.quiet for pair in self._pairs)

        return self._do(command)

    def lose(self, asking: bytes) -> int:
        """Connections whose last request has ``asking`` in it: nothing passes there any more, and nobody is told. How
        many there are."""

        def command() -> int:
            lost = [pair for pair in self._pairs if asking in pair.request and not pair.lost]
            for pair in lost:
                pair.lost = True
            return len(lost)

        return self._do(command)

    def swallow(self, asking: bytes, times: int = 1, how: How = "rst") -> None:
        """Deliver the next requests with ``asking`` in them, and cut their connections in place of the answer."""

        def command() -> None:
            self._swallow = asking, times, how

        self._do(command)

    @property
    def still_to_swallow(self) -> int:
        """How many answers ``swallow`` has not met yet."""
        return self._swallow[1] if self._swallow else 0

    def down(self, how: Literal["refuse", "rst", "fin"] = "refuse") -> None:
        """Cut all; whoever connects is refused, or accepted (and counted) and cut at once."""

        def command() -> None:
            self._set_listening(how != "refuse")
            self._state = how
            for pair in list(self._pairs):
                self._cut(pair, "fin" if how == "fin" else "rst")

        self._do(command)

    def lead_to(self, target: str) -> None:
        """Cut all, and lead to another server (of the same kind of address) from now on."""

        def command() -> None:
            self._target = _address(target)
            for pair in list(self._pairs):
                self._cut(pair, "rst")

        self._do(command)

    def silent(self) -> None:
        """Nothing passes any more, either way, and nobody is told; connections are taken and left alone."""
        self._do(lambda: setattr(self, "_state", "silent"))

    def up(self) -> None:
        """As good as new: after ``down`` and ``silent`` (what was under way then comes now)."""

        def command() -> None:
            self._set_listening(True)
            self._state = "up"

        self._do(command)

    def _do(self, command: Callable[[], T]) -> T:
        """Have the link's own thread do it; what it returns."""
        done = threading.Event()
        result: list[T] = []

        def run() -> None:
            result.append(command())
            done.set()

        self._commands.append(run)
        self._wake.send(b"x")
        assert done.wait(10), "the link's thread is gone"
        return result[0]

    # -- its thread ----------------------------------------------------------------------------------------------------

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX if self._folder else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._place)
        listener.bind(self._place)
        listener.setblocking(False)
        return listener

    def _set_listening(self, on: bool) -> None:
        """Off: the address stays ours, and the system refuses connections to it."""
        if on == (self._state != "refuse"):
            return
        if not on:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = self._bind()
        else:
            self._listener.listen(512)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _budget(self) -> float:
        return float("inf") if self._cut_size is None else self.random.randint(1, 2 * self._cut_size)

    def _run(self) -> None:
        with self._selector as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            try:
                while not self._over:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                    while self._commands:
                        self._commands.popleft()()
                    wait = self._watch()
                    for key, events in selector.select(wait):
                        if key.fileobj is self._listener:
                            self._accept()
                        elif key.data is not None and key.data in self._pairs:
                            self._serve(key.data, key.fileobj, events)
                    self._deliver()
            finally:
                for pair in list(self._pairs):
                    self._drop(pair)

    def _accept(self) -> None:
        for _ in range(100):
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            self.accepted += 1
            if self._state in ("rst", "fin"):
                _end(client, hard=self._state == "rst")
                continue
            server = socket.socket(socket.AF_UNIX if self._folder else socket.AF_INET)
            server.settimeout(5)
            try:
                server.connect(self._target)
            except OSError:  # it is down itself: so is the way to it
                server.close()
                _end(client, hard=True)
                continue
            for one in (client, server):
                one.setblocking(False)
                if self._folder is None:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append(_Pair(client, server, self._budget()))

    def _watch(self) -> float | None:
        """Register what each connection waits for; seconds until something is due by itself."""
        now = time.monotonic()
        soonest: float | None = None
        for pair in self._pairs:
            wanted = dict.fromkeys(pair.sockets, 0)
            for flow in pair.flows.values():
                if self._state == "silent" and pair.draining is None:
                    continue
                room = flow.size < HELD or pair.draining is not None
                if not flow.ended and room and pair.dying is None:
                    wanted[flow.source] |= selectors.EVENT_READ
                if flow.held:
                    due = max(flow.held[0][0], flow.next_drop)
                    if due <= now:
                        wanted[flow.sink] |= selectors.EVENT_WRITE
                    else:
                        soonest = due if soonest is None else min(soonest, due)
            for one, events in wanted.items():
                known = self._selector.get_map().get(one.fileno())
                if known is None:
                    if events:
                        self._selector.register(one, events, pair)
                elif not events:
                    self._selector.unregister(one)
                elif known.events != events:
                    self._selector.modify(one, events, pair)
            if pair.draining is not None:
                soonest = now + 0.1 if soonest is None else min(soonest, now + 0.1)
        return None if soonest is None else max(0.0, soonest - now)

    def _serve(self, pair: _Pair, fileobj: Any, events: int) -> None:
        if not events & selectors.EVENT_READ:
            return
        way: Way = "up" if fileobj is pair.flows["up"].source else "down"
        flow = pair.flows[way]
        try:
            data = fileobj.recv(HELD)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(pair, hard=True)
            return
        if not data:
            flow.ended = True
            return
        if pair.draining is not None:
            return
        if way == "down" and pair.swallow is not None:
            self._cut(pair, pair.swallow)
            return
        pair.quiet = False
        data = self._until_the_cut(pair, way, data)
        self.passed[way] += len(data)
        if way == "up":
            self._read(pair, data)
        flow.put(time.monotonic() + self.delay, data)

    def _until_the_cut(self, pair: _Pair, way: Way, data: bytes) -> bytes:
        """As much of ``data`` as still passes."""
        if self._cut_at is not None and self._cut_at[0] == way:
            _, left, how = self._cut_at
            if len(data) >= left:
                self._cut_at = None
                pair.dying = how, way
                return data[:left]
            self._cut_at = way, left - len(data), how
        if len(data) >= pair.left:
            pair.dying = self._cut_how, way
            return data[: int(pair.left)]
        pair.left -= len(data)
        return data

    def _read(self, pair: _Pair, data: bytes) -> None:
        """Find the messages in what a client says."""
        if pair.taken_over:
            return
        pair.unread += data
        while len(pair.unread) >= _HEADER.size:
            tag, _, _, _, _, size, _, chunks, _, _ = _HEADER.unpack_from(pair.unread)
            if tag != b"PYRO":
                pair.taken_over = True
                pair.unread.clear()
                return
            end = _HEADER.size + size + chunks
            if len(pair.unread) < end:
                return
            pair.request = bytes(pair.unread[:end])
            del pair.unread[:end]
            pair.quiet = True
            self.messages.append((time.monotonic(), pair.request))
            if self._swallow is not None and self._swallow[0] in pair.request:
                asking, times, pair.swallow = self._swallow
                self._swallow = (asking, times - 1, pair.swallow) if times > 1 else None

    def _deliver(self) -> None:
        """Write what is due; then end what has ended."""
        now = time.monotonic()
        for pair, flow in list(itertools.chain.from_iterable(((p, f) for f in p.flows.values()) for p in self._pairs)):
            if pair not in self._pairs or ((self._state == "silent" or pair.lost) and pair.draining is None):
                continue
            try:
                self._pour(flow, now)
            except OSError:
                self._drop(pair, hard=True)
                continue
            if flow.ended and not flow.held and not flow.closed:
                flow.closed = True
                with contextlib.suppress(OSError):
                    flow.sink.shutdown(socket.SHUT_WR)
        for pair in list(self._pairs):
            if pair.dying is not None and not pair.flows[pair.dying[1]].held:
                self._cut(pair, pair.dying[0])
            elif all(flow.closed for flow in pair.flows.values()) or (
                pair.draining is not None
                and (all(flow.ended for flow in pair.flows.values()) or now > pair.draining + 2)
            ):
                self._drop(pair)

    def _pour(self, flow: _Flow, now: float) -> None:
        while flow.held and flow.held[0][0] <= now and flow.next_drop <= now:
            due, data = flow.held[0]
            piece = data
            if self.rate is not None:
                piece = data[: max(1, int(self.rate * DROP))]
                flow.next_drop = now + len(piece) / self.rate
            try:
                sent = flow.sink.send(piece)
            except (BlockingIOError, InterruptedError):
                return
            flow.size -= sent
            if sent == len(data):
                flow.held.popleft()
            else:
                flow.held[0] = due, data[sent:]
            if sent < len(piece):
                return

    def _cut(self, pair: _Pair, how: How) -> None:
        self.cuts += 1
        if how == "rst":
            self._drop(pair, hard=True)
            return
        # A FIN, and no RST: that is what the system sends where something has come that nobody has read.
        pair.dying, pair.draining = None, time.monotonic()
        for flow in pair.flows.values():
            flow.held.clear()
            flow.size, flow.closed = 0, True
            with contextlib.suppress(OSError):
                flow.sink.shutdown(socket.SHUT_WR)

    def _drop(self, pair: _Pair, hard: bool = False) -> None:
        self._pairs.remove(pair)
        for one in pair.sockets:
            if one.fileno() in self._selector.get_map():
                self._selector.unregister(one)
            _end(one, hard)


def _address(location: str) -> Any:
    """As ``connect`` wants it."""
    if location.startswith("./u:"):
        return location[4:]
    host, _, port = location.rpartition(":")
    return host, int(port)


def _end(connection: socket.socket, hard: bool) -> None:
    if hard:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


class SlowDial(FlakyLink):
    """A link whose connections take a round trip of their own to be made, as TCP's do."""

    def _serve(self, pair: Any, fileobj: Any, events: int) -> None:
        super()._serve(pair, fileobj, events)
        up = pair.flows["up"].held
        since = pair.__dict__.setdefault("since", time.monotonic() + 2 * self.delay)
        up.extend([(max(due, since + self.delay), data) for due, data in [up.popleft() for _ in list(up)]])
