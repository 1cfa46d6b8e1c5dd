"""How two processes of one machine that have no socket pair find each other: on loopback, and both show a secret.

Whoever listens makes a `SecretListener` for one connection and tells its ``words`` to the other one in a way that
nobody else can read: by the child's stdin, or the connection that there is already.
"""

import hmac
import os
import socket
import time

from ... import sockets

# Bytes of a secret, and seconds in which somebody who connects has to show it.
SIZE, SHOWN = 32, 1.0
# Seconds between two looks whether the other process still lives.
LOOK = 0.2
# Seconds for the other end to come: an interpreter may take long to start on a busy machine.
PATIENCE = 60.0


class SecretListener:
    """A listener for one connection."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows others could else listen on the same port
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            self._socket.bind(("127.0.0.1", 0))
            self._socket.listen(4)
            self._port = self._socket.getsockname()[1]
        except BaseException:  # raised again, whatever it is; the socket does not stay
            self._socket.close()
            raise
        self._wanted, self._answer = os.urandom(SIZE), os.urandom(SIZE)

    def __repr__(self):
        return "<SecretListener on port %d>" % self._port

    @property
    def words(self):
        """``[port, the secret that the other process shows, the secret that it is shown]``."""
        return [self._port, self._wanted.hex(), self._answer.hex()]

    def accept(self, is_alive, seconds=PATIENCE):
        """The connection of the process that knows the words. Raises OSError if it does not come in ``seconds``, or
        once ``is_alive()`` is False."""
        deadline = time.monotonic() + seconds
        self._socket.settimeout(LOOK)
        try:
            while is_alive() and time.monotonic() < deadline:
                try:
                    sock, _ = self._socket.accept()
                except socket.timeout:
                    continue
                if self._knows(sock):
                    return sock
                sock.close()
        finally:
            self.close()
        raise OSError("the other process has not come")

    def _knows(self, sock):
        room = bytearray(SIZE)
        sock.settimeout(SHOWN)
        try:
            sockets.fill(sock, memoryview(room))
            if not hmac.compare_digest(bytes(room), self._wanted):
                return False
            sock.sendall(self._answer)
            _settle(sock)
        except OSError:  # whoever it was has gone
            return False
        return True

    def close(self):
        """Listen no more. Idempotent."""
        self._socket.close()


def join(words):
    """The connection to the `SecretListener` with these words. Raises OSError if it does not show its secret."""
    port, shown, wanted = words
    sock = socket.create_connection(("127.0.0.1", int(port)), PATIENCE)
    try:
        sock.sendall(bytes.fromhex(shown))
        room = bytearray(SIZE)
        sockets.fill(sock, memoryview(room))
        if not hmac.compare_digest(bytes(room), bytes.fromhex(wanted)):
            raise OSError("who listens there is not the server")
        _settle(sock)
    except BaseException:  # raised again, whatever it is; the socket does not stay
        sock.close()
        raise
    return sock


def _settle(sock):
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
