"""Where the cells of a session run, in words: what ``%flame status`` says in a kernel and of a connection."""

from __future__ import annotations

from typing import Any

from ..connect.target import PLACE_WORDS
from ..session.session import Session
from ..terminal import one_line

# Characters of it: names of the far side are in it, and whatever those are, it is one sentence of ours in one line.
MOST = 1000


def status(session: Session, how: str = "") -> str:
    """One sentence of a session that is not gone; ``how`` is the way to its server, in words."""
    ready: dict[str, Any] = {}
    if session.ready.done() and session.ready.exception() is None:
        ready = session.ready.result()
    place = session.server["place"]
    return one_line(
        f"cells run on {ready.get('host', session.server['host'])}, pid {ready.get('pid', session.server['pid'])}, "
        f"Python {ready.get('python', '?')}, {PLACE_WORDS.get(place, place)} at {session.location}"
        f"{f' ({how})' if how else ''}; session {session.session_id}; {_shell(ready)}; {session.trouble or 'link up'}",
        MOST,
    )


def _shell(ready: dict[str, Any]) -> str:
    if ready.get("shell") == "ipython":
        return f"IPython {ready.get('ipython')}"
    if ready.get("shell") == "mini":
        return f"built-in shell ({ready.get('shell_reason') or 'by choice'})"
    return "starting"
