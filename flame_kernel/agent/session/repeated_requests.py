"""Requests that come again because their answer was lost: recognized by their ids, so that no cell runs twice."""

# How many requests a session remembers.
REMEMBERED = 4096


class RepeatedRequests:
    """What a session was asked already; used under the session's lock."""

    def __init__(self):
        self._requests = {}
        self._interrupts = {}  # id of the call -> what was done

    def is_repeated(self, request_id):
        """Whether a request of this id came before; from now on it has."""
        if request_id in self._requests:
            return True
        self._requests[request_id] = True
        trim(self._requests, REMEMBERED)
        return False

    def interrupt(self, call_id):
        """What the Stop of this id has done, if it came before; None if it is new. As a second Stop, a repeated one
        could end the cell's process."""
        if call_id in self._interrupts:
            return self._interrupts[call_id]
        self.interrupted(call_id, "idle")
        trim(self._interrupts, REMEMBERED)
        return None

    def interrupted(self, call_id, done):
        """Remember what the Stop of this id has done."""
        self._interrupts[call_id] = done


def trim(table, most):
    """Forget the oldest entries of a dict, so that it has at most so many."""
    while len(table) > most:
        del table[next(iter(table))]
