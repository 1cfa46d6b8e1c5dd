"""Which text may still grow: what a cell prints joins the newest text of its stream, so that a word costs no event.

The streams of a cell keep their order: what comes on stderr after text on stdout begins an event of its own, and so
does the text after it. A cell that changes between them without end is allowed so many turns a second; beyond that its
streams grow side by side, as those of different cells always do.
"""

import time

# Turns between the streams of a cell that begin an event: a second, and how many unused ones are saved up.
TURNS, TURNS_SAVED = 60, 240


class Texts:
    """The newest text event of each cell and stream, by ``(request, stream name)``."""

    def __init__(self):
        self._growing = {}  # key -> (position, event)
        self._latest = {}  # request -> the key of its latest text
        self._turns = TURNS_SAVED
        self._since = time.monotonic()

    def __repr__(self):
        return "<Texts %d growing>" % len(self._growing)

    def clear(self):
        """Something else has come: all text after it begins anew."""
        self._growing.clear()
        self._latest.clear()

    def growing(self, key):
        """``(position, event)`` of the text that ``key``'s next text may join; position 0 if there is none."""
        latest, self._latest[key[0]] = self._latest.get(key[0], key), key
        if latest != key and key in self._growing and self._may_turn():
            del self._growing[key]
        return self._growing.get(key, (0, None))

    def began(self, key, position, event):
        """Text of ``key`` has begun an event."""
        self._growing[key] = position, event

    def _may_turn(self):
        now = time.monotonic()
        self._turns = min(TURNS_SAVED, self._turns + TURNS * (now - self._since))
        self._since = now
        if self._turns < 1:
            return False
        self._turns -= 1
        return True
