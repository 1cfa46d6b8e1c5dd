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
# Content that is a dict of at most FEW texts of at most SHORT characters is plain JSON: it is not converted.
FEW, SHORT = 4, 100
_TEXT = {str}


def event(msg_type, request_id, content, metadata=None, buffers=None, clean=None):
    """``(event, "")``; or ``(None, a sentence for the user)`` for a comm message that is too large, because nothing can
    replace it. ``clean`` converts content that JSON cannot represent."""
    text = _needed_text(content, clean)
    about = _as_json(metadata or {}, clean)
    size, why = _why_left_out(msg_type, text, about, buffers or ())
    made = {"type": msg_type, "request": request_id, "content": {}}
    if why and msg_type in COMMS:
        return None, "[%s%s left out: %s]\n" % (msg_type, size and " of " + size, why)
    if why:
        made["content"] = _left_out(content, "[%s left out: %s]" % (size or msg_type, why))
    elif msg_type in LARGE and len(text) > INLINE_JSON:
        made["json"] = text
    else:
        made["content"] = _now(content, text)
    if metadata and not why:
        made["metadata"] = json.loads(about.decode("utf-8"))
    if buffers:
        made["buffers"] = [bytes(b) for b in buffers]
    return made, ""


def _needed_text(content, clean):
    """The content as JSON text; empty for a few short texts, which are plain JSON as they are."""
    return b"" if _are_few_words(content) else _as_json(content, clean)


def _now(content, text):
    """The content as plain data, read from its JSON ``text``; without a text it is plain already."""
    return json.loads(text.decode("utf-8")) if text else dict(content)


def _are_few_words(content):
    if type(content) is not dict or not 0 < len(content) <= FEW:
        return False
    texts = list(content) + list(content.values())
    return set(map(type, texts)) == _TEXT and max(map(len, texts)) <= SHORT


def _as_json(content, clean):
    """The content as JSON text (bytes) at this moment: later changes to the user's objects do not show."""
    if not content and type(content) is dict:
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
