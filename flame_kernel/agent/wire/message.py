"""The messages that cross the link: their names, version and codec. Both sides import it.

A message is one ``bytes``::

    4   magic ``FLM1`` (the digit is PROTOCOL)
    4   length of the JSON text, big endian
    4   number of buffers
    8   length of each buffer, as many times
    …   the JSON text (ASCII: lone surrogates and NUL survive as escapes)
    …   the buffers, one behind the other

so binary data (images, arrays, long output) never passes through JSON, as in Jupyter's own messages.  A request is
``{"op": …, "n": call id, …}``; the answer repeats ``n`` and holds either ``result`` or ``error``.  Reading a message
builds only ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``None`` and ``memoryview``.
"""

import json
import struct
import sys

from . import json_text

PROTOCOL = 1
MAGIC = b"FLM1"

# The agent's entry points, below its package. Flame's ``invokeModule`` calls all but the one where a child begins.
HANDLE, CARRY = "handle.handle", "handle.carry"
TAKE_FILES, CALL_FILES = "handle.take_files", "handle.call_files"
FORWARD = "handle.forward"
PART, REST = "handle.part", "handle.rest"
CHILD = "session.child.main.main"
# The most bytes that Pyro and pickle add to a message.
SPARE = 4096

# Comm messages; both directions use these names.
COMMS = ("comm_open", "comm_msg", "comm_close")

# Message types whose content may be large: beyond INLINE_JSON characters, the JSON text travels as a buffer of its own.
# The far side writes that text once and this side parses it once; everything in between passes it on as bytes.
LARGE = ("display_data", "update_display_data", "execute_result", "error") + COMMS
INLINE_JSON = 4096

# A buffer shorter than this is cheaper inside the JSON text.
INLINE_TEXT = 1024

# Limits of one message: two characters of JSON (a list or a number) become a Python object 30 times as large.
MAX_BUFFERS = 100000
MAX_VALUES = 2000000
# For long lists of numbers, such as a plot's points: how many numbers, and how many other values among them.
MAX_NUMBERS, FEW = 3 * MAX_VALUES, 100000
# Most digits of an integer: Python's own limit, where it has one, because longer ones take seconds to parse.
MAX_DIGITS = 4300
_limit = getattr(sys, "get_int_max_str_digits", int)

# A dict of more names than this is not looked at one by one.
FEW_NAMES = 100

# Escapes that Python accepts in JSON text but other programs read differently.
_SURROGATES = (b"\\ud", b"\\uD")

_HEAD = struct.Struct(">4sII")
_DIGITS = bytes(48 if chr(code) in "123456789" else code for code in range(256))  # each digit becomes a 0
_decoder = json.JSONDecoder()
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False)


class WireError(ValueError):
    """The bytes are no message of this protocol."""


def encode(message, buffers=()):
    """One message as bytes; ``message`` is a JSON-able ``dict``, ``buffers`` are bytes-like, in order."""
    return b"".join(parts(message, buffers))


def parts(message, buffers=()):
    """The parts of the bytes of ``encode``, which are not copied."""
    text = _encoder.encode(message).encode("ascii")
    views = [memoryview(b).cast("B") if not isinstance(b, bytes) else b for b in buffers]
    head = _HEAD.pack(MAGIC, len(text), len(views))
    sizes = struct.pack(">%dQ" % len(views), *[len(v) for v in views])
    return [head, sizes, text] + views


def decode(data, limit=None):
    """The ``(message, buffers)`` in ``data``; buffers are memoryviews of it, not copies.

    Raises WireError for anything that ``encode`` cannot have written, or that is longer than ``limit`` bytes.
    """
    view = memoryview(data)
    if limit is not None and len(view) > limit:
        raise WireError("message of %d bytes, the limit is %d" % (len(view), limit))
    if len(view) < _HEAD.size:
        raise WireError("message of %d bytes is too short" % len(view))
    magic, text_size, count = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise WireError("not a message of protocol %d" % PROTOCOL)
    if count > MAX_BUFFERS:
        raise WireError("message of %d buffers, the limit is %d" % (count, MAX_BUFFERS))
    at = _HEAD.size + 8 * count
    if at + text_size > len(view):
        raise WireError("message is cut short")
    sizes = struct.unpack_from(">%dQ" % count, view, _HEAD.size)
    if at + text_size + sum(sizes) != len(view):
        raise WireError("message lengths do not add up")
    text = bytes(view[at : at + text_size])
    if has_too_many_values(text):
        raise WireError("message of more than %d values" % MAX_VALUES)
    try:
        message = read_json(text)
    except (ValueError, RecursionError) as e:
        raise WireError("message is not JSON: %s" % e)
    if not isinstance(message, dict):
        raise WireError("message is not an object")
    at += text_size
    buffers = []
    for size in sizes:
        buffers.append(view[at : at + size])
        at += size
    return message, buffers


def read_json(text, digits=MAX_DIGITS, encoding="ascii", **options):
    """Parse JSON text (bytes); ValueError if it is not JSON, or has an integer of more than ``digits`` digits."""
    # Text without that many digits in a row, which is nearly all text, is parsed at full speed.
    if (digits < MAX_DIGITS or not 0 < _limit() <= MAX_DIGITS) and has_digits(text, digits):

        def whole(number):
            if len(number.lstrip("-")) > digits:
                raise ValueError("a number of %d digits" % len(number))
            return int(number)

        options["parse_int"] = whole
    text = text.decode(encoding)
    return json.loads(text, **options) if options else _decoder.decode(text)


def has_digits(text, count):
    """Whether ``text`` (bytes) has ``count`` digits in a row anywhere."""
    return b"0" * count in text.translate(_DIGITS)


def has_too_many_values(text):
    """Whether JSON text holds more than MAX_VALUES values; what is inside a string (a page of HTML) is not counted."""
    if len(text) <= MAX_VALUES:
        return False
    rest = json_text.without_strings(text)
    if rest is not None:
        return _count(rest) > MAX_VALUES
    if _count(text) <= MAX_VALUES:
        return False
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = at = 0
    while at >= 0 and found <= MAX_VALUES:
        start = text.find(b'"', at)
        found += 1 + _count(text[at : start if start >= 0 else len(text)])
        at = text.find(b'"', start + 1) + 1 if start >= 0 else -1
        if at == 0:
            return False  # an unterminated string is not JSON; the parser will report it
    return found > MAX_VALUES


def why_unread(text):
    """Why the JSON text (bytes) of a cell's message is refused, in words; "" if it can be read."""
    rest = json_text.without_strings(text)
    text = text if rest is None else rest
    if has_too_many_values(text):
        others = text.count(b"[") + text.count(b"{") + text.count(b'"')
        most = MAX_NUMBERS if others <= FEW else MAX_VALUES
        if most == MAX_VALUES or text.count(b",") > most:
            return "it has more than {:,} values".format(most)
    if len(text) > MAX_DIGITS and has_digits(text, MAX_DIGITS + 1):
        return "it has a number of more than {:,} digits".format(MAX_DIGITS)
    return ""


def _count(text):
    return len(text) - len(text.translate(None, b",[{"))


def encode_events(events):
    """Events as ``(list for the JSON text, buffers)``.

    An event is ``{"type", "request", "content", "metadata"?, "buffers"? (list of bytes), "number"?}``.  Long stream
    text leaves the JSON as a UTF-8 buffer (``"text_buffer": index``), other buffers as ``"buffers": [index, …]``.
    For large content there is ``"json"``, its text as bytes, which becomes a buffer (``"json_buffer": index``).
    """
    plain, buffers = [], []
    for event in events:
        event = dict(event)
        if event.get("buffers"):
            first = len(buffers)
            buffers.extend(event["buffers"])
            event["buffers"] = list(range(first, len(buffers)))
        if event["type"] == "stream" and len(event["content"]["text"]) > INLINE_TEXT:
            event["text_buffer"] = len(buffers)
            buffers.append(event["content"]["text"].encode("utf-8", "surrogatepass"))
            event["content"] = {"name": event["content"]["name"]}
        if "json" in event:
            event["json_buffer"] = len(buffers)
            buffers.append(event.pop("json"))
        plain.append(event)
    return plain, buffers


def decode_events(plain, buffers, keep=False):
    """The inverse of encode_events; raises WireError for events that it cannot have written.

    Large content is parsed, or with ``keep`` left as text; if it cannot be read, the event is a line that says so.
    Beside the parsed content there is ``"packed"``: that very object and its text, for those who pass it on unchanged.
    """
    events = []
    left = len(buffers)  # each is used once: a megabyte referenced a million times would become a million megabytes
    try:
        for event in plain:
            event = dict(event)
            left -= len(event.get("buffers", ())) + ("text_buffer" in event) + ("json_buffer" in event)
            if left < 0:
                raise WireError("events that share their buffers")
            if "text_buffer" in event:
                raw = buffers[event.pop("text_buffer")]
                event["content"] = dict(event["content"], text=str(raw, "utf-8", "surrogatepass"))
            if "json_buffer" in event:
                event = _with_content(event, buffers[event.pop("json_buffer")], keep)
            if "buffers" in event:
                event["buffers"] = [buffers[i] for i in event["buffers"]]
            if not isinstance(event["type"], str) or not isinstance(event["content"], dict):
                raise WireError("event of the wrong shape")
            if not isinstance(event.get("request"), (str, type(None))):
                raise WireError("event of a request that has no name")
            if not isinstance(event.get("metadata", {}), dict):
                raise WireError("event of the wrong shape")
            events.append(event)
    except (KeyError, IndexError, TypeError, ValueError, UnicodeError) as e:
        raise WireError("event of the wrong shape: %r" % (e,))
    return events


def _may_have_surrogates(content, text):
    """Whether JSON text, which was read as ``content``, has an escape of a surrogate. Most content is a few ASCII
    strings, which have none; the text of others is searched, which takes half as long as reading it."""
    if _is_ascii(content):
        return False
    first = text.find(b"\\")
    return first >= 0 and text.find(b"\\u", first) >= 0 and any(escape in text for escape in _SURROGATES)


def _is_ascii(value, depth=3):
    """Whether all text in a value is known to be ASCII; False where that would take long to find out."""
    if isinstance(value, dict) and depth and len(value) <= FEW_NAMES:
        return all(name.isascii() and _is_ascii(item, depth - 1) for name, item in value.items())
    return value.isascii() if isinstance(value, str) else not isinstance(value, (dict, list)) or not value


def _with_content(event, text, keep):
    """An event with its large content, or with a note in its place."""
    if event["type"] not in LARGE:
        raise WireError("event of the wrong shape")
    if keep:
        return dict(event, json=text)
    text = bytes(text)
    why = why_unread(text)
    try:
        if not why:
            strange = []  # NaN and Infinity, which browsers do not read
            content = read_json(text, encoding="utf-8", parse_constant=lambda word: strange.append(word) or float(word))
            is_alike = not strange and not _may_have_surrogates(content, text)
            return dict(event, content=content, packed=(content, text) if is_alike else None)
    except (ValueError, RecursionError) as e:
        why = "it cannot be read: %s" % e
    left = {name: event[name] for name in ("request", "number") if name in event}
    words = "[%s left out: %s]\n" % (event["type"], why)
    return dict(left, type="stream", content={"name": "stderr", "text": words})
