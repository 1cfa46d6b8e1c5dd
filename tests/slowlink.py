"""A link with a length: a TCP proxy that holds every byte back for a while, and counts what the client says."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import struct
import threading
import time

_HEADER = struct.Struct("!4sHHHHiHHHH")  # Pyro4's


class SlowLink:
    """Forwards to ``target`` (host:port), ``delay`` seconds each way; for ``contextlib.closing``.

    messages    (seconds since the start, data) of each Pyro message of the client, as it came out of the client
    """

    def __init__(self, target: str, delay: float) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.messages: list[tuple[float, bytes]] = []
        self._wake, self._woken = socket.socketpair()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="slow link")
        self._thread.start()

    def close(self) -> None:
        """End it, and every connection."""
        self._over = True
        self._wake.send(b"x")
        self._thread.join()
        for one in (self._listener, self._wake, self._woken):
            one.close()

    def _run(self) -> None:
        pairs: dict[socket.socket, socket.socket] = {}
        unread: dict[socket.socket, bytearray] = {}  # of the clients: what is not yet a whole message
        under_way: collections.deque[tuple[float, socket.socket, bytes]] = collections.deque()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._over:
                wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
                for key, _ in selector.select(wait):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    if one is self._listener:
                        client, _ = one.accept()
                        server = socket.create_connection(self._target)
                        for this, other in ((client, server), (server, client)):
                            this.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                            pairs[this] = other
                            selector.register(this, selectors.EVENT_READ)
                        unread[client] = bytearray()
                    elif one in pairs:
                        with contextlib.suppress(OSError):
                            data = one.recv(1 << 20)
                        under_way.append((time.monotonic() + self._delay, pairs[one], data))
                        if not data:
                            selector.unregister(one)
                        elif one in unread:
                            self._count(unread[one], data)
                while under_way and under_way[0][0] <= time.monotonic():
                    _, to, data = under_way.popleft()
                    with contextlib.suppress(OSError):
                        if data:
                            to.sendall(data)
                        else:
                            to.shutdown(socket.SHUT_WR)
        for one in pairs:
            one.close()

    def _count(self, unread: bytearray, data: bytes) -> None:
        unread += data
        while len(unread) >= _HEADER.size:
            _, _, _, _, _, size, _, chunks, _, _ = _HEADER.unpack_from(unread)
            end = _HEADER.size + size + chunks
            if len(unread) < end:
                return
            self.messages.append((time.monotonic(), bytes(unread[:end])))
            del unread[:end]
