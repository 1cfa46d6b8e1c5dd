"""The descriptors that a server gives to a child: above 2, inherited by nobody else, and waiting."""

import os
import socket
import subprocess


def high_number(number):
    """The descriptor, moved above 2: a server may have closed its stdin, stdout or stderr."""
    if number > 2:
        return number
    import fcntl

    high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(number)
    return high


def high_socket(sock):
    """The same for a socket, which waits for ever, whatever the app has said of new ones (socket.setdefaulttimeout)."""
    number = sock.detach()
    moved = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, high_number(number))
    moved.settimeout(None)
    return moved


def inherited(number):
    """What a child gets as its stdout or stderr: the server's own. Nothing where the server has closed it, as another
    file has its number then."""
    try:
        return None if os.get_inheritable(number) else subprocess.DEVNULL
    except OSError:
        return subprocess.DEVNULL
