"""The parts of a large value as one long string of bytes, which crosses the link in chunks. Both sides import it.

By requests, a PIECE in each; or over a connection that is taken over (see ``bulk``): chunk behind chunk from ``at`` on,
CHUNK bytes each and the last one what is left.  How long the parts are is told beforehand, so nothing stands between
the chunks; but where the server has an HMAC key each is followed by 32 bytes of BLAKE2b of its number and its content,
keyed for this connection and this direction (``Seal``).
"""

import bisect
import hashlib
import hmac
import mmap
import struct

# Bytes that go in one request.
PIECE = 4 << 20
# Bytes between two seals.
CHUNK = 1 << 20
SEAL = 32
# What the receiver says in the end.
DONE = b"k"
# A part of so many bytes has pages of its own, which are not filled with zeros first.
OWN_PAGES = 1 << 20

_NUMBER = struct.Struct(">Q")


class Damaged(ValueError):
    """A chunk that the other side cannot have sent."""


class Outgoing:
    """Parts that are there: ``size`` bytes in all; ``sizes`` is what the other side has to know first."""

    def __init__(self, parts):
        self._views = [memoryview(part).cast("B") for part in parts]
        self.sizes = [len(view) for view in self._views]
        self._starts, self.size = _starts(self.sizes)

    def piece(self, at, size):
        """The bytes from ``at`` on, ``size`` of them at most, as views of the parts that they are in."""
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
    """Parts that come, each in memory of its own that can be written to; it is taken when the first of it is there.

    ``size`` is how many bytes they have, ``come`` how many of these have come, from the first one on.
    """

    def __init__(self, sizes):
        if not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError("sizes that cannot be")
        self._sizes = list(sizes)
        self._starts, self.size = _starts(self._sizes)
        self.come = 0
        self.parts = [bytearray() for _ in self._sizes]

    def put(self, at, pieces):
        """Bytes that stand at ``at``; ValueError beyond the end."""
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
        """Where the bytes from ``at`` on belong, as a view of ``size`` bytes; None where that is in several parts."""
        part, offset = self._part(at)
        return memoryview(part)[offset : offset + size] if offset + size <= len(part) else None

    def has(self, end):
        """All is there up to ``end``: whoever fills in what is behind it has seen to what is before it."""
        self.come = max(self.come, end)

    def _part(self, at):
        number = bisect.bisect_right(self._starts, at) - 1
        if number < 0 or at >= self.size:
            raise ValueError("a piece beyond the end")
        if not len(self.parts[number]):
            self.parts[number] = _memory(self._sizes[number])
        return self.parts[number], at - self._starts[number]


class Seal:
    """The keyed sums of one direction's chunks."""

    def __init__(self, key):
        self._key = key
        self._count = 0

    def next(self, chunk):
        """The sum of the next chunk."""
        total = hashlib.blake2b(_NUMBER.pack(self._count), key=self._key, digest_size=SEAL)
        total.update(chunk)
        self._count += 1
        return total.digest()


def send(outgoing, at, send, seal=None):
    """Everything from ``at`` on; ``send`` takes a bytes-like object whole."""
    while at < outgoing.size:
        found = outgoing.piece(at, CHUNK)
        chunk = found[0] if len(found) == 1 else b"".join(found)
        send(chunk)
        if seal is not None:
            send(seal.next(chunk))
        at += len(chunk)


def receive(incoming, at, receive, seal=None):
    """Everything from ``at`` on; ``receive`` fills a memoryview. Raises Damaged."""
    between, told = memoryview(bytearray(CHUNK)), bytearray(SEAL)
    while at < incoming.size:
        size = min(CHUNK, incoming.size - at)
        room = incoming.room(at, size)
        chunk = between[:size] if room is None else room
        receive(chunk)
        if seal is not None:
            receive(memoryview(told))
            if not hmac.compare_digest(seal.next(chunk), bytes(told)):
                raise Damaged("a chunk whose checksum is not that of its content")
        if room is None:
            incoming.put(at, [chunk])
        at += size
        incoming.has(at)


def length(size, sealed):
    """How many bytes cross the connection for so many of content."""
    return size + (SEAL * -(-size // CHUNK) if sealed else 0)


def _memory(size):
    """Memory that is written for the first time by what comes: a bytearray is filled with zeros first, and the system
    gives it page by small page, which together take longer than the receiving."""
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
            pass  # a kernel without them
    return memoryview(pages)


def _starts(sizes):
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts, total
