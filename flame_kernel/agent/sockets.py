"""Settings of our connections on the server: small answers are sent at once, and a vanished client is noticed soon.

A stock server keeps a thread for each connection, and the system waits two hours before it tests an idle one.
"""

import hmac
import os
import select
import socket
import sys

# Seconds of silence before the first probe, seconds between probes, and how many may go unanswered.
IDLE, INTERVAL, COUNT = 15, 5, 4
# How long sent data may stay unacknowledged, in milliseconds.
UNACKNOWLEDGED = 40000
_DARWIN_KEEPIDLE = 0x10

_MARK = "_flame_tuned"
_TICKET = "_flame_ticket"


def current():
    """The connection whose call this thread is answering, or None."""
    context = getattr(sys.modules.get("Pyro4.core"), "current_context", None)
    return getattr(context, "client", None)


def ticket():
    """Make a ticket for one call that acts on the connection whose call this thread is answering. A message repeated on
    another connection does not have it. A new ticket replaces the previous one."""
    made = os.urandom(16).hex()
    connection = current()
    if connection is not None:
        connection.__dict__[_TICKET] = made
    return made


def take_ticket(shown):
    """Whether ``shown`` is this connection's ticket; each ticket is valid once."""
    made = getattr(current(), "__dict__", {}).pop(_TICKET, None)
    return made is not None and isinstance(shown, str) and hmac.compare_digest(made.encode(), shown.encode())


def is_over(connection):
    """Whether the other end has visibly closed a connection; False if that cannot be told."""
    sock = getattr(connection, "sock", None)
    if sock is None:
        return False
    if sock.fileno() < 0:
        return True
    try:
        if not select.select([sock], [], [], 0)[0]:
            return False
        return not socket.socket.recv(sock, 1, socket.MSG_PEEK)  # of a TLS socket this reads encrypted bytes
    except (BlockingIOError, ValueError):  # nothing to read after all; or a descriptor too large for select
        return False
    except OSError:
        return True


def fill(sock, view):
    """Receive until ``view`` is full; OSError if the connection ends before."""
    while view:
        count = sock.recv_into(view)
        if not count:
            raise OSError("the other end has gone")
        view = view[count:]


def shut(sock):
    """End a connection for everyone who holds it. Never raises."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def tune():
    """Set the options of the connection whose call this thread is answering, unless already set. Never raises."""
    connection = current()
    sock = getattr(connection, "sock", None)
    if sock is None or getattr(connection, _MARK, None) is not None:
        return
    connection.__dict__[_MARK] = True
    if getattr(sock, "family", None) not in (socket.AF_INET, getattr(socket, "AF_INET6", None)):
        return
    _set(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _set(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = _DARWIN_KEEPIDLE if sys.platform == "darwin" else getattr(socket, "TCP_KEEPIDLE", None)
    for option, value in (
        (idle, IDLE),
        (getattr(socket, "TCP_KEEPINTVL", None), INTERVAL),
        (getattr(socket, "TCP_KEEPCNT", None), COUNT),
        (getattr(socket, "TCP_USER_TIMEOUT", None), UNACKNOWLEDGED),
    ):
        if option is not None:
            _set(sock, socket.IPPROTO_TCP, option, value)


def _set(sock, level, option, value):
    try:
        sock.setsockopt(level, option, value)
    except (OSError, ValueError):
        pass  # the connection is closing, or this system lacks the option
