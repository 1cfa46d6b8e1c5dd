"""Filters the completions that a server offers: Tab may insert only what completes the word under the cursor.

A front end writes a completion into the user's cell, and the user runs that cell; lines that begin with ``%flame`` or
``%%local`` act on this machine. So a completion from any server

- must be one line of visible characters;
- must replace only the word under the cursor;
- must not add a ``%`` or ``!`` that was not typed. In code it must be a name, a path, a literal, or the Unicode name of
  a symbol.

Completion: https://jupyter-client.readthedocs.io/en/stable/messaging.html#completion
"""

from __future__ import annotations

import ast
import keyword
import re
from dataclasses import dataclass
from typing import Any

# The most completions that are offered, and the most characters of one.
MOST, LONGEST = 5000, 1000

# Characters that end a word: those of IPython except the ones that occur in paths.
_ENDS = frozenset(" \t!@#$^&*()=+[{]}|;:'\",<>?`")
_MAGIC = re.compile(r"%{1,2}[\w.]*")
_MAGIC_LINE = re.compile(r"\s*(?:[\w, ]+=\s*)?[%!]")
# Allowed in code: names, keyword arguments, attributes, paths with escaped blanks.
_IN_CODE = re.compile(r"(?:\\.|[^\s\\;!%$`|&<>{}'\"])+", re.DOTALL)
_SYMBOL = re.compile(r"\\?[A-Z][A-Z0-9 -]*")
_TYPED_SYMBOL = re.compile(r"\\[A-Za-z0-9 -]*$")
_KIND = re.compile(r"[\w .-]{0,40}|<unknown>")


@dataclass(frozen=True)
class Offer:
    """One completion: its text, its kind (``function``, ``path``, …), and a signature; the latter two may be empty."""

    text: str
    kind: str = ""
    signature: str = ""


@dataclass(frozen=True)
class Offers:
    """Completions in place of ``code[start:end]``, in the server's order."""

    start: int
    end: int
    offers: tuple[Offer, ...] = ()

    def reply(self) -> dict[str, Any]:
        """The content of a complete_reply."""
        types = [
            {"start": self.start, "end": self.end, "text": one.text, "type": one.kind, "signature": one.signature}
            for one in self.offers
        ]
        return {
            "status": "ok",
            "matches": [one.text for one in self.offers],
            "cursor_start": self.start,
            "cursor_end": self.end,
            "metadata": {"_jupyter_types_experimental": types} if any(one.kind for one in self.offers) else {},
        }


def offered(reply: dict[str, Any], code: str, cursor: int) -> Offers:
    """The completions of a complete_reply for ``code`` that may be inserted; ``cursor`` counts code points."""
    cursor = max(0, min(cursor, len(code)))
    nothing = Offers(cursor, cursor)
    matches, start, end = reply.get("matches"), reply.get("cursor_start"), reply.get("cursor_end")
    if reply.get("status") != "ok" or not isinstance(matches, list) or type(start) is not int or type(end) is not int:
        return nothing
    place = _Place(code, cursor)
    if not (place.line <= start <= cursor <= end <= place.word_end):
        return nothing
    types = _types(reply)
    found: dict[str, Offer] = {}
    for match in matches:
        if isinstance(match, str) and len(found) < MOST and place.takes(match, start):
            found.setdefault(match, Offer(match, *types.get(match, ("", ""))))
    return Offers(start, end, tuple(found.values())) if found else nothing


def is_name(text: str) -> bool:
    """Whether ``text`` is valid in code as an attribute or a variable."""
    return len(text) <= LONGEST and text.isidentifier() and not keyword.iskeyword(text)


def identifiers(names: Any) -> list[str]:
    """The items of a server's list of names that are valid identifiers."""
    found = names if isinstance(names, (list, tuple)) else ()
    return [name for name in found if isinstance(name, str) and is_name(name)]


def modules(names: Any) -> list[str]:
    """The items of a server's list that are valid module names; these may have dots."""
    found = names if isinstance(names, (list, tuple)) else ()
    return [name for name in found if isinstance(name, str) and all(map(is_name, name.split(".")))]


def paths(names: Any) -> list[str]:
    """The items of a server's list of file names that are printable and do not look like options."""
    found = names if isinstance(names, (list, tuple)) else ()
    return [
        name
        for name in found
        if isinstance(name, str) and 0 < len(name) <= LONGEST and name.isprintable() and not name.startswith("-")
    ]


class _Place:
    """The position of the cursor in some code: its line, its word, and whether it is in a string."""

    def __init__(self, code: str, cursor: int) -> None:
        self._code = code
        self._cursor = cursor
        self.line = code.rfind("\n", 0, cursor) + 1
        before = code[self.line : cursor]
        self._on_magic_line = _MAGIC_LINE.match(before) is not None
        self._quote = _open_quote(before)
        symbol = _TYPED_SYMBOL.search(before[-200:])
        self._word = cursor - len(symbol.group()) if symbol is not None else self.line + _last_word(before)
        self.word_end = cursor
        while self.word_end < len(code) and (code[self.word_end].isalnum() or code[self.word_end] == "_"):
            self.word_end += 1

    def takes(self, match: str, start: int) -> bool:
        """Whether replacing ``code[start:cursor]`` by ``match`` changes only the word under the cursor."""
        if not (0 < len(match) <= LONGEST and match.isprintable()):
            return False
        if start < self._word:  # as in IPython, the match repeats text before the word; it must be the same
            kept = self._code[start : self._word]
            if not match.startswith(kept):
                return False
            whole = match[len(kept) :]
        else:
            whole = self._code[self._word : start] + match
        return self._may_stand(whole)

    def _may_stand(self, whole: str) -> bool:
        typed = self._code[self._word : self._cursor]
        stripped = whole.lstrip()
        if stripped.startswith(("%", "!")):
            signs = len(stripped) - len(stripped.lstrip("%"))
            typed_signs = len(typed) - len(typed.lstrip("%"))
            return stripped == whole and signs <= typed_signs and _MAGIC.fullmatch(whole) is not None
        if self._quote:
            return not _closes(whole, self._quote)
        if self._on_magic_line:
            return True
        return bool(_IN_CODE.fullmatch(whole) or _SYMBOL.fullmatch(whole) or _is_literal(whole))


def _last_word(line: str) -> int:
    """The position where the last word of ``line`` begins."""
    at = len(line)
    while at and (line[at - 1] not in _ENDS or (at > 1 and line[at - 2] == "\\")):
        at -= 1
    return at


def _open_quote(line: str) -> str:
    """The opening quote if ``line`` ends inside a string, else empty."""
    quote, at = "", 0
    while at < len(line):
        one = line[at]
        if one == "\\":
            at += 1
        elif quote:
            quote = "" if one == quote else quote
        elif one in "'\"":
            quote = one
        elif one == "#":
            return ""
        at += 1
    return quote


def _closes(text: str, quote: str) -> bool:
    """Whether ``text`` closes the string before its last character, so that code could follow."""
    body = re.sub(f"{quote}[\\])]{{0,2}}(?:, ?)?$", "", text)
    return re.search(rf"(?<!\\)(?:\\\\)*{quote}", body) is not None


def _is_literal(text: str) -> bool:
    """Whether ``text`` is a literal, as for the key of a dict; a closing bracket may follow."""
    try:
        ast.literal_eval(text.removesuffix("]").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False
    return True


def _types(reply: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Kind and signature of each match, by its text."""
    metadata = reply.get("metadata")
    listed = metadata.get("_jupyter_types_experimental") if isinstance(metadata, dict) else None
    found: dict[str, tuple[str, str]] = {}
    for one in listed[: 4 * MOST] if isinstance(listed, list) else ():
        if isinstance(one, dict) and isinstance(one.get("text"), str):
            kind, signature = one.get("type"), one.get("signature")
            kind = kind if isinstance(kind, str) and _KIND.fullmatch(kind) else ""
            fits = isinstance(signature, str) and len(signature) <= LONGEST and signature.isprintable()
            found.setdefault(one["text"], (kind, signature if fits and isinstance(signature, str) else ""))
    return found
