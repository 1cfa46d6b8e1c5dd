"""Prepares completion in a session while nobody waits, so that the first Tab is quick.

The far side's first completion imports jedi: a second, and 40 MB of its memory. So it is asked for one beforehand, but
only where somebody edits, and once a cell has run: a notebook that is run by a program never needs it.
"""

from __future__ import annotations

import asyncio
import uuid
import weakref

from ..session.session import Session

# Requests that only a front end with an editor sends.
EDITING = frozenset(
    [
        "comm_info_request",
        "complete_request",
        "debug_request",
        "history_request",
        "inspect_request",
        "is_complete_request",
    ]
)
# Seconds of quiet after a cell before that.
QUIET = 1.0
# What is completed: a module's names, so that jedi has been used once.
_CODE = "import os\nos.path.jo"


class FirstTab:
    """Prepares completion for one kernel. Its methods are called on the event loop; ``heard`` on any thread."""

    def __init__(self) -> None:
        self._edits = False
        self._ready: weakref.WeakSet[Session] = weakref.WeakSet()
        self._timer: asyncio.TimerHandle | None = None

    def heard(self, msg_type: str) -> None:
        """A message of that type has come."""
        self._edits = self._edits or msg_type in EDITING

    def cell_begins(self) -> None:
        """A cell begins: the far side has something else to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cell_ended(self, session: Session | None) -> None:
        """A cell has ended, which ran in ``session``."""
        self.cell_begins()
        if self._edits and session is not None and session not in self._ready:
            self._timer = asyncio.get_running_loop().call_later(QUIET, self._prepare, session)

    def _prepare(self, session: Session) -> None:
        self._timer = None
        if session.gone is None:
            self._ready.add(session)
            session.complete(uuid.uuid4().hex, _CODE, len(_CODE))
