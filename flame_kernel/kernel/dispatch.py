"""Dispatch: which messages are handled while a cell runs on the main shell, and which wait for their turn.

A shell handles one request at a time, except comm messages. But the far side answers an editor also while a cell runs,
and tells where the cell is; and whether another client may have the session is decided here. These need not wait.

"Run All" sends all cells at once, and they must run in their order. So a command may overtake the running cell, but
never a waiting cell of the same front end, nor a request that is about to change where cells run.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hmac
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import zmq
from ipykernel.kernelbase import Kernel
from ipykernel.subshell_manager import UnknownSubshellError

from ..agent.wire.message import COMMS
from ..commands.parsing import overtakes as is_order
from .clients import Clients

# Requests of an editor.
QUESTIONS = ("complete_request", "inspect_request", "is_complete_request", "history_request")
# Requests of a page that is opened, perhaps again, while a cell runs.
HELLO = "kernel_info_request"

# Seconds after the beginning of a cell in which a command of the same front end counts as sent together with it.
TOGETHER = 0.25
# Most bytes of a request whose code is examined before its turn.
SHORT = 1000
EMPTY: Mapping[str, Any] = MappingProxyType({})

_CONCURRENT: ContextVar[bool] = ContextVar("concurrent", default=False)

# ipykernel's ``dispatch_shell``, or a handler of one message.
Handler = Callable[..., Coroutine[Any, Any, None]]


def overtakes() -> bool:
    """Whether the current request has overtaken a cell."""
    return _CONCURRENT.get()


@dataclass
class Execution:
    """One execute_request on its way.

    counts      whether it is stored, and counted
    count       its number, the same for a cell of the far side, of this machine, and of ``%flame`` lines
    remember    writes it into the history, once
    """

    request_id: str
    parent: dict[str, Any]
    code: str
    silent: bool
    counts: bool
    count: int
    remember: Callable[[], None] = lambda: None

    @property
    def shown_count(self) -> int:
        """The number in its reply: if it is not counted, that of the cell before, as in ipykernel."""
        return self.count if self.counts else self.count - 1


class Dispatch:
    """Decides for one kernel when each message of its shell channel is handled.

    cell    the parent of the cell that runs on the main shell, or None; ``running`` sets it
    """

    def __init__(self, kernel: Kernel, fronts: Clients) -> None:
        self._kernel: Any = kernel
        self._clients = fronts
        self.cell: dict[str, Any] | None = None
        self.moving: set[str] = set()  # requests that are about to change where cells run
        self._began = 0.0  # when ``cell`` began, by time.monotonic()
        self._waiting: collections.Counter[str] = collections.Counter()  # waiting cells, by their front ends
        self._in_line = 0  # requests other than cells that wait for their turn on the main shell

    def __repr__(self) -> str:
        return f"<Dispatch {'a cell runs' if self.cell else 'no cell runs'}, {self._in_line} in line>"

    @contextlib.contextmanager
    def running(self, parent: dict[str, Any]) -> Iterator[None]:
        """A context: a cell of the main shell runs. Cells of subshells and commands that overtake run beside it."""
        if parent["header"].get("subshell_id") is not None or overtakes():
            yield
            return
        self.cell, self._began = parent, time.monotonic()
        try:
            yield
        finally:
            self.cell = None

    async def handle(self, handler: Handler, subshell_id: str | None, msg: Any, header: Any, code: str) -> None:
        """Handle a message of a shell when its turn comes. An editor's question overtakes cells, and so do commands
        that look in on them. ``code`` is empty if it is long. Called by the shells, on the event loop.

        Comm messages wait for nothing here, as the far side has an order for them. Each has a task of its own:
        otherwise ipykernel mixes up the parents of several, and a widget that misses its idle status sends no more.
        """
        kind = str(header.get("msg_type"))
        self._clients.heard(str(header.get("session")))  # now: its turn may come when the front end is long gone
        if kind in COMMS:
            await asyncio.create_task(handler(msg, subshell_id=subshell_id, concurrent=True))
            return
        # A question does not overtake what else waits in line: its answer shall not come before theirs.
        if subshell_id is None and not self._in_line and self._need_not_wait(kind, header):
            await self._pass(handler, msg)
            return
        lock = self._kernel.shell_channel_thread.get_subshell_asyncio_lock(subshell_id)
        if subshell_id is None and kind == "execute_request":
            if not await self._turn(lock, str(header.get("session")), code):
                await self._pass(handler, msg)
                return
            try:
                await handler(msg, subshell_id=None)
            finally:
                lock.release()
            return
        self._in_line += subshell_id is None
        try:
            async with lock:
                await handler(msg, subshell_id=subshell_id)
        finally:
            self._in_line -= subshell_id is None

    def _need_not_wait(self, kind: str, header: Any) -> bool:
        """Whether a request is answered while a cell runs. Another front end's kernel_info_request is; the same front
        end has sent it after the cell, so its answer comes after the cell too, as with ipykernel."""
        if self.cell is None:
            return False
        return kind in QUESTIONS or (kind == HELLO and header.get("session") != self.cell["header"].get("session"))

    async def _pass(self, handler: Handler, msg: Any) -> None:
        """Handle a message of the main shell while a cell runs there."""
        parent, ident = self._kernel.get_parent("shell"), self._kernel._parent_ident["shell"]
        try:
            await asyncio.create_task(handler(msg, subshell_id=None, concurrent=True))
        finally:
            self._kernel.set_parent(ident, parent, channel="shell")

    async def _turn(self, lock: asyncio.Lock, front: str, code: str) -> bool:
        """Wait for a cell's turn; returns True with ``lock`` held, or False for a command that need not wait."""
        if is_order(code) and lock.locked() and not self._waiting[front]:
            return await self._turn_of_order(lock, front)
        self._waiting[front] += 1
        try:
            return await lock.acquire()
        finally:
            self._no_longer_waits(front)

    async def _turn_of_order(self, lock: asyncio.Lock, front: str) -> bool:
        """The same for a command that is not behind a waiting cell of its front end. It keeps its place in line until
        it is clear that it was sent by itself: not together with the running cell, nor with a cell behind it."""
        if not (seconds := self._seconds_together(front)) and self._is_passable(front):
            return False
        task, passes, stays = asyncio.current_task(), False, False
        assert task is not None

        def decide() -> None:
            nonlocal passes, stays
            passes = self._is_passable(front) and not self._waiting[front]
            if passes:
                task.cancel()
            else:
                stays = True
                self._waiting[front] += 1

        timer = asyncio.get_running_loop().call_later(seconds, decide)
        try:
            return await lock.acquire()
        except asyncio.CancelledError:
            if not passes:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            return False
        finally:
            timer.cancel()
            if stays:
                self._no_longer_waits(front)

    async def behind(self, front: str, wait: bool) -> int:
        """How many cells a front end has sent behind the one that is about to run. Those of "Run All" come with its
        first one: ``wait`` for them."""
        if wait:
            await asyncio.sleep(TOGETHER)
        return self._waiting[front]

    def _no_longer_waits(self, front: str) -> None:
        self._waiting[front] -= 1
        self._waiting += collections.Counter()  # those that have none are forgotten

    def _seconds_together(self, front: str) -> float:
        """How long a command waits before it overtakes a cell of the same front end that has just begun."""
        if self.cell is None:
            return TOGETHER
        same = self.cell["header"].get("session") == front
        return max(0.0, self._began + TOGETHER - time.monotonic()) if same else 0.0

    def _is_passable(self, front: str) -> bool:
        """Whether a command of ``front`` may overtake the running cell."""
        if self.cell is None:
            return False
        header = self.cell["header"]
        return header.get("session") != front or header["msg_id"] not in self.moving

    def arrived(self, msg: Any) -> None:
        """Pass a message of the shell channel to its shell."""
        seen = self.peek(msg)
        if seen is not None:
            idents, header, code = seen
            try:
                self._kernel.shell_channel_thread.take(header.get("subshell_id"), msg, header, code)
            except UnknownSubshellError as e:
                self._kernel._send_unknown_subshell_reply(idents, {"header": header, "metadata": {}}, e)

    def peek(self, msg: Any) -> tuple[Any, dict[str, Any], str] | None:
        """What a message is before its turn has come: its identities, its header, and the code of a short cell. None
        where it is no message, which is logged."""
        session = self._kernel.session
        try:
            idents, frames = session.feed_identities(msg, copy=False)
            # Not by ``deserialize``: the message would count as received, and be refused as a repetition later.
            parts = [frame if isinstance(frame, bytes) else frame.bytes for frame in frames[:5]]
            signature, header, _, _, packed = parts
            if session.auth is not None and not hmac.compare_digest(signature, session.sign(parts[1:])):
                raise ValueError("a signature that is not ours")
            content = session.unpack(packed) if len(packed) < SHORT else {}
            code = content.get("code") if isinstance(content, dict) else ""
            return idents, session.unpack(header), code.strip() if isinstance(code, str) else ""
        except Exception:  # whatever somebody who reached the port has sent
            self._kernel.log.error("Invalid message", exc_info=True)
            return None

    def abort(self, subshell_id: str | None) -> None:
        """After an error: do not run what the front end has already sent after the cell. This does not concern cells
        that a failed command has overtaken."""
        if overtakes():
            return
        kernel = self._kernel
        if subshell_id is None:
            kernel._aborting = True
        else:
            kernel.shell_channel_thread.set_subshell_aborting(subshell_id, True)
        if kernel.shell_stream is not None:
            kernel.shell_stream.flush(zmq.POLLIN)
        kernel.shell_channel_thread.take(subshell_id, [zmq.Frame(b"stop aborting")])

    async def answer(self, handler: Handler, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Handle a message that may have overtaken a cell; ipykernel sends no status for those."""
        with self.status(parent) if overtakes() else contextlib.nullcontext():
            await handler(stream, ident, parent)

    @contextlib.contextmanager
    def status(self, parent: dict[str, Any]) -> Iterator[None]:
        """A context between the statuses busy and idle; at the end busy again if a cell runs, because front ends show
        the last status."""
        self._kernel._publish_status("busy", "shell", parent=parent)
        try:
            yield
        finally:
            self._kernel._publish_status("idle", "shell", parent=parent)
            if self.cell is not None:
                self._kernel._publish_status("busy", "shell", parent=self.cell)


def begins(concurrent: bool) -> None:
    """A message is about to be handled; ``concurrent``: it has overtaken a cell. In the task of the message."""
    _CONCURRENT.set(concurrent)
