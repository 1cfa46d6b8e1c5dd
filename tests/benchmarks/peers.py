"""The peers: what each can be asked to do. A peer that is not installed is left out, and named as such.

Each peer is a context manager. Its methods are the metrics that it takes part in (``metrics.py`` names them); a method
does the work once and returns the seconds it took.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from typing_extensions import Self

from .measure import timed

MIB = 1 << 20
P = TypeVar("P", bound="Peer")

# How often a quick thing is done for one figure.
MANY = 50


def sizes(quick: bool) -> dict[str, int]:
    """How much work there is: bytes of the blobs and arrays, numbers in the list."""
    return {
        "blob": (8 if quick else 64) * MIB,
        "array": (32 if quick else 256) * MIB,
        "ints": 10**5 if quick else 10**6,
    }


class Peer:
    """One way to run something in another process of this machine."""

    name = "peer"
    needs: tuple[str, ...] = ()

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.sizes = sizes(quick)
        self._stack = contextlib.ExitStack()

    @classmethod
    def lacking(cls) -> str:
        """The library that this peer needs and that is not there, or nothing."""
        return next((name for name in cls.needs if importlib.util.find_spec(name) is None), "")

    def __enter__(self) -> Self:
        with self._stack:
            self.start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start what is needed, and have it ended by ``self._stack``."""

    def pids(self) -> tuple[int, int] | None:
        """``(this side's process, the far side's)``, for their memory."""
        return None

    def blob(self) -> bytes:
        return b"\xa5" * self.sizes["blob"]

    def array(self) -> Any:
        import numpy

        return numpy.arange(self.sizes["array"] // 8, dtype="f8")


class Mover(Peer):
    """A peer that sends and fetches values."""

    def _push(self, value: Any) -> float:
        raise NotImplementedError

    def _pull(self, expression: str) -> float:
        raise NotImplementedError

    def push_bytes(self) -> float:
        return self._push(self.blob())

    def pull_bytes(self) -> float:
        return self._pull(f"bytes({self.sizes['blob']})")

    def push_array(self) -> float:
        return self._push(self.array())

    def pull_array(self) -> float:
        return self._pull(f"numpy.zeros({self.sizes['array'] // 8})")

    def push_ints(self) -> float:
        return self._push(list(range(self.sizes["ints"])))

    def pull_ints(self) -> float:
        return self._pull(f"list(range({self.sizes['ints']}))")

    def push_records(self) -> float:
        return self._push(eval(self._records()))

    def pull_records(self) -> float:
        return self._pull(self._records())

    def push_texts(self) -> float:
        return self._push(eval(self._texts()))

    def pull_texts(self) -> float:
        return self._pull(self._texts())

    def _records(self) -> str:
        return f"[{{'id': n, 'name': f'name {{n}}', 'x': n * 0.5}} for n in range({self.sizes['ints'] // 5})]"

    def _texts(self) -> str:
        return f"[f'text {{n}}' for n in range({self.sizes['ints']})]"


_ECHO = """
import socket, struct, hashlib, ssl, sys, threading
tls = None
if sys.argv[1:]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); tls.load_cert_chain(sys.argv[1])
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True)
def serve(c):
    if tls: c = tls.wrap_socket(c, server_side=True)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def read(n):
        b = bytearray(n); v = memoryview(b); at = 0
        while at < n:
            k = c.recv_into(v[at:])
            if not k: raise EOFError
            at += k
        return b
    try:
        while True:
            op, n = struct.unpack(">cQ", read(9))
            if op == b"e": c.sendall(read(n))
            elif op == b"u": read(n); c.sendall(b"k")
            elif op == b"d": c.sendall(bytes(n))
            elif op == b"s":
                piece = memoryview(bytearray(1 << 20))
                while n:
                    k = c.recv_into(piece[:min(n, 1 << 20)])
                    if not k: raise EOFError
                    n -= k
                c.sendall(b"k")
            elif op == b"z":
                piece = bytearray(1 << 20)
                for _ in range(n >> 20): c.sendall(piece)
            elif op in b"UD":
                h = hashlib.blake2b(); left = n; piece = memoryview(bytearray(1 << 20)); name = bytes(read(64)).strip()
                with open(name, "wb" if op == b"U" else "rb", 0) as file:
                    while left:
                        k = min(left, 1 << 20)
                        if op == b"U":
                            at = 0
                            while at < k: at += c.recv_into(piece[at:k])
                            file.write(piece[:k])
                        else: file.readinto(piece[:k])
                        h.update(piece[:k])
                        if op == b"D": c.sendall(piece[:k])
                        left -= k
                c.sendall(h.digest())
            elif op == b"l":
                for i in range(n): c.sendall(b"%d\\n" % i)
    except (EOFError, ConnectionError): c.close()
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


class RawSocket(Peer):
    """A plain TCP connection with TCP_NODELAY: what the machine itself can do."""

    name = "raw socket"

    def start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", _ECHO, *self._certificate()], stdout=subprocess.PIPE, text=True
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        self._address = ("127.0.0.1", int(process.stdout.readline()))
        self._socket = self._stack.enter_context(self._wrapped(socket.create_connection(self._address)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _certificate(self) -> list[str]:
        """The server's certificate, where it shall have one."""
        return []

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        return connection

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            at += self._socket.recv_into(view[at:])
        return data

    def _head(self, op: bytes, size: int) -> bytes:
        return op + size.to_bytes(8, "big")

    def _echo(self, data: bytes) -> None:
        self._socket.sendall(self._head(b"e", len(data)) + data)
        self._read(len(data))

    def ping(self) -> float:
        return timed(lambda: self._echo(b"x"), MANY)

    def cell(self) -> float:
        return timed(lambda: self._echo(b"pass"), MANY)

    def connect(self) -> float:
        return timed(lambda: socket.create_connection(self._address).close(), MANY)

    def _push(self, size: int) -> float:
        data = bytes(size)
        began = time.perf_counter()
        self._socket.sendall(self._head(b"u", size))
        self._socket.sendall(data)
        self._read(1)
        return time.perf_counter() - began

    def _pull(self, size: int) -> float:
        began = time.perf_counter()
        self._socket.sendall(self._head(b"d", size))
        self._read(size)
        return time.perf_counter() - began

    def push_bytes(self) -> float:
        return self._push(self.sizes["blob"])

    def pull_bytes(self) -> float:
        return self._pull(self.sizes["blob"])

    def push_array(self) -> float:
        return self._push(self.sizes["array"])

    def pull_array(self) -> float:
        return self._pull(self.sizes["array"])

    def put_file(self) -> float:
        """From file to file, with a checksum on both sides, in constant memory."""
        import hashlib

        size, piece, digest = self.sizes["array"], memoryview(bytearray(MIB)), hashlib.blake2b()
        with _file(size) as name, open(name, "rb", 0) as file:
            there = name + ".put"
            began = time.perf_counter()
            self._socket.sendall(self._head(b"U", size) + there.encode().ljust(64))
            for _ in range(size // MIB):
                file.readinto(piece)
                digest.update(piece)
                self._socket.sendall(piece)
            assert self._read(64) == digest.digest()
            took = time.perf_counter() - began
        os.unlink(there)
        return took

    def get_file(self) -> float:
        import hashlib

        size, piece, digest = self.sizes["array"], memoryview(bytearray(MIB)), hashlib.blake2b()
        with _file(size) as name, open(name + ".got", "wb", 0) as file:
            began = time.perf_counter()
            self._socket.sendall(self._head(b"D", size) + name.encode().ljust(64))
            for _ in range(size // MIB):
                at = 0
                while at < MIB:
                    at += self._socket.recv_into(piece[at:])
                file.write(piece)
                digest.update(piece)
            assert self._read(64) == digest.digest()
            took = time.perf_counter() - began
        os.unlink(name + ".got")
        return took

    def lines(self) -> float:
        """100,000 short lines, each written by itself."""
        count = 10_000 if self.quick else 100_000
        size = sum(len(b"%d\n" % i) for i in range(count))
        began = time.perf_counter()
        self._socket.sendall(self._head(b"l", count))
        self._read(size)
        return time.perf_counter() - began


class _FlameServer:
    """A stock ``pyro4-flameserver`` in a process of its own."""

    def __init__(self, stack: contextlib.ExitStack, env: Mapping[str, str] | None = None) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYRO_", "FLAME_"))}
        environ |= {"PYRO_FLAME_ENABLED": "true", "PYTHONUNBUFFERED": "1"} | dict(env or {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "Pyro4.utils.flameserver", "-p", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environ,
            cwd="/",
        )
        stack.callback(self._end)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("server uri: "):
                self.location = line.strip().partition("@")[2]
                break

    def _end(self) -> None:
        self.process.terminate()
        self.process.communicate()


class StockFlame(Mover):
    """Pyro4's own client of its own server."""

    name = "stock flame"
    needs = ("Pyro4",)

    def start(self) -> None:
        import Pyro4.utils.flame

        Pyro4.config.SERIALIZER = "pickle"
        self._server = _FlameServer(self._stack)
        self._connect = Pyro4.utils.flame.connect
        self._flame = self._connect(self._server.location)
        self._stack.callback(self._flame._pyroRelease)

    def pids(self) -> tuple[int, int]:
        return os.getpid(), self._server.process.pid

    def ping(self) -> float:
        return timed(lambda: self._flame.evaluate("0"), MANY)

    def cell(self) -> float:
        return timed(lambda: self._flame.execute("pass"), MANY)

    def getpid(self) -> float:
        os_module = self._flame.module("os")
        return timed(os_module.getpid, MANY)

    def connect(self) -> float:
        def once() -> None:
            flame = self._connect(self._server.location)
            flame.evaluate("0")
            flame._pyroRelease()

        return timed(once, 10)

    def _push(self, value: Any) -> float:
        return timed(lambda: self._flame.invokeBuiltin("id", (value,), {}))

    def _pull(self, expression: str) -> float:
        self._flame.execute(f"import numpy; _kept = {expression}")
        return timed(lambda: self._flame.evaluate("_kept"))

    def put_file(self) -> float:
        data = bytes(self.sizes["array"])
        name = f"/tmp/flame-bench-{secrets.token_hex(4)}"
        try:
            return timed(lambda: self._flame.sendfile(name, data))
        finally:
            self._flame.invokeModule("os.unlink", (name,), {})

    def get_file(self) -> float:
        with _file(self.sizes["array"]) as name:
            return timed(lambda: self._flame.getfile(name))

    def put_small_file(self) -> float:
        with _small_file() as name:
            with open(name, "rb") as file:
                data = file.read()
            return timed(lambda: self._flame.sendfile(name, data), 10)

    def get_small_file(self) -> float:
        with _small_file() as name:
            return timed(lambda: self._flame.getfile(name), 10)


@contextlib.contextmanager
def _file(size: int) -> Iterator[str]:
    name = f"/tmp/flame-bench-{secrets.token_hex(4)}"
    with open(name, "wb") as file:
        for _ in range(size // MIB):
            file.write(secrets.token_bytes(64) * (MIB // 64))
    try:
        yield name
    finally:
        os.unlink(name)


@contextlib.contextmanager
def _small_file() -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(1024))
        file.flush()
        yield file.name


class OurLibrary(Mover):
    """``import flame``, a session on a stock server."""

    name = "remote flame"
    needs = ("Pyro4",)
    env: Mapping[str, str] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})

    def start(self) -> None:
        import flame

        self._connect: Callable[..., Any] = flame.connect
        self._server = _FlameServer(self._stack, self.env)
        self._pi = self._stack.enter_context(self._connect(self._server.location, **self.options))

    def pids(self) -> tuple[int, int]:
        return os.getpid(), self._server.process.pid

    def ping(self) -> float:
        return timed(lambda: self._pi.evaluate("0"), MANY)

    def cell(self) -> float:
        return timed(lambda: self._pi.execute("pass"), MANY)

    def getpid(self) -> float:
        return timed(lambda: self._pi.modules.os.getpid(), MANY)

    def connect(self) -> float:
        deadline = time.monotonic() + 10
        while self.options.get("place") != "process" and not self._is_ready() and time.monotonic() < deadline:
            time.sleep(0.1)
        return _visits(self._connect, self._server.location, self.options)

    def _is_ready(self) -> bool:
        """Whether the server keeps a process ready for the next session."""
        return any(one.get("spare") for one in self._pi.session.sessions().result())

    def first_output(self) -> float:
        arrived: list[float] = []

        def sink(event: Any) -> None:
            if event["type"] == "stream":
                arrived.append(time.perf_counter())

        began = time.perf_counter()
        self._pi.cell("import time\nprint('a'); time.sleep(0.3); print('b')", sink).result()
        return arrived[0] - began

    def _printing(self, flush: bool) -> float:
        count = 10_000 if self.quick else 100_000
        pieces: list[str] = []

        def sink(event: Any) -> None:
            if event["type"] == "stream":
                pieces.append(event["content"]["text"])

        code = f"for i in range({count}): print(i, flush={flush})"
        seconds = timed(lambda: self._pi.cell(code, sink).result())
        assert "".join(pieces).count("\n") == count
        return seconds

    def lines(self) -> float:
        return self._printing(False)

    def lines_flushed(self) -> float:
        return self._printing(True)

    def _push(self, value: Any) -> float:
        def once() -> None:
            self._pi["pushed"] = value

        return timed(once)

    def _pull(self, code: str) -> float:
        self._pi.execute(f"import numpy; kept = {code}")

        def once() -> None:
            value = self._pi["kept"]
            if hasattr(value, "fetch"):
                value = value.fetch()

        return timed(once)

    def put_file(self) -> float:
        with _file(self.sizes["array"]) as name:
            there = name + ".put"
            try:
                return timed(lambda: self._pi.put(name, there))
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(there)

    def get_file(self) -> float:
        with _file(self.sizes["array"]) as name:
            here = name + ".got"
            try:
                return timed(lambda: self._pi.get(name, here))
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(here)

    def put_small_file(self) -> float:
        with _small_file() as name, tempfile.TemporaryDirectory() as folder:
            return timed(lambda: self._pi.put(name, f"{folder}/{secrets.token_hex(4)}"), 10)

    def get_small_file(self) -> float:
        with _small_file() as name, tempfile.TemporaryDirectory() as folder:
            return timed(lambda: self._pi.get(name, f"{folder}/{secrets.token_hex(4)}"), 10)

    def interrupt(self) -> float:
        return _interrupt(self._pi)


def _interrupt(pi: Any) -> float:
    begun = threading.Event()
    cell = pi.cell("print('go')\nwhile True: pass", lambda event: begun.set())
    assert begun.wait(10)
    began = time.perf_counter()
    pi.session.interrupt()
    cell.result(30)
    return time.perf_counter() - began


class OurLibraryCold(Peer):
    """A server that keeps no process ready: each session starts an interpreter."""

    name = "remote flame (cold)"
    needs = ("Pyro4",)

    def start(self) -> None:
        import flame

        self._server = _FlameServer(self._stack, {"FLAME_SPARE": "0"})
        self._connect = flame.connect
        self._stack.enter_context(self._connect(self._server.location))

    def connect(self) -> float:
        return _visits(self._connect, self._server.location, {})


def _visits(connect: Callable[..., Any], location: str, options: Mapping[str, Any]) -> float:
    def once() -> None:
        with connect(location, **options) as pi:
            pi.evaluate("0")

    return timed(once, 5)


class OurLibraryInProcess(OurLibrary):
    name = "remote flame (process)"
    options = MappingProxyType({"place": "process"})


class OurLibraryWithKey(OurLibrary):
    """The same with an HMAC key on both sides."""

    name = "remote flame (key)"

    def start(self) -> None:
        key = secrets.token_hex(32)
        self.env = {"PYRO_HMAC_KEY": key}
        self.options = {"key": key}
        super().start()


class Rpyc(Peer):
    """RPyC's classic mode, in a process of its own."""

    name = "rpyc"
    needs = ("rpyc",)

    def start(self) -> None:
        import rpyc

        code = (
            "from rpyc.utils.server import ThreadedServer; from rpyc.core import SlaveService\n"
            "s = ThreadedServer(SlaveService, hostname='127.0.0.1', port=0); print(s.port, flush=True); s.start()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        assert process.stdout is not None
        self._stack.callback(process.stdout.close)
        self._port = int(process.stdout.readline())
        self._pid = process.pid
        self._rpyc = rpyc
        self._there = rpyc.classic.connect("127.0.0.1", self._port)
        self._stack.callback(self._there.close)

    def pids(self) -> tuple[int, int]:
        return os.getpid(), self._pid

    def ping(self) -> float:
        return timed(lambda: self._there.ping(), MANY)

    def cell(self) -> float:
        return timed(lambda: self._there.execute("pass"), MANY)

    def getpid(self) -> float:
        return timed(lambda: self._there.modules.os.getpid(), MANY)

    def connect(self) -> float:
        return timed(lambda: self._rpyc.classic.connect("127.0.0.1", self._port).close(), 10)

    def lines(self) -> float:
        count = 1000  # 100,000 take minutes; the rate is the same
        pieces: list[str] = []

        class Sink:
            def write(self, text: str) -> None:
                pieces.append(text)

            def flush(self) -> None:
                pass

        self._there.modules.sys.stdout = Sink()
        seconds = timed(lambda: self._there.execute(f"for i in range({count}): print(i)"))
        assert "".join(pieces).count("\n") == count
        return seconds * (10_000 if self.quick else 100_000) / count

    def push_ints(self) -> float:
        from rpyc.utils.classic import deliver

        values = list(range(self.sizes["ints"]))
        return timed(lambda: deliver(self._there, values))

    def pull_ints(self) -> float:
        from rpyc.utils.classic import obtain

        kept = self._there.eval(f"list(range({self.sizes['ints']}))")
        return timed(lambda: obtain(kept))


class Execnet(Peer):
    """execnet over a pipe."""

    name = "execnet"
    needs = ("execnet",)

    def start(self) -> None:
        import execnet

        self._group = execnet.Group()
        self._gateway = self._group.makegateway("popen")
        self._stack.callback(self._group.terminate, 5.0)
        self._channel = self._gateway.remote_exec(
            "import os\n"
            "for item in channel:\n"
            "    kind, value = item\n"
            "    if kind == 'cell': exec(value); channel.send(None)\n"
            "    elif kind == 'eval': channel.send(eval(value))\n"
            "    elif kind == 'echo': channel.send(None)\n"
            "    elif kind == 'lines':\n"
            "        for i in range(value): channel.send('%d\\n' % i)\n"
        )

    def _ask(self, kind: str, value: Any) -> Any:
        self._channel.send((kind, value))
        return self._channel.receive()

    def ping(self) -> float:
        return timed(lambda: self._ask("echo", None), MANY)

    def cell(self) -> float:
        return timed(lambda: self._ask("cell", "pass"), MANY)

    def getpid(self) -> float:
        return timed(lambda: self._ask("eval", "os.getpid()"), MANY)

    def push_bytes(self) -> float:
        data = self.blob()
        return timed(lambda: self._ask("echo", data))

    def pull_bytes(self) -> float:
        return timed(lambda: self._ask("eval", f"bytes({self.sizes['blob']})"))

    def push_ints(self) -> float:
        values = list(range(self.sizes["ints"]))
        return timed(lambda: self._ask("echo", values))

    def pull_ints(self) -> float:
        return timed(lambda: self._ask("eval", f"list(range({self.sizes['ints']}))"))

    def lines(self) -> float:
        count = 10_000 if self.quick else 100_000

        def once() -> None:
            self._channel.send(("lines", count))
            for _ in range(count):
                self._channel.receive()

        return timed(once)


class Ipyparallel(Mover):
    """One engine of ipyparallel."""

    name = "ipyparallel"
    needs = ("ipyparallel",)

    def start(self) -> None:
        import logging

        import ipyparallel

        cluster = ipyparallel.Cluster(n=1, log_level=logging.ERROR)
        client = cluster.start_and_connect_sync()
        self._stack.callback(cluster.stop_cluster_sync)
        self._stack.callback(client.close)
        self._view = client[0]
        self._view.block = True

    def ping(self) -> float:
        return timed(lambda: self._view.apply_sync(int), MANY)

    def cell(self) -> float:
        return timed(lambda: self._view.execute("pass", block=True), MANY)

    def getpid(self) -> float:
        return timed(lambda: self._view.apply_sync(os.getpid), MANY)

    def _push(self, value: Any) -> float:
        return timed(lambda: self._view.push({"pushed": value}, block=True))

    def _pull(self, code: str) -> float:
        self._view.execute(f"import numpy; kept = {code}", block=True)
        return timed(lambda: self._view.pull("kept", block=True))
