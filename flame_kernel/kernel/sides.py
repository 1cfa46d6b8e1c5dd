"""Sides: the far sides of a kernel, one for its cells and one for ``%%local``: made, interrupted and ended here."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..connect.target import Target
from ..terminal import plain_text
from .backend import FarSide
from .iopub import Publisher

# Seconds that an interrupt_request waits for the far side's answer.
PATIENCE = 2.0


class Sides:
    """Where the kernel's cells run, and which cell runs where.

    far      the side of the notebook's cells
    local    that of ``%%local`` cells: this machine, this Python; None until there has been one
    """

    def __init__(self, publisher: Publisher, log: logging.Logger) -> None:
        self._publisher = publisher
        self._log = log
        self._running: dict[str, FarSide] = {}  # the side of each running cell, by request
        self._lines: dict[FarSide, LinkStatus] = {}
        self.far = self._make(Target())
        self.local: FarSide | None = None

    def __repr__(self) -> str:
        return f"<Sides {self.far!r}, {len(self._running)} cells run>"

    def _make(self, target: Target) -> FarSide:
        far = FarSide(
            target, self._publisher.publish, lambda sentence: self._on_link(far, sentence), self._publisher.has_room
        )
        self._lines[far] = LinkStatus(self._publisher, lambda: [r for r, side in self._running.items() if side is far])
        return far

    def get_local(self) -> FarSide:
        """The side for ``%%local``, in a child of a server of our own; made for the first such cell."""
        if self.local is None:
            self.local = self._make(Target(place="child"))
        return self.local

    def _on_link(self, far: FarSide, sentence: str | None) -> None:
        """The link broke, or is silent, or is back (None); called on the link's threads."""
        self._log.info("%s", plain_text(sentence) if sentence else "link is back")
        self._lines[far].say(sentence)

    def runs(self, request_id: str, far: FarSide) -> None:
        """The cell of this request runs on ``far``: it shows trouble with that link."""
        self._running[request_id] = far

    def ended(self, request_id: str) -> None:
        """The cell has ended, wherever it ran."""
        far = self._running.pop(request_id, None)
        if far is not None:
            self._lines[far].cell_ended(request_id)

    def interrupt(self) -> list[Future[Any]]:
        """Interrupt what runs on each side; a future of each side's answer."""
        sessions = [side.own for side in (self.far, self.local) if side is not None]
        return [session.interrupt() for session in sessions if session is not None]

    async def close(self, keep_named: bool) -> None:
        """End the sessions, with all that they run; with ``keep_named``, one that was given a name lives on."""
        loop = asyncio.get_running_loop()
        closing = [loop.run_in_executor(None, self.far.close, keep_named and self.far.is_kept)]
        if self.local is not None:
            closing.append(loop.run_in_executor(None, self.local.close))
        await asyncio.gather(*closing)


async def answered(interrupts: list[Future[Any]]) -> None:
    """Wait briefly for the answers to interrupts; the cells show the outcome."""
    calls = [asyncio.wrap_future(future) for future in interrupts]
    if calls:
        await asyncio.wait(calls, timeout=PATIENCE)
    for call in calls:
        if call.done() and not call.cancelled():
            call.exception()


class LinkStatus:
    """A line in a running cell's output that tells what is wrong with the link, as long as something is.

    It is for one far side; ``running`` returns the requests of the cells that run there, the newest last.

    ``say`` is called on threads of the link, ``cell_ended`` on the kernel's.
    """

    def __init__(self, publisher: Publisher, running: Callable[[], list[str]]) -> None:
        self._publisher = publisher
        self._running = running
        self._lock = threading.Lock()
        self._shown: tuple[str, str] | None = None  # request, display id

    def say(self, sentence: str | None) -> None:
        """Show ``sentence`` in place of the last one; None removes it."""
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
        """Remove the cell: it shows nothing about the link any more."""
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
