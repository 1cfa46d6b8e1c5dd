"""Recognizes servers of other kinds by their first bytes."""

from __future__ import annotations

# Other kinds of servers, by the first bytes of their answer in lower case.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"http/", "an HTTP server"),
    (b"<!doctype html", "an HTTP server"),
    (b"<html", "an HTTP server"),
    (b"ssh-", "an SSH server"),
    (b"220", "a mail or FTP server"),
    (b"* ok", "an IMAP server"),
    (b"+ok", "a POP3 server"),
    (b"-err", "a Redis server"),
    (b"rfb ", "a VNC server"),
    (b"\xff\x00\x00\x00\x00\x00\x00\x00", "a ZeroMQ socket, as Jupyter kernels have"),
)


def described(data: bytes) -> str:
    """What kind of server answers with ``data``, and its first line, if that is text."""
    start = data.lower()
    name = next((name for begin, name in _KINDS if start.startswith(begin)), "something else")
    line = data.split(b"\n")[0][:60].decode("ascii", "replace").strip()
    return f"{name}: {line!r}" if line.isprintable() and line.isascii() else name
