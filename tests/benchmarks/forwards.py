"""Forwarded ports: ours beside ``ssh -L`` to a real sshd, and the same connection without a tunnel."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .peers import MANY, RawSocket, _FlameServer
from .secure import _certificates

# What is sent and what is read into, made before anything is measured: the tunnel is what counts.
_PIECE = bytearray(1 << 20)
_ROOM = memoryview(bytearray(1 << 20))


class Direct(RawSocket):
    """No tunnel: what the machine itself can do."""

    name = "no tunnel"

    def start(self) -> None:
        super().start()
        self._socket.close()
        self._through(self._address[1])
        self._dial()

    def _through(self, port: int) -> None:
        """Set ``_address`` to where the server at ``port`` is reached."""

    def _dial(self) -> None:
        """Connect; the connection has been used once when this returns."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self._socket = self._new()
                self._ask(b"e", 1)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._stack.callback(self._socket.close)

    def _new(self) -> socket.socket:
        made = socket.create_connection(self._address)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _ask(self, op: bytes, size: int, on: socket.socket | None = None) -> None:
        """``e``: an echo; ``s``: sent, and thrown away there; ``z``: made there."""
        sock = on or self._socket
        sock.sendall(struct.pack(">cQ", op, size) + (bytes(size) if op == b"e" else b""))
        if op == b"s":
            for _ in range(size >> 20):
                sock.sendall(_PIECE)
        left = {b"e": size, b"s": 1, b"z": size}[op]
        while left:
            count = sock.recv_into(_ROOM[: min(left, len(_ROOM))])
            if not count:
                raise OSError("it was closed")
            left -= count

    def forward_echo(self) -> float:
        begin = time.perf_counter()
        for _ in range(MANY):
            self._ask(b"e", 64)
        return (time.perf_counter() - begin) / MANY

    def forward_open(self) -> float:
        begin = time.perf_counter()
        for _ in range(MANY):
            with self._new() as one:
                self._ask(b"e", 1, one)
        return (time.perf_counter() - begin) / MANY

    def forward_down(self) -> float:
        begin = time.perf_counter()
        self._ask(b"z", self.sizes["array"])
        return time.perf_counter() - begin

    def forward_up(self) -> float:
        begin = time.perf_counter()
        self._ask(b"s", self.sizes["array"])
        return time.perf_counter() - begin


class SshForward(Direct):
    """OpenSSH's ``ssh -L``."""

    name = "ssh -L"

    @classmethod
    def lacking(cls) -> str:
        return "" if shutil.which("ssh") and shutil.which("sshd", path="/usr/sbin:/usr/bin") else "sshd"

    def _through(self, port: int) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
        from sshd import Sshd

        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "sshd"
        server = Sshd(folder)
        self._stack.callback(server.stop)
        with socket.create_server(("127.0.0.1", 0)) as free:
            local = free.getsockname()[1]
        words = [str(server.ssh / "ssh"), "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", "far"]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._address = ("127.0.0.1", local)


class OurForward(Direct):
    """``pi.forward``, over a plain link."""

    name = "our forward"
    needs = ("Pyro4",)
    env: Mapping[str, str] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})

    def _through(self, port: int) -> None:
        import flame

        server = _FlameServer(self._stack, self.env)
        pi = self._stack.enter_context(flame.connect(server.location, **self.options))
        one = self._stack.enter_context(pi.forward(port, local=0))
        assert one.local_port is not None
        self._address = ("127.0.0.1", one.local_port)


class OurForwardWithKey(OurForward):
    """The same, every frame sealed under a key."""

    name = "our forward (key)"
    env = MappingProxyType({"PYRO_HMAC_KEY": "k" * 32})
    options = MappingProxyType({"key": "k" * 32})


class OurForwardTls(OurForward):
    """The same through TLS."""

    name = "our forward (TLS)"
    needs = ("Pyro4", "cryptography")

    def _through(self, port: int) -> None:
        ca, own = _certificates(self)
        self.env = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": own}
        self.options = {"tls": {"ca": ca}}
        super()._through(port)
