"""The kernel's own server, begun before the kernel itself is imported: both take as long to start.

Whether the kernel will want one is known later, from settings that take time to read. So one is begun where nothing
could name another server, and ended where something did.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from jupyter_core.paths import jupyter_config_path

from ..connect.targets_file import targets_path
from .embedded import EmbeddedServer

# What may name a server besides.
_CONFIGURATION = ("jupyter_flame_config.py", "jupyter_flame_config.json")

_begun: list[Future[EmbeddedServer]] = []


def begin(agent: tuple[str, str], environ: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Start one on a thread, unless another server may be named by a program's environment, arguments or files."""
    if not _may_be_named(environ, arguments):
        future: Future[EmbeddedServer] = Future()
        _begun.append(future)
        threading.Thread(target=_start, args=(agent, future), name="flame-early", daemon=True).start()


def take() -> EmbeddedServer | None:
    """The one that was begun, when it is ready; None where there is none, or none any more, or it did not start."""
    if not _begun:
        return None
    future = _begun.pop()
    return None if future.exception() is not None else future.result()


def drop() -> None:
    """It is not wanted: it ends when it is ready. Nobody waits for that."""
    if _begun:
        _begun.pop().add_done_callback(_end)


def _may_be_named(environ: Mapping[str, str], arguments: Sequence[str]) -> bool:
    if "FLAME_TARGET" in environ or any("Flame" in one or "target" in one for one in arguments):
        return True
    files = [Path(folder, name) for folder in jupyter_config_path() for name in _CONFIGURATION]
    return any(file.exists() for file in (targets_path(environ), *files))


def _start(agent: tuple[str, str], future: Future[EmbeddedServer]) -> None:
    try:
        server = EmbeddedServer(agent)
    except Exception as e:  # who takes it begins anew, and says it
        future.set_exception(e)
    else:
        future.set_result(server)


def _end(future: Future[EmbeddedServer]) -> None:
    if future.exception() is None:
        future.result().close()
