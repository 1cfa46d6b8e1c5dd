"""Overtaking: what is answered while a cell runs on the main shell, and what waits for its turn behind it.

A shell handles one request at a time, comm messages apart. A far side answers an editor also while a cell
runs, and says where that is; whether another client may have the session is decided here. So these need not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Iterator, Mapping
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


def overtakes() -> bool:
    """Whether the request that is being handled has overtaken a cell."""
    return _CONCURRENT.get()


class Overtaking(Kernel):
    """A kernel whose ``_cell`` is the parent of the cell that runs, subshells' apart; ``do_execute`` keeps it so."""

    _publish_status: Callable[..., None]
    set_parent: Callable[..., None]
    get_parent: Callable[..., Any]
    dispatch_control: Callable[..., Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._cell: dict[str, Any] | None = None
        self._in_line = 0  # requests but cells that wait their turn on the main shell
        self._fronts = Fronts()
        for msg_type in (*QUESTIONS, "execute_request"):
            self.shell_handlers[msg_type] = self._handle

    async def shell_main(
        self, subshell_id: str | None, msg: Any, header: Mapping[str, Any] = EMPTY, code: str = ""
    ) -> None:
        """A message of a shell, with its header, and its code where that is short: one after the other. But an editor's
        question overtakes cells, and so do orders that look in on them.

        Comm messages wait for nothing here, as the far side has an order for them. ipykernel mixes up the parents of
        several that are under way, and a widget that never hears of its idle is dead.
        """
        kind = str(header.get("msg_type"))
        self._fronts.heard(str(header.get("session")))  # now: its turn may come when the front end is long gone
        if kind in COMMS:
            await asyncio.create_task(self.dispatch_shell(msg, subshell_id=subshell_id, concurrent=True))
            return
        # A question does not overtake what else waits in line: its answer shall not come before theirs.
        may = is_order(code) if kind == "execute_request" else kind in QUESTIONS and not self._in_line
        if subshell_id is None and self._cell is not None and may:
            parent, ident = self.get_parent("shell"), self._parent_ident["shell"]
            try:
                await asyncio.create_task(self.dispatch_shell(msg, subshell_id=subshell_id, concurrent=True))
            finally:
                self.set_parent(ident, parent, channel="shell")
            return
        stays_in_line = subshell_id is None and kind != "execute_request"
        self._in_line += stays_in_line
        try:
            async with self.shell_channel_thread.get_subshell_asyncio_lock(subshell_id):
                await self.dispatch_shell(msg, subshell_id=subshell_id)
        finally:
            self._in_line -= stays_in_line

    def shell_channel_thread_main(self, msg: Any) -> None:  # type: ignore[override]  # a callback, of any kind
        """What comes by the shell channel, to the shell that it is for: here, as we have no thread for that."""
        seen = self._peek(msg)
        if seen is not None:
            idents, header, code = seen
            try:
                self.shell_channel_thread.take(header.get("subshell_id"), msg, header, code)
            except UnknownSubshellError as e:
                self._send_unknown_subshell_reply(idents, {"header": header, "metadata": {}}, e)

    def _peek(self, msg: Any) -> tuple[Any, dict[str, Any], str] | None:
        """What a message is before its turn has come: its identities, its header, and the code of a short cell. None
        where it is no message, which is logged."""
        assert self.session is not None
        try:
            idents, frames = self.session.feed_identities(msg, copy=False)
            # Not by ``deserialize``: the message would count as received, and be refused as a repetition later.
            parts = [frame if isinstance(frame, bytes) else frame.bytes for frame in frames[:5]]
            signature, header, _, _, packed = parts
            if self.session.auth is not None and not hmac.compare_digest(signature, self.session.sign(parts[1:])):
                raise ValueError("a signature that is not ours")
            content = self.session.unpack(packed) if len(packed) < SHORT else {}
            code = content.get("code") if isinstance(content, dict) else ""
            return idents, self.session.unpack(header), code.strip() if isinstance(code, str) else ""
        except Exception:  # as ipykernel: a bad message, in whatever way, is logged and ends no kernel
            self.log.error("Invalid message", exc_info=True)
            return None

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """After an error: the requests that a front end has sent already behind the cell are not run."""
        if subshell_id is None:
            self._aborting = True
        else:
            self.shell_channel_thread.set_subshell_aborting(subshell_id, True)
        if self.shell_stream is not None:
            self.shell_stream.flush(zmq.POLLIN)
        self.shell_channel_thread.take(subshell_id, [zmq.Frame(b"stop aborting")])

    async def dispatch_shell(self, *args: Any, **kwargs: Any) -> None:
        """As ipykernel's, which says neither busy nor idle for what is concurrent; whoever handles it does that."""
        _CONCURRENT.set(bool(kwargs.get("concurrent")))
        await super().dispatch_shell(*args, **kwargs)

    async def _handle(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        with self._status(parent) if overtakes() else contextlib.nullcontext():
            await getattr(self, parent["header"]["msg_type"])(stream, ident, parent)

    @contextlib.contextmanager
    def _status(self, parent: dict[str, Any]) -> Iterator[None]:
        """Between busy and idle of its own while a cell runs; then busy again: front ends show the last they heard."""
        self._publish_status("busy", "shell", parent=parent)
        try:
            yield
        finally:
            self._publish_status("idle", "shell", parent=parent)
            if self._cell is not None:
                self._publish_status("busy", "shell", parent=self._cell)
