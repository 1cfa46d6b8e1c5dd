"""Descriptors that a server passes to a child: numbered above 2, blocking, and inherited by no other process."""

import os
import socket
import subprocess


def high_number(number):
    """The descriptor moved above 2, because a server may have closed its stdin, stdout or stderr."""
    if number > 2:
        return number
    import fcntl

    high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(number)
    return high


def high_socket(sock):
    """The same for a socket; it also gets no timeout, whatever default the app set (socket.setdefaulttimeout)."""
    number = sock.detach()
    moved = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, high_number(number))
    moved.settimeout(None)
    return moved


def inherited(number):
    """What a child gets as its stdout or stderr: the server's own, or nothing if the server has closed it, because
    another file may have its number then."""
    try:
        return None if os.get_inheritable(number) else subprocess.DEVNULL
    except OSError:
        return subprocess.DEVNULL
