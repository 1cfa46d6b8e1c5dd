"""Writes and scans the JSON text of large messages, about as fast as copying it. Both sides import it.

A page of HTML, a picture or a long value is one string of megabytes among a few short ones.  Looking at each of its
bytes would take several times as long as copying it.
"""

import json

# How many quotes ``without_strings`` looks at, one by one, before it gives up.
QUOTES = 20000
# The most backslashes before a quote that it counts.
BACK = 64

_encoder = json.JSONEncoder(ensure_ascii=False)


def dumps(content, **options):
    """``json.dumps(content, **options)`` as UTF-8; text with lone surrogates is escaped."""
    try:
        text = json.dumps(content, ensure_ascii=False, **options) if options else _encoder.encode(content)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, **options).encode("ascii")


def without_strings(text):
    """JSON text (bytes) with each string replaced by ``""``; None if there are so many quotes that it is not worth the
    time."""
    parts, at, left = [], 0, QUOTES
    while True:
        start = text.find(b'"', at)
        parts.append(text[at : start if start >= 0 else len(text)])
        if start < 0:
            return b'""'.join(parts)
        at = start + 1
        while True:
            end = text.find(b'"', at)
            left -= 1
            if left < 0 and end >= 0:
                return None
            before = text[max(start + 1, end - BACK) : max(end, 0)]
            slashes = len(before) - len(before.rstrip(b"\\"))
            if slashes == BACK:
                return None
            at = end + 1
            if end < 0 or not slashes % 2:
                break
        if end < 0:  # a string without an end; the parser will report it
            return b'""'.join(parts)
