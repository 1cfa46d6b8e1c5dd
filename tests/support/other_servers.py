"""What may answer where a Flame server was meant: each a context, whose value is its location."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Web(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def one_by_one(handle: Callable[[socket.socket], None], host: str = "localhost") -> Iterator[str]:
    """A server of one thread that treats each connection as ``handle`` does, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        handle(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{host}:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def one_line_server(banner: bytes) -> Iterator[str]:
    """Says ``banner`` to everyone; with an empty one, takes connections and says nothing."""
    held: list[socket.socket] = []

    def hold(connection: socket.socket) -> None:
        held.append(connection.dup())
        connection.sendall(banner)

    try:
        with one_by_one(hold, "127.0.0.1") as location:
            yield location
    finally:
        for connection in held:
            connection.close()


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield f"127.0.0.1:{port}"
