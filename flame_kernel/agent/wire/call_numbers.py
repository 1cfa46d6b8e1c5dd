"""Call numbers: each is valid once, so a new request of a client cannot be confused with a replayed one.

With a key nobody else can write a message, but someone on the network can still repeat one or hold one back.  So each
call that acts says who sent it, in one of two ways:

- calls of a session's owner carry the session's epoch and a number ``caller-count``: the caller is the one that opened
  the epoch, and its counts go up (``Numbers``)
- a client that owns nothing yet first gets a ticket from ``hello``, and uses it on the same connection
  (``sockets.ticket``)
"""

import re

_CALL = re.compile(r"(.{1,64})-([0-9]{1,15})")


def parsed(call):
    """``(caller, count)`` of a call number, or None if it is malformed."""
    match = _CALL.fullmatch(call) if isinstance(call, str) else None
    return None if match is None else (match.group(1), int(match.group(2)))


class Numbers:
    """The numbers that one caller has used.

    apart   how far a count may lie behind the highest one, for calls that start on several threads; 0: each must be
            higher than all before
    """

    def __init__(self, caller, newest=0, apart=0):
        self._caller = caller
        self._newest = newest
        self._apart = apart
        self._used = set()  # only those within ``apart`` of the newest

    def use(self, call):
        """Whether this call may act; True only once per number. Not thread-safe."""
        found = parsed(call)
        if found is None or found[0] != self._caller:
            return False
        count = found[1]
        if count <= self._newest - self._apart or count in self._used:
            return False
        if not self._apart:
            self._newest = count
            return True
        self._newest = max(self._newest, count)
        self._used.add(count)
        if len(self._used) > 2 * self._apart:
            self._used = {one for one in self._used if one > self._newest - self._apart}
        return count > self._newest - self._apart
