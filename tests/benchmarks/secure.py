"""The same through TLS: files, beside a raw TLS connection that moves one with the same checksum."""

from __future__ import annotations

import socket
import ssl
import tempfile
from pathlib import Path

from flame_kernel.serve.certs import Authority

from .peers import OurLibrary, Peer, RawSocket


def _certificates(peer: Peer) -> tuple[str, str]:
    """A new authority, and a certificate for this machine: ``(ca.pem, server.pem)``."""
    folder = Path(peer._stack.enter_context(tempfile.TemporaryDirectory())) / "ca"
    Authority(folder).server(["localhost"], days=30)
    return str(folder / "ca.pem"), str(folder / "server.pem")


class RawTls(Peer):
    name = "raw TLS socket"
    needs = ("cryptography",)

    def start(self) -> None:
        self._one = self._stack.enter_context(_RawTls(self.quick))

    def put_file_tls(self) -> float:
        return self._one.put_file()

    def get_file_tls(self) -> float:
        return self._one.get_file()


class _RawTls(RawSocket):
    def _certificate(self) -> list[str]:
        self._ca, own = _certificates(self)
        return [own]

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        return ssl.create_default_context(cafile=self._ca).wrap_socket(connection, server_hostname="localhost")


class OurLibraryTls(Peer):
    """``import flame``, a session on a stock server that speaks TLS."""

    name = "remote flame (TLS)"
    needs = ("Pyro4", "cryptography")

    def start(self) -> None:
        self._one = self._stack.enter_context(_OurLibraryTls(self.quick))

    def pids(self) -> tuple[int, int]:
        return self._one.pids()

    def put_file_tls(self) -> float:
        return self._one.put_file()

    def get_file_tls(self) -> float:
        return self._one.get_file()


class _OurLibraryTls(OurLibrary):
    def start(self) -> None:
        ca, own = _certificates(self)
        self.env = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": own}
        self.options = {"tls": {"ca": ca}}
        super().start()
