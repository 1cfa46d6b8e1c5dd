"""Why a server is not reached: the true cause in the sentence, and not a likely one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import pytest
from farside import FlameServer

import flame
from flame_kernel.connect.location import Location
from flame_kernel.errors import CannotConnect, TargetError

NEWEST = farside.pythons()[-1]


@contextlib.contextmanager
def serving(handler: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener that does this with each connection, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))

    def loop() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    handler(connection)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def resets(connection: socket.socket) -> None:
    connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def resets_at_once(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def is_of_tls(connection: socket.socket) -> None:
    """As Pyro's TLS servers: who does not begin with a handshake is reset."""
    if connection.recv(1) == b"\x16":
        connection.sendall(b"\x15\x03\x01\x00\x02\x02\x28")
        connection.recv(10_000)
    else:
        resets(connection)


def cause_of(where: str, **how: Any) -> CannotConnect:
    with pytest.raises(CannotConnect) as raised:
        flame.connect(where, **how)
    return raised.value


def test_a_reset_is_not_always_tls() -> None:
    for handler, cause in ((resets, "closed"), (resets_at_once, "closed"), (is_of_tls, "tls")):
        with serving(handler) as where:
            assert cause_of(where).cause == cause


def test_a_slow_name_takes_nothing_of_the_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver has its own deadline."""
    resolve = socket.getaddrinfo

    def slow(host: Any, *rest: Any, **how: Any) -> Any:
        if host == "slow.test":
            time.sleep(1.5)
            host = "127.0.0.1"
        return resolve(host, *rest, **how)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    server = FlameServer(NEWEST)
    try:
        port = server.location.rpartition(":")[2]
        with flame.connect(f"slow.test:{port}", insecure=True, timeout=1.0) as pi:
            assert pi.evaluate("6 * 7") == 42
    finally:
        server.stop()


def test_names_of_this_machine() -> None:
    server = FlameServer(NEWEST, arguments=("-H", "127.0.0.1"))
    try:
        port = server.location.rpartition(":")[2]
        for host in ("0.0.0.0", "localhost.", "LOCALHOST.", "PYRO:Pyro.Flame@0.0.0.0"):
            with flame.connect(f"{host}:{port}") as pi:
                assert pi.evaluate("6 * 7") == 42
    finally:
        server.stop()
    for host in ("localhost..", "localhost.example", "1.0.0.0", "[fe80::1]"):
        assert host.startswith("localhost..") or not Location.parse(f"{host}:1").is_loopback


def test_sockets_behind_ssh() -> None:
    for text in ("ssh://far//run/s.sock", "ssh://far/./u:/run/s.sock"):
        assert Location.parse(text) == Location(path="/run/s.sock", ssh=Location.parse("ssh://far/1").ssh)
    with pytest.raises(TargetError, match=r"ssh://far//run/s\.sock"):
        Location.parse("ssh://far/run/s.sock")
    for text in ("ssh://far//run/$(x).sock", "ssh://far//run/%h.sock", "ssh://far//" + "x" * 200):
        with pytest.raises(TargetError):
            Location.parse(text)


def test_a_chain_without_its_middle(tmp_path: Path) -> None:
    assert "intermediate" in str(CannotConnect("x:1", "tls_untrusted"))
    assert "FLAME_TARGET" in str(CannotConnect("x:1", "key_missing_here"))
