"""The sessions of a server as a table, and sentences about them: the same in the kernel, the magics and the shell."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

from ..connect.units import moment_in_words, size_in_words, time_in_words
from ..errors import FlameError
from .tables import aligned

COLUMNS = ("session", "place", "notebook", "started", "state", "runs", "waiting", "client")
# Columns that are shown only where a session has something there; and those that may be cut, to so many characters.
_OPTIONAL = ("notebook", "runs", "waiting")
_SHORTENED = {"runs": 10, "notebook": 10, "client": 10}
# Characters of the code of a cell that a table shows.
CODE_WIDTH = 30


def lines(living: Iterable[dict[str, Any]], own: str = "") -> list[str]:
    """A heading, and a line for each session that the agent has told of; ``own`` is the name of the one that asks. Then
    the process that is ready there for the next one. One sentence where there is no session."""
    living = list(living)
    rows = [_row(one, own) for one in living]
    if not rows:
        return ["no sessions on this server"]
    filled = [
        name not in _OPTIONAL or any(cell != "-" for cell in column)
        for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    ]
    heading, *rows = [tuple(itertools.compress(row, filled)) for row in (COLUMNS, *rows)]
    shortened = {heading.index(name): least for name, least in _SHORTENED.items() if name in heading}
    spare = next((one["spare"] for one in living if one.get("spare")), None)
    ready = [f"process {spare} is ready there for the next session in a child"] if spare else []
    return [*aligned([heading, *rows], shortened), *ready]


def no_session(name: str) -> FlameError:
    """There is no session of that name on the server."""
    return FlameError(f"there is no session {name} there; %flame sessions lists them")


def in_use(error: Exception, name: str) -> FlameError:
    """Another client has the session, as the ``error`` of the far side says."""
    return FlameError(f"{error}; %flame attach {name} with --ask, --force or --watch")


def is_asked(whose: str) -> str:
    """What ``--ask`` says while it waits."""
    return f"asked {whose}; waiting for an answer (Stop or Ctrl-C ends the wait)"


def is_kept(whose: str, name: str) -> FlameError:
    """The client that was asked keeps its session."""
    return FlameError(f"{whose} keeps the session {name}; --watch shows its output, --force takes it")


def asks(client: str) -> str:
    """What the client that has a session is told when another one asks for it."""
    return f"{client} asks for this session: %flame allow hands it over, %flame refuse keeps it\n"


def is_answered(client: str, allow: bool, done: Any) -> str:
    """What ``%flame allow`` and ``%flame refuse`` have done; ``done`` is the far side's answer."""
    if not (isinstance(done, dict) and done.get("done")):
        return f"{client} is no longer waiting"
    return f"{client} may have this session" if allow else f"{client} is refused"


def is_watched(name: str) -> str:
    return f"watching session {name}; Stop or Ctrl-C ends it"


def is_left(name: str, location: str) -> str:
    """A session was detached."""
    return f"detached from {name} at {location}; it keeps running. Come back: %flame attach {name}"


def first_line(code: Any) -> str:
    """The first line of a cell, short."""
    lines = str(code or "").strip().splitlines()
    line = lines[0] if lines else ""
    return line if len(line) <= CODE_WIDTH else line[: CODE_WIDTH - 1] + "…"


def _row(one: dict[str, Any], own: str) -> tuple[str, ...]:
    name = str(one.get("session"))
    if one.get("attached"):
        client = str(one.get("client") or "yes")
    else:
        client = f"none for {time_in_words(one['alone'])}" if one.get("alone") is not None else "none"
    return (
        f"{name} (this one)" if own and name == own else name,
        str(one.get("place") or "-"),
        str(one.get("notebook") or "-").rpartition("/")[2],
        _since(one.get("started")),
        str(one.get("state") or "-"),
        first_line(one.get("code")) or "-",
        size_in_words(one["waiting"]) if one.get("waiting") else "-",
        client,
    )


def _since(started: object) -> str:
    """When a session began: the time if that is today, or the day."""
    day = moment_in_words(started, "%Y-%m-%d")
    return moment_in_words(started, "%H:%M") if day == time.strftime("%Y-%m-%d") else day
