"""SOCKS5 (RFC 1928): the first bytes of a connection name where it leads. Does no I/O, and asks for no user name.

Names are passed on as they are, so that the far side resolves them.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

_VERSION = 5
_OPEN_TO_ALL, _NOTHING_SUITS = 0, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
# Replies: done, failed, host unreachable, connection refused, no such command, no such kind of address.
DONE, FAILED, UNREACHABLE, REFUSED, NO_COMMAND, NO_KIND = 0, 1, 4, 5, 7, 8
_AT = struct.pack("!BIH", _IPV4, 0, 0)  # we do not tell the address that we connect from


class Socks:
    """One connection's greeting: give it the bytes that come, until it returns where they lead."""

    def __init__(self) -> None:
        self._have = b""
        self._greeted = False
        self.failed = False

    def __repr__(self) -> str:
        return f"<Socks {'failed' if self.failed else 'greeted' if self._greeted else 'new'}>"

    def take(self, data: bytes) -> tuple[bytes, dict[str, Any] | None, bytes]:
        """Take more bytes; returns what to answer, where the connection leads (once that is known), and the bytes after
        that."""
        self._have += data
        answer = b""
        if not self._greeted:
            have = self._have
            if have[0] != _VERSION:
                self.failed = True
                return b"", None, b""
            if len(have) < 2 or len(have) < 2 + have[1]:
                return b"", None, b""
            methods, self._have = have[2 : 2 + have[1]], have[2 + have[1] :]
            if _OPEN_TO_ALL not in methods:
                self.failed = True
                return bytes((_VERSION, _NOTHING_SUITS)), None, b""
            self._greeted = True
            answer = bytes((_VERSION, _OPEN_TO_ALL))
        refusal, what, rest = self._request()
        return answer + refusal, what, rest

    def _request(self) -> tuple[bytes, dict[str, Any] | None, bytes]:
        have = self._have
        if len(have) < 5:
            return b"", None, b""
        version, command, _, kind, first = have[:5]
        size = {_IPV4: 4, _IPV6: 16, _NAME: 1 + first}.get(kind)
        if version != _VERSION or command != _CONNECT or size is None:
            self.failed = True
            return self._reply(NO_KIND if size is None else NO_COMMAND), None, b""
        if len(have) < 4 + size + 2:
            return b"", None, b""
        raw, (port,) = have[4 : 4 + size], struct.unpack("!H", have[4 + size : 6 + size])
        host = raw[1:].decode("utf-8", "replace") if kind == _NAME else str(ipaddress.ip_address(raw))
        return b"", {"host": host, "port": port}, have[6 + size :]

    def granted(self) -> bytes:
        """The answer when the far side has connected."""
        return self._reply(DONE)

    def refused(self, why: str) -> bytes:
        """The answer if it cannot connect."""
        if "refused" in why:
            return self._reply(REFUSED)
        return self._reply(UNREACHABLE if "unknown" in why or "unreachable" in why or "no route" in why else FAILED)

    @staticmethod
    def _reply(code: int) -> bytes:
        return bytes((_VERSION, code, 0)) + _AT
