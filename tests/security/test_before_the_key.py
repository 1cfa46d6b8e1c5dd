"""What somebody without the key can do to a server of ours: neither stop it nor fill its memory, however he begins."""

from __future__ import annotations

import contextlib
import pickle
import re
import secrets
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import wait_until
from Pyro4 import core, message
from Pyro4.configuration import config
from served import Served, ended, silent

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.keys import Secret, read_key
from flame_kernel.connect.location import Location
from flame_kernel.connect.target import Target, Timeouts
from flame_kernel.connect.tls import Tls
from flame_kernel.serve import hardening
from flame_kernel.serve.certs import Authority
from flame_kernel.serve.embedded import EmbeddedServer
from flame_kernel.serve.ignite import extinguish, ignite
from flame_kernel.serve.in_app import Serving, serve
from flame_kernel.session.bootstrap import agent_text

pytestmark = pytest.mark.filterwarnings("ignore:isSet:DeprecationWarning", "ignore:fork:DeprecationWarning")

_GREETING = pickle.dumps({"handshake": "hello", "object": "Pyro.Flame"}, 2)
_HEADER = struct.Struct("!4sHHHHiHHHH")


def claim(size: int, annotations: int = 0, kind: int = message.MSG_CONNECT) -> bytes:
    """The header of a first message that says to have so many bytes behind it."""
    checksum = (kind + 48 + size + annotations + 4 + message.Message.checksum_magic) & 0xFFFF
    return _HEADER.pack(b"PYRO", 48, kind, 0, 0, size, 4, annotations, 0, checksum)


def greeting(key: bytes | None, data: bytes = _GREETING, **annotations: bytes) -> bytes:
    """A whole first message."""
    return bytes(message.Message(message.MSG_CONNECT, data, 4, 0, 1, annotations, key).to_bytes())


def called(target: Target) -> Any:
    """What the owner gets to see."""
    with contextlib.closing(Connection(target)) as connection:
        return connection.call("evaluate", "6 * 7")


@contextlib.contextmanager
def opened(servertype: str = "thread", **how: Any) -> Iterator[Target]:
    """A daemon in this process, of that type."""
    before = {name: getattr(config, name) for name in config.__slots__}
    key = secrets.token_hex(32).encode()
    with tempfile.TemporaryDirectory() as folder:
        key_file = Path(folder) / "key"
        key_file.touch(0o600)
        key_file.write_bytes(key)
        try:
            with _daemon(servertype, key_file=key_file, quiet=True, **how) as made:
                place = Location("127.0.0.1", Location.parse(made.location).port)
                yield Target(place, Secret(key), timeouts=Timeouts(connect=8.0))
        finally:
            for name, value in before.items():
                setattr(config, name, value)


@contextlib.contextmanager
def _daemon(servertype: str, **how: Any) -> Iterator[Serving]:
    if servertype == "thread":
        with contextlib.closing(serve(**how)) as made:
            yield made
        return
    config.SERVERTYPE, config.SERIALIZERS_ACCEPTED = servertype, {"pickle"}
    with contextlib.closing(core.Daemon()) as daemon:
        thread = threading.Thread(target=daemon.requestLoop)
        thread.start()
        try:
            with contextlib.closing(serve(daemon, **how)) as made:
                yield made
        finally:
            daemon.shutdown()
            thread.join()


@contextlib.contextmanager
def ignited() -> Iterator[tuple[Target, int]]:
    code = "import threading, time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        key = "k" * 64
        found = ignite(process.pid, key, 30)
        yield Target(Location("127.0.0.1", found.port), Secret(key.encode())), process.pid
        assert extinguish(process.pid, 30) == []
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def embedded() -> Iterator[tuple[Target, int]]:
    with contextlib.closing(EmbeddedServer(agent_text())) as server:
        yield server.target(), server.pid


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[tuple[Target, int]]:
    with contextlib.closing(Served(cwd=folder)) as served:
        yield served.target(), served.process.pid


def send(place: Location, data: bytes) -> bytes:
    """What is answered to a stranger's first bytes, until the server closes."""
    with socket.create_connection((place.host, place.port), 10) as client:
        client.settimeout(20)
        answer = b""
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
            while piece := client.recv(65536):
                answer += piece
        return answer


# -- every server of ours, in a process of its own ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["serve", "own", "ignited"])
def test_memory(kind: str, tmp_path: Path) -> None:
    """A claim of 250 MB is refused by its header, and what is pushed after it is not taken; halves are bounded."""
    way: dict[str, Callable[[], Any]] = {"serve": lambda: alone(tmp_path), "own": embedded, "ignited": ignited}
    with way[kind]() as (target, pid):
        place, process = target.location, psutil.Process(pid)
        assert called(target) == 42
        before = process.memory_info().rss

        def push(number: int) -> None:
            with socket.create_connection((place.host, place.port), 10) as client:
                client.settimeout(10)
                with contextlib.suppress(OSError):
                    client.sendall(claim(250 << 20))
                    for _ in range(100):
                        client.sendall(bytes(1 << 20))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(push, range(6)))
        with silent(place, 150, claim(60_000) + bytes(59_999)):
            assert called(target) == 42
            assert process.memory_info().rss < before + (80 << 20)
        assert b"at most" in send(place, claim(250 << 20))
        assert called(target) == 42


# -- how a connection may begin ----------------------------------------------------------------------------------------


@pytest.fixture(params=["thread", "multiplex"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with opened(request.param) as found:
        yield found


def test_the_bound_is_of_the_first_message_alone(target: Target) -> None:
    place, key = target.location, target.key.reveal()
    whole = hardening.FIRST
    for first in (claim(whole + 1), claim(whole, 1), claim(1 << 30), claim(-1), claim(0x7FFFFFFF, 0xFFFF)):
        assert re.search(b"a first message has 65536 bytes at most|max message size exceeded", send(place, first))
    room = whole - len(greeting(key)) + _HEADER.size
    with socket.create_connection((place.host, place.port), 10) as client:
        client.sendall(greeting(key, _GREETING + bytes(room)))  # a pickle ends where it ends
        assert struct.unpack_from("!H", client.recv(100), 6)[0] == message.MSG_CONNECTOK
    with contextlib.closing(Connection(target)) as connection:
        assert connection.call("evaluate", f"len({'x' * (3 << 20)!r})") == 3 << 20


class Wordy(core.Proxy):  # type: ignore[misc]
    """A stock client that sends as much beside its messages as may be."""

    def _pyroAnnotations(self) -> dict[str, bytes]:
        return {"MUCH": b"x" * 60_000}


def test_stock_clients_get_in(target: Target) -> None:
    """One with much in its annotations, one that comes in pieces, one that wants metadata."""
    place, key = target.location, target.key.reveal()
    before = config.SERIALIZER
    config.SERIALIZER = "pickle"
    try:
        with Wordy(f"PYRO:Pyro.Flame@{place.host}:{place.port}") as proxy:
            proxy._pyroHmacKey = key
            core.current_context.correlation_id = uuid.uuid4()
            assert proxy.evaluate("6 * 7") == 42
    finally:
        config.SERIALIZER = before
        core.current_context.correlation_id = None
    with socket.create_connection((place.host, place.port), 10) as client:
        for at in range(0, len(first := greeting(key)), 16):
            client.sendall(first[at : at + 16])
        assert struct.unpack_from("!H", client.recv(100), 6)[0] == message.MSG_CONNECTOK


def test_who_is_sent_away_is_told(target: Target) -> None:
    place, key = target.location, target.key.reveal()
    assert b"hmac mismatch" in send(place, greeting(b"x" * 64))
    assert b"key config not symmetric" in send(place, greeting(None))
    assert b"invalid msg type" in send(place, claim(0, kind=message.MSG_INVOKE))
    assert b"protocol version" in send(place, b"GET / HTTP/1.1\r\nHost: here\r\n")
    damaged = bytearray(greeting(key))
    damaged[-1] ^= 1
    assert b"hmac mismatch" in send(place, bytes(damaged))
    assert called(target) == 42


def test_time_is_for_all_of_it(target: Target) -> None:
    """Silent, half a header, half a message, and one byte again and again: each is cut; the owner waits for none."""
    place = target.location
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        ways = (b"", b"PYRO", claim(60_000) + bytes(100), b"P")
        groups = [stack.enter_context(silent(place, 60, begin)) for begin in ways]
        began = time.monotonic()
        assert called(target) == 42
        assert time.monotonic() - began < hardening.SECONDS  # before the first of them is cut

        def drip() -> None:
            for byte in claim(60_000)[1:] + bytes(1000):
                if over.wait(0.1):
                    return
                for client in groups[-1]:
                    with contextlib.suppress(OSError):
                        client.sendall(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            everyone = [client for group in groups for client in group]
            wait_until(lambda: all(ended(client) for client in everyone), "everyone is cut", 30)
        finally:
            over.set()
            thread.join()


def test_waiting_connections_are_bounded_and_lets_the_owner_in(target: Target) -> None:
    """More than it holds, each with a message that lacks one byte: the oldest leave, and the owner comes."""
    place, key = target.location, target.key.reveal()
    started = threading.active_count()
    with silent(place, hardening.MOST_WAITING + 100, greeting(b"x" * 64)[:-1]) as clients:
        assert called(target) == 42
        wait_until(lambda: sum(ended(client) for client in clients) >= 100, "the oldest are closed", 10)
        assert threading.active_count() <= started + 2  # none of them has a thread
        with socket.create_connection((place.host, place.port), 10) as client:
            client.sendall(greeting(key))
            assert client.recv(4) == b"PYRO"


def test_threads_are_for_those_who_have_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole message, badly signed, and a connection that is not read from: no thread of the pool is held by it."""
    with opened() as target:
        monkeypatch.setattr(config, "THREADPOOL_SIZE", 2)
        with silent(target.location, 50, greeting(b"x" * 64)), silent(target.location, 50, greeting(None)):
            assert called(target) == 42


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs") / "ca"
    Authority(folder).server(["127.0.0.1"])
    return folder


def test_with_tls(authority: Path) -> None:
    """Its handshake is part of the time, and does not take a thread; the bound holds inside of it."""
    with opened(tls=authority, anyone=True) as found:
        place = found.location
        me = Tls(ca=str(authority / "ca.pem"))
        target = Target(place, found.key, tls=me, timeouts=Timeouts(connect=8.0))
        context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
        with silent(place, 60), silent(place, 60, b"\x16\x03\x01\x02"), contextlib.ExitStack() as stack:
            inside = []
            for begin in (b"", b"PYRO", claim(60_000) + bytes(10)):
                raw = socket.create_connection((place.host, place.port), 10)
                inside.append(stack.enter_context(context.wrap_socket(raw, server_hostname="127.0.0.1")))
                inside[-1].sendall(begin)
            assert called(target) == 42
            wait_until(lambda: all(_tls_ended(client) for client in inside), "everyone is cut", 20)
        raw = socket.create_connection((place.host, place.port), 10)
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as client:
            client.sendall(claim(250 << 20))
            assert b"at most" in client.recv(1000)
        # More than one TLS record, so it comes in parts.
        first = greeting(found.key.reveal(), _GREETING + bytes(50_000))
        raw = socket.create_connection((place.host, place.port), 10)
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as client:
            client.sendall(first)
            assert struct.unpack_from("!H", client.recv(100), 6)[0] == message.MSG_CONNECTOK


def _tls_ended(client: ssl.SSLSocket) -> bool:
    client.settimeout(0.01)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_no_descriptor_left(tmp_path: Path) -> None:
    """The server has as many files open as it may: those without the key make room."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(hardening.__file__).parents[2])!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))
from flame_kernel.serve.in_app import serve
made = serve(quiet=True, key_file=sys.argv[1])
print(made, flush=True)
sys.stdin.read()
made.close()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "key")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        target = Target(Location.parse(words[2]), read_key(tmp_path / "key")[0], timeouts=Timeouts(connect=20.0))
        with silent(target.location, 200):
            assert called(target) == 42
    finally:
        process.communicate("")
    assert process.returncode == 0
