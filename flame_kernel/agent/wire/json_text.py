"""JSON text of large messages, written and looked through at the pace of copying. Both sides import it.

A page of HTML, a picture or a long value is one string of megabytes among a few short ones.  Python's own encoder, and
a look at each byte of it, take several times as long as is needed.
"""

import json

# Characters of a string from which on it is written here and not by Python's encoder.
LONG = 1 << 14
# Quotes that ``outside`` looks at, one by one, before it gives up.
QUOTES = 20000
# Backslashes in a row that it looks back at.
BACK = 64

_CONTROL = bytes(range(32))
_ESCAPES = ((b"\\", b"\\\\"), (b'"', b'\\"'), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r"))


def string(text):
    """A text as a JSON string in UTF-8. Raises UnicodeEncodeError where it has a lone surrogate."""
    data = text.encode("utf-8")
    if len(data) > LONG:
        for one, escape in _ESCAPES:
            if one in data:
                data = data.replace(one, escape)
        if len(data.translate(None, _CONTROL)) == len(data):
            return b'"' + data + b'"'
    return json.dumps(text, ensure_ascii=False).encode("utf-8")


def dumps(content, **options):
    """What ``json.dumps`` makes of a dict with these options, as UTF-8; lone surrogates are escapes there.

    It is quick where a long string is a value of the dict, or of a dict in it.
    """
    try:
        if _has_long(content) or any(type(value) is dict and _has_long(value) for value in content.values()):
            return _object(content, options)
        return json.dumps(content, ensure_ascii=False, **options).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, **options).encode("ascii")


def _has_long(value):
    return any(type(one) is str and len(one) > LONG for one in value.values()) and all(
        type(key) is str for key in value
    )


def _object(value, options):
    parts = []
    for key, one in value.items():
        if type(key) is not str:
            return json.dumps(value, ensure_ascii=False, **options).encode("utf-8")
        if type(one) is str:
            text = string(one)
        elif type(one) is dict and _has_long(one):
            text = _object(one, options)
        else:
            text = json.dumps(one, ensure_ascii=False, **options).encode("utf-8")
        parts.append(string(key) + b": " + text)
    return b"{" + b", ".join(parts) + b"}"


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
