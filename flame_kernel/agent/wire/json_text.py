"""JSON text of large messages, written and looked through at the pace of copying. Both sides import it.

A page of HTML, a picture or a long value is one string of megabytes among a few short ones: a look at each byte of it
takes several times as long as is needed.
"""

import json

# Quotes that ``outside`` looks at, one by one, before it gives up.
QUOTES = 20000
# Backslashes in a row that it looks back at.
BACK = 64


def dumps(content, **options):
    """What ``json.dumps`` makes of it with these options, as UTF-8; lone surrogates are escapes there."""
    try:
        return json.dumps(content, ensure_ascii=False, **options).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, **options).encode("ascii")


def without_strings(text):
    """What of JSON text (bytes) stands outside its strings, each of which is ``""`` there; None where there are so many
    quotes that this is not worth while."""
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
