"""Starts the kernel's own server while the kernel itself is still being imported, which takes as long.

The settings that say whether the kernel needs a server of its own are read later. So a server is started if nothing
could name another one, and ended if something did.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from jupyter_core.paths import jupyter_config_path

from ..connect.targets_file import targets_path
from .embedded import EmbeddedServer

# Other files that may name a server.
_CONFIGURATION = ("jupyter_flame_config.py", "jupyter_flame_config.json")

# Places where the first session will need a child, which is started at once, too.
_IN_CHILD = ("", "auto", "child")

_begun: list[Future[EmbeddedServer]] = []


def begin(agent: tuple[str, str], environ: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Start a server on a thread, unless the environment, arguments or configuration files may name another one."""
    if not _may_be_named(environ, arguments):
        future: Future[EmbeddedServer] = Future()
        _begun.append(future)
        prestart = environ.get("FLAME_SHELL") or "auto" if environ.get("FLAME_PLACE", "child") in _IN_CHILD else ""
        threading.Thread(target=_start, args=(agent, prestart, future), name="flame-early", daemon=True).start()


def take() -> EmbeddedServer | None:
    """Wait for the server that ``begin`` started, and return it; None if there is none or it failed to start."""
    if not _begun:
        return None
    future = _begun.pop()
    return None if future.exception() is not None else future.result()


def drop() -> None:
    """End the server that ``begin`` started, as soon as it is ready; does not wait for that."""
    if _begun:
        _begun.pop().add_done_callback(_end)


def _may_be_named(environ: Mapping[str, str], arguments: Sequence[str]) -> bool:
    if "FLAME_TARGET" in environ or any("Flame" in one or "target" in one for one in arguments):
        return True
    files = [Path(folder, name) for folder in jupyter_config_path() for name in _CONFIGURATION]
    return any(file.exists() for file in (targets_path(environ), *files))


def _start(agent: tuple[str, str], prestart: str, future: Future[EmbeddedServer]) -> None:
    try:
        server = EmbeddedServer(agent, prestart)
    except Exception as e:  # the caller of take() then starts a server itself, and reports an error
        future.set_exception(e)
    else:
        future.set_result(server)


def _end(future: Future[EmbeddedServer]) -> None:
    if future.exception() is None:
        future.result().close()
