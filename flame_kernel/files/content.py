"""The content of one file of the far side, received into memory."""

from __future__ import annotations

from typing import Any

from ..agent.wire import frames
from ..connect.units import size_in_words
from ..errors import TransferError, UnsafeAnswer
from .downloads import description
from .far_files import Message, error_in

# Most bytes that ``getfile`` reads into memory; and how many of them may be zeros, which are sent as a count.
MAX_CONTENT, MAX_ZEROS = 2 << 30, 256 << 20


class Content:
    """Receives one file into memory. ``shown`` is its name; ``more``: whether there is more to request.

    It takes as many bytes as the far side announced, at most MAX_CONTENT. At most MAX_ZEROS of them may come as a
    count of zeros, because that costs nothing to send.
    """

    def __init__(self, shown: str, location: str) -> None:
        self.bytes = bytearray()
        self.more = True
        self._shown = shown
        self._location = location
        self._size = 0
        self._zeros = 0
        self._before = 0  # bytes that had come at the last request for more

    def __repr__(self) -> str:
        return f"<Content {len(self.bytes)} of {self._size} bytes of {self._shown}>"

    def take(self, kind: int, payload: Any) -> None:
        """Handle one frame of the answer. Raises TransferError, UnsafeAnswer."""
        if kind == frames.CONTROL:
            self._control(payload)
            return
        size = payload if kind == frames.HOLE else len(payload)
        if len(self.bytes) + size > self._size:
            raise UnsafeAnswer(self._location, "more bytes than were announced")
        self._zeros += size if kind == frames.HOLE else 0
        if self._zeros > MAX_ZEROS:
            raise self._too_large(f"more than {size_in_words(MAX_ZEROS)} of nothing but zeros")
        self.bytes += bytes(size) if kind == frames.HOLE else payload

    def _control(self, answer: Message) -> None:
        if "error" in answer:
            text, code = error_in(answer)
            raise TransferError(f"cannot read {self._shown} at {self._location}: {text}", code, self._location)
        if answer.get("more"):
            self._size = description(dict(answer, kind="file"), self._location)["size"]
            if self._size > MAX_CONTENT:
                raise self._too_large(size_in_words(self._size))
            return
        self.more = answer.get("last") is False
        if self.more and len(self.bytes) == self._before:
            raise UnsafeAnswer(self._location, "a file of which nothing more comes")
        self._before = len(self.bytes)

    def _too_large(self, what: str) -> TransferError:
        return TransferError(
            f"{self._shown} at {self._location} has {what}: too large for memory; use get, which writes a file"
        )
