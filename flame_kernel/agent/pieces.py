"""The parts of a large value as one long string of bytes, which crosses the link in pieces. Both sides import it."""

import bisect

# Bytes of one piece.
PIECE = 4 << 20


class Outgoing:
    """Parts that are there: ``size`` bytes in all; ``sizes`` is what the other side has to know first."""

    def __init__(self, parts):
        self._views = [memoryview(part).cast("B") for part in parts]
        self.sizes = [len(view) for view in self._views]
        self._starts, self.size = _starts(self.sizes)

    def piece(self, at):
        """The bytes from ``at`` on, PIECE of them at most, as views of the parts that they are in."""
        found, left = [], PIECE
        number = max(0, bisect.bisect_right(self._starts, at) - 1)
        while left and number < len(self._views):
            offset = at - self._starts[number]
            view = self._views[number][offset : offset + left]
            if len(view):
                found.append(view)
                left -= len(view)
                at += len(view)
            number += 1
        return found


class Incoming:
    """Parts that come: each in memory of its own, which is taken when the first of it is there."""

    def __init__(self, sizes):
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError("sizes that are none")
        self._sizes = list(sizes)
        self._starts, self.size = _starts(self._sizes)
        self.parts = [bytearray() for _ in self._sizes]

    def put(self, at, pieces):
        """Bytes that stand at ``at``; ValueError beyond the end."""
        for data in pieces:
            data = memoryview(data).cast("B")
            while len(data):
                number = bisect.bisect_right(self._starts, at) - 1
                if number < 0 or at >= self.size:
                    raise ValueError("a piece beyond the end")
                part, offset = self.parts[number], at - self._starts[number]
                if not part:
                    part = self.parts[number] = bytearray(self._sizes[number])
                count = min(len(data), len(part) - offset)
                part[offset : offset + count] = data[:count]
                data = data[count:]
                at += count


def _starts(sizes):
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts, total
