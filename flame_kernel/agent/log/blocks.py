"""The blocks in which the events of a journal lie, and how many bytes an event counts."""

import marshal

# Bytes that an event counts in addition to its content.
OVERHEAD = 64


def measure(text):
    """The size of a text in bytes."""
    return len(text.encode("utf-8", "surrogatepass"))


def size_of(event):
    """How many bytes an event counts."""
    content = event["content"]
    if event["type"] == "stream":
        return OVERHEAD + measure(content["text"])
    try:
        size = len(marshal.dumps(content))
    except ValueError:  # it has values that marshal cannot store; then it stays in memory
        size = 0
    size += len(event.get("json", b"")) + sum(len(b) + OVERHEAD for b in event.get("buffers") or ())
    return 4 * OVERHEAD + size


def payload(event):
    """The bytes of an event's content alone, which is what the mark of a gap counts."""
    return event["size"] - (OVERHEAD if event["type"] == "stream" else 4 * OVERHEAD)


class Block:
    """Consecutive events.

    position  the position of its first event; ``first``: that event's number, which behind a gap is right only once the
              gap is sealed
    left      bytes in it that are not acknowledged
    events    a list, or None while they are in the spill file
    output    request id -> bytes, if all its events may be dropped, else None; set when the block is closed
    """

    __slots__ = ("count", "events", "first", "left", "length", "output", "pages", "position", "size")

    def __init__(self, position, first):
        self.position = position
        self.first = first
        self.count = 0
        self.size = 0
        self.left = 0
        self.events = []
        self.output = None
        self.pages = ()
        self.length = 0
