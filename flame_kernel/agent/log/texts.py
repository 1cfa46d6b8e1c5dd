"""Which text events may still grow: what a cell prints is added to the newest one of its stream, so that not each word
is an event.

The streams of a cell keep their order: what comes on stderr after text on stdout begins an event of its own, and so
does the text after it. The cells may change between their streams TURNS times a second in all; beyond that the streams
of a cell grow side by side, as those of different cells always do.
"""

import time

# How often the cells may change between their streams: per second, and how many unused changes are saved up.
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
        """Another event has come: text after it begins a new event."""
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
