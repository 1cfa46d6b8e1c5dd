"""Rails of a target over calls of the library: what plainly writes, or comes at the wrong time, is refused, and each
call is noted, here and in the program's own log. Nobody is asked: that is for faces with a user.

A chain of attributes and calls is read as the line of Python that it stands for. How an object was
reached is remembered, so that ``pi.modules.app.config`` is still the app's when it is kept in a variable here.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import FlameError
from ..session.session import Session
from . import rails

# The name, in that line, of an object of which nobody knows how it was reached: a result of the user's own call.
_OWN = "_"
_MODE = re.compile(r"[rwxabt+]{1,4}")
_GOES_ON = ("get", "item")


def refuse(session: Session, what: str) -> None:
    """Raise FlameError for a call of the library that writes, if the session's target is read-only."""
    target = session.target
    if target.rails is not None:
        rails.refuse_command({str(target.name or target.location): target.rails}, what, "the library's")


def hold(session: Session, code: str) -> str:
    """Hold back code that is to run there (FlameError), or note it and return it."""
    if session.target.rails is not None:
        rails.hold(session, code)
    return code


def hold_function(session: Session, function: Callable[..., Any]) -> None:
    """The same for a function that is to run there."""
    if session.target.rails is not None:
        rails.hold(session, text_of(function))


def text_of(function: Callable[..., Any]) -> str:
    """The source of a function; a call of its name if the source is not known."""
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return f"{getattr(function, '__name__', _OWN)}(...)"


class Chains:
    """Holds back or notes the chains of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reached: dict[str, str] = {}  # the id of an object there -> how it was reached

    def hold(self, root: Sequence[Any], steps: Sequence[tuple[Any, ...]]) -> None:
        """Hold a chain back, or note it if it calls or changes something. Raises FlameError."""
        held = self._session.target.rails
        if root[0] == "names" and any(step[0] in ("set_item", "delete_item", "call") for step in steps):
            refuse(self._session, "push")
        if held is None or root[0] not in ("module", "builtins", "held"):
            return
        if any(step[0] not in (*_GOES_ON, "op", "about", "rich") for step in steps):
            rails.hold(self._session, self._words(root, steps), own=(_OWN,))
        else:
            rails.refuse(held, str(self._session.target.name or self._session.target.location), "")

    def reached(self, known: str, root: Sequence[Any], steps: Sequence[tuple[Any, ...]]) -> None:
        """Remember how an object was reached."""
        if self._session.target.rails is None or not (steps or root[0] == "module"):
            return
        if root[0] in ("module", "builtins", "held") and all(step[0] in _GOES_ON for step in steps):
            self._reached[known] = self._words(root, steps)[:300]

    def forget(self, known: str) -> None:
        self._reached.pop(known, None)

    def _words(self, root: Sequence[Any], steps: Sequence[tuple[Any, ...]]) -> str:
        """A chain as Python code, its arguments left out."""
        words = {"module": lambda: str(root[1]), "held": lambda: self._reached.get(str(root[1]), _OWN)}.get(
            root[0], lambda: ""
        )()
        for step in steps:
            words = _with(words, step)
        return words


def _with(words: str, step: tuple[Any, ...]) -> str:
    """``words`` with one more step behind."""
    kind, name = step[0], step[1] if len(step) > 1 else ""
    if kind in ("get", "set", "delete"):
        words = f"{words}.{name}".lstrip(".")
    elif kind in ("item", "set_item", "delete_item"):
        words += "[...]"
    elif kind == "call":
        words += f"({_arguments(step)})"
    if kind in ("set", "set_item"):
        return f"{words} = ..."
    return f"del {words}" if kind in ("delete", "delete_item") else words


def _arguments(step: tuple[Any, ...]) -> str:
    """A call's arguments as code: ``...`` for each one that cannot be a file's mode."""
    given, named = [*step[1]] if len(step) > 1 else [], dict(step[2]) if len(step) > 2 else {}
    shown = [repr(one) if isinstance(one, str) and _MODE.fullmatch(one) else "..." for one in given]
    mode = named.get("mode")
    return ", ".join([*shown, *([f"mode={mode!r}"] if isinstance(mode, str) and _MODE.fullmatch(mode) else [])])


def check_group(hosts: Sequence[rails.Host], code: str | Callable[..., Any], confirmed: bool) -> None:
    """Raise FlameError if the rails of a host hold code back, or want a yes that the program has not given."""
    if not rails.of_hosts(hosts):
        return

    def answer(question: str, hidden: bool) -> str:
        if not confirmed:
            words = question.rpartition(" [")[0]
            raise FlameError(f"not run: {words} A program says yes by flame.group(…, confirmed=True)")
        return "y"

    rails.hold_on(hosts, code if isinstance(code, str) else text_of(code), answer)
