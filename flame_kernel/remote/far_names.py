"""The far side's modules, for ``pi.modules``, and its variables: by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import FlameError, TargetError, UnsafeAnswer
from ..security.completions import modules
from . import lookahead
from .calls import Calls
from .proxy import chain


class Modules:
    """``pi.modules``: gives modules of the far side by name; they are imported there on use."""

    __slots__ = ("_calls",)

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def __repr__(self) -> str:
        return f"<modules at {self._calls.name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name.startswith(("__", "_repr_", "_ipython_")) and name != "__future__":
            raise AttributeError(name)
        frame = sys._getframe(1)
        try:
            return by_path(self._calls, name, lookahead.goes_on(frame))
        except ModuleNotFoundError as error:
            if error.name != name or lookahead.is_attribute(frame):
                raise
            raise AttributeError(f"there is no module {name} at {self._calls.name}") from error  # hasattr, getattr

    def __contains__(self, name: object) -> bool:
        is_name = isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
        return is_name and self._calls.demand(["has_module", name], (), bool)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self))

    def __getitem__(self, name: str) -> Any:
        return by_path(self._calls, name, lookahead.goes_on(sys._getframe(1)))

    def __dir__(self) -> list[str]:
        return modules(self._calls.perform(["modules"], (), "value"))


def by_path(calls: Calls, name: str, goes_on: bool) -> Any:
    """A module of the far side by its dotted name; with ``goes_on`` more steps follow before it is asked for."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{name!r} is not the name of a module; write one such as os or os.path")
    return chain(calls, ["module", name]) if goes_on else calls.perform(["module", name], ())


def identifier(name: Any, what: str) -> str:
    """``name``, which must be an identifier of Python; raises TargetError."""
    if not (isinstance(name, str) and name.isidentifier()):
        raise TargetError(f"{name!r} cannot be {what}; write one such as x")
    return name


def text_name(name: Any) -> str:
    """``name``, which must be text."""
    if not isinstance(name, str):
        raise TypeError(f"names of the session are text, not {type(name).__name__}")
    return name


def text(code: Any) -> str:
    """``code``, which must be text."""
    if not isinstance(code, str):
        raise TypeError(f"expected text, not {type(code).__name__}")
    return code


def push(calls: Calls, values: Mapping[str, Any]) -> None:
    """As `Remote.push`, for the calls of any session."""
    named = {identifier(name, "a name"): value for name, value in values.items()}
    calls.perform(["names"], (("get", "update"), ("call", [named], {})), "none")


def pull(calls: Calls, names: Sequence[str]) -> dict[str, Any]:
    """As `Remote.pull`, for the calls of any session."""
    names = [names] if isinstance(names, str) else names
    wanted = "".join(f"{identifier(name, 'a name')}, " for name in names)
    try:
        found = calls.demand(["eval", f"({wanted})"], (), tuple)
    except NameError as error:
        name = error.name or str(error).partition("'")[2].partition("'")[0]  # before Python 3.10: in the text only
        raise FlameError(f"there is no variable {name!r} at {calls.name}; dir() there shows all") from None
    if len(found) != len(names):
        raise UnsafeAnswer(calls.name, f"{len(found)} values for {len(names)} names")
    return dict(zip(names, found, strict=True))
