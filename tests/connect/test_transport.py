"""One connection: against stock servers of every Python, and against all that may answer at an address instead."""

from __future__ import annotations

import contextlib
import http.server
import os
import pickle
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evil
import farside
import pytest
from farside import FlameServer, Python
from needs import missing

from flame_kernel.connect import dial, pyro_message
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Secret, Target, Timeouts
from flame_kernel.errors import CallTimeout, CannotConnect, ConnectionLost, RemoteError, TargetError, UnsafeAnswer
from flame_kernel.session.session import Session

KEY = "0123456789abcdef0123456789abcdef"
Start = Callable[..., FlameServer]


def target(location: str, key: str | None = None, **seconds: float) -> Target:
    secret = Secret(key.encode()) if key else None
    return Target(Location.parse(location), secret, timeouts=Timeouts(**seconds), insecure=True)


@contextlib.contextmanager
def connect(server: FlameServer, **seconds: float) -> Iterator[Connection]:
    with contextlib.closing(Connection(target(server.location, server.key, **seconds))) as connection:
        yield connection


def refused(location: str, key: str | None = None, **seconds: float) -> CannotConnect:
    """The error of a connection that must not come about; a session, which says more at once, is told the same."""
    with pytest.raises(CannotConnect) as caught:
        Connection(target(location, key, **seconds)).close()
    with pytest.raises(CannotConnect) as opened:
        Session(target(location, key, **seconds), lambda events: None).close()
    assert str(opened.value) == str(caught.value)
    assert str(caught.value).startswith(f"cannot reach the flame server at {location}: ")
    return caught.value


# --- what a stock server does


@pytest.mark.parametrize("key", [None, KEY], ids=["no key", "key"])
def test_every_method_of_a_stock_server(each_python: Python, key: str | None, flame_server: Start) -> None:
    server = flame_server(each_python, key=key)
    with connect(server) as connection:
        version = tuple(connection.call("evaluate", "tuple(__import__('sys').version_info[:2])"))
        assert version == each_python.version[:2]
        plain = [1, 2.5, None, True, "ä\ud800\0", b"\0\xff", bytearray(b"x"), {1}, frozenset([2]), (3,), {"k": [1j]}]
        connection.call("execute", "global thing; thing = [1]")
        for protocol in (2, 4):
            connection.pickle_protocol = protocol
            assert connection.call("invokeBuiltin", "list", [plain], {}) == plain
            blob = os.urandom(1_000_000)
            assert connection.call("invokeBuiltin", "bytes", [blob], {}) == blob
        connection.call("sendmodule", "sent", "def double(data):\n    return data * 2\n")
        assert connection.invoke("sent.double", b"ab") == b"abab"
        connection.call("sendfile", "file", b"content")
        assert connection.call("getfile", "file") == b"content"
        assert "def dumps" in connection.call("getmodule", "json")
        assert repr(connection.call("module", "json")) == "<remote Pyro4.utils.flame.FlameModule object>"
        assert repr(connection.call("builtin", "max")) == "<remote Pyro4.utils.flame.FlameBuiltin object>"
        with pytest.raises(RemoteError, match=r"^ZeroDivisionError: "):
            connection.call("evaluate", "1/0")
        with pytest.raises(RemoteError, match=r"^ValueError: <function"):  # Pyro sends a PyroError instead of this one
            connection.call("execute", "raise ValueError(lambda: 0)")
        with pytest.raises(RemoteError, match=r"(?i)pickle"):
            connection.call("evaluate", "lambda: 0")
        with pytest.raises(RemoteError, match=r"iterator|generator"):
            connection.call("evaluate", "(i for i in [1])")
        assert connection.call("evaluate", "thing") == [1]  # in step after all of those


def test_errors_keep_the_far_sides_words(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        connection.call(
            "execute", "class Odd(Exception):\n  def __str__(self): return 'odd: \\u00e4'\nglobals()['Odd'] = Odd"
        )
        with pytest.raises(RemoteError) as caught:
            connection.call("execute", "raise Odd(1)")
        assert (caught.value.ename, caught.value.evalue) == ("Odd", "odd: ä")
        assert caught.value.traceback.startswith("Traceback (most recent call last):\n")
        assert "<remote-code>" in caught.value.traceback
        with pytest.raises(RemoteError) as caught:
            connection.call("execute", "raise ValueError('x' * 10**6)")
        assert len(caught.value.evalue) < 11_000
        assert len(caught.value.traceback) < 110_000


def test_unix_sockets_and_multiplex_servers(flame_server: Start) -> None:
    for server in (flame_server(unix=True), flame_server(unix=True, key=KEY), flame_server(servertype="multiplex")):
        with connect(server) as connection:
            assert connection.call("evaluate", "6*7") == 42


def test_compressed_answers(flame_server: Start) -> None:
    with connect(flame_server(env={"PYRO_COMPRESSION": "true"}, key=KEY)) as connection:
        assert connection.call("evaluate", "'x' * 10**6") == "x" * 10**6
        with pytest.raises(RemoteError, match="ValueError"):
            connection.call("execute", "raise ValueError('x' * 10**5)")
        with pytest.raises(UnsafeAnswer, match="compressed data of more than"):
            connection.call("evaluate", "'x' * (65 * 2**20)")
        assert not connection.is_open


def test_an_answer_beyond_the_limit_is_not_received(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        with pytest.raises(UnsafeAnswer, match="the limit is 67108864"):
            connection.call("evaluate", "b'x' * (65 * 2**20)")
        assert connection.bytes_received < 10_000


def test_large_bytes_travel_in_both_directions(flame_server: Start) -> None:
    size = 60 * 2**20
    with connect(flame_server(key=KEY)) as connection:
        connection.pickle_protocol = 4
        connection.call("sendmodule", "echo", "def echo(data): return data")
        blob = os.urandom(2**20) * 60
        assert connection.invoke("echo.echo", blob) == blob
        assert connection.bytes_sent > size
        assert connection.bytes_received > size


def test_counters_and_repr(flame_server: Start) -> None:
    server = flame_server()
    with connect(server) as connection:
        assert repr(connection).startswith(f"<Connection {server.location} open, 0 calls, ")
        sent, received = connection.bytes_sent, connection.bytes_received
        connection.call("evaluate", "1")
        assert connection.calls == 1
        assert connection.bytes_sent > sent
        assert connection.bytes_received > received
    assert repr(connection).startswith(f"<Connection {server.location} closed, 1 calls, ")
    connection.close()
    with pytest.raises(ConnectionLost, match="is closed"):
        connection.call("evaluate", "1")


def test_the_keepalive_of_the_socket(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        get = connection._channel.socket.getsockopt
        tcp = socket.IPPROTO_TCP
        assert get(tcp, socket.TCP_NODELAY)
        assert get(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert (get(tcp, socket.TCP_KEEPIDLE), get(tcp, socket.TCP_KEEPINTVL), get(tcp, socket.TCP_KEEPCNT)) == (
            15,
            5,
            4,
        )
        assert get(tcp, socket.TCP_USER_TIMEOUT) == 35_000


# --- calls that do not end


def test_a_call_times_out_as_a_whole(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        started = time.monotonic()
        with pytest.raises(CallTimeout, match=r"evaluate was not answered within 0\.3 s"):
            connection.call("evaluate", "__import__('time').sleep(5)", timeout=0.3)
        assert 0.25 < time.monotonic() - started < 2
        assert not connection.is_open


def test_a_stopped_server_does_not_hold_a_large_request(flame_server: Start) -> None:
    server = flame_server()
    with connect(server) as connection:
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(CallTimeout):
                connection.call("sendfile", "x", bytes(50 * 2**20), timeout=0.5)
        finally:
            server.process.send_signal(signal.SIGCONT)


def test_abort_wakes_a_waiting_call(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        connection.call("evaluate", "1")
        timer = threading.Timer(0.2, connection.abort)
        timer.start()
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="aborted"):
            connection.call("evaluate", "__import__('time').sleep(5)")
        assert time.monotonic() - started < 3
        timer.join()
        connection.abort()
        with pytest.raises(ConnectionLost, match="is aborted"):
            connection.call("evaluate", "1")


def test_an_interrupt_closes_the_connection(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            connection.call("evaluate", "__import__('time').sleep(5)")
        timer.join()
        assert not connection.is_open


def test_a_killed_server_is_noticed_at_once(flame_server: Start) -> None:
    server = flame_server()
    with connect(server) as connection:
        timer = threading.Timer(0.2, server.process.kill)
        timer.start()
        started = time.monotonic()
        with pytest.raises(ConnectionLost):
            connection.call("evaluate", "__import__('time').sleep(5)")
        assert time.monotonic() - started < 3
        timer.join()
    server.process.wait()
    assert refused(server.location).cause == "refused"


def test_what_cannot_be_pickled_leaves_the_connection_alone(flame_server: Start) -> None:
    with connect(flame_server()) as connection:
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            connection.call("evaluate", threading.Lock())
        with pytest.raises(TypeError, match="a secret is not pickled"):
            connection.call("evaluate", Secret(b"x"))
        assert connection.call("evaluate", "1") == 1
        with pytest.raises(UnsafeAnswer, match="answered with int, not with bytes"):
            connection.invoke("os.getpid")


# --- why there is no connection


def test_refused_and_unresolvable_and_unreachable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = refused(f"127.0.0.1:{port}")
    assert str(error) == (
        f"cannot reach the flame server at 127.0.0.1:{port}: connection refused; is pyro4-flameserver running there?"
    )
    assert error.passing
    assert refused("no-such-host.invalid:9999").cause == "unresolvable"
    assert refused(f"{'x' * 70}.invalid:9999").cause == "unresolvable"
    assert refused(f"./u:{tmp_path}/none").detail == "there is no such socket file"
    assert refused("255.255.255.255:9").cause == "unreachable"
    with pytest.raises(TargetError):
        Connection(Target())


def test_a_stale_socket_file(flame_server: Start) -> None:
    server = flame_server(unix=True)
    server.kill()
    assert refused(server.location).cause == "refused"


def test_addresses_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # the system takes the connection, nobody accepts it
        location = f"127.0.0.1:{mute.getsockname()[1]}"
        started = time.monotonic()
        error = refused(location, connect=0.3)
        assert (error.cause, time.monotonic() - started < 2) == ("timeout", True)
        assert "takes connections but does not answer" in str(error)

    shares = []

    def swallow(family: int, address: Any, seconds: float) -> socket.socket:
        shares.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(dial, "_connect", swallow)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(socket.AF_INET6, 1, 6, "", 1), (socket.AF_INET, 1, 6, "", 2)]
    )
    error = refused("host:9999", connect=8.0)
    assert (error.cause, error.detail) == ("timeout", "")
    assert 3.5 < shares[0] <= 4.0 < 7.5 < shares[1] <= 8.0  # the first address leaves time for the second


@pytest.mark.parametrize("length", ["right", "wrong"])
def test_keys_tell_which_side_lacks_one(length: str, flame_server: Start) -> None:
    keyed, open_ = flame_server(key=KEY), flame_server()
    other = KEY[::-1] if length == "right" else "x"
    began = time.monotonic()
    assert refused(keyed.location).cause == "key_missing_here"
    assert refused(keyed.location, other).cause == "key_wrong"
    assert refused(open_.location, other).cause == "key_missing_there"
    for odd in ("ä\n\0key", "k" * 10**6):
        assert refused(keyed.location, odd).cause == "key_wrong"
    assert time.monotonic() - began < 5  # a second each
    for error in (refused(keyed.location, KEY + "x"), refused(open_.location, KEY)):
        assert KEY not in str(error) + repr(error) + repr(vars(error))
        assert not error.passing


def test_a_server_without_a_free_connection(flame_server: Start) -> None:
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    with connect(server) as first, connect(server) as second:
        assert first.call("evaluate", "1") + second.call("evaluate", "1") == 2
        error = refused(server.location)
        assert error.cause == "pool_full"
        assert error.passing
    farside.wait_until(lambda: _connects(server), "a free connection")


def _connects(server: FlameServer) -> bool:
    try:
        with connect(server):
            return True
    except CannotConnect:
        return False


_DAEMON = """
import Pyro4
Pyro4.config.SERIALIZERS_ACCEPTED = set({accepted!r})
daemon = Pyro4.Daemon()
print("server uri: PYRO:x@" + daemon.locationStr, flush=True)
daemon.requestLoop()
"""


@pytest.mark.parametrize("accepted", [["pickle"], ["serpent", "json"]], ids=["pickle", "serpent"])
def test_a_daemon_without_flame(accepted: list[str], pythons: tuple[Python, ...], tmp_path: Path) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(_DAEMON.format(accepted=accepted))
    daemon = farside.FarProcess([str(script)], pythons[-1], {}, subprocess.DEVNULL)
    try:
        location = farside._location(daemon._wait_for_line("server uri: "))
        with (
            pytest.raises(CannotConnect, match="PYRO_FLAME_ENABLED") as caught,
            contextlib.closing(Connection(target(location))) as connection,
        ):
            connection.call("evaluate", "1")
        assert caught.value.cause == "not_flame"
    finally:
        daemon.stop()


def test_a_tls_server(flame_server: Start, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl")
    pem = tmp_path / "server.pem"
    made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run(
        [*made, "-subj", "/CN=localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")],
        check=True,
        capture_output=True,
    )
    pem.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "cert").read_bytes())
    server = flame_server(env={"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": str(pem)})
    assert refused(server.location).cause == "tls"


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_name_server(pythons: tuple[Python, ...]) -> None:
    """Pyro's own, at the port that its clients know."""
    server = farside.FarProcess(["-m", "Pyro4.naming", "-p", "0", "-x"], pythons[-1], {}, subprocess.DEVNULL)
    try:
        location = farside._location(server._wait_for_line("URI = "))
        with (
            pytest.raises(CannotConnect, match="a Pyro daemon answers there, but it offers no Flame") as caught,
            contextlib.closing(Connection(target(location))) as connection,
        ):
            connection.call("evaluate", "1")
        assert caught.value.cause == "not_flame"
    finally:
        server.stop()


def test_a_web_server_is_named() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            started = time.monotonic()
            error = refused(f"127.0.0.1:{server.server_address[1]}")
            assert time.monotonic() - started < 5
        finally:
            server.shutdown()
            thread.join()
    assert error.cause == "not_pyro"
    assert "an HTTP server" in str(error)


@pytest.mark.parametrize(
    ("banner", "cause", "named"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "not_pyro", "an HTTP server: 'HTTP/1.1 400 Bad Request'"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "not_pyro", "an SSH server: 'SSH-2.0-OpenSSH_9.2p1'"),
        (b"SSH-2", "not_pyro", "an SSH server"),
        (b"-ERR unknown command\r\n", "not_pyro", "a Redis server"),
        (b"220 mail ESMTP\r\n", "not_pyro", "a mail or FTP server"),
        (b"\xff\0\0\0\0\0\0\0\x01\x7f", "not_pyro", "a ZeroMQ socket"),
        (b"\x1b]0;evil\x07\n", "not_pyro", "something else"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "tls", "needs TLS"),
        (b"PYRO\x01\xf6" + bytes(40), "protocol", "Pyro5, wire protocol 502"),
        (b"PYRO\x00\x2e" + bytes(40), "protocol", "Pyro4, wire protocol 46"),
        (b"", "closed", "the server closed it"),
        (b"PYRO\x00", "closed", "in the middle"),
    ],
)
def test_what_answers_is_named(banner: bytes, cause: str, named: str) -> None:
    answer = evil._send(lambda seq: banner)
    with contextlib.closing(evil.EvilServer(answer, at_handshake=True)) as server:
        error = refused(server.location, connect=3.0)
    assert error.cause == cause
    assert named in str(error)
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)


def test_a_banner_that_comes_before_anything_is_asked() -> None:
    class Banner(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-x\r\n")
            self.request.recv(1000)

    with socketserver.TCPServer(("127.0.0.1", 0), Banner) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            error = refused(f"127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
            thread.join()
    assert "an SSH server" in str(error)


# --- someone in the middle, who lacks the key


def _relay(change: Callable[[bytes, list[bytes]], bytes], server: FlameServer) -> evil.EvilServer:
    """A server that passes on to ``server``, and answers the second call with ``change(answer, earlier answers)``."""

    def answer(relay: evil.EvilServer, connection: socket.socket, seq: int) -> None:
        host, _, port = server.location.rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            connection.settimeout(5)
            far.settimeout(5)
            earlier: list[bytes] = []
            while True:
                request = _whole(connection)
                if not request:
                    return
                far.sendall(request)
                reply = _whole(far)
                earlier.append(request)
                earlier.append(reply)
                connection.sendall(change(reply, earlier) if len(earlier) == 6 else reply)

    return evil.EvilServer(answer, raw=True)


def _whole(connection: socket.socket) -> bytes:
    try:
        head = evil._exactly(connection, evil.HEADER.size)
    except OSError:
        return b""
    fields = evil.HEADER.unpack(head)
    return head + evil._exactly(connection, fields[5] + fields[7])


def _with_head(source: bytes, like: bytes, **changes: int) -> bytes:
    """``source``'s annotations and data under a right header with the sequence number of ``like``."""
    fields = list(evil.HEADER.unpack(source[: evil.HEADER.size]))
    fields[4] = evil.HEADER.unpack(like[: evil.HEADER.size])[4]
    for name, value in changes.items():
        fields[{"kind": 2, "flags": 3}[name]] = value
    fields[9] = (fields[2] + fields[1] + fields[5] + fields[7] + fields[3] + fields[6] + fields[4] + 0x34E9) & 0xFFFF
    return evil.HEADER.pack(*fields) + source[evil.HEADER.size :]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda reply, earlier: _with_head(earlier[3], reply), "the answer to another call"),
        (lambda reply, earlier: _with_head(earlier[4], reply, kind=evil.RESULT), "reflected"),
        (lambda reply, earlier: _with_head(earlier[1], reply, kind=evil.RESULT), "the answer to another call"),
        (lambda reply, earlier: reply[:-2] + b"\x07.", "not signed"),
        (lambda reply, earlier: _with_head(reply, reply, flags=evil.EXCEPTION), "not an exception"),
        (
            lambda reply, earlier: evil.message(evil.RESULT, pickle.dumps(1, 4), evil.HEADER.unpack(reply[:24])[4]),
            "not signed",
        ),
    ],
    ids=["older answer", "reflection", "handshake", "altered", "exception flag", "unsigned"],
)
def test_nobody_without_the_key_changes_an_answer(
    change: Callable[[bytes, list[bytes]], bytes], why: str, flame_server: Start
) -> None:
    server = flame_server(key=KEY)
    with (
        contextlib.closing(_relay(change, server)) as relay,
        contextlib.closing(Connection(target(relay.location, KEY))) as connection,
    ):
        assert connection.call("evaluate", "100") == 100
        with pytest.raises(UnsafeAnswer, match=why):
            connection.call("evaluate", "5")
        assert not connection.is_open


def test_what_comes_with_an_answer_belongs_to_the_next_one() -> None:
    """Several messages in one packet, and one of them byte by byte; large ones too."""
    answers = [b"a" * size for size in (1, 3000, 100_000, 5)]
    here, there = socket.socketpair()
    with here, there:
        channel = pyro_message.Channel(here, None, 4)
        whole = b"".join(evil.message(evil.RESULT, data, n) for n, data in enumerate(answers))
        sender = threading.Thread(target=lambda: [there.sendall(part) for part in (whole[:9000], whole[9000:])])
        sender.start()
        deadline = time.monotonic() + 10
        for n, data in enumerate(answers):
            header = channel.header(None, deadline)
            assert header is not None
            answer = channel.parse(header, deadline)
            assert (answer.seq, bytes(answer.data)) == (n, data)
        sender.join()
        assert not channel.has_more
        there.sendall(evil.message(evil.RESULT, b"one", 7) + evil.message(evil.RESULT, b"two", 8)[:26])
        header = channel.header(None, deadline)
        assert header is not None
        channel.parse(header, deadline)
        assert channel.has_more  # which nobody sees by waiting for the socket
        there.close()
        header = channel.header(None, deadline)
        assert header is not None
        with pytest.raises(pyro_message.Reset, match="in the middle"):
            channel.parse(header, deadline)


def test_behind_a_greeting_nothing_is_read() -> None:
    here, there = socket.socketpair()
    with here, there:
        channel = pyro_message.Channel(here, None, 4)
        there.sendall(b"helloand more")
        assert channel.header(b"hello", time.monotonic() + 10) is None
        assert (channel.has_more, here.recv(100)) == (False, b"and more")


def test_mutated_messages_raise_nothing_but_our_errors() -> None:
    chunk = b"CORR\x00\x10" + bytes(16)
    seeds = [
        evil.message(evil.RESULT, pickle.dumps([1, "a", {"k": b"v"}], 4), 0),
        evil.message(evil.RESULT, pickle.dumps(ValueError("x"), 2), 0, flags=evil.EXCEPTION),
        evil.message(evil.RESULT, pickle.dumps(1, 2), 0, chunks=chunk + b"ABCD\x00\x00"),
        evil.message(evil.CONNECTOK, evil.HELLO, 0),
        evil.message(evil.CONNECTFAIL, b"z\x05hello", 0, serializer=evil.MARSHAL),
    ]
    damaged = evil.mutants(seeds, 1000, seed=7)

    def answer(server: evil.EvilServer, connection: socket.socket, seq: int) -> None:
        data = bytearray(next(damaged))
        if len(data) >= evil.HEADER.size:  # as if it were meant for this call, or nothing deeper would be reached
            fields = list(evil.HEADER.unpack(data[: evil.HEADER.size]))
            fields[4] = seq
            fields[9] = (fields[2] + 48 + fields[5] + fields[7] + fields[3] + fields[6] + seq + 0x34E9) & 0xFFFF
            data[: evil.HEADER.size] = evil.HEADER.pack(*fields)
        connection.sendall(data)

    outcomes = set()
    for at_handshake in (False, True):
        with contextlib.closing(evil.EvilServer(answer, at_handshake=at_handshake)) as server:
            for _ in range(500):
                try:
                    with contextlib.closing(Connection(target(server.location, connect=5, call=5))) as connection:
                        connection.call("evaluate", "1")
                        outcomes.add("value")
                except (ConnectionLost, CannotConnect, RemoteError) as error:
                    outcomes.add(type(error).__name__)
    assert {"value", "UnsafeAnswer", "RemoteError", "CannotConnect"} <= outcomes
    assert "CallTimeout" not in outcomes


def test_nothing_of_pyros_readers_is_imported() -> None:
    """The transport needs Pyro's constants. What Pyro itself imports is its own; its config stays as it was."""
    code = (
        "import Pyro4; before = Pyro4.config.asDict()\n"
        "import flame_kernel.connect.connection, flame_kernel.serve.embedded\n"
        "assert Pyro4.config.asDict() == before\n"
        "import flame_kernel.connect.connection as t\n"
        "assert not {'Proxy', 'util', 'core', 'config', 'loads'} & set(vars(t)), vars(t)\n"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})
