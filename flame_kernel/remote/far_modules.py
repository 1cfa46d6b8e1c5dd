"""The far side's modules, for ``pi.modules``: given by name, and imported there on use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ..errors import TargetError
from ..security.offers import modules
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
