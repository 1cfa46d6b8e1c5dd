"""Listeners: local sockets that accept connections for channels; and the system's errors in words."""

import errno
import os
import socket

UNIX = getattr(socket, "AF_UNIX", None)


class Listener:
    """A socket that accepts connections; each opens a channel to ``what``.

    front  None, or makes for each connection an object that reads its first bytes to learn where it leads (see
    ``socks``)
    """

    def __init__(self, sock, what, front=None):
        self.sock, self.what, self.front = sock, what, front
        self.path = sock.getsockname() if sock.family == UNIX else None
        self.streams = set()  # those of the connections that it has accepted

    def __repr__(self):
        return "<Listener %r, %d connections>" % (self.path or self.sock, len(self.streams))

    def close(self):
        """Stop listening; a unix socket's file is removed."""
        self.sock.close()
        if self.path:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # somebody has removed it


def listening_at(address, most=128):
    """A listening socket at ``(host, port)`` or a path; raises OSError."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        family = None
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = socket.socket(family)
    try:
        if family is None:
            sock.bind(address)
            os.chmod(address, 0o600)  # nobody can connect before ``listen``
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        sock.listen(most)
    except BaseException:  # raised again, whatever it is; the socket is closed
        sock.close()
        raise
    return sock


_KNOWN = {errno.ENOENT: "there is no such socket", errno.EADDRINUSE: "address already in use"}


def words(error):
    """The system's reason for a failed connection, in lower case."""
    return _KNOWN.get(getattr(error, "errno", None)) or (getattr(error, "strerror", None) or str(error)).lower()
