"""Forwarded ports and sockets: through stock servers, over links that are cut, and with whatever may be wrong."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import random
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websocket
from farside import FlameServer, pythons, wait_until
from flakylink import FlakyLink
from ports import dialled, echoed, free_port, light, serving
from transfers import KEY, SERVERS, MiB, connected, far_side

from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import FlameError, TargetError
from flame_kernel.forward import addresses
from flame_kernel.forward.addresses import Spec
from flame_kernel.remote.remote import Remote
from flame_kernel.serve.certs import Authority
from flame_kernel.session.agent_client import AgentClient

_ABRUPT = struct.pack("ii", 1, 0)
LONG = (pytest.mark.long, pytest.mark.timeout(240))

DATA = random.Random(3).randbytes(3 * MiB + 17)


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "multiplex"])
def test_a_port_there_and_a_port_here(name: str) -> None:
    with far_side(name) as server, connected(server) as pi, serving() as port:
        with pi.forward(port, local=0) as one:
            assert one.local_port not in (None, port)
            assert echoed(one.local_port, DATA) == DATA
        with pi.forward(free_port(), reverse=True, local=port) as one:
            assert one.local_port == port
            assert echoed(one.listen[1], DATA) == DATA  # type: ignore[arg-type]
        assert len(pi.forwards) == 0
        assert pi.evaluate("6 * 7") == 42


def test_through_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    authority.server(["localhost"], days=30)
    env: dict[str, str | None] = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": str(tmp_path / "ca" / "server.pem")}
    with far_side("key", env=env) as server, serving() as port:
        tls = Tls(ca=str(tmp_path / "ca" / "ca.pem"))
        with (
            Remote(Target(Location.parse(server.location), key=Secret(KEY.encode()), tls=tls)) as pi,
            pi.forward(port, local=0) as one,
            pi.forward(free_port(), reverse=True, local=port) as back,
        ):
            for _ in range(3):
                assert echoed(one.local_port, DATA) == DATA
                assert echoed(back.listen[1], DATA) == DATA  # type: ignore[arg-type]


def test_unix_sockets_at_either_end(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    with light(flame_server().location) as pi, serving() as port:
        here, there = tmp_path / "here.sock", tmp_path / "there.sock"
        with pi.forward(port, local=here) as one, socket.socket(socket.AF_UNIX) as sock:
            assert one.url == f"unix:{here}"
            assert os.stat(here).st_mode & 0o777 == 0o600
            sock.connect(str(here))
            sock.sendall(b"through a socket")
            assert sock.recv(100) == b"through a socket"
        assert not here.exists()
        with pi.forward(str(there), reverse=True, local=port), pi.forward(str(there), local=0) as round_trip:
            assert there.exists()
            assert echoed(round_trip.local_port, DATA) == DATA
        wait_until(lambda: not there.exists(), "the socket there is gone")


@pytest.mark.parametrize(
    ("name", "size"),
    [("child", 6 * MiB), ("key", 6 * MiB), *(pytest.param(name, 48 * MiB, marks=LONG) for name in ("child", "key"))],
)
def test_streams_outlive_cuts(name: str, size: int) -> None:
    """Eight streams, both ways at once, over six cuts: every byte, in order."""
    blobs = [random.Random(n).randbytes(size) for n in range(8)]
    with (
        far_side(name) as server,
        FlakyLink(server.location) as link,
        connected(server, link.location) as pi,
        serving() as port,
        pi.forward(port, local=0) as one,
        pi.forward(free_port(), reverse=True, local=port) as back,
    ):
        found: dict[int, str] = {}

        def run(n: int) -> None:
            data = echoed(one.local_port if n % 2 else back.listen[1], blobs[n])  # type: ignore[arg-type]
            found[n] = hashlib.sha256(data).hexdigest()

        threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
        link.rate = 3.5 * size
        for thread in threads:
            thread.start()
        for cut in range(6):
            seen = pi.forwards.cuts
            wait_until(lambda: pi.forwards.is_up, "the tunnel is up")
            time.sleep(0.2)  # so that bytes are under way
            link.cut("rst" if cut % 2 else "fin")
            wait_until(lambda seen=seen: pi.forwards.cuts > seen, "it has seen the cut")  # type: ignore[misc]
        link.rate = None
        for thread in threads:
            thread.join(100)
        assert found == {n: hashlib.sha256(blobs[n]).hexdigest() for n in range(8)}


def test_a_connection_is_held_over_an_outage(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server()
    with (
        FlakyLink(server.location) as link,
        light(link.location) as pi,
        serving() as port,
        pi.forward(port, local=0) as one,
        dialled(one.local_port) as sock,
    ):
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        link.down()
        sock.sendall(b"while it is down")
        with dialled(one.local_port) as late:  # is accepted, and served when the link is back
            late.sendall(b"late")
            link.up()
            assert sock.recv(100) == b"while it is down"
            assert late.recv(100) == b"late"


def test_a_reader_that_does_not_read_stops_no_other(flame_server: Callable[..., FlameServer]) -> None:
    class Flood(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while True:
                    self.request.sendall(bytes(1 << 16))

    with (
        light(flame_server().location) as pi,
        serving() as port,
        serving(Flood) as flood,
        pi.forward(port, local=0) as one,
        pi.forward(flood, local=0) as wide,
    ):
        lazy = [dialled(wide.local_port) for _ in range(5)]
        for _ in range(5):
            assert echoed(one.local_port, DATA) == DATA
        for sock in lazy:
            assert sock.recv(10)
            sock.close()


def test_a_hundred_streams_at_once(flame_server: Callable[..., FlameServer]) -> None:
    with light(flame_server().location) as pi, serving() as port, pi.forward(port, local=0) as one:
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(dialled(one.local_port)) for _ in range(100)]
            for n, sock in enumerate(socks):
                sock.sendall(b"%d" % n)
            assert [sock.recv(100) for sock in socks] == [b"%d" % n for n in range(100)]
            assert one.connections == 100
        wait_until(lambda: one.connections == 0, "all streams have ended")


def test_one_direction_ends_before_the_other(flame_server: Callable[..., FlameServer]) -> None:
    class Late(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            heard = b""
            while data := self.request.recv(100):
                heard += data
            self.request.sendall(b"all heard: " + heard)

    with (
        light(flame_server().location) as pi,
        serving(Late) as port,
        pi.forward(port, local=0) as one,
        dialled(one.local_port) as sock,
    ):
        sock.sendall(b"that is all")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"all heard: that is all"
        assert sock.recv(100) == b""


def test_a_reset_is_a_reset_on_the_other_side(flame_server: Callable[..., FlameServer]) -> None:
    seen: list[str] = []

    class Watch(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"hello")
            try:
                self.request.recv(100)
                seen.append("an end")
            except ConnectionResetError:
                seen.append("reset")

    class Abrupt(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPT)
            self.request.close()

    with light(flame_server().location) as pi:
        with serving(Watch) as port, pi.forward(port, local=0) as one:
            sock = dialled(one.local_port)
            assert sock.recv(100) == b"hello"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPT)
            sock.close()
            wait_until(lambda: bool(seen), "the far server has seen it")
            assert seen == ["reset"]
        with serving(Abrupt) as port, pi.forward(port, local=0) as one, dialled(one.local_port) as sock:
            sock.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                sock.recv(100)


# -- what may be wrong ------------------------------------------------------------------------------------------------


def refused(one: Any) -> str:
    """What the forward says after a connection that leads nowhere."""
    with dialled(one.local_port) as sock, contextlib.suppress(ConnectionResetError):
        assert sock.recv(10) == b""
    wait_until(lambda: bool(one.trouble), "it says why")
    return str(one.trouble)


def test_nowhere_to_connect_to_is_said_in_words(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    with light(flame_server().location) as pi:
        port = free_port()
        with pi.forward(port, local=0) as one:
            assert refused(one).endswith(": connection refused")
            with serving() as alive, pi.forward(alive, local=0) as other:
                assert echoed(other.local_port, b"still here") == b"still here"
        with pi.forward(80, host="no-such-host.invalid", local=0) as one:
            assert "the host name no-such-host.invalid is unknown" in refused(one)
        with pi.forward(str(tmp_path / "none.sock"), local=0) as one:
            assert refused(one).endswith("there is no such socket")


def test_a_port_that_is_taken(flame_server: Callable[..., FlameServer]) -> None:
    with light(flame_server().location) as pi, serving() as port:
        with pytest.raises(FlameError, match=f"port {port} is taken on this machine; choose another one"):
            pi.forward(80, local=port)
        with pytest.raises(FlameError, match=f"port {port} cannot be used at .* already in use.*choose another one"):
            pi.forward(port, reverse=True, local=1)
        with pi.forward(port) as one:  # none was asked for: another one will do
            assert one.local_port != port
            assert echoed(one.local_port, b"x") == b"x"
        assert len(pi.forwards) == 0
        assert threading.active_count() < 20


def test_sockets_and_free_ports_on_either_side_of_a_colon(
    flame_server: Callable[..., FlameServer], tmp_path: Path
) -> None:
    here, there = tmp_path / "here.sock", tmp_path / "there.sock"
    with light(flame_server().location) as pi, serving() as port:
        with pi.forward(f"{there}:{port}", reverse=True), pi.forward(f"0:{there}") as one:
            assert echoed(one.local_port, b"x") == b"x"
        with pi.forward(f"{here}:{port}") as one:
            assert one.listen == str(here)
        with pi.forward(0, reverse=True, local=port) as one:
            assert echoed(one.listen[1], b"x") == b"x"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 80, "bind": "192.0.2.1"}, "192.0.2.1 is no address of this machine"),
        ({"port": 80, "bind": "192.0.2.1", "local": 0}, "192.0.2.1 is no address of this machine"),
        ({"socks": True, "reverse": True}, "leave reverse and host out"),
        ({"socks": True, "host": "db"}, "leave reverse and host out"),
        ({"port": "8080:80", "local": 0}, "name this side's end once"),
        ({"port": None}, "None is not a port"),
        ({"port": 80, "local": 1.5}, "1.5 is not a port"),
        ({"port": 80, "local": b"80"}, "b'80' is not a port"),
        ({"port": 80, "local": [80]}, r"\[80\] is not a port"),
        ({"port": 80, "host": 5}, "5 is no host"),
        ({"port": 80, "host": ""}, "'' is no host"),
        ({"port": 80, "bind": 5}, "5 is not the address of an interface"),
        ({"port": 80, "reverse": True, "local": 1.5}, "1.5 is not a port"),
        ({"port": 80, "reverse": True, "bind": "192.0.2.1"}, "^192.0.2.1 is no address of .*; leave bind out"),
        ({"port": "/no/such/folder/x", "reverse": True, "local": 80}, "choose another path$"),
    ],
)
def test_what_cannot_be_forwarded(
    flame_server: Callable[..., FlameServer], options: dict[str, Any], words: str
) -> None:
    with light(flame_server().location) as pi, pytest.raises(FlameError, match=words):
        pi.forward(**options)


def test_a_multiplex_server_says_why_it_cannot() -> None:
    words = "serves one call at a time"
    with far_side("multiplex") as server, connected(server) as pi, pytest.raises(FlameError, match=words):
        pi.forward(80)


def test_a_target_may_forbid_it(flame_server: Callable[..., FlameServer]) -> None:
    with light(flame_server().location, forward=False) as pi:
        with pytest.raises(TargetError, match="forwards are off"):
            pi.forward(80)
        with pytest.raises(TargetError, match="forwards are off"):
            pi.forward(free_port(), reverse=True, local=80)


def test_a_server_without_a_free_connection_says_so() -> None:
    server = FlameServer(pythons()[-1], env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    try:
        with light(server.location) as pi, pytest.raises(FlameError, match="no free connection"):
            pi.forward(80, local=0)
    finally:
        server.stop()


@pytest.mark.parametrize("words", ["", "x", "0", "70000", "1:2:3:4:5", ":80", "8080::80", "a b:80:80:80", "[::1"])
def test_an_address_that_cannot_be_read(words: str) -> None:
    with pytest.raises(TargetError):
        addresses.parse(words)


def test_addresses_as_ssh_has_them() -> None:
    here = ("127.0.0.1", 8080)
    assert addresses.parse("6006") == Spec(None, ("localhost", 6006))
    assert addresses.parse("db:5432") == Spec(None, ("db", 5432))
    assert addresses.parse("8080:80") == Spec(here, ("localhost", 80))
    assert addresses.parse("8080:db:80") == Spec(here, ("db", 80))
    assert addresses.parse("8080:[::1]:80") == Spec(here, ("::1", 80))
    assert addresses.parse("localhost:8080:db:80") == Spec(here, ("db", 80))
    assert addresses.parse("*:8080:db:80") == Spec(("0.0.0.0", 8080), ("db", 80))
    assert addresses.parse("/a.sock") == Spec(None, "/a.sock")
    assert addresses.parse("8080:/a.sock") == Spec(here, "/a.sock")
    assert addresses.parse("/b.sock:/a.sock") == Spec("/b.sock", "/a.sock")
    assert addresses.parse("/b.sock:80") == Spec("/b.sock", ("localhost", 80))
    assert addresses.parse("/b.sock:db:80") == Spec("/b.sock", ("db", 80))


def test_what_ends_the_session_ends_its_forwards(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server()
    with serving() as port, light(server.location, session="kept") as pi:
        one = pi.forward(port, local=0)
        sock = dialled(one.local_port)
        sock.sendall(b"x")
        assert sock.recv(10) == b"x"
        said: list[str] = []
        pi.forwards.on_trouble = lambda forward, sentence: said.append(sentence)
        with light(server.location) as other:
            kill(other, "kept")
        wait_until(lambda: one.closed, "the forward has ended")
        assert said
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
        sock.close()
        with pytest.raises(ConnectionRefusedError):
            dialled(one.local_port)


def kill(pi: Remote, name: str) -> None:
    with contextlib.closing(AgentClient(pi.target)) as client:
        client.kill(name)


# -- real programs ----------------------------------------------------------------------------------------------------


def test_curl_and_a_browser_proxy(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    """curl, plain and through SOCKS5, to a web server of the far side."""
    (tmp_path / "page.bin").write_bytes(DATA)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None:
            pass

    def curl(*words: str) -> bytes:
        done = subprocess.run(["curl", "-sS", "--max-time", "20", *words], capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with light(flame_server().location) as pi, serving(Files) as port:
        with pi.forward(port, local=0) as one:
            assert curl(f"{one.url}page.bin") == DATA
            assert urllib.request.urlopen(f"{one.url}page.bin", timeout=20).read() == DATA
        with pi.forward(socks=True, local=0) as proxy:
            assert proxy.url.startswith("socks5h://")
            assert curl("-x", proxy.url, f"http://localhost:{port}/page.bin") == DATA
            assert curl("-x", proxy.url, f"http://127.0.0.1:{port}/page.bin") == DATA
            failed = subprocess.run(
                ["curl", "-sS", "-x", proxy.url, f"http://127.0.0.1:{free_port()}/"], capture_output=True
            )
            assert failed.returncode == 97, failed.stderr
            assert b"refused" in failed.stderr.lower() or b"(5)" in failed.stderr


_WEBSOCKET = """
import asyncio, sys, tornado.web, tornado.websocket
class Echo(tornado.websocket.WebSocketHandler):
    def on_message(self, message):
        self.write_message(message.upper())
async def main():
    server = tornado.web.Application([("/ws", Echo)]).listen(0, "127.0.0.1")
    print(next(iter(server._sockets.values())).getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


def test_a_websocket_stays_open_over_cuts(flame_server: Callable[..., FlameServer]) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", _WEBSOCKET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        far = flame_server()
        with FlakyLink(far.location) as link, light(link.location) as pi, pi.forward(port, local=0) as one:
            client = websocket.create_connection(f"ws://localhost:{one.local_port}/ws", timeout=20)
            for n in range(4):
                client.send(f"message {n}")
                assert client.recv() == f"MESSAGE {n}"
                seen = pi.forwards.cuts
                link.cut()
                wait_until(lambda seen=seen: pi.forwards.cuts > seen, "it has seen the cut")  # type: ignore[misc]
            client.close()
        server.communicate(timeout=20)
