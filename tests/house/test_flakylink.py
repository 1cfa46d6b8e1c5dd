"""The fixture itself: a link spoils what it is told to spoil, to the byte, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from farside import wait_until
from flakylink import FlakyLink


class Echo:
    """Sends back what it gets; ``got`` is all that came, of every connection."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.got = b""
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(1 << 16):
                    self.got += data
                    connection.sendall(data)


@contextlib.contextmanager
def echo(listener: socket.socket) -> Iterator[Echo]:
    server = Echo(listener)
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.thread.join()


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Echo, str]]:
    if request.param == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
        location = f"127.0.0.1:{listener.getsockname()[1]}"
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        location = f"./u:{tmp_path / 's'}"
    with echo(listener) as one:
        yield one, location


def connect(link: FlakyLink) -> socket.socket:
    if link.location.startswith("./u:"):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(link.location[4:])
        except BaseException:
            connection.close()
            raise
    else:
        host, port = link.location.split(":")
        connection = socket.create_connection((host, int(port)))
    connection.settimeout(10)
    return connection


def read(connection: socket.socket, size: int) -> bytes:
    """As many bytes, or those before its end; a reset is one too."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while len(data) < size and (piece := connection.recv(size - len(data))):
            data += piece
    return data


def test_what_passes_and_what_does_not(server: tuple[Echo, str]) -> None:
    far, location = server
    text = bytes(range(256)) * 4000
    with FlakyLink(location) as link:
        with connect(link) as connection:
            sender = threading.Thread(target=connection.sendall, args=(text,))
            sender.start()
            assert read(connection, len(text)) == text
            sender.join()
        for how in ("rst", "fin"):
            # Up: the server gets that much and no more; down: the client.
            far.got = b""
            with connect(link) as connection:
                link.cut_at("up", 777, how)
                connection.sendall(text[:1000])
                read(connection, 1000)
                wait_until(lambda: len(far.got) == 777 and not link.cut_is_due, "the bytes before the cut")
            with connect(link) as connection:
                link.cut_at("down", 777, how)
                connection.sendall(text[:1000])
                assert read(connection, 1000) == text[:777]
        with connect(link) as connection:
            connection.sendall(b"x")
            assert read(connection, 1) == b"x"
            assert link.cut() == 1
            assert read(connection, 1) == b""


def test_down_and_silent(server: tuple[Echo, str]) -> None:
    _, location = server
    with FlakyLink(location) as link:
        with connect(link) as connection:
            connection.sendall(b"x")
            assert read(connection, 1) == b"x"
            link.down()
            assert read(connection, 1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(link)
        for how in ("rst", "fin"):
            before = link.accepted
            link.down(how)  # type: ignore[arg-type]
            with connect(link) as connection:
                assert read(connection, 1) == b""
            assert link.accepted == before + 1
        link.up()
        with connect(link) as connection:
            connection.sendall(b"x")
            assert read(connection, 1) == b"x"
            link.silent()
            connection.sendall(b"y")
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            link.up()
            connection.settimeout(10)
            assert read(connection, 1) == b"y"


def test_delay_drip_and_random_cuts_of_one_seed(server: tuple[Echo, str]) -> None:
    _, location = server
    with FlakyLink(location, delay=0.05) as link, connect(link) as connection:
        began = time.monotonic()
        connection.sendall(b"x" * 1000)
        assert len(read(connection, 1000)) == 1000
        assert time.monotonic() - began >= 0.1
        link.delay, link.rate = 0.0, 5000.0
        began = time.monotonic()
        connection.sendall(b"x" * 1000)
        assert len(read(connection, 1000)) == 1000
        assert time.monotonic() - began >= 0.15
    came: list[list[int]] = []
    for _ in range(2):
        came.append([])
        with FlakyLink(location, seed=7) as link:
            link.cut_every(1000, "fin")
            for _ in range(5):
                with connect(link) as connection:
                    size = 0
                    while size % 10 == 0:  # ten bytes out, the same ten in, until the cut
                        connection.sendall(b"x" * 10)
                        size += len(read(connection, 10)) or 1
                    came[-1].append(size)
            assert link.cuts == 5
    assert came[0] == came[1]
