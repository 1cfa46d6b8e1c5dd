"""Plain values as JSON, to a Python too old for the agent and back; and what stands here for a module there."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from ..errors import CannotTravel

if TYPE_CHECKING:
    from .calls import OldPython

_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
# How deep values may be nested.
MAX_DEPTH = 50


def encoded(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON has it: a container is a list that begins with its kind. Raises CannotTravel."""
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
    """The value of what `encoded` of the far side made. Raises ValueError, TypeError."""
    if not isinstance(found, list):
        if isinstance(found, dict):
            raise ValueError("a bare dict")
        return found
    if depth > MAX_DEPTH + 1 or not found or not isinstance(found[0], str):
        raise ValueError("a container without a kind")
    kind, rest = found[0], found[1:]
    if kind == "complex" and len(rest) == 2 and all(isinstance(one, float) for one in rest):
        return complex(*rest)
    if len(rest) != 1:
        raise ValueError("a container without its content")
    if kind == "bytes" and isinstance(rest[0], str):
        return base64.b64decode(rest[0], validate=True)
    if not isinstance(rest[0], list):
        raise ValueError("a container without its content")
    if kind == "dict":
        return {decoded(key, depth + 1): decoded(one, depth + 1) for key, one in rest[0]}
    if kind not in _SEQUENCES:
        raise ValueError("a container of an unknown kind")
    return _SEQUENCES[kind](decoded(one, depth + 1) for one in rest[0])


class FarName:
    """A module, class or function there, by its name: an attribute of it is asked for, a call is called there."""

    def __init__(self, old: OldPython, module: str | None, path: tuple[str, ...]) -> None:
        self._old, self._module, self._path = old, module, path

    def __repr__(self) -> str:
        return f"<{'.'.join((*filter(None, [self._module]), *self._path))} at {self._old.location}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        return self._old.look(self._module, (*self._path, name))

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._old.call(self._module, self._path, args, named)
