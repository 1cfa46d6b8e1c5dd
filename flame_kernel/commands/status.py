"""Where the cells of a session run, in words: what ``%flame status`` says in a kernel and of a connection."""

from __future__ import annotations

from typing import Any

from ..connect.target import PLACE_WORDS
from ..session.session import Session
from ..terminal import one_line
from . import rails

# Most characters of a line: it has names from the far side in it, which may be long.
MOST = 500


def status(session: Session, own: str = "a server of its own") -> str:
    """Two lines about a session that is not gone, and others for its rails and trouble with its link; ``own`` is
    the name for a server that was started for it."""
    ready: dict[str, Any] = {}
    if session.ready.done() and session.ready.exception() is None:
        ready = session.ready.result()
    place = session.server["place"]
    host, pid = (ready.get(name, session.server[name]) for name in ("host", "pid"))
    how = own if session.target.own else session.target.protection
    lines = [
        f"cells run at {session.location} ({how}), {PLACE_WORDS.get(place, place)}",
        f"host {host}, pid {pid}, Python {ready.get('python', '?')}, {_shell(ready)}; session {session.session_id}; "
        f"{'link up' if session.trouble is None else 'link in trouble'}",
    ]
    if session.target.rails is not None:
        lines.append(rails.words(session.target.rails))
    if session.trouble is not None:
        lines.append(str(session.trouble))
    return "\n".join(one_line(line, MOST) for line in lines)


def _shell(ready: dict[str, Any]) -> str:
    if ready.get("shell") == "ipython":
        return f"IPython {ready.get('ipython')}"
    if ready.get("shell") == "mini":
        return f"built-in shell ({ready.get('shell_reason') or 'by choice'})"
    return "starting"
