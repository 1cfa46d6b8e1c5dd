"""Plain values as JSON, to a Python too old for the agent and back; and stand-ins for its modules and functions."""

from __future__ import annotations

import base64
from typing import Any, Protocol

from ..errors import CannotTravel

_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
# How deep values may be nested.
MAX_DEPTH = 50


def encoded(value: Any, depth: int = 0) -> Any:
    """``value`` in a form for JSON: a container becomes a list that begins with its kind. Raises CannotTravel."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (bytes, bytearray):
        return ["bytes", base64.b64encode(value).decode()]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if depth >= MAX_DEPTH or kind not in (dict, *_SEQUENCES.values()):
        raise CannotTravel(f"a {kind.__name__} does not go to a Python this old; send plain values, such as list(…)")
    if kind is dict:
        return ["dict", [[encoded(key, depth + 1), encoded(one, depth + 1)] for key, one in value.items()]]
    return [kind.__name__, [encoded(one, depth + 1) for one in value]]


def decoded(found: Any, depth: int = 0) -> Any:
    """The value that the far side has encoded in this form. Raises ValueError, TypeError."""
    if not isinstance(found, list):
        if isinstance(found, dict):
            raise ValueError("a bare dict")
        return found
    match found:
        case ["complex", float(real), float(imaginary)]:
            return complex(real, imaginary)
        case ["bytes", str(text)]:
            return base64.b64decode(text, validate=True)
        case ["dict", list(items)] if depth <= MAX_DEPTH:
            return {decoded(key, depth + 1): decoded(one, depth + 1) for key, one in items}
        case [str(kind), list(items)] if depth <= MAX_DEPTH and kind in _SEQUENCES:
            return _SEQUENCES[kind](decoded(one, depth + 1) for one in items)
    raise ValueError("no container that we know")


class Far(Protocol):
    """The part of `OldPython` that is needed here."""

    location: str

    def look(self, module: str | None, path: tuple[str, ...]) -> Any: ...

    def call(self, module: str | None, path: tuple[str, ...], args: tuple[Any, ...], named: dict[str, Any]) -> Any: ...


class FarName:
    """Stands for a module, class or function there: its attributes are looked up there, and calls are made there."""

    def __init__(self, old: Far, module: str | None, path: tuple[str, ...]) -> None:
        self._old, self._module, self._path = old, module, path

    def __repr__(self) -> str:
        return f"<{'.'.join((*filter(None, [self._module]), *self._path))} at {self._old.location}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        return self._old.look(self._module, (*self._path, name))

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._old.call(self._module, self._path, args, named)
