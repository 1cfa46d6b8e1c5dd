"""Asks Pyro's name server (``pyro4-ns``) what it knows, and where the Flame server with a given name is.

An app registers its Flame server under a name::

    Pyro4.locateNS().register("lab.furnace", Pyro4.utils.flame.start(daemon))

Name servers are asked by Pyro's protocol in JSON, which they accept by default. Their answers are only hints: the same
rules hold for an address from a name server as for one that the user types. An address such as 127.0.0.1 from a name
server on another machine means that machine, not this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
import socket
import time
from dataclasses import dataclass

from Pyro4 import constants

from ..errors import CannotConnect, FlameError, TargetError
from .connection import Connection
from .dial import UNIX
from .location import NAME_SERVER_PORT, Location, name_server
from .serializers import JSON, PICKLE
from .target import Target

BROADCAST_PORT = 9091
_URI = re.compile(r"PYRO:([^@\s]+)@(\S+)")
_SHORT_BROADCAST = 512  # bytes of an answer


@dataclass(frozen=True)
class Entry:
    """A registration.

    ``place`` is None if the URI is unusable.  ``flame``: it is a Flame server.  ``elsewhere``: its address, such as
    127.0.0.1, means the name server's machine, and we are on another one.
    """

    name: str
    uri: str
    place: Location | None
    flame: bool
    elsewhere: bool


def found(target: Target) -> Target:
    """``target`` with the address of its server, if its location is a name; otherwise ``target`` unchanged.

    While the name server does not answer, an address that was found before is kept. Raises CannotConnect.
    """
    sought = target.sought or target.location
    if sought is None or not sought.name:
        return target
    try:
        place = _place(sought, target)
    except CannotConnect:
        if target.sought is None:
            raise
        return target
    return dataclasses.replace(target, location=place, sought=sought)


def _place(sought: Location, target: Target) -> Location:
    where = str(sought)
    server = Location(sought.host, sought.port, sought.path, sought.ssh)
    if not (server.host or server.path):
        server = Location("localhost", NAME_SERVER_PORT, ssh=sought.ssh)
    try:
        listed = _listed(server, target, sought.name)
    except CannotConnect as error:
        cause = "name_server_key" if error.cause.startswith("key_") else "name_server"
        raise CannotConnect(where, cause, f"{server}: {_seen(error)}") from error
    except FlameError as error:
        raise CannotConnect(where, "name_server", str(error)) from error
    entry = next((entry for entry in listed if entry.name == sought.name), None)
    if entry is None:
        raise CannotConnect(where, "name_unknown")
    if not entry.flame:
        raise CannotConnect(where, "name_not_flame", entry.uri[:200])
    if entry.place is None:
        raise CannotConnect(where, "name_not_flame", f"{entry.uri[:200]} is not a usable address")
    if entry.elsewhere:
        raise CannotConnect(where, "name_elsewhere", str(entry.place))
    return entry.place.behind(sought.ssh) if sought.ssh is not None else entry.place


def registered(server: Location, settings: Target) -> list[Entry]:
    """All registrations of the name server at ``server``, sorted; ``settings`` has its key. Raises FlameError."""
    try:
        listed = _listed(server, settings, None)
    except CannotConnect as error:
        unsaid = error.cause in ("refused", "not_pyro", "not_flame", "closed")
        advice = "is pyro4-ns running there?" if unsaid else error.advice.replace("key_file", "--ns-key-file")
        raise FlameError(f"cannot ask the name server at {server}: {_seen(error)}; {advice}") from error
    return sorted(listed, key=lambda entry: entry.name)


def _listed(server: Location, settings: Target, prefix: str | None) -> list[Entry]:
    """The registrations of a name server whose names begin with ``prefix``."""
    # We send only a name, and do not trust the answer, so this connection may be plain.
    asked = Target(
        server,
        settings.ns_key,
        timeouts=settings.timeouts,
        insecure=True,
        fast=settings.fast,
        ask=settings.ask,
    )
    with contextlib.closing(_connection(asked, constants.NAMESERVER_NAME)) as connection:
        listed = connection.call("list", prefix)
        here = connection.is_here or server.ssh is not None
    entries = listed.items() if isinstance(listed, dict) else ()
    return [_entry(name, uri, here) for name, uri in entries if isinstance(name, str) and isinstance(uri, str)]


def _seen(error: CannotConnect) -> str:
    """A sentence that says what answered at a name server's address."""
    if error.cause == "not_flame":
        return "the Pyro daemon that answers there is not a name server"
    return error.what + (f" ({error.detail})" if error.detail else "")


def objects(target: Target) -> list[str]:
    """Names of the objects of the Pyro daemon at ``target``, a Flame server or not. Raises FlameError."""
    with contextlib.closing(_connection(target, constants.DAEMON_NAME)) as connection:
        names = connection.call("registered")
    return sorted(name for name in names if isinstance(name, str)) if isinstance(names, list) else []


def _connection(target: Target, name: str) -> Connection:
    """A connection to an object of a daemon, by JSON, or by pickle if the daemon does not accept JSON."""
    try:
        return Connection(target, name=name, serializer=JSON)
    except CannotConnect as error:
        if error.cause != "not_flame":
            raise
    return Connection(target, name=name, serializer=PICKLE)


def _entry(name: str, uri: str, here: bool) -> Entry:
    match = _URI.fullmatch(uri)
    place = None
    if match is not None:
        with contextlib.suppress(TargetError):
            place = Location.parse(match.group(2))
            if place.ssh is not None or place.name:  # not a URI of Pyro's; a name server must not send us there
                place = None
    flame = match is not None and match.group(1) == constants.FLAME_NAME
    return Entry(name, uri, place, flame, place is not None and not here and _is_own(place))


def _is_own(place: Location) -> bool:
    """Whether the address means the machine on which it is used, as 127.0.0.1 does."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(place.host).is_unspecified:
            return True
    return place.is_loopback


def answers(place: Location, seconds: float = 1.5) -> bool:
    """Whether something accepts a connection at ``place``; nothing is sent."""
    try:
        if place.path:
            with socket.socket(UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(seconds)
                connection.connect(place.path)
        else:
            socket.create_connection((place.host, place.port), seconds).close()
    except (OSError, UnicodeError):
        return False
    return True


def heard(
    seconds: float = 1.5, port: int = BROADCAST_PORT, address: str = "<broadcast>", most: int = 100
) -> list[Location]:
    """At most ``most`` name servers that answer a broadcast on this network within ``seconds``, first answer first.

    Anyone on the network can answer, so the answers are not trusted. Raises TargetError if no broadcast can be sent.
    """
    places: list[Location] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as everyone:
        everyone.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            everyone.sendto(b"GET_NSURI", (address, port))
        except OSError as error:
            raise TargetError(
                f"no broadcast can be sent here: {error.strerror}; name the name server, --ns HOST"
            ) from error
        deadline = time.monotonic() + seconds
        while len(places) < most and (left := deadline - time.monotonic()) > 0:
            everyone.settimeout(left)
            try:
                answer = everyone.recv(_SHORT_BROADCAST).decode("ascii", "replace")
            except OSError:
                break
            match = _URI.fullmatch(answer.strip())
            if match is not None and match.group(1) == constants.NAMESERVER_NAME:
                with contextlib.suppress(TargetError):
                    place = name_server(match.group(2))
                    if place.host and place not in places:
                        places.append(place)
    return places
