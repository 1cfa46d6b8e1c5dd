"""Where a server listens, as people type it: ``host:9999``, ``./u:socket``, ``ssh://user@host/9999``, ``ns:NAME``."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from ..errors import TargetError

_FLAME_NAME = "Pyro.Flame"
NAME_SERVER_PORT = 9090  # Pyro's default
_MAX_NAME = 255
MAX_SOCKET_PATH = 107  # bytes that fit into sockaddr_un beside the final NUL; 103 on macOS
# The characters that a location may contain. `Location` and `SshHost` check them, however they are made. What ssh is
# given can never be read as an option, nor as shell code: ssh's configuration may put the host and the user into a
# shell command (`ProxyCommand`, `Match exec`).
_HOST_NAME = re.compile(r"\w[\w.-]{0,252}")  # letters of any script
_SSH_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_SSH_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,63}")
_IPV6 = re.compile(r"([0-9A-Fa-f:.]{2,45})(%[A-Za-z0-9][A-Za-z0-9_.-]{0,14})?")  # an address, and a scope: fe80::1%eth0
_SSH_PATH = re.compile(r"/[\w ./+,:=@~-]*")


@dataclass(frozen=True)
class SshHost:
    """The machine that ssh logs in to. With ``user`` empty or ``port`` 0, ssh's own configuration decides."""

    host: str
    user: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if self.user and not _SSH_USER.fullmatch(self.user):
            raise TargetError(f"{self.user!r} is not a usable user name for ssh; write ssh://user@host/9999")
        if not _SSH_HOST.fullmatch(self.host) and not _is_ipv6(self.host):
            raise TargetError(f"{self.host!r} is not a usable host for ssh; write ssh://user@host/9999")
        if self.port != 0:
            _port(str(self.port), str(self.port))

    @classmethod
    def parse(cls, text: str) -> SshHost:
        """Parse ``host``, ``user@host``, ``user@host:22``, ``[::1]:22``; host may be an alias of ssh's config."""
        user, at, place = text.strip().rpartition("@")
        if at and ":" in user:
            raise TargetError("an ssh address holds a password; leave it out: ssh asks, or better uses a key")
        if at and not user:
            raise TargetError("'' is not a usable user name for ssh; write ssh://user@host/9999")
        if place.startswith("["):
            host, bracket, rest = place[1:].partition("]")
            if not bracket or not _is_ipv6(host) or rest[:1] not in ("", ":"):
                raise TargetError(f"{place!r} is not an IPv6 address for ssh; it looks like [::1]:22")
            port = rest[1:]
        else:
            host, _, port = place.partition(":")
        return cls(host, user, _port(port, place) if port else 0)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Location:
    """Where a server listens: ``host`` and ``port``, or the ``path`` of a unix socket; on the host ``ssh``, if given.

    With a ``name`` this is the address of a name server, which knows where the server of that name is
    (``name_server.py``). An empty ``host`` then means the usual name server.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    ssh: SshHost | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.host and not _HOST_NAME.fullmatch(self.host) and not _is_ipv6(self.host):
            raise TargetError(f"{self.host!r} is not a usable host name; give host:port, such as localhost:9999")
        if self.port != 0:
            _port(str(self.port), str(self.port))
        if self.path:
            _socket_path(self.path)
        if self.ssh is not None and not (not self.host or _SSH_HOST.fullmatch(self.host) or _is_ipv6(self.host)):
            raise TargetError(f"{self.host!r} is not a usable host for ssh; write ssh://user@host/HOST:9999")
        if self.ssh is not None and self.path and not _SSH_PATH.fullmatch(self.path):
            raise TargetError(
                f"{self.path!r} has % or $ in it, or another sign that means something to ssh or a shell; give the "
                "socket a path "
                "of letters, digits, blanks and . _ - + , : = @ ~"
            )

    @classmethod
    def parse(cls, text: str) -> Location:
        """The location in ``text``: ``host:9999``, ``[::1]:9999``, ``./u:path``, a ``PYRO:Pyro.Flame@…`` URI,
        ``ssh://user@host:22/9999`` for a port of that host's own loopback, ``ssh://host//path`` or ``ssh://host/./u:path``
        for a socket there, or ``ns:NAME`` and ``ns:NAME@host:9090`` (Pyro: PYRONAME:) for what a name server knows."""
        place = text.strip()
        if place[:6].lower() == "ssh://":
            return cls._parse_ssh(place[6:])
        if place.startswith("./u:"):
            return cls(path=_socket_path(place[4:]))
        shown = repr(_without_password(text))
        scheme, colon, rest = place.partition(":")
        scheme = scheme.upper() if colon else ""
        if scheme == "PYRO":
            name, at, place = rest.partition("@")
            if not at or name != _FLAME_NAME:
                raise TargetError(
                    f"{shown} is not the URI of a Flame server; it looks like PYRO:{_FLAME_NAME}@host:port"
                )
        elif scheme in ("NS", "PYRONAME"):
            return cls._parse_name(rest, shown)
        elif scheme in ("PYROMETA", "PYROLOC") or (colon and rest.startswith("//")):
            raise TargetError(f"{shown} is not the address of a Flame server; give host:port, such as localhost:9999")
        if place.startswith("./u:"):  # in a URI
            return cls(path=_socket_path(place[4:]))
        host, port = _host_and_port(place, shown)
        return cls(host=host, port=_port(port, text))

    @classmethod
    def _parse_name(cls, text: str, shown: str) -> Location:
        name, at, place = text.rpartition("@")
        name, place = (name, place) if at else (text, "")
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or (at and not place):
            raise TargetError(
                f"{shown} names nothing that a name server could know; write ns:NAME or ns:NAME@host:port"
            )
        if not place:
            return cls(name=name)
        server = name_server(place)
        return cls(server.host, server.port, server.path, name=name)

    @classmethod
    def _parse_ssh(cls, text: str) -> Location:
        there, slash, place = text.partition("/")
        if "@" in there and ":" in there.rpartition("@")[0]:
            SshHost.parse(there)  # raises an error that a password must not be given, without showing it
        if not slash or not place:
            raise TargetError(
                f"ssh://{there} names no server there; add its port or socket, such as ssh://{there}/9999"
            )
        ssh = SshHost.parse(there)
        if place.isdigit():
            return cls(host="localhost", port=_port(place, place), ssh=ssh)
        if place.startswith("/"):
            return cls(path=_socket_path(place), ssh=ssh)
        if "/" in place and ":" not in place:
            raise TargetError(f"{place!r} is not a port; for a socket's path write ssh://{there}//{place}")
        return cls.parse(place).behind(ssh)

    def behind(self, ssh: SshHost) -> Location:
        """The same address on the machine ``ssh``; raises TargetError if that makes no sense."""
        if self.ssh is not None:
            raise TargetError("there is an ssh address inside another one; use ProxyJump in ssh's own configuration")
        if self.path and not os.path.isabs(self.path):
            raise TargetError(
                f"{self.path!r} is a relative path on another machine; give the full path, such as /run/flame.sock"
            )
        return Location(self.host, self.port, self.path, ssh, self.name)

    def __str__(self) -> str:
        if self.path:
            place = f"./u:{self.path}"
        else:
            place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.name:
            place = f"ns:{self.name}@{place}" if self.host or self.path else f"ns:{self.name}"
        if self.ssh is None:
            return place
        return f"ssh://{self.ssh}/{self.port if self.host == 'localhost' and not self.name else place}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can answer at this address. 0.0.0.0, which servers print, counts as well.

        Host names other than ``localhost`` do not count, nor do names that a name server knows.
        """
        if self.ssh is not None or self.name:
            return False
        if self.path or self.host.lower().removesuffix(".") == "localhost":
            return True
        try:
            address = ipaddress.ip_address(self.host)
            return address.is_loopback or address.is_unspecified
        except ValueError:
            return False


def name_server(text: str) -> Location:
    """Where the name server in ``text`` listens: ``host``, ``host:port``, ``[::1]:port``, ``./u:path``."""
    place = text.strip()
    bare = place.endswith("]") if place.startswith("[") else ":" not in place
    return Location.parse(f"{place}:{NAME_SERVER_PORT}" if bare else place)


def _without_password(text: str) -> str:
    """``text`` without the password of a URL (between the user's name and the @), so that it can be shown."""
    return re.sub(r"(//[^/@:]*:).*@", r"\1…@", text)


def _host_and_port(place: str, shown: str) -> tuple[str, str]:
    """The two parts of ``host:port``; an IPv6 address is in brackets."""
    if place.startswith("["):
        host, bracket, port = place[1:].partition("]:")
        if not bracket or not _is_ipv6(host):
            raise TargetError(f"{shown} is not an IPv6 address with a port; it looks like [::1]:9999")
        return host, port
    host, colon, port = place.rpartition(":")
    if not colon:
        raise TargetError(f"{shown} has no port; give host:port, such as localhost:9999")
    if ":" in host:
        raise TargetError(f"{shown} has several colons; write an IPv6 address in brackets, such as [::1]:9999")
    if not _HOST_NAME.fullmatch(host):
        raise TargetError(f"{shown} has no usable host name; give host:port, such as localhost:9999")
    return host, port


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise TargetError(f"{whole!r} has no usable port; give a number from 1 to 65535, such as localhost:9999")
    return int(text)


def _is_ipv6(text: str) -> bool:
    parts = _IPV6.fullmatch(text)
    try:
        return parts is not None and bool(ipaddress.IPv6Address(parts[1]).version)
    except ValueError:
        return False


def _socket_path(path: str) -> str:
    size = len(os.fsencode(path))
    if not path or not path.isprintable():
        raise TargetError("./u: names no socket file; give its path, such as ./u:/run/flame.sock")
    if size > MAX_SOCKET_PATH:
        raise TargetError(
            f"a unix socket's path has at most {MAX_SOCKET_PATH} bytes and this one has {size}; "
            f"use a shorter path than {path}"
        )
    return path
