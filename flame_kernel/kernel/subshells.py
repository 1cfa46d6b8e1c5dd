"""Subshells: the main shell and its subshells, all of them on the kernel's own event loop.

ipykernel has a thread for the shell channel and one for each subshell, because its cells block their thread.  Our cells
run on the far side, where each subshell has its thread, and nothing blocks here.  So one loop reads the channel, and a
shell is a queue of tasks.  A request then crosses two threads less on its way in and out.

Kernel subshells: https://jupyter.org/enhancement-proposals/91-kernel-subshells/kernel-subshells.html
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from ipykernel.subshell_manager import UnknownSubshellError
from tornado.ioloop import IOLoop

# Called with the subshell's id (None for the main shell), the frames of a message, and what is known of it.
Receiver = Callable[..., Coroutine[Any, Any, None]]


class _Shell:
    """One shell: its requests take turns, and share what is known of the parent."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.context = contextvars.copy_context()
        self.aborting = False


class Subshells:
    """Stands in for ipykernel's thread of the shell channel, and for its manager of subshells.

    Make it on the main thread.  Requests on the control channel make and delete subshells, on that channel's thread;
    everything else happens on the loop.
    """

    def __init__(self) -> None:
        self.io_loop = IOLoop.current()
        self.parent_thread = threading.current_thread()
        self.shell_stream: Any = None  # set by the application, as for ipykernel's own
        self._receive: Receiver | None = None
        self._shells: dict[str | None, _Shell] = {None: _Shell()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Subshells {len(self.names())} subshells, {len(self._tasks)} requests>"

    # -- in place of the thread

    def start(self) -> None:
        """Does nothing: there is no thread."""

    def is_alive(self) -> bool:
        """False: there is no thread to stop."""
        return False

    @property
    def manager(self) -> Subshells:
        return self

    # -- in place of the manager

    def set_on_recv_callback(self, receive: Receiver) -> None:
        self._receive = receive

    def get_subshell_to_shell_channel_socket(self, subshell_id: str | None) -> Any:
        """Where replies go."""
        return self.shell_stream

    def get_subshell_asyncio_lock(self, subshell_id: str | None) -> asyncio.Lock:
        return self._get(subshell_id).turn

    def get_subshell_aborting(self, subshell_id: str | None) -> bool:
        return self._get(subshell_id).aborting

    def set_subshell_aborting(self, subshell_id: str | None, aborting: bool) -> None:
        self._get(subshell_id).aborting = aborting

    # -- subshells

    def create(self) -> str:
        """Make a subshell; returns its id."""
        subshell_id = str(uuid.uuid4())
        with self._lock:
            self._shells[subshell_id] = _Shell()
        return subshell_id

    def delete(self, subshell_id: str) -> None:
        """Raises UnknownSubshellError."""
        with self._lock:
            if self._shells.pop(subshell_id, None) is None:
                raise UnknownSubshellError(subshell_id)

    def names(self) -> list[str]:
        with self._lock:
            return [name for name in self._shells if name is not None]

    def take(self, subshell_id: str | None, msg: Any, *known: Any) -> None:
        """Queue a message for a shell. Raises UnknownSubshellError."""
        assert self._receive is not None
        shell, coroutine = self._get(subshell_id), self._receive(subshell_id, msg, *known)
        if sys.version_info >= (3, 11):
            task = asyncio.create_task(coroutine, context=shell.context)
        else:
            task = shell.context.run(asyncio.create_task, coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _get(self, subshell_id: str | None) -> _Shell:
        try:
            return self._shells[subshell_id]
        except (KeyError, TypeError):  # a TypeError if the id is not even hashable
            raise UnknownSubshellError(str(subshell_id)) from None
