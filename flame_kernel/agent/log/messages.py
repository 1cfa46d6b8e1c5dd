"""Makes events of messages: their content as it is at this moment, as plain JSON, no larger than an answer may be."""

import json

from ..wire import json_text
from ..wire.message import COMMS, INLINE_JSON, LARGE, why_unread
from ..wire.units import size_in_words

# Most bytes of JSON in one event, and most bytes including its buffers; a client accepts messages of 64 MiB.
MAX_CONTENT = 32 << 20
MAX_EVENT = 60 << 20


# Most buffers of one message, and most bytes of its metadata.
MAX_BUFFERS = 10000
MAX_METADATA = 64 << 10
# Content that is a dict of at most FEW short texts, small numbers and empty dicts and lists is plain JSON, and is not
# converted: such is the reply of a cell.
FEW, SHORT, SMALL = 4, 100, 1 << 30


def event(msg_type, request_id, content, metadata=None, buffers=None, clean=None):
    """``(event, "")``; or ``(None, a sentence for the user)`` for a comm message that is too large, because nothing can
    replace it. ``clean`` converts content that JSON cannot represent."""
    plain = _few(content)
    text = b"" if plain else _as_json(content, clean)
    about = _as_json(metadata, clean)
    size, why = _why_left_out(msg_type, text, about, buffers or ())
    made = {"type": msg_type, "request": request_id, "content": {}}
    if why and msg_type in COMMS:
        return None, "[%s%s left out: %s]\n" % (msg_type, size and " of " + size, why)
    if why:
        made["content"] = _left_out(content, "[%s left out: %s]" % (size or msg_type, why))
    elif msg_type in LARGE and len(text) > INLINE_JSON:
        made["json"] = text
    else:
        made["content"] = plain or _parsed(text)
    if metadata and not why:
        made["metadata"] = _parsed(about)
    if buffers:
        made["buffers"] = [bytes(b) for b in buffers]
    return made, ""


def _parsed(text):
    return json.loads(text.decode("utf-8"))


def _few(content):
    """A copy of content that is plain JSON as it is; None for other content."""
    if type(content) is not dict or not 0 < len(content) <= FEW:
        return None
    copy = {}
    for name, value in content.items():
        kind = type(value)
        if type(name) is not str or len(name) > SHORT:
            return None
        if kind is str:
            plain = len(value) <= SHORT
        elif kind is int:
            plain = -SMALL < value < SMALL
        else:
            plain = value is None or kind is bool or (kind in (dict, list) and not value)
            value = kind() if kind in (dict, list) else value  # the user's code may fill it later
        if not plain:
            return None
        copy[name] = value
    return copy


def _as_json(content, clean):
    """The content as JSON text (bytes) at this moment: later changes to the user's objects do not show."""
    if content is None or (not content and type(content) is dict):  # None: there is no metadata
        return b"{}"
    try:
        return json_text.dumps(content) if clean is None else json_text.dumps(content, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        if clean is not None:
            return json_text.dumps(clean(content))
        return json_text.dumps(content, default=repr, skipkeys=True)


def _why_left_out(msg_type, text, about, buffers):
    """``(its size in words, why a message cannot be sent)``; the reason is "" if it can."""
    size = len(text)
    whole = size + sum(len(memoryview(one)) for one in buffers)
    if size > MAX_CONTENT:
        return size_in_words(whole), "more than the %s of one message" % size_in_words(MAX_CONTENT)
    if whole > MAX_EVENT:
        return size_in_words(whole), "more than the %s of one message" % size_in_words(MAX_EVENT)
    if len(buffers) > MAX_BUFFERS:
        return "", "it has more than %d buffers" % MAX_BUFFERS
    if about[:1] != b"{" or len(about) > MAX_METADATA:
        return "", "its metadata is not an object of at most %s" % size_in_words(MAX_METADATA)
    # Large content is checked by the side that reads it, which then shows a note in its place.
    return "", "" if msg_type in LARGE or "execute" not in msg_type else why_unread(text)


def _left_out(content, note):
    """What is sent in place of content that cannot be sent: the same content with a note for its large part."""
    if "data" in content:
        return dict(content, data={"text/plain": note}, metadata={})
    if "traceback" in content:
        return dict(content, evalue=note, traceback=[note])
    return dict(content, user_expressions={}, payload=[])
