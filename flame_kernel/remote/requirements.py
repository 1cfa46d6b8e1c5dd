"""``@flame.require("numpy")``: modules that a shipped function uses, imported on the far side before it runs there.

The word is ipyparallel's. The modules need not be installed here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__flame_requires__"


def require(*needed: str | Callable[..., Any]) -> Callable[[F], F]:
    """Decorator for a function that is sent to a far side: ``@flame.require("numpy", "os.path", helper)``.

    Modules are imported there before it runs, and bound to their first names; functions and classes are sent along. A
    module that is missing there is a ModuleNotFoundError of the call.
    """
    for one in needed:
        is_module = isinstance(one, str) and all(part.isidentifier() for part in one.split("."))
        if not is_module and (isinstance(one, str) or not callable(one)):
            raise TypeError(f"{one!r} cannot be required: name modules such as 'numpy', or give functions or classes")

    def mark(function: F) -> F:
        if not isinstance(function, types.FunctionType):
            raise TypeError(f"only a function can require something, not a {type(function).__name__}")
        before = getattr(function, _MARK, ())
        setattr(function, _MARK, (*before, *needed))
        return function

    return mark


def modules(function: Any) -> list[str]:
    """The names of the modules that a function requires."""
    return [one for one in getattr(function, _MARK, ()) if isinstance(one, str)]


def space(function: Any) -> dict[str, Any]:
    """The global names of a function, with what it requires."""
    needed = getattr(function, _MARK, ())
    names: dict[str, Any] = function.__globals__
    if not needed:
        return names
    found: dict[str, Any] = {}
    for one in needed:
        if isinstance(one, str):
            top = one.partition(".")[0]
            found[top] = sys.modules.get(top) or types.ModuleType(top)
        else:
            found[one.__name__] = one
    return {**found, **names}
