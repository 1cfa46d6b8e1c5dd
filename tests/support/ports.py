"""Servers on ports of this machine, which is the far side's too in most tests, and clients that connect to them."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import flame
from flame_kernel.remote.remote import Remote


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 200


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler] = _Echo) -> Iterator[int]:
    """A server on this machine, which is the far side's too; its port."""
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def light(location: str, **settings: Any) -> Remote:
    """A session that starts no process there, and no IPython: the tunnel is the server's own in every place."""
    return flame.connect(location, place="process", shell="mini", **settings)


def dialled(port: int | None) -> socket.socket:
    assert port is not None
    return socket.create_connection(("127.0.0.1", port), 20)


def echoed(port: int | None, data: bytes) -> bytes:
    """``data`` sent and read back, whole; the sender says that it is done, and then reads on."""
    with dialled(port) as one:
        back = bytearray()

        def read() -> None:
            while piece := one.recv(1 << 16):
                back.extend(piece)

        reader = threading.Thread(target=read)
        reader.start()
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        reader.join(60)
        assert not reader.is_alive()
        return bytes(back)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
