"""What a client says of itself when it opens a session, and what an agent must answer to that."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from typing import Any

from ..connect.target import Target
from ..errors import MAX_NAME, UnsafeAnswer


def opening(target: Target, session_id: str, client_id: str, attach: str | None = None) -> dict[str, Any]:
    """The request that makes a session, or takes it up; ``attach`` as in Session."""
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
    """What others are told about who has a session: user, host and process."""
    with contextlib.suppress(Exception):  # no user of that number, no name for this host
        return f"{getpass.getuser()}@{socket.gethostname()}, pid {os.getpid()}"
    return f"pid {os.getpid()}"


def notebook_name() -> str:
    """The notebook's file as the front end names it, or empty."""
    return os.environ.get("JPY_SESSION_NAME", "")


# What an agent says of itself, and is relied on here.
_SERVER = {
    "boot": str,
    "epoch": int,
    "fresh": bool,
    "host": str,
    "newest": int,
    "pid": int,
    "place": str,
    "python": list,
    "servertype": str,
}


def checked(server: Any, location: str) -> dict[str, Any]:
    """The answer to ``open``; UnsafeAnswer where it is not what an agent says."""
    if (
        not isinstance(server, dict)
        or any(not isinstance(server.get(name), kind) for name, kind in _SERVER.items())
        or any(len(server[name]) > MAX_NAME for name in _SERVER if _SERVER[name] is str)
        or len(server["python"]) != 3
        or not all(type(number) is int for number in server["python"])
        or not isinstance(server.get("ready"), (dict, type(None)))
        or type(server.get("acknowledged", 0)) is not int
    ):
        raise UnsafeAnswer(location, "an agent that does not say what it is")
    return server


def running(server: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells under way there, as far as the server says it in words."""
    cells = server.get("running")
    cells = cells if isinstance(cells, list) else []
    return [cell for cell in cells if isinstance(cell, dict) and isinstance(cell.get("request"), str)]
