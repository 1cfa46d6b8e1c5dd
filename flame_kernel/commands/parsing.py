"""Parses ``%flame …`` lines by the table of commands: the command, its arguments and its options.

A mistake in a line is one sentence, a FlameError, with the next step.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from ..connect import units
from ..connect.keys import has_key
from ..errors import FlameError
from .command import ANY, MAYBE, ONE, SOME, Argument, Command
from .language import BY_NAME, CELL
from .looking import PROFILE_CELL
from .options import ALIKE, KERNEL, Option

# Seconds between two updates of a watched value; and the smallest choice.
WATCH_EVERY, LEAST_EVERY = 2.0, 0.2
# Most characters of the line that a sentence repeats.
SHOWN = 60
# What asks for a command's help, in place of its arguments.
HELP = ("--help", "-h")

_OPTION = r"--(?:end|every[ =]\s*(\S+))"
_FIRST_OPTION, _LAST_OPTION = re.compile(rf"^\s*{_OPTION}(?=\s|$)"), re.compile(rf"(?:^|\s){_OPTION}\s*$")
_PROFILED = re.compile(r"%%(profile|flame)(?:\s+(.*))?$")
_QUESTION = re.compile(r"(\w*)\s*\?{1,2}$")


@dataclasses.dataclass(frozen=True)
class Line:
    """One correct line: the command, and the values of all its arguments and options by name."""

    command: Command
    values: dict[str, Any]

    @property
    def name(self) -> str:
        return self.command.name

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def given(self) -> dict[str, Any]:
        """The values of the options that the line sets."""
        return {one.name: self[one.name] for one in self.command.options if self[one.name] != one.empty}

    def or_else(self, others: dict[str, Any]) -> Line:
        """The same line; ``others`` has the values of options that it does not set, nor another one of their group."""
        groups = {one.name: one.group or one.name for one in self.command.options}
        said = {groups[name] for name in self.given}
        return Line(self.command, self.values | {n: one for n, one in others.items() if groups[n] not in said})


def parse(text: str, face: str, default: str = "status") -> Line:
    """Parse the line ``text``, without its ``%flame``; ``default`` is the command if it is empty. Raises FlameError."""
    text = text.strip()
    if (asked := _QUESTION.match(text)) is not None:  # %flame?, %flame NAME?
        return parse(f"help {asked.group(1)}", face)
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    if word in HELP:
        word = "help"
    refuse_key(rest)  # first, so that no error message repeats the key
    asks = bool(set(HELP) & set(rest.split()))
    command = find(word or default, face, "" if asks else rest)
    if asks and (not command.code or rest in HELP):  # anything else may be code
        return parse(f"help {command.name}", face)
    values = _read_code(command, face, rest) if command.code else _read(command, face, words_of(rest))
    if "every" in values:
        values["every"] = every(values["every"], WATCH_EVERY if command.name == "watch" else None)
    return Line(command, values)


def refuse_key(text: str) -> None:
    """Raise FlameError if a line of ours contains a key itself."""
    if has_key(text):
        raise FlameError(
            "--key contains the key itself, and everyone who sees the notebook would see it; take it out: use "
            "--key-file FILE, --key keyring, prompt or env:NAME, or targets.toml"
        )


def parse_cell(text: str, face: str, magic: Command = CELL) -> Line:
    """What stands behind ``%%flame``, or another magic of ours, in the first line of a cell. Raises FlameError."""
    if face in magic.instead:
        raise FlameError(magic.instead[face])
    return Line(magic, _read(magic, face, words_of(text)))


def profiled_cell(code: str) -> tuple[Line | None, str]:
    """``(the options for profiling a cell, the cell without that line)`` for ``%%profile``, and ``%%flame --profile``
    without a target; the options are None for any other cell. Raises FlameError."""
    first, _, rest = code.partition("\n")
    found = _PROFILED.match(first.strip())
    if found is None:
        return None, code
    if found[1] == "profile":
        return parse_cell(found[2] or "", KERNEL, PROFILE_CELL), rest
    if (found[2] or "").split() == ["--profile"]:
        return parse_cell("", KERNEL, PROFILE_CELL), rest
    return None, code


def find(word: str, face: str, rest: str = "") -> Command:
    """The command of that name or alias; FlameError if there is none, or if it makes no sense in ``face``."""
    command = BY_NAME.get(word)
    if command is None:
        # Names of the other face are offered, too: their errors tell what to do here instead.
        raise FlameError(f"there is no %flame {shortened(word)}; {_meant(word, BY_NAME, '%flame ')}")
    if face in command.instead:
        raise FlameError(command.instead[face].format(rest=shortened(rest) or "…"))
    return command


def overtakes(code: str) -> bool:
    """Whether a cell has only commands that change nothing, and so need not wait for the running cell."""
    lines = [line.split() for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and all(_need_not_wait(words) for words in lines)


def _need_not_wait(words: list[str]) -> bool:
    if words[0] not in ("%flame", "%flame?", "%flame??"):
        return False
    name = words[1] if len(words) > 1 else "status"
    if name in HELP or words[-1].endswith("?") or words[0] != "%flame":
        return True
    # One that does not exist here is refused at once.
    return name not in BY_NAME or BY_NAME[name].passes


# -- words ---------------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Split ``text`` into words: quotes, and a backslash before a blank or a quote, keep a word together; other
    backslashes stay, as in paths of Windows. Raises FlameError for a quote that is not closed.

    Branches because each kind of character has a rule of its own.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    at = 0
    while at < len(text):
        sign, following = text[at], text[at + 1 : at + 2]
        at += 1
        if sign == "\\" and following and (following == quote or (not quote and following in " \t'\"")):
            word, at = (word or "") + following, at + 1
        elif quote:
            if sign == quote:
                quote = ""
            else:
                word = (word or "") + sign
        elif sign in "'\"":
            quote, word = sign, word or ""
        elif sign.isspace():
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + sign
    if quote:
        raise FlameError(f"the quotation is not closed: add {quote} at its end")
    return words if word is None else [*words, word]


def shortened(text: str) -> str:
    """The text, short enough to be repeated in a sentence."""
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _meant(word: str, known: Iterable[str], before: str = "") -> str:
    close = difflib.get_close_matches(word, list(known), 1, ALIKE)
    return f"did you mean {before}{close[0]}?" if close else "%flame help lists the commands"


# -- options and arguments -------------------------------------------------------------------------------------------


def _read(command: Command, face: str, words: list[str]) -> dict[str, Any]:
    options = command.options_in(face)
    given: dict[str, Any] = {}
    plain: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--":
            plain += words
            break
        if not _is_option(word):
            plain.append(word)
            continue
        option, value = _option(command, face, word)
        if option.metavar and value is None:
            if not words or (_is_option(words[0]) and _known(options, words[0])):
                raise FlameError(f"{word} needs a value: {option.flags[-1]} {option.metavar}")
            value = words.pop(0)
        _take(command, options, given, option, value)
    values = {option.name: option.empty for option in command.options}
    values |= _distribute(command, face, plain)
    return values | given


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and not re.fullmatch(r"-[\d.]+", word)


def _known(options: tuple[Option, ...], word: str) -> bool:
    return any(word in option.flags for option in options)


def _option(command: Command, face: str, word: str) -> tuple[Option, str | None]:
    """The option of ``word``, and its value if that is in the same word: ``--place=child``, ``-tpi``.

    Branches because each mistake has a sentence of its own.
    """
    flag, equals, value = word.partition("=")
    options = command.options_in(face)
    for option in options:
        if flag in option.flags:
            return option, value if equals else None
        short = next((one for one in option.flags if not one.startswith("--")), None)
        if short and option.metavar and word.startswith(short) and not word.startswith("--"):
            return option, word[len(short) :]
    if any(flag in option.flags for option in command.options):
        other = "the Remote Flame kernel" if face == "magics" else "the magics of %load_ext flame"
        raise FlameError(f"{command.title} {flag} is for {other}")
    flags = [flag for option in options for flag in option.flags]
    close = difflib.get_close_matches(flag, flags, 1, ALIKE)
    if close:
        step = f"did you mean {close[0]}?"
    elif flags:
        step = (
            f"{command.name}? lists its options"
            if command.name.startswith("%")
            else f"%flame help {command.name} lists its options"
        )
    else:
        step = "it takes none"
    raise FlameError(f"{command.title} has no option {shortened(flag)}; {step}")


def _take(
    command: Command, options: tuple[Option, ...], given: dict[str, Any], option: Option, value: str | None
) -> None:
    """Check one option and store it in ``given``."""
    flag = option.flags[-1]
    if not option.metavar:
        if value is not None:
            raise FlameError(f"{flag} takes no value")
        given[option.name] = True
    else:
        assert value is not None
        made = _converted(flag, option.kind, value)
        if option.choices and made not in option.choices:
            close = difflib.get_close_matches(str(made), option.choices, 1, ALIKE)
            mean = f"; did you mean {close[0]}?" if close else ""
            raise FlameError(f"{flag} is one of {', '.join(option.choices)}, not {shortened(value)!r}{mean}")
        given[option.name] = [*given.get(option.name, []), made] if option.many else made
    for other in options:
        if option.group and other.group == option.group and other is not option and other.name in given:
            raise FlameError(f"{other.flags[-1]} and {flag} exclude each other; give one")


def _converted(what: str, kind: type, value: str) -> Any:
    if kind is str:
        return value
    try:
        return kind(value)
    except ValueError:
        whole = "whole " if kind is int else ""
        raise FlameError(f"{what} is a {whole}number, not {shortened(value)!r}") from None


def _distribute(command: Command, face: str, words: list[str]) -> dict[str, Any]:
    """Distribute the words that are no options to the arguments."""
    values: dict[str, Any] = {one.name: [] if one.count in (SOME, ANY) else None for one in command.arguments}
    arguments = command.arguments_in(face)
    least = sum(one.count in (ONE, SOME) for one in arguments)
    if len(words) < least:
        wanted = " and ".join(one.metavar for one in arguments if one.count in (ONE, SOME))
        raise FlameError(f"{command.title} needs {wanted}: {usage(command, face)}")
    spare = len(words) - least  # how many more there are than have to be
    for number, one in enumerate(arguments):
        count = one.count in (ONE, SOME)
        later = sum(other.count == MAYBE for other in arguments[number + 1 :])
        more = {ONE: 0, MAYBE: min(spare, 1), SOME: max(spare - later, 0), ANY: max(spare - later, 0)}[one.count]
        taken, words = words[: count + more], words[count + more :]
        spare -= more
        made = [_converted(one.metavar, one.kind, word) for word in taken]
        values[one.name] = made if one.count in (SOME, ANY) else made[0] if made else None
    if words:
        _too_many(command, face, arguments, words[0])
    return values


def _too_many(command: Command, face: str, arguments: tuple[Argument, ...], word: str) -> NoReturn:
    name = command.title
    if not arguments:
        raise FlameError(f"{name} takes no arguments, so not {shortened(word)!r}")
    raise FlameError(f"{name} does not take {shortened(word)!r}: {usage(command, face)}")


def usage(command: Command, face: str) -> str:
    """How a command is written, in one line."""
    words = [f"{command.title}", *(one.written for one in command.arguments_in(face))]
    return " ".join([*words, *(["[options]"] if command.options_in(face) else [])])


# -- code as it stands -----------------------------------------------------------------------------------------------


def _read_code(command: Command, face: str, rest: str) -> dict[str, Any]:
    """Parse options, followed by code as it stands; options of ``watch`` may also be at the end."""
    given, code = leading(command, face, rest)
    values = {option.name: option.empty for option in command.options} | given
    if command.name == "watch":
        return values | watched(code)
    if not code and command.arguments[0].count != ANY:
        raise FlameError(f"{command.title} needs {command.arguments[0].metavar}: {usage(command, face)}")
    return values | {"code": code}


def leading(command: Command, face: str, rest: str) -> tuple[dict[str, Any], str]:
    """The options that stand before the code in ``rest``, and the code; ``--`` ends them. Those of a view are left to
    ``watched``. Raises FlameError for one that is mistyped.

    Branches because an option can be written in several ways.
    """
    given: dict[str, Any] = {}
    options = [option for option in command.options_in(face) if option.name not in ("every", "end")]
    rest = rest.strip()
    found = True
    while found:
        found = False
        for option in options:
            value = r"(\"[^\"]*\"|'[^']*'|\S+)(?:\s+|$)"
            ways = (
                rf"{flag}(?:\s+|=){value}" if flag.startswith("--") else rf"{flag}\s*{value}" for flag in option.flags
            )
            for way in ways:
                match = re.match(way, rest)
                if match is not None:
                    given[option.name] = _converted(option.written, option.kind, match.group(1).strip("\"'"))
                    rest, found = rest[match.end() :], True
    if rest.startswith("-- "):
        return given, rest[3:].strip()
    word = rest.split()[0] if rest else ""
    flags = [flag for option in command.options_in(face) for flag in option.flags if flag.startswith("--")]
    close = difflib.get_close_matches(word.partition("=")[0], flags, 1, ALIKE) if word.startswith("--") else []
    if close and close[0] not in ("--every", "--end"):
        raise FlameError(f"{command.title} has no option {shortened(word)}; did you mean {close[0]}?")
    return given, rest


def watched(text: str) -> dict[str, Any]:
    """``code`` (the expression as it stands), ``every`` (text) and ``end`` of a line ``EXPRESSION --every S``. Raises
    FlameError."""
    values: dict[str, Any] = {"every": None, "end": False}
    while found := _FIRST_OPTION.search(text) or _LAST_OPTION.search(text):
        text = text[: found.start()] + text[found.end() :]
        if found[1] is None:
            values["end"] = True
        else:
            values["every"] = found[1]
    expression = text.strip()
    if not expression and not values["end"]:
        raise FlameError("nothing to watch: %flame watch EXPRESSION [--every S], or %flame watch --end")
    return {"code": expression, **values}


def every(text: str | None, default: float | None = None) -> float | None:
    """The seconds of ``--every``, ``default`` where it is not given; raises FlameError."""
    if text is None:
        return default
    try:
        seconds = units.seconds(text)
    except ValueError as e:
        raise FlameError(f"--every is {e}; not {text!r}") from None
    if seconds < LEAST_EVERY:
        raise FlameError(f"--every is at least {LEAST_EVERY:g} s; not {text!r}")
    return seconds
