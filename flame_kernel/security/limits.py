"""How large an answer of a server may be, in bytes: as it is sent, decompressed, and as JSON. A larger one is refused.

How many values an answer may hold, and how deep, is in `reader.py`, `shapes.py` and `rendering.py`.
"""

from __future__ import annotations

import zlib

from ..errors import UnsafeAnswer
from .reader import refuse

MAX_ANSWER = 64 * 1024 * 1024  # bytes of an answer as it is sent
MAX_INFLATED = 64 * 1024 * 1024  # bytes of a compressed answer after decompression
MAX_JSON = 8 << 20  # bytes; every pair of brackets becomes an object, so small JSON can use much memory


def check_size(size: int) -> None:
    """Refuse an answer that is to have ``size`` bytes, if these are too many."""
    if not 0 <= size <= MAX_ANSWER:
        refuse(f"a message of {size} bytes, the limit is {MAX_ANSWER}")


def check_json(data: bytes | bytearray) -> None:
    """Refuse an answer in JSON that is too large."""
    if len(data) > MAX_JSON:
        refuse(f"JSON of {len(data)} bytes, the limit is {MAX_JSON}")


def inflate(data: bytes | bytearray | memoryview, limit: int = MAX_INFLATED) -> bytes:
    """``data`` decompressed; UnsafeAnswer if it is damaged, or longer than ``limit`` bytes, where this stops."""
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
