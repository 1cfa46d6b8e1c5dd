"""Dispatch: the order in which requests are handled, and what is answered while a cell runs on the main shell.

A shell handles one request at a time, comm messages apart. A far side answers an editor also while a cell
runs, and says where that is; whether another client may have the session is decided here. So these need not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import zmq
from ipykernel.kernelbase import Kernel
from ipykernel.subshell_manager import UnknownSubshellError

from ..agent.wire.message import COMMS
from ..commands.language import overtakes as is_order
from .clients import Fronts

# What an editor asks.
QUESTIONS = ("complete_request", "inspect_request", "is_complete_request", "history_request")

# Bytes of a request whose code is looked at before its turn.
SHORT = 1000
EMPTY: Mapping[str, Any] = MappingProxyType({})

_CONCURRENT: ContextVar[bool] = ContextVar("concurrent", default=False)

# ipykernel's ``dispatch_shell``, or a handler of one message.
Handler = Callable[..., Coroutine[Any, Any, None]]


def overtakes() -> bool:
    """Whether the request that is being handled has overtaken a cell."""
    return _CONCURRENT.get()


class Dispatch:
    """Decides for one kernel when each message of its shell channel is handled; ``shells`` are its line of tasks.

    cell    the parent of the cell that runs on the main shell, or None; ``running`` keeps it so
    """

    def __init__(self, kernel: Kernel, fronts: Fronts) -> None:
        self._kernel: Any = kernel
        self._fronts = fronts
        self.cell: dict[str, Any] | None = None
        self._in_line = 0  # requests but cells that wait their turn on the main shell

    def __repr__(self) -> str:
        return f"<Dispatch {'a cell runs' if self.cell else 'no cell runs'}, {self._in_line} in line>"

    @contextlib.contextmanager
    def running(self, parent: dict[str, Any]) -> Iterator[None]:
        """While a cell of the main shell runs. One of a subshell, or an order that has overtaken, runs beside it."""
        if parent["header"].get("subshell_id") is not None or overtakes():
            yield
            return
        self.cell = parent
        try:
            yield
        finally:
            self.cell = None

    async def handle(self, handler: Handler, subshell_id: str | None, msg: Any, header: Any, code: str) -> None:
        """A message of a shell, with its header, and its code where that is short: one after the other. But an editor's
        question overtakes cells, and so do orders that look in on them. Called by the shells, on the event loop.

        Comm messages wait for nothing here, as the far side has an order for them. ipykernel mixes up the parents of
        several that are under way, and a widget that never hears of its idle is dead.
        """
        kind = str(header.get("msg_type"))
        self._fronts.heard(str(header.get("session")))  # now: its turn may come when the front end is long gone
        if kind in COMMS:
            await asyncio.create_task(handler(msg, subshell_id=subshell_id, concurrent=True))
            return
        # A question does not overtake what else waits in line: its answer shall not come before theirs.
        may = is_order(code) if kind == "execute_request" else kind in QUESTIONS and not self._in_line
        if subshell_id is None and self.cell is not None and may:
            parent, ident = self._kernel.get_parent("shell"), self._kernel._parent_ident["shell"]
            try:
                await asyncio.create_task(handler(msg, subshell_id=subshell_id, concurrent=True))
            finally:
                self._kernel.set_parent(ident, parent, channel="shell")
            return
        stays_in_line = subshell_id is None and kind != "execute_request"
        self._in_line += stays_in_line
        try:
            async with self._kernel.shell_channel_thread.get_subshell_asyncio_lock(subshell_id):
                await handler(msg, subshell_id=subshell_id)
        finally:
            self._in_line -= stays_in_line

    def arrived(self, msg: Any) -> None:
        """What comes by the shell channel, to the shell that it is for: here, as we have no thread for that."""
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
        """After an error: the requests that a front end has sent already behind the cell are not run."""
        kernel = self._kernel
        if subshell_id is None:
            kernel._aborting = True
        else:
            kernel.shell_channel_thread.set_subshell_aborting(subshell_id, True)
        if kernel.shell_stream is not None:
            kernel.shell_stream.flush(zmq.POLLIN)
        kernel.shell_channel_thread.take(subshell_id, [zmq.Frame(b"stop aborting")])

    async def answer(self, handler: Handler, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Handle a message that may have overtaken a cell: ipykernel says neither busy nor idle for such."""
        with self.status(parent) if overtakes() else contextlib.nullcontext():
            await handler(stream, ident, parent)

    @contextlib.contextmanager
    def status(self, parent: dict[str, Any]) -> Iterator[None]:
        """Between busy and idle of its own while a cell runs; then busy again: front ends show the last they heard."""
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
