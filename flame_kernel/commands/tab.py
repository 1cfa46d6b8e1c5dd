"""Tab in a ``%flame`` line: what kind of word the table of commands allows at the cursor. ``remote/candidates.py``
finds the words.

What an argument or an option's value may be (``tab`` in the table):

    command      a command's name, which is in ``words``
    connection   a connection of this notebook
    target       a target of targets.toml
    session      a session on the server
    here         a path of this machine
    there        a path of the far side, or TARGET:PATH
    either       a path of this machine, or TARGET:PATH
    script       a path of this machine, and behind it anything
    code         Python of the far side, from the beginning of the code on
    name         a variable of this side
    module       a module of the far side
    builtin      a built-in function there
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import FlameError
from .command import SOME, Argument, Command
from .language import BY_NAME, CELL
from .options import Option
from .parsing import HELP, leading

_LINE = re.compile(r"^(?:\s*[A-Za-z_][\w, ]*=)?\s*%flame(?:(?P<asked>\?{1,2})|\s(?P<rest>.*))?$", re.DOTALL)


@dataclass(frozen=True)
class Wanted:
    """What could stand at the cursor.

    word    what stands there already, up to the cursor; of code all of it
    kinds   what it may be: see above
    words   what it may be besides, as it is written
    target  the connection or server that the line names, if it does
    """

    word: str
    kinds: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    target: str | None = None


def rest_of(line: str) -> str | None:
    """What stands behind ``%flame`` in a line up to the cursor; None where it is no such line, or where the cursor
    stands on that word."""
    found = _LINE.match(line)
    return None if found is None else found.group("rest")


def wanted(rest: str, face: str) -> Wanted:
    """What could stand at the end of ``rest``, which is what stands behind ``%flame``."""
    name, space, text = rest.lstrip().partition(" ")
    if not space:
        return Wanted(name, words=_names(face))
    command = BY_NAME.get(name)
    if command is None or face not in command.faces:
        return Wanted("")
    return _in_code(command, face, text) if command.code else _in_words(command, face, text)


def wanted_of_cell(rest: str, face: str) -> Wanted:
    """The same for what stands behind ``%%flame`` in the first line of a cell."""
    return _in_words(CELL, face, rest)


def command_at(line: str, cursor: int) -> str | None:
    """The name of the command that the cursor of a line asks about, "" for ``%flame`` itself, None elsewhere."""
    found = _LINE.match(line)
    if found is None:
        return None
    begin = line.index("%flame") + len("%flame")
    name = re.match(r"\s+(\w+)", line[begin:])
    if name is None or cursor <= begin:
        return ""
    return name.group(1)


def _in_words(command: Command, face: str, text: str) -> Wanted:
    """What Tab wants in a command of words.

    Branches because each position in a line allows something else.
    """
    before, word = last_word(text)
    options = command.options_in(face)
    words = before.split()
    target = _target(options, words)
    flag, equals, value = word.partition("=")
    valued = {flag: option for option in options if option.metavar for flag in option.flags}
    if words and words[-1] in valued:
        return _value(valued[words[-1]], word, target)
    if equals and flag in valued:
        return _value(valued[flag], value, target)
    if word.startswith("-"):
        return Wanted(word, words=_flags(options, help=command is not CELL), target=target)
    plain = [
        one
        for number, one in enumerate(words)
        if not one.startswith("-") and not (number and words[number - 1] in valued)
    ]
    argument = _argument(command.arguments_in(face), len(plain))
    kinds = argument.tab if argument is not None else ()
    if "command" in kinds:
        return Wanted(word, words=_names(face))
    return Wanted(word, kinds, target=target)


def _flags(options: tuple[Option, ...], help: bool) -> tuple[str, ...]:
    return (*(flag for option in options for flag in option.flags), *(HELP if help else ()))


def _names(face: str) -> tuple[str, ...]:
    return tuple(name for name, one in BY_NAME.items() if face in one.faces)


def _argument(arguments: tuple[Argument, ...], number: int) -> Argument | None:
    """The argument to which the next word belongs, with ``number`` words before it."""
    for argument in arguments:
        if number == 0:
            return argument
        number -= 1
    if arguments and any(argument.count == SOME for argument in arguments):
        return arguments[-1]
    return None


def _value(option: Option, word: str, target: str | None) -> Wanted:
    return Wanted(word, option.tab, option.choices, target)


def _in_code(command: Command, face: str, text: str) -> Wanted:
    """What Tab wants in a command whose argument is code.

    Branches because each position in a line allows something else.
    """
    options = command.options_in(face)
    before, word = last_word(text)
    words = before.split()
    valued = {flag: option for option in options if option.metavar for flag in option.flags}
    if words and words[-1] in valued:
        return _value(valued[words[-1]], word, None)
    try:
        if word.startswith("-") and (command.name == "watch" or not leading(command, face, before)[1]):
            return Wanted(word, words=_flags(options, help=not before.strip()))
        given, code = leading(command, face, text)
    except FlameError:  # a mistyped option
        return Wanted("")
    kinds, target = command.arguments[0].tab, given.get("target")
    if "code" in kinds:
        return Wanted(text[text.index(code) :] if code else "", kinds, target=target)
    if kinds == ("name",) and "=" in word:
        return Wanted("")
    return Wanted(word, ("here",) if "script" in kinds else kinds, target=target)


def _target(options: tuple[Option, ...], words: list[str]) -> str | None:
    flags = next((option.flags for option in options if option.name == "target"), ())
    for number, word in enumerate(words):
        if word in flags and number + 1 < len(words):
            return words[number + 1]
        if word.startswith("--target="):
            return word.partition("=")[2]
    return None


def last_word(text: str) -> tuple[str, str]:
    """What stands before the word at the end of ``text``, and that word, which may be empty."""
    found = re.search(r"(\"[^\"]*|'[^']*|\S*)$", text)
    assert found is not None
    return text[: found.start()], found.group()
