"""Call numbers, each of which is good once: they tell an act of a client from an old message that is sent again.

Under a key nobody else can write a message, but whoever hears one can send it once more, and hold one back. So what
acts says for whom it is, in one of two ways:

- an owner's acts carry the session's epoch and a number, ``caller-count``: the caller is the one that opened the epoch,
  and its counts go up (``Numbers``)
- who owns nothing yet asks for a ticket first, by ``hello``, and uses it on the same connection (``sockets.ticket``)
"""

import re

_CALL = re.compile(r"(.{1,64})-([0-9]{1,15})")


def parsed(call):
    """``(caller, count)`` of a call's number, or None."""
    match = _CALL.fullmatch(call) if isinstance(call, str) else None
    return None if match is None else (match.group(1), int(match.group(2)))


class Numbers:
    """The numbers of one caller.

    apart   by how much a count may lie behind the highest one, for acts that begin on several threads; 0: each is
            higher than all before
    """

    def __init__(self, caller, newest=0, apart=0):
        self._caller = caller
        self._newest = newest
        self._apart = apart
        self._used = set()  # those not too far behind

    def use(self, call):
        """Whether a call has the right to act; it has it once. Not for several threads."""
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
