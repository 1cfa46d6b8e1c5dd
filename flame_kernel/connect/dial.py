"""Connects a socket to a server; through ssh or TLS if the target asks for it, and then never without.

A plain connection to another machine is made only if the user has allowed it.  Names are resolved and addresses tried
here; proxy settings of the environment and redirections are not followed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from typing import Any

from ..errors import CannotConnect, TargetError
from . import tls
from .target import Location, Target

# The family of unix sockets; no family where Python has none (Windows).
UNIX: int = getattr(socket, "AF_UNIX", -1)


class Way:
    """A ``socket`` connected to the server of ``target``; closing it also releases its ssh tunnel.

    ``deadline`` (monotonic) is the time by which the Pyro handshake must be complete.  The constructor raises
    TargetError and CannotConnect.
    """

    def __init__(self, target: Target) -> None:
        if target.location is None:
            raise TargetError("no server is named; give host:port, or start one with EmbeddedServer")
        if target.location.name:
            raise TargetError(f"{target.location} is a name, which is to be looked up first")
        try:
            target.check_exposure()
        except TargetError:
            if target.location.host and target.location.ssh is None:
                addresses(target.location)  # an unknown host is probably mistyped; report that first
            raise
        self.location = str(target.location)
        self._place = target.location
        self._tunnel = target.tunnel
        timeouts = target.timeouts
        if self._tunnel is None:
            found = self._addresses()  # not under our deadline: the system's resolver has its own
            self.deadline = time.monotonic() + timeouts.connect
            self.socket = self._open(found, self.deadline)
        else:
            alive = 5.0 if target.fast else 15.0
            self.socket = self._tunnel.connect(timeouts.connect, timeouts.login, alive, target.ask)
            self.deadline = time.monotonic() + timeouts.connect
        self._closed = False
        try:
            if target.tls is not None:
                self.socket, waited = tls.wrap(self.socket, target.tls, self._place, self.deadline, target.ask)
                self.deadline += waited
        except BaseException as error:  # raised again, whatever it is; the connection is closed
            refusal = self.refusal()
            self.close()
            if refusal and isinstance(error, CannotConnect):
                raise self.refused(refusal) from error
            raise

    def close(self) -> None:
        """Close the socket; the last one through a tunnel ends its ssh. May be called again."""
        if not self._closed:
            self._closed = True
            self.socket.close()
            if self._tunnel is not None:
                self._tunnel.release()

    def shutdown(self) -> None:
        """Shut the socket down, so that a read or write that is waiting in another thread ends."""
        with contextlib.suppress(OSError):  # it may be shut down already
            if isinstance(self.socket, ssl.SSLSocket):  # its own shutdown would take TLS off under another thread
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
            else:  # perhaps a socket class of eventlet's, with a shutdown of its own
                self.socket.shutdown(socket.SHUT_RDWR)

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine, so that addresses such as 127.0.0.1 mean the same for both."""
        with contextlib.suppress(OSError):  # the connection is lost
            if self._tunnel is None and self.socket.family != UNIX:
                peer = self.socket.getpeername()[0]
                return bool(peer == self.socket.getsockname()[0] or ipaddress.ip_address(peer).is_loopback)
        return self._tunnel is None and self.socket.family == UNIX

    def refusal(self) -> str:
        """Why ssh could not reach the server from its host, in ssh's words; empty without ssh or if it is silent."""
        return f"ssh is there, and says: {said}" if self._tunnel and (said := self._tunnel.refusal()) else ""

    def refused(self, said: str) -> CannotConnect:
        """The error for ``said``, a text from ``refusal``."""
        return CannotConnect(self.location, "ssh_forbids" if "prohibited" in said else "refused", said)

    # --- a socket

    def _addresses(self) -> list[tuple[int, Any]]:
        if self._place.path and UNIX < 0:
            raise TargetError(f"Python has no unix sockets on this system, such as {self.location}; give host:port")
        return [(UNIX, self._place.path)] if self._place.path else addresses(self._place)

    def _open(self, found: list[tuple[int, Any]], deadline: float) -> socket.socket:
        """A socket connected to the first of the host's addresses that answers."""
        for index, (family, address) in enumerate(found):
            now = time.monotonic()
            # An address that never answers must leave time for the next one.
            share = (deadline - now) / (len(found) - index)
            try:
                if share <= 0:
                    raise TimeoutError
                return _connect(family, address, share)
            except OSError as error:
                if index + 1 == len(found):
                    raise self._explain(error) from error
        raise CannotConnect(self.location, "unresolvable")

    def _explain(self, error: OSError) -> CannotConnect:
        if isinstance(error, TimeoutError):
            return CannotConnect(self.location, "timeout")
        if isinstance(error, ConnectionRefusedError):
            return CannotConnect(self.location, "refused")
        if isinstance(error, ConnectionResetError):
            seen = "it reset the connection at once, as a forwarded port does when nothing listens at its other end"
            return CannotConnect(self.location, "closed", seen)
        if isinstance(error, FileNotFoundError):
            return CannotConnect(self.location, "refused", "there is no such socket file")
        return CannotConnect(self.location, "unreachable", (error.strerror or str(error)).lower())


def addresses(place: Location) -> list[tuple[int, Any]]:
    """``(family, address)`` of a host, IPv4 first because Pyro binds to it; raises CannotConnect.

    The system's resolver has a deadline of its own; ours does not apply.
    """
    try:
        host = "localhost" if place.host.lower() == "localhost." else place.host  # few resolvers know the dot
        found = socket.getaddrinfo(host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a host name"
        raise CannotConnect(str(place), "unresolvable", reason) from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return [(int(entry[0]), entry[4]) for entry in found]


def _connect(family: int, address: Any, seconds: float) -> socket.socket:
    """A connected socket with keepalive, which detects a dead peer; raises OSError."""
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # A dead host is detected after 15 + 4*5 s when idle, and 35 s after its last acknowledgement otherwise.
            # The system's defaults are two hours and a quarter of an hour.
            for option, value in (
                ("TCP_KEEPIDLE", 15),
                ("TCP_KEEPALIVE", 15),  # its name on macOS
                ("TCP_KEEPINTVL", 5),
                ("TCP_KEEPCNT", 4),
                ("TCP_USER_TIMEOUT", 35_000),
            ):
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connection.settimeout(seconds)
        connection.connect(address)
    except BaseException:  # raised again, whatever it is; the socket is closed
        connection.close()
        raise
    return connection
