"""Checks PNG and JPEG data from a server that is not authenticated, before a browser decodes it.

The data is read part by part as the specifications describe it, so data that is not a picture, or has something after
it, is refused.  The width and height are limited, because a few bytes can decode to a huge picture.  Nothing is
decompressed here.

PNG: https://www.w3.org/TR/png-3/#5DataRep
JPEG: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, Annex B
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Callable, Iterator

MAX_BYTES = 32 * 1024 * 1024
MAX_SIDE = 32_767
MAX_PIXELS = 64_000_000  # 256 MB when decoded

_PNG = b"\x89PNG\r\n\x1a\n"
# Markers in a JPEG: frame headers, which have the size; start of scan.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA


class NoPicture(ValueError):
    """The data is not such a picture, or too large; the text gives the reason, and is printed after "not shown: "."""


def check(mime: str, text: object) -> None:
    """Raise NoPicture unless ``text`` is the base64 of a complete picture of the type ``mime``, not too large."""
    if not isinstance(text, str):
        raise NoPicture("it is not base64 text")
    if len(text) > MAX_BYTES * 4 // 3 + 1024:
        raise NoPicture(f"it has more than {MAX_BYTES >> 20} MiB")
    try:
        # Base64 may have line breaks after 76 characters; any other character outside base64 is an error.
        data = base64.b64decode(text.replace("\n", "").replace("\r", "").encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise NoPicture("it is not base64 text") from None
    width, height = READERS[mime](data)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise NoPicture(f"it has {width} by {height} pixels")


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a complete PNG: all chunks have valid checksums, from IHDR to IEND, and nothing follows."""
    if not data.startswith(_PNG):
        raise NoPicture("it is not a PNG")
    view = memoryview(data)
    at, size, pixels = len(_PNG), (0, 0), False
    while True:
        if len(data) - at < 12:
            raise NoPicture("it is a PNG that is cut short")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise NoPicture("it is a PNG that is cut short")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise NoPicture("it is a damaged PNG")
        if (at == len(_PNG)) != (kind == b"IHDR") or (kind == b"IHDR" and length != 13):
            raise NoPicture("it is a PNG without a header")
        if kind == b"IHDR":
            size = struct.unpack_from(">II", data, at + 8)
        pixels = pixels or kind == b"IDAT"
        at = end
        if kind == b"IEND":
            break
    if at != len(data) or not pixels:
        raise NoPicture("it is a PNG with something else in it")
    return size


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a complete JPEG: checks the segments up to the first scan, and the end-of-image marker."""
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        raise NoPicture("it is not a JPEG")
    size: tuple[int, int] | None = None
    for marker, at, length in _segments(data):
        if marker in _FRAMES:
            if length < 8 or size is not None:
                raise NoPicture("it is a damaged JPEG")
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9:
            raise NoPicture("it is a damaged JPEG")
    if size is None or size == (0, 0):
        raise NoPicture("it is a JPEG without a size")
    return size


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """``(marker, position, length)`` of the segments of a JPEG before its first scan, which is the picture data."""
    at = 2
    while True:
        if at + 4 > len(data) or data[at] != 0xFF:
            raise NoPicture("it is a damaged JPEG")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2 or at + 2 + length > len(data):
            raise NoPicture("it is a JPEG that is cut short")
        if marker == _SCAN:
            return
        yield marker, at, length
        at += 2 + length


READERS: dict[str, Callable[[bytes], tuple[int, int]]] = {"image/png": png_size, "image/jpeg": jpeg_size}
