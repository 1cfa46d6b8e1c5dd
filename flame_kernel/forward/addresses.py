"""Reads what to forward, as users write it: ``6006``, ``8080:db:5432``, ``/run/app.sock``; see ``ssh -L`` and
``-R``."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from dataclasses import dataclass

from ..connect.location import MAX_SOCKET_PATH
from ..errors import TargetError
from .tunnel import Address

LOOPBACK = "127.0.0.1"
_MOST = 65535
# The parts between colons: [an IPv6 address], a path, or anything else.
_PART = re.compile(r"\[([^\]]*)\]|([^:]*)")


@dataclass(frozen=True)
class Spec:
    """``listen``: where connections are accepted, None for the port of ``to``; ``to``: where they lead."""

    listen: Address | None
    to: Address


def parse(text: str) -> Spec:
    """``PORT``, ``[[BIND:]PORT:]HOST:PORT``, with the path of a unix socket for either end. Raises TargetError."""
    parts = _split(text)
    paths = [is_path(part) for part in parts]
    if len(parts) == 1:
        return Spec(None, parts[0] if paths[0] else ("localhost", port(parts[0])))
    to: Address
    if paths[-1]:
        to, rest = parts[-1], parts[:-1]
    elif len(parts) == 2 and parts[0].isdigit():  # PORT:PORT, as in Docker
        return Spec((LOOPBACK, port(parts[0], zero=True)), ("localhost", port(parts[1])))
    elif len(parts) == 2 and paths[0]:
        to, rest = ("localhost", port(parts[1])), parts[:1]
    else:
        to, rest = (_host(parts[-2], text), port(parts[-1])), parts[:-2]
    if not rest:
        return Spec(None, to)
    if len(rest) == 1:
        return Spec(rest[0] if is_path(rest[0]) else (LOOPBACK, port(rest[0], zero=True)), to)
    if len(rest) == 2:
        return Spec((bind(rest[0]), port(rest[1], zero=True)), to)
    raise TargetError(f"{text!r} has too many parts; write 6006, 8080:6006, 8080:HOST:80 or /path/of/socket")


def _split(text: str) -> list[str]:
    parts, at = [], 0
    while True:
        found = _PART.match(text, at)
        assert found is not None
        parts.append(found[1] if found[1] is not None else found[2])
        at = found.end()
        if at >= len(text):
            return parts
        if text[at] != ":":
            raise TargetError(f"{text!r} cannot be read; write 6006, 8080:6006, 8080:HOST:80 or /path/of/socket")
        at += 1


def is_path(text: str) -> bool:
    """Whether this is the path of a unix socket."""
    return "/" in text


def port(value: object, zero: bool = False) -> int:
    """A number that can be a port; with ``zero`` also 0, for any that is free. Raises TargetError."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not (0 if zero else 1) <= value <= _MOST:
        raise TargetError(f"{value!r} is not a port; write a number from 1 to 65535, or the path of a unix socket")
    return value


def _host(text: str, whole: str) -> str:
    if not text or len(text) > 255:
        raise TargetError(f"{whole!r} names no host; write 8080:HOST:80")
    return text


def bind(text: str) -> str:
    """The address of an interface: ``localhost``, ``*`` for all, or an IP address. Raises TargetError."""
    if text in ("", "*"):
        return "0.0.0.0"  # the user has asked for it, and is warned
    if text == "localhost":
        return LOOPBACK
    try:
        return str(ipaddress.ip_address(str(text)))  # a number would be an address, too
    except ValueError:
        raise TargetError(
            f"{text!r} is not the address of an interface; write one such as 127.0.0.1, or * for all"
        ) from None


def is_open(address: Address) -> bool:
    """Whether other machines can reach what listens there."""
    return not isinstance(address, str) and not ipaddress.ip_address(address[0]).is_loopback


def shown(address: Address) -> str:
    """An address as users write it."""
    if isinstance(address, str):
        return address
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def path(text: str | os.PathLike[str]) -> str:
    """The path of a unix socket; ``~`` is the home folder. Raises TargetError if it is too long for the system."""
    found = os.path.abspath(os.path.expanduser(os.fspath(text)))
    most = 103 if sys.platform == "darwin" else MAX_SOCKET_PATH
    if len(os.fsencode(found)) > most:
        raise TargetError(f"{found} is too long for a socket: {most} bytes are the most; choose a shorter path")
    return found
