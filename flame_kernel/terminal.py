"""Text for a terminal: what may stay in text that a server sends.

A terminal obeys escape sequences: they set its title, write to the clipboard (OSC 52), move the cursor over what was
said before, and answer as if the user had typed. Colours (SGR) do none of that and stay, and so do tab, newline,
carriage return and backspace, of which progress bars are made. All else goes, in both its spellings (ESC [ and the
C1 control 0x9B mean the same).

The grammar is ECMA-48's, sections 5.3 to 5.6; a string that a sequence brings along ends with its line at the latest.

Four measures, each stricter than the one before::

    clean          output: colours, tabs, ends of lines, carriage return and backspace
    coloured_text  a traceback, a repr: nothing that moves back, nothing that turns the direction of text around
    plain_text     what we say ourselves, with a server's words in it: no colours either
    one_line       a name, a prompt: one line, of characters that can be seen

This file imports nothing of ours, so that errors can use it.
"""

from __future__ import annotations

import re
import textwrap

# Most columns of a line of ours: a notebook breaks lines that are longer.
WIDTH = 100

COLOUR = re.compile("\x1b\\[[0-9;:]{0,100}m")
# Characters of an unfinished sequence that are kept back until the rest of it comes; a longer one loses its beginning,
# without which it is only text.
HELD = 65_536

_ASCII_CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\r")) + b"\x7f"
_CONTROL = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SEQUENCE = re.compile(
    r"""
    (?P<colour> \x1b\[ [0-9;:]{0,100} m )
  | (?P<unfinished>
        (?: \x1b\[ | \x9b ) [0-?]* [ -/]* \Z
      | \x1b [ -/]* \Z
      | (?: \x1b[\]PX^_k] | [\x90\x98\x9d\x9e\x9f] ) [^\n\x07\x18\x1a\x1b\x9c]* \x1b? \Z
    )
  | (?: \x1b\[ | \x9b ) [0-?]* [ -/]* [@-~]?  # cursor, screen, modes
  | (?: \x1b[\]PX^_k] | [\x90\x98\x9d\x9e\x9f] ) [^\n\x07\x18\x1a\x1b\x9c]* (?: \x07 | \x1b\\ | \x9c )?
  | \x1b [ -/]* [0-~]?
  | [\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]
    """,
    re.VERBOSE,
)


class Cleaner:
    """One stream of text that comes in pieces; a sequence may begin in one piece and end in the next."""

    def __init__(self) -> None:
        self._held = ""
        self.removed = 0  # sequences and characters, so far

    def feed(self, text: str) -> str:
        """``text`` without what is not allowed; the beginning of a sequence at its end is kept for the next piece."""
        if not self._held and _is_plain(text):
            return text
        whole, self._held = self._held + text, ""
        return _SEQUENCE.sub(self._judge, whole)

    def _judge(self, found: re.Match[str]) -> str:
        if found.lastgroup == "colour":
            return found.group()
        if found.lastgroup == "unfinished":
            if len(found.group()) <= HELD:
                self._held = found.group()
                return ""
            self.removed += 1
            return _CONTROL.sub("", found.group())
        self.removed += 1
        return ""


class Colours:
    """What text that was shown leaves of its colours: those of a terminal go on behind it."""

    def __init__(self) -> None:
        self._on: set[str] = set()

    @property
    def are_on(self) -> bool:
        """Whether what comes next is shown in colours that are not the terminal's own, or hidden by them."""
        return bool(self._on)

    def feed(self, text: str) -> None:
        """Text that is shown now."""
        if "\x1b" not in text:
            return
        for found in COLOUR.finditer(text):
            parameters = re.split("[;:]", found.group()[2:-1])
            while parameters:
                self._set(parameters)

    def _set(self, parameters: list[str]) -> None:
        """Take the first one, with those that belong to it."""
        code = int(parameters.pop(0) or 0)
        if code == 0:
            self._on.clear()
        elif code in _ENDS:
            self._on -= _ENDS[code]
        else:
            self._on.add(next((name for name, codes in _COLOURS.items() if code in codes), str(code)))
            if code in (38, 48, 58):  # one of 256, or three numbers: in any case the rest
                parameters.clear()


# ECMA-48, 8.3.117: codes that set a colour, whichever; and those that end what others have set.
_COLOURS = {"text": {*range(30, 39), *range(90, 98)}, "background": {*range(40, 49), *range(100, 108)}}
_ENDS = {
    22: {"1", "2"},
    23: {"3", "20"},
    24: {"4", "21"},
    25: {"5", "6"},
    27: {"7"},
    28: {"8"},
    29: {"9"},
    39: {"text"},
    49: {"background"},
    54: {"51", "52"},
    55: {"53"},
    59: {"58"},
}


def _is_plain(text: str) -> bool:
    """Whether there is nothing to look at; a fifth of a regular expression's time for what is mostly printed."""
    if text.isascii():
        return len(text.encode("ascii").translate(None, _ASCII_CONTROLS)) == len(text)
    return _CONTROL.search(text) is None


def clean(text: str) -> str:
    """A whole text without what is not allowed."""
    return Cleaner().feed(text)


# Characters that are not seen and change how their neighbours are read: they turn text around (bidi controls), or hide
# in it (tags, marks of byte order). Those that join emoji and letters stay.
_TURNS = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]")
_BACK = str.maketrans({"\r": None, "\b": None, "\u2028": "\n", "\u2029": "\n"})
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: no terminal takes it
# Letters and signs that look like a blank.
_BLANKS = str.maketrans(dict.fromkeys("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0", " "))


def coloured_text(text: str) -> str:
    """Lines of text and their colours, and nothing that writes over what was said before."""
    if text.isascii() and text.isprintable():
        return text
    return _SURROGATE.sub("\ufffd", _TURNS.sub("", clean(text).translate(_BACK)))


def plain_text(text: str) -> str:
    """Lines of text alone: what our own sentences may quote."""
    return COLOUR.sub("", coloured_text(text))


def warning(sentence: str) -> str:
    """A sentence as the lines of a warning."""
    words = f"Warning: {plain_text(sentence)}"
    return textwrap.fill(words, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def one_line(text: str, most: int = 200) -> str:
    """``text`` as one line of at most ``most`` characters, all of which can be seen: blanks in a row are one."""
    if len(text) <= most and text.isascii() and text.isprintable():
        return " ".join(text.split())
    spaced = "".join(" " if one.isspace() else one for one in plain_text(text[: 16 * most]).translate(_BLANKS))
    line = " ".join("".join(filter(str.isprintable, spaced)).split())
    return line if len(line) <= most else line[: most - 1] + "…"
