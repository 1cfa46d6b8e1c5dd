"""Messages as events: plain JSON, as their content is now, and no larger than an answer may be."""

import json

from ..amounts import size_in_words
from ..wire.message import COMMS

# Bytes of JSON in one event, and with its buffers; a client takes messages of 64 MiB.
MAX_CONTENT = 32 << 20
MAX_EVENT = 60 << 20


def event(msg_type, request_id, content, metadata=None, buffers=None):
    """``(event, "")``; or ``(None, a sentence for the user)`` for a comm's message that is too large: nothing can stand
    for it."""
    content, size = _plain(content)
    made = {"type": msg_type, "request": request_id, "content": content}
    if metadata:
        made["metadata"] = _plain(metadata)[0]
    if buffers:
        made["buffers"] = [bytes(b) for b in buffers]
    if msg_type in COMMS:
        whole = size + sum(map(len, made.get("buffers", ())))
        if whole > MAX_EVENT or size > MAX_CONTENT:
            most = MAX_EVENT if size <= MAX_CONTENT else MAX_CONTENT
            words = "[%s of %s left out: more than the %s of one message]\n"
            return None, words % (msg_type, size_in_words(whole), size_in_words(most))
    elif size > MAX_CONTENT:
        made["content"] = _left_out(msg_type, content, size)
    return made, ""


def _plain(content):
    """``(content as JSON will carry it, its size)``: later changes of the user's objects do not show."""
    try:
        text = json.dumps(content)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(content, default=repr, skipkeys=True)
    return json.loads(text), len(text)


def _left_out(msg_type, content, size):
    """What is sent in place of content too large for one message: the same, a note for its large part."""
    note = "[%s left out: more than the %s of one message]" % (size_in_words(size), size_in_words(MAX_CONTENT))
    if "data" in content:
        return dict(content, data={"text/plain": note}, metadata={})
    if "traceback" in content:
        return dict(content, evalue=note, traceback=[note])
    return dict(content, user_expressions={}, payload=[])
