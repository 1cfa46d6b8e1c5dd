"""A `Remote` on a session that somebody else has opened, and ends: for a group that has the kernel's own host too."""

from __future__ import annotations

from collections.abc import Sequence

from ..forward.forwards import Forwards
from ..serve.embedded import OwnServer
from ..session.bootstrap import agent_text
from ..session.inbox import Event
from ..session.session import Session
from .calls import Calls
from .proxy import reference, stand_in
from .remote import Remote


class Beside(Remote):
    """Whoever has opened the session gives its events to ``take``, and shows those that it returns."""

    def __init__(self, session: Session) -> None:  # not the parent's, which opens a session
        self._own_server = OwnServer(agent_text)
        self._closed = False
        self.on_link = lambda sentence: None
        self.session = session
        self._calls = Calls(session, stand_in, reference)
        self.forwards = Forwards(session)
        self.taken_up = []

    def take(self, events: Sequence[Event]) -> list[Event]:
        """Pass on the events of calls of this `Remote`; the others, which are somebody else's. On the events thread."""
        return self._calls.take(events)
