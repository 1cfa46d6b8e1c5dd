"""What surrounds the pickle in a Pyro message: its signature, its compression, and the wording of a refusal."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Mapping

from ..errors import UnsafeAnswer
from ..security.reader import refuse


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
        refuse("a refusal that is no text")
    if start + size != len(raw):
        refuse("a refusal of the wrong length")
    return raw[start:].decode("utf-8", "replace")


def inflate(data: bytes | bytearray | memoryview, limit: int) -> bytes:
    """``data`` decompressed, or UnsafeAnswer if it is longer than ``limit`` bytes then; never makes more than that."""
    engine = zlib.decompressobj()
    try:
        out = engine.decompress(data, limit + 1)
    except zlib.error:
        raise UnsafeAnswer("", "compressed data that cannot be decompressed") from None
    if len(out) > limit:
        refuse(f"compressed data of more than {limit} bytes")
    if not engine.eof or engine.unused_data:
        refuse("compressed data that does not end where it says")
    return out


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
