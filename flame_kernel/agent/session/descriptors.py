"""Descriptors that a server passes to a child: numbered above 2, blocking, and inherited by no other process."""

import array
import os
import socket
import subprocess


def high_number(number):
    """The descriptor moved above 2, because a server may have closed its stdin, stdout or stderr."""
    if number > 2:
        return number
    try:
        import fcntl
    except ImportError:  # Windows
        low = [number]
        while low[-1] < 3:
            low.append(os.dup(low[-1]))
        high = low.pop()
        for one in low:
            os.close(one)
        return high
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
    """What a child gets as its stdout or stderr: the server's own, or the null device if the server has closed that:
    then another file may have its number."""
    try:
        return None if os.get_inheritable(number) else subprocess.DEVNULL
    except OSError:
        return subprocess.DEVNULL


def opened(number):
    """The same as a descriptor of its own."""
    try:
        if os.get_inheritable(number):
            return high_number(os.dup(number))
    except OSError:
        pass
    return high_number(os.open(os.devnull, os.O_RDWR))


def received(sock, most):
    """The descriptors that have come with the next byte on a socket, ``most`` at most."""
    found = array.array("i")
    _, more, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(most * found.itemsize))
    for level, kind, data in more:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for number in found:
        os.set_inheritable(number, False)
    return found.tolist()


def taken(words, reads):
    """In the child: the descriptors for those words; ``reads`` says of each whether it is a read end."""
    numbers = [int(word) for word in words]
    if os.name == "nt":
        import msvcrt

        numbers = [msvcrt.open_osfhandle(one, os.O_RDONLY if r else 0) for one, r in zip(numbers, reads)]
    for number in numbers:
        os.set_inheritable(number, False)
    return numbers
