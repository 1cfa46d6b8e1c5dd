"""Callbacks: functions and iterators that are arguments of a call, but stay and run on this side.

The far side may use them only while that call runs. They run here on the thread that waits for the call. A server
cannot call anything else: only the callbacks of this call have numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

# How long items of an iterator are collected for one answer, in seconds, and how many at most.
GATHER = 0.02
MOST = 512


class CalledBack:
    """Marks a function that always stays here as a callback, even if its source could be sent; see `Remote.on`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"{type(function).__name__} cannot be called, so it cannot be called back")
        self.function = function

    def __repr__(self) -> str:
        return f"<called back: {name_of(self.function)}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Handed:
    """The callbacks of one call. One use.

    ``described`` turns an exception into the description that is sent.
    """

    def __init__(self, described: Callable[[BaseException], dict[str, Any]]) -> None:
        self._described = described
        self._things: list[tuple[Any, str]] = []
        self._numbers: dict[int, int] = {}
        self._raised: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<Handed {len(self._things)}>"

    def __len__(self) -> int:
        return len(self._things)

    def add(self, one: Any, kind: str) -> list[Any]:
        """Register a function or iterator (``kind``) and return the reference that is sent for it."""
        number = self._numbers.setdefault(id(one), len(self._things))
        if number == len(self._things):
            self._things.append((one, kind))
        return ["callback", number, kind, name_of(one)]

    def raised(self, number: object) -> BaseException | None:
        """The exception with this number that a callback raised here, or None."""
        if type(number) is int and 0 <= number < len(self._raised):
            return self._raised[number]
        return None

    def use(self, content: Mapping[str, Any], arguments: Any) -> tuple[dict[str, Any], Any, BaseException | None]:
        """Run a callback for the far side; return the fields of the answer, its value, and the exception, if any.

        Raises TypeError if the far side may not ask this.
        """
        number, what = content.get("callback"), content.get("what")
        if not isinstance(number, int) or not 0 <= number < len(self._things):
            raise TypeError("a callback that was not handed over")
        one, kind = self._things[number]
        if what != ("next" if kind == "iterator" else "call"):
            raise TypeError("a callback of another kind")
        args, kwargs = arguments
        if type(args) is not tuple or type(kwargs) is not dict or not all(isinstance(name, str) for name in kwargs):
            raise TypeError("arguments")
        try:
            return {"status": "ok"}, self._next(one, args) if kind == "iterator" else one(*args, **kwargs), None
        except BaseException as error:  # any exception is raised on the far side, and comes back as the same object
            return self.failed(error)

    def failed(self, error: BaseException) -> tuple[dict[str, Any], Any, BaseException]:
        """The answer for an exception that was raised here."""
        self._raised.append(error)
        return {"status": "error", "raised": len(self._raised) - 1}, self._described(error), error

    def _next(self, iterator: Any, args: tuple[Any, ...]) -> tuple[list[Any], Any, bool]:
        """The next items of an iterator, up to the number wanted or until time is up.

        Also returns how it ended (None: not yet, True: no more items, or a description of the exception), and whether
        the items came quickly.
        """
        (wanted,) = args
        until = time.monotonic() + GATHER
        items: list[Any] = []
        while len(items) < min(int(wanted), MOST) and time.monotonic() <= until:
            try:
                items.append(next(iterator))
            except StopIteration:
                return items, True, True
            except Exception as error:  # it is raised on the far side after the items before it
                if not items:
                    raise
                return items, self._described(error), True
        return items, None, time.monotonic() <= until


def name_of(one: Any) -> str:
    """The name of something, for people."""
    name = getattr(one, "__qualname__", None) or getattr(one, "__name__", None) or type(one).__qualname__
    return name if isinstance(name, str) else type(one).__qualname__


def is_iterator(one: Any) -> bool:
    """Whether ``one`` is an iterator."""
    kind = type(one)
    return hasattr(kind, "__next__") and hasattr(kind, "__iter__")
