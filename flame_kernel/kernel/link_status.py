"""LinkStatus: the one quiet line in a running cell's output that says what is wrong with the link, while it is."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

from ..terminal import plain_text
from .iopub import Publisher


class LinkStatus:
    """The line of one far side; ``running`` tells the requests of the cells that wait for it, the newest last.

    ``say`` is called on threads of the link, ``cell_ended`` on the kernel's.
    """

    def __init__(self, publisher: Publisher, running: Callable[[], list[str]]) -> None:
        self._publisher = publisher
        self._running = running
        self._lock = threading.Lock()
        self._shown: tuple[str, str] | None = None  # request, display id

    def say(self, sentence: str | None) -> None:
        """Show ``sentence``, in place of the one before; None takes it back."""
        with self._lock:
            running = self._running()
            if not sentence or not running:
                self._take_back()
                return
            if self._shown is not None and self._shown[0] in running:
                self._show("update_display_data", plain_text(sentence))
                return
            self._take_back()
            self._shown = running[-1], uuid.uuid4().hex
            self._show("display_data", plain_text(sentence))

    def cell_ended(self, request_id: str) -> None:
        """What there is to say of the link is no matter of this cell's any more."""
        with self._lock:
            if self._shown is not None and self._shown[0] == request_id:
                self._take_back()

    def _take_back(self) -> None:
        if self._shown is not None:
            self._show("update_display_data", "")
            self._shown = None

    def _show(self, msg_type: str, text: str) -> None:
        assert self._shown is not None
        request_id, display_id = self._shown
        content = {"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": display_id}}
        self._publisher.message(request_id, msg_type, content)
