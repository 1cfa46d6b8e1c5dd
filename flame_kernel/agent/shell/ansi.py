"""Colours as in ipykernel: the codes, and a small syntax highlighter for lines of Python."""

import keyword
import re

RED, GREEN, YELLOW, BLUE, CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[36m"
END = "\x1b[39m"
_KEYWORD, _END_KEYWORD = "\x1b[38;5;28;01m", "\x1b[39;00m"
_COMMENT, _END_COMMENT = "\x1b[38;5;241m", END
_MARK, _END_MARK = "\x1b[30;43m", "\x1b[39;49m"

_TOKEN = re.compile(
    r"(?P<comment>\#.*)"
    r"|(?P<string>[rRbBfFuU]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"))"
    r"|(?P<number>\b\d[\w.]*)"
    r"|(?P<word>\b[^\W\d]\w*)"
)


def _token(match):
    text = match.group()
    kind = match.lastgroup
    if kind == "string":
        return YELLOW + text + END
    if kind == "number":
        return GREEN + text + END
    if kind == "comment":
        return _COMMENT + text + _END_COMMENT
    if keyword.iskeyword(text):
        return _KEYWORD + text + _END_KEYWORD
    return text


def colour(text, code):
    return code + text + END


def paint(source):
    """Python source with coloured keywords, strings, numbers and comments; returned line by line."""
    return _TOKEN.sub(_token, source)


def mark(line, start, end):
    """A coloured line of source with its characters ``start`` to ``end`` marked."""
    return paint(line[:start]) + _MARK + line[start:end] + _END_MARK + paint(line[end:])
