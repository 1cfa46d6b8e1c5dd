"""Finds out what answers in place of a Flame server: an HTTP server, an SSH server, Pyro without Flame, …"""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import dataclass, replace

from Pyro4 import constants

from ..connect.connection import Connection
from ..connect.dial import Way
from ..connect.name_server import objects
from ..connect.target import Target
from ..errors import CannotConnect, FlameError

_JUPYTER = re.compile(rb'\r\n\r\n\s*\{\s*"version"\s*:\s*"([0-9.]{1,20})"')
_MAX_PAGE = 8192  # most bytes of an answer to our question that are examined


@dataclass(frozen=True)
class Answerer:
    """``words`` tell what answers; ``welcome``: it is a Pyro4 daemon, or may be one; else there is a step to do."""

    words: str
    welcome: bool
    cure: str = ""


def identify(target: Target, error: CannotConnect) -> Answerer:
    """What is at ``target``, after connecting ended in ``error``. Neither a key nor anything about us is sent."""
    bare = replace(target, key=None, insecure=True)
    if error.cause.startswith("tls") and error.cause != "tls_plain":
        return Answerer("something that speaks TLS", True)
    if error.cause == "tls_plain":  # then look at what answers without TLS
        try:
            Connection(replace(bare, tls=None)).close()
        except CannotConnect as other:
            if other.cause.startswith(("key_", "pool_")):
                return Answerer("a Pyro4 daemon without TLS", True)
            return identify(replace(bare, tls=None), other)
        return Answerer("a Pyro4 daemon without TLS", True)
    if error.cause == "not_pyro":
        return _by_its_line(bare, error)
    if error.cause == "not_flame":
        return _daemon(bare, error)
    if error.cause == "protocol" and "Pyro5" in error.detail:
        return Answerer(error.detail, False, "Flame is a part of Pyro4: start pyro4-flameserver there")
    return Answerer(error.what + (f" ({error.detail})" if error.detail else ""), False, error.advice)


def _by_its_line(target: Target, error: CannotConnect) -> Answerer:
    words = error.detail
    place = target.location
    if words.startswith("an SSH server") and place is not None and place.ssh is None:
        cure = f"go through it to the flame server: ssh://{place.host}/PORT, with the port that that one listens on"
        return Answerer(words, False, cure)
    if words.startswith("an HTTP server"):
        version = _jupyter(target)
        if version:
            cure = "that is the address of Jupyter itself: give the port of the flame server, such as 9999"
            return Answerer(f"a Jupyter server, version {version}", False, cure)
    return Answerer(words, False, error.advice)


def _jupyter(target: Target) -> str:
    """The version of the Jupyter server there, which it tells to everybody; or empty."""
    with contextlib.suppress(FlameError, OSError):
        with contextlib.closing(Way(target)) as way:
            way.socket.settimeout(min(2.0, target.timeouts.connect))
            way.socket.sendall(b"GET /api HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            page = b""
            with contextlib.suppress(socket.timeout):
                while len(page) < _MAX_PAGE and (piece := way.socket.recv(_MAX_PAGE)):
                    page += piece
        found = _JUPYTER.search(page)
        if found is not None:
            return found.group(1).decode()
    return ""


def _daemon(target: Target, error: CannotConnect) -> Answerer:
    """A daemon without Flame: lists its objects."""
    try:
        names = objects(target)
    except FlameError:
        return Answerer("a Pyro4 daemon", True)
    if constants.NAMESERVER_NAME in names:
        where = target.location
        cure = f"name a server that it knows: ns:NAME@{where}; jupyter flame discover --ns {where} lists them"
        return Answerer("a Pyro name server", False, cure)
    others = [name for name in names if name != constants.DAEMON_NAME]
    some = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
    return Answerer(f"a Pyro4 daemon with {some or 'no objects'}", True)
