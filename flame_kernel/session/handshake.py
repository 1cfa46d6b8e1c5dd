"""What a client tells about itself when it opens a session."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from typing import Any

from ..connect.target import Target


def opening(target: Target, session_id: str, client_id: str, attach: str | None = None) -> dict[str, Any]:
    """The request that opens a session or attaches to one; ``attach`` as in Session."""
    request: dict[str, Any] = {
        "op": "open",
        "session": session_id,
        "place": target.place,
        "shell": target.shell,
        "client": client_name(),
        "client_id": client_id,
        "notebook": notebook_name(),
        **target.keeping,
    }
    if attach is not None:
        request["attach"] = attach
    return request


def client_name() -> str:
    """How other clients see the owner of a session: user, host and process."""
    with contextlib.suppress(Exception):  # no user of that number, no name for this host
        return f"{getpass.getuser()}@{socket.gethostname()}, pid {os.getpid()}"
    return f"pid {os.getpid()}"


def notebook_name() -> str:
    """The notebook's file as the front end names it, or empty."""
    return os.environ.get("JPY_SESSION_NAME", "")
