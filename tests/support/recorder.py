"""Somebody between two sides who only listens, and sends again later what was said."""

from __future__ import annotations

import contextlib
import socket
import threading

import evil


class Recorder(evil.Server):
    """Passes on to ``location`` and keeps what clients sent, connection by connection."""

    def __init__(self, location: str) -> None:
        host, _, port = location.rpartition(":")
        self._address = (host, int(port))
        self.sent: list[bytearray] = []
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        kept = bytearray()
        self.sent.append(kept)
        with socket.create_connection(self._address, 10) as far:
            down = threading.Thread(target=self._copy, args=(far, connection))
            down.start()
            with contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    kept += data
                    far.sendall(data)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
            down.join()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)


def send_again(location: str, sent: bytes) -> int:
    """Send the messages of a conversation one by one, waiting for each answer as a client does; how many had one."""
    host, _, port = location.rpartition(":")
    answered = 0
    with socket.create_connection((host, int(port)), 10) as connection, contextlib.suppress(OSError):
        connection.settimeout(0.5)  # a poll is parked there
        at = 0
        while at + evil.HEADER.size <= len(sent):
            fields = evil.HEADER.unpack(sent[at : at + evil.HEADER.size])
            end = at + evil.HEADER.size + fields[5] + fields[7]
            connection.sendall(sent[at:end])
            at = end
            head = evil._exactly(connection, evil.HEADER.size)
            answer = evil.HEADER.unpack(head)
            evil._exactly(connection, answer[5] + answer[7])
            answered += 1
    return answered
