"""Tab in ``%flame`` lines and ``%%flame`` cells: commands, options, connections, and the far side's names."""

from __future__ import annotations

import glob
import keyword
import os
import re
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError
from ..remote.remote import Remote
from ..security.offers import identifiers, modules, offered, paths
from .commands import ALIASES, RAW, Commands
from .connections import Connections, within

# Names in a folder of the far side; more help nobody who looks for one.
MAX_PATHS = 1000

_LINE = re.compile(r"^(?:\s*[A-Za-z_][\w, ]*=)?\s*%flame(?:\s(?P<rest>.*))?$", re.DOTALL)
_CELL = re.compile(r"\s*%%flame(?P<options>[^\n]*)\n")
_CELL_LINE = re.compile(r"^\s*%%flame\s(?P<rest>.*)$")
_TARGET = re.compile(r"(?:^|\s)(?:-t\s*|--target[\s=]+)(\S+)(?=\s)")
_LISTING = (
    "(lambda o, d: sorted(n + ('/' if o.path.isdir(o.path.join(d, n)) else '') for n in o.listdir(d or '.'))[:{limit}])"
    "(__import__('os'), __import__('os').path.expanduser({folder!r}))"
)
_MODULES = (
    "sorted({n for n in __import__('sys').modules if not n.startswith('_')}"
    " | {m.name for m in __import__('pkgutil').iter_modules()})"
)
_BUILTINS = "sorted(n for n in dir(__import__('builtins')) if not n.startswith('_'))"

Found = list[SimpleCompletion]


class Owner(Protocol):
    """What the matcher asks of the magics."""

    connections: Connections
    tab_patience: float
    shell: Any

    @property
    def flame_cell(self) -> Any: ...


class Matcher:
    """``match`` is a matcher of IPython's: called with the context of a Tab, on the main thread. It has its say before
    the others and, where it knows something, instead of them.

    https://ipython.readthedocs.io/en/stable/api/generated/IPython.core.completer.html
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    @context_matcher(identifier="flame", priority=1000)
    def match(self, context: CompletionContext) -> SimpleMatcherResult:
        lines = context.full_text.split("\n")
        line = lines[context.cursor_line][: context.cursor_position] if context.cursor_line < len(lines) else ""
        cell = _CELL.match(context.full_text)
        try:
            if cell is not None and context.cursor_line > cell.group().count("\n") - 1:
                offset = sum(len(one) + 1 for one in lines[: context.cursor_line]) + context.cursor_position
                remote, code = self._target(cell.group("options")), context.full_text[cell.end() :]
                return self._code(remote, code, offset - cell.end())
            if (found := _CELL_LINE.match(line)) is not None:
                return self._cell_arguments(found.group("rest"))
            if (found := _LINE.match(line)) is not None and found.group("rest") is not None:
                return self._arguments(found.group("rest"))
        except FlameError:
            pass  # not connected: there is nothing to offer
        return _result([], "")

    def _target(self, options: str) -> Remote:
        found = _TARGET.search(options + " ")
        return self._owner.connections.pick(found.group(1) if found else None)[1]

    # -- code of the far side ----------------------------------------------------------------------------------------

    def _code(self, remote: Remote, code: str, cursor: int) -> SimpleMatcherResult:
        """What the session offers for ``code``: its own names, while a cell runs too."""
        future = remote.session.complete(uuid.uuid4().hex, code, cursor)
        reply = within(self._owner.tab_patience, lambda: future.result(self._owner.tab_patience))
        if not isinstance(reply, dict):
            return _result([], "")  # none in time
        found = offered(reply, code, cursor)
        return _result([SimpleCompletion(one.text, type=one.kind) for one in found.offers], code[found.start : cursor])

    # -- arguments ---------------------------------------------------------------------------------------------------

    def _cell_arguments(self, rest: str) -> SimpleMatcherResult:
        before, word = _last_word(rest)
        previous = before.split()[-1] if before.split() else ""
        if previous in ("-t", "--target"):
            return self._words(self._owner.connections.names, word)
        if previous in ("-i", "--in", "--out"):
            return self._words(self._local_names(), word)
        if previous in ("-o", "--pull"):
            return self._code(self._target(rest), word, len(word))
        return self._words(_options(self._owner.flame_cell.parser), word)

    def _arguments(self, rest: str) -> SimpleMatcherResult:
        name, space, arguments = rest.lstrip().partition(" ")
        if not space:
            return self._words([*Commands.names(), *ALIASES], name)
        name = ALIASES.get(name, name)
        if name not in Commands.names():
            return _result([], "")
        before, word = _last_word(arguments)
        previous = before.split()[-1] if before.split() else ""
        parser = Commands.parser(name)
        connections = self._owner.connections
        if previous in ("-t", "--target"):
            return self._words(connections.names, word)
        if word.startswith("-"):
            return self._words(_options(parser), word)
        for action in parser._actions:
            if previous in action.option_strings and action.choices:
                return self._words(map(str, action.choices), word)
        if previous == "--key-file":
            return self._paths(word, None)
        if name in ("use", "disconnect", "status"):
            return self._words(connections.names, word)
        if name == "help":
            return self._words(Commands.names(), word)
        if name == "connect":
            return self._words([*connections.names, *self._targets()], word)
        if name == "push":
            return self._words(self._local_names(), word) if "=" not in word else _result([], "")
        first = not _without_target(before)
        if name == "run" or (name == "put" and first) or name == "sendmodule" or (name == "getmodule" and not first):
            return self._paths(word, None)
        return self._far_arguments(name, first, before, word, arguments)

    def _far_arguments(self, name: str, first: bool, before: str, word: str, arguments: str) -> SimpleMatcherResult:
        """Arguments that are of the far side."""
        remote = self._target(arguments)
        if name in RAW or name == "pull":
            code = _without_target(arguments) if name in RAW else word
            return self._code(remote, code, len(code))
        if name in ("module", "getmodule") and first:
            return self._words(modules(self._far(remote, _MODULES)), word)
        if name == "builtin" and first:
            return self._words(identifiers(self._far(remote, _BUILTINS)), word)
        if name == "put":
            return _result([*self._path_names(word, remote), *self._path_names(word, None)], word)
        if name == "get":
            local = self._path_names(word, None) if not first else []
            return _result([*self._path_names(word, remote), *local], word)
        return _result([], "")

    def _words(self, words: Iterable[str], word: str) -> SimpleMatcherResult:
        known = dict.fromkeys(one for one in words if one.startswith(word))
        return _result([SimpleCompletion(one, type="flame") for one in known], word)

    def _local_names(self) -> list[str]:
        hidden = self._owner.shell.user_ns_hidden
        return sorted(
            name
            for name in self._owner.shell.user_ns
            if not name.startswith("_") and name not in hidden and not keyword.iskeyword(name)
        )

    def _targets(self) -> list[str]:
        try:
            return sorted(TargetsFile(targets_path(os.environ)).tables)
        except FlameError:
            return []

    def _paths(self, word: str, remote: Remote | None) -> SimpleMatcherResult:
        return _result(self._path_names(word, remote), word.lstrip("\"'"))

    def _path_names(self, word: str, remote: Remote | None) -> Found:
        """Paths that begin with ``word``, of this machine or of the far side's."""
        bare = word.lstrip("\"'")
        folder, _, start = bare.rpartition("/")
        folder = bare[: len(bare) - len(start)]
        if remote is None:
            names = [
                os.path.basename(path) + ("/" if os.path.isdir(path) else "")
                for path in sorted(glob.glob(os.path.join(glob.escape(os.path.expanduser(folder)), "*")))
            ]
        else:
            listed = paths(self._far(remote, _LISTING.format(limit=MAX_PATHS, folder=folder)))
            names = [name for name in listed if "/" not in name[:-1]]
        shown = [folder + name for name in names if name.startswith(start) and (start or not name.startswith("."))]
        if remote is not None:  # such a name shall be one argument, and not the next one too
            shown = [_as_one_word(path, word[: len(word) - len(bare)]) for path in shown]
        return [SimpleCompletion(path, type="path") for path in shown if path]

    def _far(self, remote: Remote, expression: str) -> Any:
        """The value of an expression there, whatever it is; None where it does not come in time."""
        return within(self._owner.tab_patience, lambda: remote.evaluate(expression))


def _result(found: Found, fragment: str) -> SimpleMatcherResult:
    result: SimpleMatcherResult = {  # type: ignore[typeddict-item]  # the other keys may be left out
        "completions": found,
        "matched_fragment": fragment,
        "suppress": True,
        "ordered": True,
    }
    return result


def _last_word(text: str) -> tuple[str, str]:
    """What stands before the word at the end of ``text``, and that word, which may be empty."""
    found = re.search(r"(\"[^\"]*|'[^']*|\S*)$", text)
    assert found is not None
    return text[: found.start()], found.group()


def _as_one_word(path: str, quote: str) -> str:
    """A path as one word of a line, behind an open ``quote`` if there is one; empty where it cannot be one."""
    if quote:
        return "" if quote in path else path
    if not re.search("[\\s'\"]", path):
        return path
    return next((f"{sign}{path}{sign}" for sign in "\"'" if sign not in path), "")


def _without_target(text: str) -> str:
    return re.sub(r"^\s*(?:(?:-t\s*|--target[\s=]+)\S+\s+)*", "", text)


def _options(parser: Any) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]
