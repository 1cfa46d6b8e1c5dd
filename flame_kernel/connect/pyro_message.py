"""Pyro's messages: bytes out and in, their header, signature and compression, and the wording of a refusal.

Memory grows only with the bytes received; `security/limits.py` says how many there may be.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import math
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from Pyro4 import constants, message

from ..security.limits import check_size, inflate
from ..security.reader import refuse
from . import tls

HEADER = struct.Struct(message.Message.header_format)
_ANNOTATION = struct.Struct("!4sH")
_SMALL = 64 * 1024  # bytes up to which copying them is cheaper than a second call
_PIECE = 512 * 1024  # most bytes received at once
_AHEAD = 4096  # bytes received at once, most of all answers
_CLOSED, _CLOSED_EARLY = "the server closed it", "the server closed it in the middle of an answer"
_EXACT = 0.05  # seconds by which a deadline may be missed


class Reset(Exception):
    """The other end closed the connection, or the network failed; ``str()`` says how. ``hard``: it was reset."""

    def __init__(self, detail: str, hard: bool = False) -> None:
        super().__init__(detail)
        self.hard = hard


class TimeUp(Exception):
    """The deadline has passed."""


class Answer:
    """One message as received: signature not yet checked, data not yet read."""

    __slots__ = ("annotations", "data", "flags", "kind", "seq", "serializer")

    def __init__(self, kind: int, flags: int, seq: int, serializer: int) -> None:
        self.kind = kind
        self.flags = flags
        self.seq = seq
        self.serializer = serializer
        self.annotations: dict[str, bytes] = {}
        self.data = bytearray()

    def payload(self, serializer: int) -> bytes | bytearray:
        """The data as ``serializer`` made them, decompressed."""
        if self.serializer != serializer:
            refuse(f"serializer {self.serializer} instead of {serializer}")
        if self.flags & message.FLAGS_COMPRESSED:
            return inflate(self.data)
        return self.data


class Channel:
    """Messages out and in over one socket, each until its ``deadline`` (monotonic), all signed with one key.

    seq           the number of the last message that was sent
    serializer    Pyro's number of the serializer that ours are made with
    when_arrived  called once, when all bytes of the next message are here and before they are checked

    A message that breaks the protocol raises UnsafeAnswer.
    """

    def __init__(self, socket: socket.socket, key: bytes | None, serializer: int) -> None:
        self.socket = socket
        self.key = key
        self.serializer = serializer
        self.seq = secrets.randbelow(0x10000)
        self.bytes_sent = 0
        self.bytes_received = 0
        self.when_arrived: Callable[[], None] | None = None
        self._kept = bytearray()  # received already, and not read yet
        self._timeout = -1.0  # of the socket, in seconds

    def send(self, kind: int, data: bytes, mark: bytes, deadline: float) -> None:
        """Send a message; the server repeats the ``mark`` in its result."""
        annotations = {"CORR": mark}
        if self.key is not None:
            annotations["HMAC"] = signature(self.key, data, annotations)
        chunks = b"".join(_ANNOTATION.pack(name.encode(), len(v)) + v for name, v in annotations.items())
        version, number = constants.PROTOCOL_VERSION, self.serializer
        total = kind + version + len(data) + len(chunks) + number + self.seq + message.Message.checksum_magic
        head = HEADER.pack(b"PYRO", version, kind, 0, self.seq, len(data), number, len(chunks), 0, total & 0xFFFF)
        small = len(data) <= _SMALL  # then copying is cheaper than a second packet
        for part in (head + chunks + data,) if small else (head + chunks, data):
            rest = memoryview(part)
            while rest:
                self._set_timeout(deadline)
                try:
                    sent = self.socket.send(rest)
                except OSError as error:
                    self._fail(error)
                rest = rest[sent:]
                self.bytes_sent += sent

    def parse(self, header: bytearray, deadline: float) -> Answer:
        """Read the rest of a message whose header is here."""
        tag, version, kind, flags, seq, size, serializer, chunks_size, _, checksum = HEADER.unpack(header)
        if tag != b"PYRO" or version != constants.PROTOCOL_VERSION:
            refuse("bytes that are not a Pyro message")
        total = kind + version + size + chunks_size + flags + serializer + seq + message.Message.checksum_magic
        if checksum != total & 0xFFFF:
            refuse("a damaged header")
        check_size(size)
        answer = Answer(kind, flags, seq, serializer)
        if size <= _SMALL:  # copying is cheaper than receiving twice
            both = self.read(chunks_size + size, deadline)
            answer.annotations, answer.data = _annotations(both[:chunks_size]), both[chunks_size:]
        else:
            answer.annotations = _annotations(self.read(chunks_size, deadline))
            answer.data = self.read(size, deadline)
        arrived, self.when_arrived = self.when_arrived, None
        if arrived is not None:
            arrived()
        return answer

    def header(self, greeting: bytes | None, deadline: float) -> bytearray | None:
        """Read the header of the next message; None if ``greeting`` comes in its place, after which nothing is read.
        If no greeting is expected, bytes that come with the header are kept for the next read."""
        if greeting is not None:
            start = self.read(len(greeting), deadline)
            return None if start == greeting else start + self.read(HEADER.size - len(start), deadline)
        while len(self._kept) < HEADER.size:
            self._set_timeout(deadline)
            try:
                more = self.socket.recv(_AHEAD)
            except OSError as error:
                self._fail(error)
            if not more:
                raise Reset(_CLOSED_EARLY if self._kept else _CLOSED)
            self._kept += more
            self.bytes_received += len(more)
        return self._from_kept(HEADER.size)

    def _from_kept(self, most: int) -> bytearray:
        data = self._kept[:most]
        del self._kept[:most]
        return data

    @property
    def has_more(self) -> bool:
        """Whether bytes are received but not read yet: the socket does not become readable for these."""
        return bool(self._kept) or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0)

    def read(self, size: int, deadline: float) -> bytearray:
        """Read ``size`` bytes; memory is allocated as they come, not for what the header claims."""
        data = self._from_kept(size)
        piece = memoryview(bytearray(min(size - len(data), _PIECE)))  # for all of them: fresh memory is slow
        while len(data) < size:
            self._set_timeout(deadline)
            try:
                count = self.socket.recv_into(piece[: size - len(data)])
            except OSError as error:
                self._fail(error)
            if not count:
                raise Reset(_CLOSED_EARLY if data else _CLOSED)
            data += piece[:count]
            self.bytes_received += count
        return data

    def _set_timeout(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeUp
        if not 0 <= self._timeout - left < _EXACT:  # else it stays: setting it is a system call
            self.socket.settimeout(None if left == math.inf else left)
            self._timeout = left

    def _fail(self, error: OSError) -> NoReturn:
        if isinstance(error, TimeoutError) and error.errno is None:
            raise TimeUp from error  # our own; ETIMEDOUT is the system's, when packets stay unacknowledged
        if isinstance(error, ssl.SSLError):
            raise Reset(f"TLS failed: {tls.words(error)}") from error
        hard = error.errno in (errno.ECONNRESET, errno.EPIPE)
        raise Reset((error.strerror or str(error)).lower(), hard) from error

    def check_signature(self, answer: Answer) -> None:
        """Refuse an answer that is not signed with our key."""
        if self.key is None:
            if "HMAC" in answer.annotations:
                refuse("a signed answer on a connection without a key")
        elif not is_signed(self.key, answer.data, answer.annotations):
            refuse("an answer that is not signed with our key")


def _annotations(data: bytearray) -> dict[str, bytes]:
    """The annotation chunks of a message; UnsafeAnswer unless they fill ``data`` exactly."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        if len(data) - at < _ANNOTATION.size:
            refuse("malformed annotations")
        raw, size = _ANNOTATION.unpack_from(data, at)
        at += _ANNOTATION.size
        if not raw.isalnum() or not raw.isascii() or size > len(data) - at or raw.decode() in found:
            refuse("malformed annotations")
        found[raw.decode()] = bytes(data[at : at + size])
        at += size
    return found


def marshal_text(data: bytes | bytearray | memoryview) -> str:
    """The one string marshalled in ``data``: how a Pyro daemon words a refusal, whatever serializer was asked for.

    `marshal.loads` itself is "not secure against erroneous or maliciously constructed data", so this reads the string
    types of every marshal version and nothing else. Raises UnsafeAnswer.
    """
    raw = bytes(data)
    kind = chr(raw[0] & 0x7F) if raw else ""  # the high bit only asks for a place in marshal's own memo
    if kind in "zZ" and len(raw) >= 2:  # ASCII, one byte of length; Z is interned
        size, start = raw[1], 2
    elif kind and kind in "aAust" and len(raw) >= 5:  # ASCII, UTF-8, Python 2 str, interned
        size, start = int.from_bytes(raw[1:5], "little"), 5
    else:
        refuse("a refusal that is not text")
    if start + size != len(raw):
        refuse("a refusal of the wrong length")
    return raw[start:].decode("utf-8", "replace")


def signature(key: bytes, data: bytes | bytearray | memoryview, annotations: Mapping[str, bytes]) -> bytes:
    """Pyro4's HMAC of a message: over the data, then the other annotations' values in the order of their names.

    It proves that the sender has the key. It covers neither the header nor the order of messages, and hides nothing.
    """
    mac = hmac.new(key, data, hashlib.sha1)
    for name in sorted(annotations):
        if name != "HMAC":
            mac.update(annotations[name])
    return mac.digest()


def is_signed(key: bytes, data: bytes | bytearray | memoryview, annotations: Mapping[str, bytes]) -> bool:
    """True if the message carries the HMAC that ``key`` makes; compared in constant time."""
    return hmac.compare_digest(annotations.get("HMAC", b""), signature(key, data, annotations))
