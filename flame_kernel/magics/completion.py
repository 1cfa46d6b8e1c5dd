"""Tab in ``%flame`` lines and ``%%flame`` cells, from the table of commands and the names that exist."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from ..commands import help
from ..commands.options import MAGICS
from ..commands.tab import Wanted, rest_of, wanted, wanted_of_cell
from ..errors import FlameError
from ..remote.candidates import Candidates, Side, candidates, code
from ..session.session import Session
from .connections import Connections, targets, within

_CELL = re.compile(r"\s*%%flame(?P<options>[^\n]*)\n")
_CELL_LINE = re.compile(r"^\s*%%flame\s(?P<rest>.*)$")
# What var_expand takes for a variable or an expression.
_EXPANDS = re.compile(r"[{}$]")
_TARGET = re.compile(r"(?:^|\s)(?:-t\s*|--target[\s=]+)(\S+)(?=\s)")


def answer_inspect(shell: Any) -> Callable[[], None]:
    """Let a notebook's Shift-Tab show the help of our lines; returns what undoes it. The rest goes to ipykernel, which
    would look for a Python name of the word at the cursor. A terminal has no Shift-Tab."""
    kernel = getattr(shell, "kernel", None)
    found = getattr(kernel, "do_inspect", None)
    if kernel is None or found is None:
        return lambda: None

    def do_inspect(code: str, cursor_pos: int, *more: Any, **options: Any) -> Any:
        ours = help.inspected(code, cursor_pos, MAGICS)
        return found(code, cursor_pos, *more, **options) if ours is None else ours

    def undo() -> None:
        if kernel.do_inspect is do_inspect:
            kernel.do_inspect = found

    kernel.do_inspect = do_inspect
    return undo


class Owner(Protocol):
    """What the matcher asks of the magics."""

    connections: Connections
    tab_patience: float
    shell: Any


class Matcher:
    """``match`` is an IPython matcher, called with the context of a Tab, on the main thread. It comes before the other
    matchers, and replaces their completions if it has any.

    https://ipython.readthedocs.io/en/stable/api/generated/IPython.core.completer.html
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._side = Side(self._session, lambda: owner.connections.names, targets, self._local_names)

    @context_matcher(identifier="flame", priority=1000)
    def match(self, context: CompletionContext) -> SimpleMatcherResult:
        lines = context.full_text.split("\n")
        line = lines[context.cursor_line][: context.cursor_position] if context.cursor_line < len(lines) else ""
        cell = _CELL.match(context.full_text)
        if cell is not None and context.cursor_line > cell.group().count("\n") - 1:
            offset = sum(len(one) + 1 for one in lines[: context.cursor_line]) + context.cursor_position
            return self._code(cell.group("options"), context.full_text[cell.end() :], offset - cell.end())
        if (found := _CELL_LINE.match(line)) is not None:
            here = wanted_of_cell(found.group("rest"), MAGICS)
        elif (rest := rest_of(line)) is not None:
            here = wanted(rest, MAGICS)
        else:
            return _result(Candidates(""))
        return self._in_time(lambda: _as_it_stands(candidates(here, self._side), here))

    def _code(self, options: str, text: str, cursor: int) -> SimpleMatcherResult:
        """The completions of a cell's session: its own names, also while a cell runs."""
        target = _TARGET.search(options + " ")
        try:
            session = self._session(target.group(1) if target else None)
        except FlameError:  # not connected: there is nothing to offer
            return _result(Candidates(""))
        return self._in_time(lambda: code(session, text, cursor))

    def _in_time(self, look: Callable[[], Candidates]) -> SimpleMatcherResult:
        return _result(within(self._owner.tab_patience, look) or Candidates(""))

    def _session(self, name: str | None) -> Session:
        return self._owner.connections.pick(name)[1].session

    def _local_names(self, word: str) -> Iterable[str]:
        hidden = self._owner.shell.user_ns_hidden
        return sorted(
            name
            for name in self._owner.shell.user_ns
            if not name.startswith("_") and name not in hidden and not keyword.iskeyword(name)
        )


def _as_it_stands(offered: Candidates, here: Wanted) -> Candidates:
    """``offered`` without text that IPython would expand in our lines: a file may be called ``{open('x', 'w')}``, and
    that would run here. Code is not expanded."""
    if "code" in here.kinds:
        return offered
    return Candidates(offered.fragment, [(text, kind) for text, kind in offered.found if not _EXPANDS.search(text)])


def _result(offered: Candidates) -> SimpleMatcherResult:
    result: SimpleMatcherResult = {  # type: ignore[typeddict-item]  # the other keys may be left out
        "completions": [SimpleCompletion(text, type=kind) for text, kind in offered.found],
        "matched_fragment": offered.fragment,
        "suppress": True,
        "ordered": True,
    }
    return result
