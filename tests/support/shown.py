"""Pictures, and what a Rendering shows and says."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from flame_kernel.connect.target import Location, Target

PLACE = Location("gpu1.example", 9999)


ADVICE = "not shown: this server has no key"
HINT = "HTML and widgets are off: this server has no key; "  # how the sentence about rich output begins


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 2, height: int = 2, more: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * min(width, 10)) for _ in range(min(height, 10))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(width: int = 2, height: int = 2) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    return (
        b"\xff\xd8\xff\xe0\x00\x04JF\xff\xff\xc0"
        + struct.pack(">H", 2 + len(frame))
        + frame
        + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00coded\xff\x00\xff\xd9"
    )


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


class Shown:
    """A Rendering, and what it said."""

    def __init__(self, target: Target | None = None) -> None:
        self.now = 0.0
        self.said: list[tuple[str | None, str]] = []
        self.rendering = (target or Target(PLACE)).rendering(
            lambda *said: self.said.append(said), lambda: self.now, notebook=True
        )

    def event(self, kind: str, request: str | None = "cell", **content: Any) -> dict[str, Any] | None:
        return self.rendering.event({"type": kind, "request": request, "content": content, "metadata": {"x": 1}})

    def display(self, request: str = "cell", **data: Any) -> dict[str, Any] | None:
        shown = self.event("display_data", request, data={name.replace("_", "/"): one for name, one in data.items()})
        return None if shown is None else dict(shown["content"]["data"])
