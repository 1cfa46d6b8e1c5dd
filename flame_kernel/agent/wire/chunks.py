"""The parts of a large value as one sequence of bytes, which crosses the link in chunks. Both sides import it.

It travels in requests of PIECE bytes each, or over a connection that is taken over (see ``bulk``): from ``at`` on, in
chunks of CHUNK bytes, the last one shorter.  The lengths of the parts are sent beforehand, so nothing stands between
the chunks.  If the server has an HMAC key, each chunk is followed by its seal for this connection and this direction,
see ``seals``.
"""

import bisect
import hmac
import mmap

from . import seals

# Bytes per request.
PIECE = 4 << 20
# Bytes between two seals.
CHUNK = 1 << 20
# What the receiver sends when it has everything.
DONE = b"k"
# A part of this size or more gets memory pages of its own, which are not filled with zeros first.
OWN_PAGES = 1 << 20


class Damaged(ValueError):
    """A chunk arrived that the other side cannot have sent."""


class Outgoing:
    """The parts to send: ``size`` bytes in all; ``sizes`` is the list that the other side needs first."""

    def __init__(self, parts):
        self._views = [memoryview(part).cast("B") for part in parts]
        self.sizes = [len(view) for view in self._views]
        self._starts, self.size = _starts(self.sizes)

    def piece(self, at, size):
        """At most ``size`` bytes from ``at`` on, as a list of views of the parts."""
        found, left = [], size
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
    """The parts that arrive, each in its own writable memory, which is allocated when its first byte arrives.

    ``size`` is the number of bytes in all, ``come`` how many have arrived so far, counted from the start.
    """

    def __init__(self, sizes):
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError("impossible sizes")
        self._sizes = list(sizes)
        self._starts, self.size = _starts(self._sizes)
        self.come = 0
        self.parts = [bytearray() for _ in self._sizes]

    def put(self, at, pieces):
        """Store bytes at position ``at``; ValueError beyond the end."""
        for data in pieces:
            data = memoryview(data).cast("B")
            while len(data):
                part, offset = self._part(at)
                count = min(len(data), len(part) - offset)
                part[offset : offset + count] = data[:count]
                data = data[count:]
                at += count
        self.has(at)

    def room(self, at, size):
        """Where to write the bytes from ``at`` on, as a view of ``size`` bytes; None if they span several parts."""
        part, offset = self._part(at)
        return memoryview(part)[offset : offset + size] if offset + size <= len(part) else None

    def has(self, end):
        """Record that everything up to ``end`` has arrived: callers fill in bytes from the start on, without gaps."""
        self.come = max(self.come, end)

    def _part(self, at):
        number = bisect.bisect_right(self._starts, at) - 1
        if number < 0 or at >= self.size:
            raise ValueError("a piece beyond the end")
        if not len(self.parts[number]):
            self.parts[number] = _memory(self._sizes[number])
        return self.parts[number], at - self._starts[number]


def send(outgoing, at, send, seal=None):
    """Send everything from ``at`` on; ``send`` must send a bytes-like object whole."""
    while at < outgoing.size:
        found = outgoing.piece(at, CHUNK)
        chunk = found[0] if len(found) == 1 else b"".join(found)
        send(chunk)
        if seal is not None:
            send(seal(chunk))
        at += len(chunk)


def receive(incoming, at, receive, seal=None):
    """Receive everything from ``at`` on; ``receive`` fills a memoryview. Raises Damaged."""
    between, told = memoryview(bytearray(CHUNK)), bytearray(seals.SIZE)
    while at < incoming.size:
        size = min(CHUNK, incoming.size - at)
        room = incoming.room(at, size)
        chunk = between[:size] if room is None else room
        receive(chunk)
        if seal is not None:
            receive(memoryview(told))
            if not hmac.compare_digest(seal(chunk), bytes(told)):
                raise Damaged("a chunk whose checksum is not that of its content")
        if room is None:
            incoming.put(at, [chunk])
        at += size
        incoming.has(at)


def length(size, sealed):
    """How many bytes cross the connection for ``size`` bytes of content."""
    return size + (seals.SIZE * -(-size // CHUNK) if sealed else 0)


def _memory(size):
    """Writable memory that is not filled beforehand. A bytearray is filled with zeros first, and the system maps it in
    small pages; together that takes longer than receiving the data."""
    private = getattr(mmap, "MAP_PRIVATE", None)
    if size < OWN_PAGES or private is None:
        return bytearray(size)
    try:
        pages = mmap.mmap(-1, size, flags=private | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError("no room for %d bytes" % size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without huge pages
    return memoryview(pages)


def _starts(sizes):
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts, total
